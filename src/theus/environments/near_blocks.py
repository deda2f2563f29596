"""The near side's blocks: what is written when, to whom it was lent, and when it can be written to again."""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

from theus.environments.blocks import (
    COPY,
    LATER_WRITES,
    LEAST,
    READ,
    Block,
    Lot,
    Mapped,
    lot_of,
    new_memory,
    seal,
    write,
)
from theus.state.values import is_fixed, memory_of

SPARE = 1 << 28  #: bytes of blocks kept to be written to again, which is 6-9 times cheaper than new memory
_MOST_SPARE = 16
_ROOM = 2  # a spare block may be so many times bigger than what is to be written


class Blocks:
    """The blocks of one environment.

    ``wake``: is called, in any thread and at any moment, when ``let_go`` and ``tidy`` have something to do.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.let_go: deque[int] = deque()  #: kept blocks whose value is gone
        self._wake = wake
        self._lock = threading.Lock()  # over what is spare
        self._spare: list[tuple[int, int, mmap.mmap]] = []  # descriptor, size, mapping
        self._ended: deque[tuple[int, int, mmap.mmap]] = deque()
        self._numbers = count(1)
        self._fixed: dict[int, tuple[weakref.ref[Any], Block]] = {}  # id of what cannot change -> where it was written
        self._texts: weakref.WeakValueDictionary[int, Block] = weakref.WeakValueDictionary()
        self._is_closed = False

    def place(self, raw: memoryview) -> memoryview | Lot:
        """A block that holds this buffer, or the buffer itself, to go through the socket."""
        try:
            exporter = raw.obj
            memory = memory_of(exporter)
            if isinstance(memory, Mapped):
                lot = self._pass_on(memory, raw)
                if lot is not None:
                    return lot
            if raw.nbytes < LEAST:
                return raw
            if not raw.readonly:
                return Lot(self._write(raw), raw.nbytes, COPY)
            key = memory if getattr(memory, "nbytes", 0) == raw.nbytes else exporter
            found = self._fixed.get(id(key))
            if found is not None and found[0]() is key:
                return Lot(found[1], raw.nbytes, READ, kept=True)
            block = self._write(raw)
            if is_fixed(exporter):
                self._keep(key, block)
            return Lot(block, raw.nbytes, READ, kept=block.lasts)
        except OSError:  # no descriptors or no memory left, or a system without memfd
            return raw

    def place_text(self, text: bytes | bytearray) -> bytes | Lot:
        """The same for ``bytes``, a ``bytearray``, and what a value of another kind pickles as."""
        if len(text) >= LEAST:
            try:
                block = self._texts.get(id(text))
                if block is None or block.source is not text:
                    block = self._write(memoryview(text))
                    if isinstance(text, bytes):
                        block.source = text
                        self._texts[id(text)] = block
                return Lot(block, len(text), READ)
            except OSError:
                pass
        return bytes(text)

    def accept(self, descriptor: int, size: int) -> Block:
        """A result that a worker has given."""
        return Block(self, descriptor, size, next(self._numbers))

    def end(self, block: Block) -> None:
        """Keep the memory for another value, if all that had it have given it back."""
        if block.mapping is None:
            os.close(block.fd)
            return
        self._ended.append((block.fd, block.size, block.mapping))
        if self._is_closed:
            self._drop_ended()
        self._wake()

    def tidy(self) -> None:
        """Keep the newest of the memory that is free, and only so much of it."""
        with self._lock:
            while self._ended and not self._is_closed:
                self._spare.append(self._ended.popleft())
            while len(self._spare) > _MOST_SPARE or sum(size for _, size, _ in self._spare) > SPARE:
                os.close(self._spare.pop(0)[0])

    def close(self) -> None:
        """Keep nothing any more."""
        self._fixed.clear()
        with self._lock:
            self._is_closed = True
            while self._spare:
                os.close(self._spare.pop()[0])
        self._drop_ended()

    def _drop_ended(self) -> None:
        while True:
            try:
                descriptor, _, _ = self._ended.popleft()
            except IndexError:
                return
            os.close(descriptor)

    def _pass_on(self, mapped: Mapped, raw: memoryview) -> Lot | None:
        lot = lot_of(mapped, raw)
        if lot is None:
            return None
        block = lot.block
        if block.home is not self:  # of another environment, or shared
            found = self._fixed.get(id(mapped))
            if found is None or found[0]() is not mapped:
                block = Block(self, os.dup(block.fd), block.size, next(self._numbers))
                block.source = lot.block
                self._keep(mapped, block)
            else:
                block = found[1]
        elif lot.kept and not block.lasts:
            self._keep(mapped, block)
        return lot._replace(block=block, kept=lot.kept and block.lasts)

    def _write(self, raw: memoryview) -> Block:
        size = raw.nbytes
        descriptor, room, mapping = self._take_spare(size) or (None, 0, None)
        if descriptor is not None and mapping is not None:
            mapping[:size] = raw
        else:
            room = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
            descriptor = new_memory(room)
            try:
                write(descriptor, raw)
                mapping = mmap.mmap(descriptor, room)
                seal(descriptor, writes=LATER_WRITES)
            except BaseException:
                os.close(descriptor)
                raise
        block = Block(self, descriptor, room, next(self._numbers))
        block.mapping = mapping
        return block

    def _take_spare(self, size: int) -> tuple[int, int, mmap.mmap] | None:
        self.tidy()
        with self._lock:
            fitting = [spare for spare in self._spare if size <= spare[1] <= _ROOM * size]
            if not fitting:
                return None
            found = min(fitting, key=lambda spare: spare[1])
            self._spare.remove(found)
            return found

    def _keep(self, value: Any, block: Block) -> None:
        """Remember where a value that cannot change was written, until it is gone."""
        key = id(value)

        def gone(ref: weakref.ref[Any]) -> None:
            found = self._fixed.get(key)
            if found is not None and found[0] is ref:
                del self._fixed[key]
            block.lasts = False
            self.let_go.append(block.number)
            self._wake()

        try:
            self._fixed[key] = (weakref.ref(value, gone), block)
        except TypeError:  # nothing tells when it will be gone
            return
        block.lasts = True


class Ledger:
    """What was lent to one worker. Used under the pool's lock."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self._lent: dict[int, tuple[Block, int]] = {}  # number -> block, how many times
        self._kept: set[tuple[int, int]] = set()  # number and access of what it keeps mapped

    def lend(self, lot: Lot, descriptors: list[int]) -> tuple[Any, ...]:
        """What the worker is to be told of a block; its descriptor, if the worker does not have it."""
        block, size, access, kept = lot
        number = block.number
        place = (number, access)
        kept = kept and block.lasts
        fresh = place not in self._kept
        if fresh:
            descriptors.append(block.fd)
            self._lent[number] = (block, self._lent.get(number, (block, 0))[1] + 1)
            if kept:
                self._kept.add(place)
        return number, size, access, kept, fresh

    def lend_again(self, lot: Lot, descriptors: list[int]) -> tuple[Any, ...]:
        """The same for a message that the worker takes before those that it has not looked at: as if it had nothing."""
        self._kept.discard((lot.block.number, lot.access))
        return self.lend(lot, descriptors)

    def take_back(self, numbers: Sequence[int], *, as_new: bool) -> None:
        """The worker no longer has these. ``as_new``: nor has a process that it forked."""
        for number in numbers:
            block, times = self._lent.pop(number)
            if times > 1:
                self._lent[number] = (block, times - 1)
            if not as_new:
                block.mapping = None

    def let_go(self, number: int) -> bool:
        """The value in this block is gone. Gives whether the worker keeps it."""
        places = {place for place in self._kept if place[0] == number}
        self._kept -= places
        return bool(places)

    def find(self, ticket: Sequence[Any], descriptors: Iterator[int]) -> Lot:
        """A block that a result lies in: a new one, or one that had been lent."""
        number, size, access = ticket
        if not number:
            return Lot(self._blocks.accept(next(descriptors), size), size, access)
        block, _ = self._lent[number]
        block.mapping = None  # not to be written to again: a process that the program forks may go on reading it
        return Lot(block, size, access)

    def close(self) -> None:
        """The worker is dead. What it had is not written to again: a process that it left behind may read it."""
        for block, _ in self._lent.values():
            block.mapping = None
        self._lent.clear()
