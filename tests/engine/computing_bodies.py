"""Functions that only compute, and some that only look so. The module loads in a sub-interpreter."""

import functools
import json
import math
import os
import random
import re
import subprocess
import threading
from dataclasses import dataclass
from decimal import Decimal

from theus import Context

RATE = Decimal("0.19")
WORD = re.compile(r"\w+")


@dataclass
class Shop:
    count: int = 0


@dataclass
class Point:
    x: float

    def length(self) -> float:
        return math.hypot(self.x, 1)


class Starter:
    def start(self):
        threading.Thread(target=print, daemon=True).start()


def spin(number):
    return sum(n % 7 for n in range(number))


def parses(text):
    return json.loads(text), random.random() * math.pi, RATE


def matches(text):
    return WORD.findall(text)


def measures(x):
    return Point(x).length()


def helps(number):
    return spin(number) + measures(number)


def counts(ctx: Context[Shop], number):
    ctx.domain.count += spin(number) % 2 + 1


def prints(text):
    print(text)


def forks():
    return os.getpid()


def helps_to_fork():
    return forks()


def starts():
    Starter().start()


def runs():
    return subprocess.run(["true"], check=False)


def reads(file):
    with open(file) as opened:
        return opened.read()


def evaluates(text):
    return eval(text)


def asks(ctx):
    return ctx.resource("client")


def imports_inside():
    import socket

    return socket


@functools.cache
def remembers():
    return os.getpid()


def helps_itself():
    return remembers()


def gives_what_cannot_cross():
    return (n for n in range(3))


async def waits():
    return 1


partial_spin = functools.partial(spin, 10)
