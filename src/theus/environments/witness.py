"""Whether a call changes in place what it was given.

What is handed to a process is read-only by rule. To guard it would cost every call, so a checksum is taken before the
body and compared after it: while debugging for each call, and else for one call of a process that is about to be sent to
another core. There it would change a copy, and what it did until then would be lost without a word.
"""

from __future__ import annotations

import hashlib
import io
import math
import pickle
from collections.abc import Iterator
from time import thread_time
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from theus.environments.blocks import SHARE, Mapped
from theus.state.values import memory_of

if TYPE_CHECKING:
    from theus.protocols import Call


class Witness:
    """Remembers what a call was given. ``limit``: seconds of CPU that a checksum may take; else nobody can tell."""

    def __init__(self, call: Call, limit: float = math.inf) -> None:
        self._limit = limit
        self._given = [(name, value, type(value), checksum(value, limit)) for name, value in _given(call)]

    def changed(self) -> tuple[str, type] | None:
        """What was changed since: its name, and its type before."""
        for name, value, kind, before in self._given:
            if before is not None and checksum(value, self._limit) != before:
                return name, kind
        return None


def _given(call: Call) -> Iterator[tuple[str, Any]]:
    names = call.process.parameters
    for place, value in enumerate(call.args):
        yield f"argument {names[place]!r}" if place < len(names) else f"argument {place + 1}", value
    for name, value in call.kwargs.items():
        yield f"argument {name!r}", value
    if not any(value is call.pipe for value in call.args):
        yield "ctx.pipe", call.pipe


def checksum(value: Any, limit: float = math.inf) -> bytes | None:
    """Of all that the value consists of; None if it cannot be told, or not in ``limit`` seconds of CPU."""
    total = _Sum(thread_time() + limit)
    try:
        _Summing(total, protocol=5).dump(value)
    except Exception:  # what it does when it is pickled is its own affair
        return None
    return total.digest()


class _TooLong(Exception):
    """It took longer than it may."""


class _Sum(io.RawIOBase):
    """A file that sums up what is written to it."""

    def __init__(self, deadline: float) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self._deadline = deadline

    def write(self, data: Any) -> int:
        """Add it."""
        if thread_time() > self._deadline:
            raise _TooLong
        self._hash.update(data)
        return memoryview(data).nbytes

    def digest(self) -> bytes:
        """The sum."""
        return self._hash.digest()


class _Summing(pickle.Pickler):
    """Functions, classes and modules are who they are; memory that was shared to be written to is nobody's own."""

    def reducer_override(self, value: Any) -> Any:
        """Called by the C pickler for whatever is not a builtin value."""
        if isinstance(value, (type, FunctionType, ModuleType)):
            return NotImplemented if value is int else (int, (id(value),))
        if type(value) is memoryview:
            return bytes, (value.tobytes(),)
        if type(value).__name__ == "ndarray" and type(memory := memory_of(value)) is Mapped and memory.access == SHARE:
            return int, (id(memory),)
        return NotImplemented
