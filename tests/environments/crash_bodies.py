"""Functions that do bad things to the process they run in, and values that do so while they are packed or opened."""

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time


def leave(code):
    os._exit(code)


def leave_politely(code):
    sys.exit(code)


def send_self(number):
    os.kill(os.getpid(), number)
    time.sleep(20)


def read_nowhere():
    ctypes.string_at(0)


def abort():
    os.abort()


def interrupt():
    raise KeyboardInterrupt("not from the keyboard")


def cancelled():
    raise asyncio.CancelledError("not by anybody")


def out_of_memory():
    return bytearray(1 << 62)


def endless(n=0):
    return endless(n + 1) + 1


def deep_result():
    found = []
    for _ in range(200_000):
        found = [found]
    return found


def give(value):
    return value


def give_lock():
    return {"rows": [1, 2, {"guard": threading.Lock()}]}


def close_streams():
    sys.stdout.close()
    os.close(1)
    os.close(2)
    return "closed"


def close_all():
    os.closerange(3, 512)
    return "closed"


def read_stdin():
    return sys.stdin.read()


def fork_and_leave():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def fork_and_return():
    """Both the parent and the child come out of the body."""
    pid = os.fork()
    if pid == 0:
        return "child"
    os.waitpid(pid, 0)
    return "parent"


def fork_and_raise():
    pid = os.fork()
    if pid == 0:
        raise ValueError("child")
    os.waitpid(pid, 0)
    return "parent"


def leave_child_and_die(file):
    """The child outlives its parent and keeps what it inherited open."""
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    write(file, pid)
    os._exit(3)


def start_program_and_hang(file):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    write(file, child.pid)
    child.wait()


def spin(file):
    write(file, os.getpid())
    while True:
        pass


def spin_and_swallow(file):
    write(file, os.getpid())
    while True:
        try:
            time.sleep(60)
        except BaseException:
            continue


def stop_self(file):
    write(file, os.getpid())
    os.kill(os.getpid(), signal.SIGSTOP)


def storm(file, answer):
    write(file, os.getpid())
    while not os.path.exists(answer):
        time.sleep(0.001)
    return "calm"


def leave_thread():
    threading.Thread(target=time.sleep, args=(60,)).start()
    return "left"


def write(file, value):
    with open(file + ".tmp", "w") as out:
        out.write(str(value))
    os.rename(file + ".tmp", file)


class WhenOpened:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *args):
        self.function = function
        self.args = args

    def __reduce__(self):
        return self.function, self.args


class WhenPacked:
    """Calls a function when it is pickled, but not here."""

    def __init__(self, function, *args):
        self.function = function
        self.args = args

    def __reduce__(self):
        self.function(*self.args)
        return WhenPacked, (self.function, *self.args)


def give_when_packed(function, *args):
    return WhenPacked(function, *args)


def give_when_opened(name):
    return WhenOpened({"fail": fail, "exit": leave_politely}[name], 3)


def fail(code):
    raise ZeroDivisionError(f"failed with {code}")


def fail_there(pid, code):
    """Only opens in the process that made it."""
    if os.getpid() != pid:
        fail(code)


def give_what_opens_only_here():
    return WhenOpened(fail_there, os.getpid(), 3)


class Twisted(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")
        self.a = a


class Holding(Exception):
    def __init__(self, text, thing):
        super().__init__(text, thing)
        self.thing = thing


def raise_twisted():
    raise Twisted(1, 2)


def raise_holding():
    raise Holding("held", threading.Lock())


def raise_local():
    class Local(Exception):
        pass

    raise Local("only known there")


def raise_unpicklable():
    class Unpicklable(Exception):
        def __reduce_ex__(self, protocol):
            raise TypeError("never")

    raise Unpicklable("cannot")


def raise_group():
    try:
        raise KeyError("inner")
    except KeyError as error:
        raise ExceptionGroup("several", [error, Twisted(3, 4)]) from None
