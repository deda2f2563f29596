"""The wire: framed messages over a socket pair. The same code serves a worker process and a sub-interpreter.

A frame is a header, the lengths of its parts, and the parts::

    kind  flags  parts   seq     length of each part     part 0 … part n
    1 B   1 B    2 B     8 B     8 B each

Parts after the pickle are its out-of-band buffers (pickle protocol 5): a big array is neither copied into the
pickle on this side nor out of it on the other.

===========  ========  =================================================================================
message      way       content
===========  ========  =================================================================================
``SETUP``    near→far  what the worker needs to be like the engine's process: paths, log levels, resources
``CALL``     near→far  envelope (marshal), payload (pickle), snapshot and config (pickle, if not known there)
``END``      near→far  nothing more will come: close resources and exit
``READY``    far→near  the worker has started
``STARTED``  far→near  the body begins now; sent only if asked for
``REPORT``   far→near  a value of ``ctx.report``, at once
``LOG``      far→near  a log record
``DONE``     far→near  the outcome of a call
``FAILED``   far→near  a value could not cross: what, and why
``RETURNED`` far→near  calls that had not begun are given back: ``seq`` … the number in the part
``RECALL``   control   give back what has not begun, up to ``seq``
``STOP``     control   give back everything, interrupt call ``seq`` if it is the one that runs (0: let it end), then exit
===========  ========  =================================================================================

``seq`` numbers the calls of one worker from 1. A worker runs its calls in that order, one at a time. The control
messages have a socket of their own, because a worker that computes does not read the wire.

Reads go through one fixed buffer of 64 KB: with bigger ones malloc maps and unmaps memory at each call, which made
a call 2-3 times dearer (parallel.md §1).
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from theus.environments.parcel import Parcel

SETUP, CALL, END = 1, 2, 3
READY, STARTED, REPORT, LOG, DONE, FAILED, RETURNED = 11, 12, 13, 14, 15, 16, 17
RECALL, STOP = 21, 22

PLAIN = 1  #: flag: the pickle names no definitions, so the C function ``pickle.loads`` will do

BUFFER = 65536  #: bytes; also the size from which a part is sent where it lies instead of being copied into the frame

Bytes = bytes | bytearray | memoryview

_HEADER = Struct("<BBHQ")
_LENGTH = Struct("<Q")
_ONE_PART = Struct("<BBHQQ")
_MAX_VECTOR = 512  # buffers in one sendmsg; the system's limit is 1024


class Frame(NamedTuple):
    """One message."""

    kind: int
    flags: int
    seq: int
    parts: Sequence[bytes | bytearray]


def pack(kind: int, seq: int = 0, parts: Sequence[Bytes] = (), flags: int = 0) -> list[Bytes]:
    """The buffers that make up a frame, in order; small parts are joined."""
    if len(parts) == 1 and len(parts[0]) < BUFFER:
        return [_ONE_PART.pack(kind, flags, 1, seq, len(parts[0])) + parts[0]]
    small = [_HEADER.pack(kind, flags, len(parts), seq)]
    small.extend(_LENGTH.pack(memoryview(part).nbytes) for part in parts)
    buffers: list[Bytes] = []
    for part in parts:
        if memoryview(part).nbytes < BUFFER:
            small.append(bytes(part))
        else:
            buffers.append(b"".join(small))
            buffers.append(memoryview(part).cast("B"))
            small = []
    if small:
        buffers.append(b"".join(small))
    return buffers


def send_some(sock: socket.socket, buffers: list[Bytes]) -> list[Bytes]:
    """Send what a non-blocking socket takes; gives what is left. Raises OSError if the other side is gone."""
    while buffers:
        try:
            sent = sock.send(buffers[0]) if len(buffers) == 1 else sock.sendmsg(buffers[:_MAX_VECTOR])
        except BlockingIOError:
            return buffers
        while buffers and sent >= len(buffers[0]):
            sent -= len(buffers[0])
            del buffers[0]
        if sent:
            buffers[0] = memoryview(buffers[0])[sent:]
    return buffers


class Reader:
    """Cuts a stream of bytes into frames.

    A frame that fits into the buffer is cut out of it; the parts of a bigger one are received right where they
    will stay.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray(BUFFER)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        self.was_full = False  #: there may be more to read at once
        self._big: Frame | None = None
        self._missing: list[memoryview] = []

    def receive(self) -> bool:
        """Read once from the socket. False at the end of the stream. BlockingIOError: there is nothing, and it may not wait."""
        if self._missing:
            target = self._missing[0]
            count = self._sock.recv_into(target)
            self.was_full = count > 0
            if count == len(target):
                del self._missing[0]
            else:
                self._missing[0] = target[count:]
            return count > 0
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end == BUFFER:
            rest = bytes(self._view[self._start :])
            self._buffer[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        count = self._sock.recv_into(self._view[self._end :])
        self._end += count
        self.was_full = self._end == BUFFER
        return count > 0

    def frames(self) -> Iterator[Frame]:
        """The complete frames received so far."""
        while True:
            if self._big is not None:
                if self._missing:
                    return
                frame, self._big = self._big, None
                yield frame
                continue
            start, have = self._start, self._end - self._start
            if have < _HEADER.size:
                return
            kind, flags, count, seq = _HEADER.unpack_from(self._buffer, start)
            head = _HEADER.size + count * _LENGTH.size
            if have < head:
                return
            at = start + head
            if count == 1:
                lengths: Sequence[int] = _LENGTH.unpack_from(self._buffer, start + _HEADER.size)
            else:
                lengths = [_LENGTH.unpack_from(self._buffer, start + _HEADER.size + 8 * i)[0] for i in range(count)]
            if have >= head + sum(lengths):
                parts = []
                for length in lengths:
                    parts.append(bytes(self._view[at : at + length]))
                    at += length
                self._start = at
                yield Frame(kind, flags, seq, parts)
            elif head + sum(lengths) <= BUFFER:
                return  # receive() makes room for the rest if need be
            else:
                self._begin_big(kind, flags, seq, lengths, at)

    def _begin_big(self, kind: int, flags: int, seq: int, lengths: Sequence[int], at: int) -> None:
        targets = [bytearray(length) for length in lengths]
        self._big = Frame(kind, flags, seq, targets)
        self._missing = []
        for target in targets:
            take = min(len(target), self._end - at)
            target[:take] = self._view[at : at + take]
            at += take
            if take < len(target):
                self._missing.append(memoryview(target)[take:])
        self._start = self._end = 0


class Line:
    """The far side's end of the wire: sends frames from any thread, waiting as long as it takes.

    ``on_gone``: is called if there is nobody at the other end any more.
    """

    def __init__(self, sock: socket.socket, on_gone: Callable[[], None]) -> None:
        self._sock = sock
        self._on_gone = on_gone
        self._lock = threading.RLock()  # again by the same thread if a signal handler interrupts it
        self._pid = os.getpid()

    def send(self, kind: int, seq: int, parts: Sequence[Bytes], flags: int = 0) -> None:
        """Send a frame, whole."""
        buffers = pack(kind, seq, parts, flags)
        with self._lock:
            if os.getpid() == self._pid:  # not a child that a body forked
                try:
                    for buffer in buffers:
                        self._sock.sendall(buffer)
                except OSError:
                    self._on_gone()

    def send_parcel(self, kind: int, seq: int, parcel: Parcel) -> None:
        """Send a packed value."""
        self.send(kind, seq, [parcel.data, *parcel.buffers], PLAIN if parcel.plain else 0)

    def close(self) -> None:
        """Close this end."""
        self._sock.close()


def number(value: int) -> bytes:
    """A count as the part of a frame."""
    return _LENGTH.pack(value)


def read_number(part: bytes | bytearray) -> int:
    """The count that ``number`` packed."""
    found: Any = _LENGTH.unpack(part)[0]
    return int(found)
