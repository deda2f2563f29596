"""The wire: framed messages over a socket pair. The same code serves a worker process and a sub-interpreter.

A frame is a header, the lengths of its parts, and the parts::

    kind  flags  descriptors  parts   seq     length of each part     part 0 … part n
    1 B   1 B    1 B          2 B     8 B     8 B each

Parts after the pickle are its out-of-band buffers (pickle protocol 5): a big array is neither copied into the
pickle on this side nor out of it on the other. The biggest do not go through the socket at all: descriptors of the
memory they are in travel with the frame's first byte (``SCM_RIGHTS``, see ``blocks.py``).

===========  ========  =================================================================================
message      way       content
===========  ========  =================================================================================
``SETUP``    near→far  what the worker needs to be like the engine's process: paths, log levels, resources
``CALL``     near→far  envelope (marshal), payload (pickle), snapshot and config (pickle, if not known there)
``CALLS``    near→far  envelope with small payloads (marshal): calls of one process, ``seq`` is the first one's
``END``      near→far  nothing more will come: close resources and exit
``PART``     near→far  a field of the domain, before a call that will need it, or in answer to FETCH (``parts.py``)
``BLOCKS``   both      blocks that are given back, and blocks that need not be kept any longer (``blocks.py``)
``READY``    far→near  the worker has started
``STARTED``  far→near  the body begins now; sent only if asked for
``REPORT``   far→near  a value of ``ctx.report``, at once
``LOG``      far→near  a log record
``FETCH``    far→near  the body waits for a field of its domain
``DONE``     far→near  the outcome of a call
``VALUE``    far→near  the same of one of CALLS that has a simple value and nothing else: value, seconds (marshal)
``FAILED``   far→near  a value could not cross: what, and why
``LOADED``   far→near  modules that were loaded with definitions, and took long: the next worker may have them from a template
``RETURNED`` far→near  calls that had not begun are given back: ``seq`` … the number in the part
``FORK``     template  a worker is asked for: modules that it may have loaded, its descriptors (``far_template.py``)
``RECALL``   control   give back what has not begun, up to ``seq``
``STOP``     control   give back everything, interrupt call ``seq`` if it is the one that runs (0: let it end), then exit
===========  ========  =================================================================================

``seq`` numbers the calls of one worker from 1. A worker runs its calls in that order, one at a time. The control
messages have a socket of their own, because a worker that computes does not read the wire.

Reads go through one fixed buffer of 64 KB: with bigger ones malloc maps and unmaps memory at each call, which made
a call 2-3 times dearer (parallel.md §1).
"""

from __future__ import annotations

import errno
import os
import socket
import threading
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from struct import Struct
from typing import Any, NamedTuple

from theus.state.values import FIXED

SETUP, CALL, END, BLOCKS, PART, CALLS = 1, 2, 3, 4, 5, 6
READY, STARTED, REPORT, LOG, DONE, FAILED, RETURNED, FETCH, VALUE, LOADED = 11, 12, 13, 14, 15, 16, 17, 18, 19, 20
RECALL, STOP = 21, 22
FORK = 31

PLAIN = 1  #: flag: one part, a pickle that names no definitions, so the C function ``pickle.loads`` will do
SHAPED = 2  #: flag: the last part says what the others are
ASKED = 4  #: flag: a PART for which the far side waits

BUFFER = 65536  #: bytes; also the size from which a part is sent where it lies instead of being copied into the frame

Bytes = bytes | bytearray | memoryview

MOST_DESCRIPTORS = 200  #: in one frame; the system's limit is 253
_HEADER = Struct("<BBBHQ")
_LENGTH = Struct("<Q")
_ONE_PART = Struct("<BBBHQQ")
_MAX_VECTOR = 512  # buffers in one sendmsg; the system's limit is 1024
_RIGHTS = array("i").itemsize
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
_ANCILLARY = socket.CMSG_SPACE(MOST_DESCRIPTORS * _RIGHTS) if hasattr(socket, "CMSG_SPACE") else 0


class Received(bytearray):
    """A big part, alone in the hands of whoever opens the frame."""

    __slots__ = ()


FIXED[Received] = lambda received: True


class Frame(NamedTuple):
    """One message. Who takes it closes its descriptors."""

    kind: int
    flags: int
    seq: int
    parts: Sequence[bytes | bytearray]
    descriptors: Sequence[int] = ()


class Carrying(bytes):
    """Bytes of which the first carries descriptors."""

    descriptors: Sequence[int] = ()


def pack(
    kind: int, seq: int = 0, parts: Sequence[Bytes] = (), flags: int = 0, descriptors: Sequence[int] = ()
) -> list[Bytes]:
    """The buffers that make up a frame, in order; small parts are joined."""
    if len(parts) == 1 and len(parts[0]) < BUFFER and not descriptors:
        return [_ONE_PART.pack(kind, flags, 0, 1, seq, len(parts[0])) + parts[0]]
    small = [_HEADER.pack(kind, flags, len(descriptors), len(parts), seq)]
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
    if descriptors:
        first = buffers[0] = Carrying(buffers[0])
        first.descriptors = descriptors
    return buffers


def send_some(sock: socket.socket, buffers: list[Bytes]) -> list[Bytes]:
    """Send what a non-blocking socket takes; gives what is left. Raises OSError if the other side is gone."""
    while buffers:
        try:
            sent = sock.send(buffers[0]) if len(buffers) == 1 and type(buffers[0]) is bytes else _send(sock, buffers)
        except BlockingIOError:
            return buffers
        if len(buffers) == 1 and sent == len(buffers[0]):  # what is usual, and once for each call
            return []
        while buffers and sent >= len(buffers[0]):
            sent -= len(buffers[0])
            del buffers[0]
        if sent:
            buffers[0] = memoryview(buffers[0])[sent:]
    return buffers


def _send(sock: socket.socket, buffers: list[Bytes]) -> int:
    first, *rest = buffers[:_MAX_VECTOR]
    following = takewhile(lambda buffer: type(buffer) is not Carrying, rest)
    ancillary = []
    if isinstance(first, Carrying):
        ancillary.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", first.descriptors)))
    try:
        return sock.sendmsg([first, *following], ancillary)
    except OSError as error:
        if error.errno == errno.ETOOMANYREFS:  # of descriptors on their way: some have to arrive first
            raise BlockingIOError from error
        raise


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
        self._descriptors: deque[int] = deque()

    def receive(self) -> bool:
        """Read once from the socket. False at the end of the stream. BlockingIOError: there is nothing, and it may not wait."""
        if self._missing:
            target = self._missing[0]
            count = self._read(target)
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
        count = self._read(self._view[self._end :])
        self._end += count
        self.was_full = self._end == BUFFER
        return count > 0

    def _read(self, target: memoryview) -> int:
        # Always with room for descriptors: a read without it would lose them. It costs 1 us.
        count, ancillary, _, _ = self._sock.recvmsg_into([target], _ANCILLARY, _CLOSE_ON_EXEC)
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                whole = len(data) - len(data) % _RIGHTS
                self._descriptors.extend(array("i", data[:whole]))
        return count

    def _take(self, count: int) -> Sequence[int]:
        return [self._descriptors.popleft() for _ in range(count)]

    def close(self) -> None:
        """Close what arrived with a frame that will never be whole."""
        while self._descriptors:
            os.close(self._descriptors.popleft())

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
            kind, flags, carried, count, seq = _HEADER.unpack_from(self._buffer, start)
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
                yield Frame(kind, flags, seq, parts, self._take(carried) if carried else ())
            elif head + sum(lengths) <= BUFFER:
                return  # receive() makes room for the rest if need be
            else:
                self._begin_big(Frame(kind, flags, seq, (), self._take(carried)), lengths, at)

    def row(self, kind: int, seq: int, most: int) -> list[bytes]:
        """Take off the complete frames that come next if they are of this kind, have one part, and are numbered in a row.

        ``seq``: of the first one. Gives their parts. (A third of what it takes to cut them out one by one.)
        """
        found: list[bytes] = []
        if self._big is not None:
            return found
        view, start, end, last = self._view, self._start, self._end, seq + most
        while seq < last and end - start >= _ONE_PART.size:
            is_kind, _, _, count, number, length = _ONE_PART.unpack_from(view, start)
            at = start + _ONE_PART.size
            if is_kind != kind or count != 1 or number != seq or end - at < length:
                break
            start = at + length
            found.append(bytes(view[at:start]))
            seq += 1
        self._start = start
        return found

    def _begin_big(self, frame: Frame, lengths: Sequence[int], at: int) -> None:
        targets = [Received(length) for length in lengths]
        self._big = frame._replace(parts=targets)
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

    def send(
        self, kind: int, seq: int, parts: Sequence[Bytes], flags: int = 0, descriptors: Sequence[int] = ()
    ) -> None:
        """Send a frame, whole."""
        buffers = pack(kind, seq, parts, flags, descriptors)
        with self._lock:
            if os.getpid() == self._pid:  # not a child that a body forked
                try:
                    while buffers:
                        buffers = send_some(self._sock, buffers)
                except OSError:
                    self._on_gone()

    def send_value(self, seq: int, part: bytes) -> None:
        """Send a VALUE: what most frames are, so without all that others need. Not from a child that a body forked."""
        frame = _ONE_PART.pack(VALUE, 0, 0, 1, seq, len(part)) + part
        with self._lock:
            try:
                self._sock.sendall(frame)
            except OSError:
                self._on_gone()

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
