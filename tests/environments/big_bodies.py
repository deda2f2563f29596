"""What runs in worker processes, for the tests of big values."""

import os
import pickle
import signal
import sys
from dataclasses import dataclass
from typing import Any

from theus.processes import process

KEPT = []


@dataclass
class Holder:
    """An array inside a class of the user's."""

    name: str
    array: Any


class Raw:
    """Pickles with an out-of-band buffer, as frames and tables do."""

    def __init__(self, memory):
        self.memory = memory

    def __reduce_ex__(self, protocol):
        return Raw, (pickle.PickleBuffer(self.memory),)

    def __eq__(self, other):
        return bytes(self.memory) == bytes(other.memory)


class Deadly:
    """Kills the worker that opens it."""

    def __reduce__(self):
        return os.kill, (_Own(), signal.SIGKILL)


class _Own:
    def __reduce__(self):
        return os.getpid, ()


def lower():
    """Use blocks for small values too."""
    from theus.environments import far_blocks, parcel

    far_blocks.LEAST = parcel.OUT_OF_BAND = 1


def without_memfd():
    if hasattr(os, "memfd_create"):
        del os.memfd_create


def echo(value):
    return value


def total(array):
    return float(array.sum())


def spoil(array):
    """Write into the argument; gives what it was and is."""
    before = float(array.sum())
    array[...] = -1
    return before, float(array.sum())


def blocks(*_values):
    """The inodes of the blocks that are mapped here, one for each mapping."""
    with open("/proc/self/maps") as file:
        return sorted(line.split()[4] for line in file if "memfd:theus" in line)


def keep(value):
    KEPT.append(value)
    return float(value.sum())


def kept():
    return [float(value.sum()) for value in KEPT]


def make(size, fill):
    import numpy

    return numpy.full(size, fill, dtype=float)


def make_both(size):
    """The same array twice, and a part of it."""
    array = make(size, 1.0)
    return {"whole": array, "again": [array], "part": array[10:20]}


def fail_with(array):
    error = ValueError("big")
    error.array = array
    raise error


@process(environment="worker")
def square(out, source, start, end):
    out[start:end] = source[start:end] ** 2


@process(environment="worker")
def fill(view, value):
    view[...] = value


def tamper(_array):
    """Try to change what was lent, past the mapping."""
    refused = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if "memfd:theus" not in os.readlink(f"/proc/self/fd/{name}"):
                continue
        except OSError:
            continue
        for change in (lambda fd: os.ftruncate(fd, 1), lambda fd: os.pwrite(fd, b"x", 0)):
            try:
                change(int(name))
            except PermissionError:
                refused.append(True)
            else:
                refused.append(False)
    return refused


def fork_and_keep(array):
    """Leave a child behind that still reads the argument; gives the ends of pipes to ask it with."""
    ask, answer = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        os.read(ask[0], 1)
        os.write(answer[1], repr(float(array.sum())).encode())
        os._exit(0)
    KEPT.append((ask[1], answer[0], child))


def ask_child():
    ask, answer, child = KEPT[-1]
    os.write(ask, b"x")
    text = os.read(answer, 100).decode()
    os.waitpid(child, 0)
    return float(text)


@process(environment="worker")
def total_of_domain(ctx):
    return float(ctx.domain["array"].sum()), blocks()


@process
def spoil_domain(ctx):
    array = ctx.domain["array"]
    try:
        array[0] = 5
    except ValueError:
        return "read-only"
    return "written"


@process(environment="worker")
def write_domain(ctx, size, value):
    ctx.domain["array"] = make(size, value)


def report(ctx, value):
    ctx.report(value)


def loaded():
    return "numpy" in sys.modules
