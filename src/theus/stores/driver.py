"""The seam between a durable store and what keeps its log: what a driver is asked, and the records that cross.

``replica.py`` asks; ``sqlite.py``, ``redis.py`` and ``postgres.py`` answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from theus.protocols import Record, Version
from theus.state.access import Reads
from theus.state.head import Staged
from theus.stores import keys

_FIXED = 64  #: bytes that an entry counts for, besides what is in it

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[Record]).decode


@dataclass(frozen=True, slots=True)
class Entry:
    """One commit as it stands in the log."""

    version: Version  #: its number in the log, from 1, without a gap
    author: str
    at: float  #: seconds since the epoch
    ops: bytes
    records: Sequence[Record] = ()
    group: str = ""  #: the id of the append that it came with

    @property
    def weight(self) -> int:
        """About how many bytes of the log it is."""
        return weigh(self.ops, self.records)


def weigh(operations: bytes, records: Sequence[Record]) -> int:
    """The same of a commit that has no number yet."""
    weight = _FIXED + len(operations)
    for _, _, value in records:
        weight += _FIXED if value is None else _FIXED + len(value)
    return weight


@dataclass(slots=True)
class Proposed:
    """A commit that is to be appended: everything of its entry but the number."""

    author: str
    at: float
    ops: bytes
    records: Sequence[Record]
    expected: Sequence[Record]  #: for drivers whose ``record`` may be behind: to be checked where the log is
    staged: Staged
    looks: Reads = ()  #: of those that wrote nothing, but have seen what this writes

    @property
    def asks(self) -> set[str]:
        """Conflict keys that no entry after ``known`` may have written."""
        staged = self.staged
        asks = keys.asked(staged.reads, staged.ops) | keys.assumed(staged.ops, staged.moved)
        return asks | keys.asked(self.looks, ())

    @property
    def writes(self) -> set[str]:
        """Conflict keys that this writes."""
        return keys.written(self.staged.ops, self.staged.moved)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What is in the store: a state, and the log after it."""

    version: Version  #: of the state
    state: bytes
    entries: Sequence[Entry]
    kept: Version  #: of the newest snapshot, which may be later than the one that is given


Make = Callable[[Sequence[Entry]], Sequence[Proposed]]


class Driver(Protocol):
    """The log of one store. ``append`` is called by one thread at a time, the rest from any.

    Raises ``StoreUnavailable`` where nothing was changed, ``CommitUnknown`` where that is not known.
    """

    def load(self, initial: Callable[[], bytes]) -> Loaded:
        """Get ready. An empty store begins with ``initial()`` at version 0. The oldest snapshot that is kept."""

    def append(self, known: Version, group: str, make: Make) -> Sequence[Entry]:
        """Append what ``make`` gives, all or nothing; nothing if it gives nothing.

        ``make(others)`` is called with what others appended after ``known``; again, with what came since, if
        something came in between that one of the proposed asks for. Gives what others appended between the last that
        ``make`` saw and ours. ``group`` is an id: a group that is in the log already is not appended again.
        """

    def tail(self, after: Version) -> Sequence[Entry]:
        """The entries after a version; the first one's number is higher than the next if the log does not reach back."""

    def wait(self) -> bool:
        """Block until others may have appended something; False: the driver was closed."""

    def record(self, kind: str, key: str) -> bytes | None:
        """A record's value. Inside ``make`` it is certain, or ``append`` checks what was ``expected``."""

    def records(self, kind: str, prefix: str) -> list[Record]:
        """The records of a kind whose key begins with ``prefix``, by key."""

    def kept(self) -> Version:
        """The version of the newest snapshot."""

    def keep(self, version: Version, state: bytes, floor: Version) -> None:
        """Keep a snapshot, unless a newer one is kept. Snapshots older than ``floor`` and the log up to it go."""

    def close(self) -> None:
        """Let go of files and connections; ``wait`` ends."""


def packed_records(one: Proposed) -> bytes | None:
    """The records of a commit as bytes; None if there are none."""
    return _pack(one.records) if one.records else None


def records_of(data: bytes | None) -> Sequence[Record]:
    """The records back."""
    return _unpack(data) if data else ()
