"""The far side's blocks: what was lent to this worker, and what it gives."""

from __future__ import annotations

import marshal
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from theus.environments import wire
from theus.environments.blocks import (
    ALL_WRITES,
    COPY,
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
from theus.environments.parcel import Parcel, ship
from theus.state.values import memory_of


class Kept:
    """A block that stays mapped until the near side lets go of it."""

    def __init__(self, block: Block, size: int, access: int) -> None:
        self._lot = Lot(block, size, access)
        self._mapped: memoryview | None = None

    def open(self) -> memoryview:
        """Its memory."""
        if self._mapped is None:
            self._mapped = self._lot.open()
        return self._mapped


class FarBlocks:
    """The blocks of one worker."""

    def __init__(self) -> None:
        self._back: deque[int] = deque()  # what is no longer used; filled in any thread and at any moment
        self._kept: dict[tuple[int, int], Kept] = {}  # by number and access
        self._has_forked = False
        os.register_at_fork(before=self._note_fork)

    def place(self, raw: memoryview) -> memoryview | Lot:
        """A block that holds this buffer, or the buffer itself, to go through the socket."""
        memory = memory_of(raw.obj)
        if isinstance(memory, Mapped):
            lot = lot_of(memory, raw)
            if lot is not None:
                return lot
        return self._give(raw, READ if raw.readonly else COPY) or raw

    def place_text(self, text: bytes | bytearray) -> bytes | Lot:
        """The same for ``bytes``, a ``bytearray``, and what a value of another kind pickles as."""
        return self._give(memoryview(text), READ) or bytes(text)

    def send(self, line: wire.Line, kind: int, seq: int, parcel: Parcel) -> None:
        """Send a packed value, with the blocks that are in it."""
        data, buffers, plain = parcel
        if isinstance(data, bytes) and not buffers:
            line.send(kind, seq, [data], wire.PLAIN if plain else 0)
        else:
            descriptors: list[int] = []
            shape, parts = ship(parcel, lambda lot: self.tell(lot, descriptors))
            line.send(kind, seq, [*parts, marshal.dumps(shape)], wire.SHAPED, descriptors)

    def tell(self, lot: Lot, descriptors: list[int]) -> tuple[Any, ...]:
        """What the near side is to be told of a block: its number there; of a new one the descriptor."""
        if not lot.block.number:
            descriptors.append(lot.block.fd)
        return lot.block.number, lot.size, lot.access

    def find(self, ticket: Sequence[Any], descriptors: Iterator[int]) -> Lot | Kept:
        """A block that was lent."""
        number, size, access, kept, fresh = ticket
        if not fresh:
            return self._kept[number, access]
        block = Block(self, next(descriptors), size, number)
        if not kept:
            return Lot(block, size, access)
        found = self._kept[number, access] = Kept(block, size, access)
        return found

    def let_go(self, numbers: Iterable[int]) -> None:
        """The values in these blocks are gone."""
        wanted = set(numbers)
        for place in [place for place in self._kept if place[0] in wanted]:
            del self._kept[place]

    def end(self, block: Block) -> None:
        """Nothing lies in this block any more."""
        os.close(block.fd)
        if block.number:
            self._back.append(block.number)

    def give_back(self, line: wire.Line) -> None:
        """Tell the near side of the blocks that ended, and whether they are as new: no forked process reads them."""
        if self._back:
            numbers = []
            while self._back:
                numbers.append(self._back.popleft())
            line.send(wire.BLOCKS, 0, [marshal.dumps((numbers, not self._has_forked))])

    def close(self) -> None:
        """Keep nothing any more."""
        self._kept.clear()

    def _note_fork(self) -> None:
        self._has_forked = True

    def _give(self, raw: memoryview, access: int) -> Lot | None:
        if raw.nbytes < LEAST:
            return None
        try:
            descriptor = new_memory(raw.nbytes)
        except OSError:  # no descriptors left, or a system without memfd
            return None
        block = Block(self, descriptor, raw.nbytes)
        write(descriptor, raw)
        seal(descriptor, writes=ALL_WRITES)
        return Lot(block, raw.nbytes, access)
