"""Big values cross as memory that both sides map, not as content. Used on both sides of the wire.

A *block* is a file without a name that lives in memory (Linux: memfd). Its descriptor crosses the wire, and the other
side maps it::

    near: Blocks, a Ledger for each worker                far: FarBlocks
    writes an argument into a block   ──── lent ────>     maps it: arrays lie right in that memory
    writes the next one into it       <─── back ─────     nothing lies in it any more
    maps it, for good                 <─── given ────     writes a result into a new block

====== =================================================================================================
access how it is mapped
====== =================================================================================================
COPY   writable; a page that is written to becomes the reader's own, nobody else sees it
READ   read-only
SHARE  the very memory, writable by all (``engine.share``)
====== =================================================================================================

A value that cannot change is written once, whoever gets it: an array that is read-only and owns its memory (each array of
a snapshot is), or the same ``bytes`` object in several calls at once. The block of such an array is *kept*: a worker keeps
it mapped for the next call, until the array is gone here. Identity alone would not do: what can be changed in place is
written anew for each call. What lies in a block as it came is passed on as that block, without a copy.

Nothing has a name, so nothing can be left behind: when the last process that has a block ends, however it ends, the memory
is free. Blocks are sealed: nobody can cut them short, and what was lent or given can be written to by nobody but the near
side, which does so only when all have given it back. Without memfd everything goes through the socket.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import sys
from typing import Any, NamedTuple, Protocol

from theus.state.values import FIXED

COPY, READ, SHARE = range(3)

LEAST = 1 << 20  #: bytes; what is smaller crosses through the socket
MOST = 60  #: blocks in one parcel; a frame carries up to three parcels and 200 descriptors

_ACCESS = {COPY: mmap.ACCESS_COPY, READ: mmap.ACCESS_READ, SHARE: mmap.ACCESS_WRITE}
_UNTRACKED: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
_CREATE = 0x1 | 0x2  # close on exec, seals allowed
_PIECE = 1 << 30  # bytes in one write; the system takes no more than 2 GB
# Linux's fcntl.F_SEAL_... and F_ADD_SEALS; not all of them are there before Python 3.13.
_SIZE, _FOR_GOOD, ALL_WRITES, LATER_WRITES = 0x2 | 0x4, 0x1, 0x8, 0x10
_ADD_SEALS = 1033


class Home(Protocol):
    """Where a block belongs."""

    def end(self, block: Block) -> None:
        """Nobody in this process uses the block any more. Is called in any thread, at any moment."""


class Block:
    """Memory with a descriptor."""

    __slots__ = ("__weakref__", "fd", "home", "lasts", "mapping", "number", "size", "source")

    def __init__(self, home: Home, fd: int, size: int, number: int = 0) -> None:
        self.home = home
        self.fd = fd
        self.size = size
        self.number = number  #: that the near side gave it
        self.mapping: mmap.mmap | None = None  #: to write the next value with, once all have given it back
        self.source: object = None  #: what lives as long as the block
        self.lasts = False  #: the value in it may be asked for again

    def __del__(self) -> None:
        self.home.end(self)

    def map(self, size: int, access: int) -> Mapped:
        """Map it into this process."""
        mapped = Mapped(self.fd, size, access=_ACCESS[access], **_UNTRACKED)
        mapped.block = self
        mapped.access = access
        return mapped


class Mapped(mmap.mmap):
    """A block as it is mapped here. What lies in it keeps it alive, and so the block."""

    block: Block
    access: int

    def is_as_it_came(self) -> bool:
        """Whether it holds what the block holds: no page of it became this process's own by being written to."""
        return self.access != COPY or not _has_own_pages(self)


FIXED[Mapped] = lambda mapped: mapped.access == READ


class Lot(NamedTuple):
    """A block in a parcel, in the place of a buffer."""

    block: Block
    size: int
    access: int
    kept: bool = False

    def open(self) -> memoryview:
        """Map it."""
        return memoryview(self.block.map(self.size, self.access))


def lot_of(mapped: Mapped, raw: memoryview) -> Lot | None:
    """The block that a buffer lies in, if it is all of it and as it came."""
    if raw.nbytes != len(mapped) or not mapped.is_as_it_came():
        return None
    access = READ if raw.readonly else mapped.access
    return Lot(mapped.block, raw.nbytes, access, kept=access != COPY)


class Placer(Protocol):
    """Decides which buffers go into blocks."""

    def place(self, raw: memoryview) -> memoryview | Lot:
        """A block that holds this buffer, or the buffer itself, to go through the socket."""

    def place_text(self, text: bytes | bytearray) -> bytes | Lot:
        """The same for ``bytes``, a ``bytearray``, and what a value of another kind pickles as."""


def new_memory(size: int) -> int:
    """The descriptor of memory that has no name. Raises OSError."""
    create = getattr(os, "memfd_create", None)
    if create is None:
        raise OSError("this system has no memfd")
    descriptor: int = create("theus", _CREATE)
    try:
        os.ftruncate(descriptor, size)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def write(descriptor: int, raw: memoryview) -> None:
    """Write a buffer into new memory: cheaper than through a mapping, page by page."""
    at = 0
    while at < raw.nbytes:
        at += os.pwrite(descriptor, raw[at : at + _PIECE], at)


def seal(descriptor: int, *, writes: int = 0) -> None:
    """Let nobody cut it short (who reads it would die of SIGBUS), nor write to it."""
    for seals in (_SIZE | writes | _FOR_GOOD, _SIZE | _FOR_GOOD):
        try:
            fcntl.fcntl(descriptor, _ADD_SEALS, seals)
        except OSError:  # a kernel that does not know the seal
            continue
        return


# --- what was written to ---------------------------------------------------------------------------------------------

_PAGEMAP = "/proc/self/pagemap"  # 8 bytes for each page; of the last: 0x80 present, 0x40 swapped, 0x20 of a file
_NOT_OWN = bytes(flags for flags in range(256) if flags & 0x20 or not flags & 0xC0)


def _has_own_pages(mapped: Mapped) -> bool:
    """Whether pages of a private mapping are copies of this process. The system knows; if it does not tell: yes."""
    try:
        pagemap = os.open(_PAGEMAP, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        pages = -(-len(mapped) // mmap.PAGESIZE)
        entries = os.pread(pagemap, 8 * pages, address_of(mapped) // mmap.PAGESIZE * 8)
    except OSError:
        return True
    finally:
        os.close(pagemap)
    return len(entries) != 8 * pages or bool(entries[7::8].translate(None, _NOT_OWN))


def address_of(mapped: Mapped) -> int:
    """Where a writable mapping begins."""
    import ctypes

    return ctypes.addressof(ctypes.c_char.from_buffer(mapped))
