"""What it would take to send a value to another core: pickled, for the CPU time that takes, and given up in time.

Not the time on the wall: on a busy machine a call of 46 bytes would now and then look dear, and its process stay here.
"""

from __future__ import annotations

import io
import pickle
from time import thread_time
from typing import Any

from theus.environments.blocks import Lot, Mapped
from theus.environments.parcel import FAULTS, PROTOCOL, Definitions, Packer, Parcel
from theus.state.values import memory_of

DEAR = 0.5  #: the part of the limit from which it seems dear
SECONDS_PER_BYTE = 1e-9  #: through a socket, both ends


class _TooDear(Exception):
    """It took longer than it may."""


class _Scale(io.RawIOBase):
    """A file that only counts. The pickler writes to it every 64 KiB, which lets other threads have a turn as well."""

    def __init__(self, deadline: float) -> None:
        self.bytes = 0
        self._deadline = deadline

    def write(self, data: Any) -> int:
        """Count."""
        size = memoryview(data).nbytes
        self.bytes += size
        if thread_time() > self._deadline:
            raise _TooDear
        return size


class Price:
    """The price of a call, part by part. ``bytes``, and ``seconds`` there and back; over the limit it is not exact."""

    def __init__(self, limit: float) -> None:
        self.bytes = 0
        self.seconds = 0.0
        self._limit = limit

    def add(self, value: Any, book: Definitions) -> None:
        """Add what a value costs. Raises what pickling it raises."""
        try:
            self._add(value, book, by_value=False)
        except FAULTS:
            self._add(value, book, by_value=True)

    def _add(self, value: Any, book: Definitions, *, by_value: bool) -> None:
        if self.seconds > self._limit:
            return
        started = thread_time()
        scale = _Scale(started + self._limit)
        size = 0

        def weigh(buffer: pickle.PickleBuffer) -> bool:
            nonlocal size
            raw = buffer.raw()
            size += 0 if isinstance(memory_of(raw), Mapped) else raw.nbytes  # what lies in a block goes as it is
            return False

        packer = Packer(scale, PROTOCOL, buffer_callback=weigh)
        packer.book = book
        packer.needs = []
        if by_value:
            packer.by_value()
        try:
            packer.dump(value)
        except _TooDear:
            pass
        size += scale.bytes
        self.bytes += size
        self.seconds += 2 * (thread_time() - started) + size * SECONDS_PER_BYTE  # who opens it takes as long


def size_of(parcel: Parcel | None) -> int:
    """The bytes of what was sent."""
    if parcel is None:
        return 0
    data, buffers, _ = parcel
    pieces = [data] if isinstance(data, (bytes, bytearray, memoryview)) else data
    return sum(_size(part) for part in (*pieces, *buffers))


def _size(part: Any) -> int:
    return part.size if isinstance(part, Lot) else memoryview(part).nbytes
