"""Shared memory: one array that every process sees and can write to."""

from __future__ import annotations

import mmap
import os
import pickle
import tempfile
from typing import TypeVar

from theus.environments.blocks import SHARE, Block, new_memory, seal, write
from theus.environments.parcel import PROTOCOL
from theus.errors import DefinitionError

T = TypeVar("T")


def share(value: T) -> T:
    """A copy of an array (or of whatever pickles with buffers: a frame, a table) in shared memory.

    Raises:
        DefinitionError: it has no buffer that could be shared.
    """
    buffers: list[memoryview] = []

    def keep(buffer: pickle.PickleBuffer) -> None:
        buffers.append(buffer.raw())  # gives None: the buffer stays out of the pickle

    data = pickle.dumps(value, PROTOCOL, buffer_callback=keep)
    if not any(raw.nbytes for raw in buffers):
        raise DefinitionError(
            f"engine.share takes an array whose memory is in one piece and holds no objects; this {type(value).__name__} "
            "has no such memory. Of a part of an array share a copy: engine.share(array[::2].copy())."
        )
    copy: T = pickle.loads(data, buffers=[_shared(raw) for raw in buffers])
    return copy


def _shared(raw: memoryview) -> memoryview:
    size = raw.nbytes
    if not size:
        return raw
    block = Block(_Nowhere(), _memory(size), -(-size // mmap.PAGESIZE) * mmap.PAGESIZE)
    write(block.fd, raw)
    seal(block.fd)
    return memoryview(block.map(size, SHARE))


def _memory(size: int) -> int:
    try:
        return new_memory(size)
    except OSError:
        if hasattr(os, "memfd_create"):
            raise
        with tempfile.TemporaryFile() as file:  # it has no name either
            file.truncate(size)
            return os.dup(file.fileno())


class _Nowhere:
    """Belongs to no environment; each that meets the block takes it in."""

    def end(self, block: Block) -> None:
        os.close(block.fd)
