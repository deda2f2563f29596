"""What the tests run in sub-interpreters: a module that loads there."""

import asyncio
import os
import threading
import time
from concurrent import interpreters


def where(value=None):
    return interpreters.get_current().id, os.getpid(), value


def out_of_memory():
    raise MemoryError("as if")


def spin(started):
    open(started, "w").close()
    while True:
        pass


def spin_in_generators(started):
    open(started, "w").close()
    return sum(1 for _ in iter(int, 1))


def swallow(started):
    open(started, "w").close()
    while True:
        try:
            while True:
                pass
        except BaseException:
            continue


async def spin_async(started):
    open(started, "w").close()
    while True:
        pass


async def swallow_async(started):
    open(started, "w").close()
    while True:
        try:
            await asyncio.sleep(0)
        except BaseException:
            continue


class NeverCloses:
    def close(self):
        while True:
            try:
                time.sleep(0)
            except BaseException:
                continue


def use(ctx, name):
    return type(ctx.resource(name)).__name__


def block(started):
    lock = threading.Lock()
    lock.acquire()
    open(started, "w").close()
    lock.acquire(timeout=3.0)  # inside C, where nothing can stop it


def leave_thread():
    threading.Thread(target=time.sleep, args=(0.05,)).start()


def echo(value=None):
    return value


def end_of(value):
    return len(value), bytes(value[-2:])


def too_big():
    return bytearray(1 << 62)
