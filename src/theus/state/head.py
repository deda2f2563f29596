"""The head: the newest state in memory, and the one place where it changes.

A commit says on which version its reads were made. If that is still the newest, it is applied. Otherwise its reads are
compared with what was written since, in a tree that holds only *written* paths, with three versions per place:

=========  ===================================================================================
``whole``  when the value at this place was replaced, deleted or came to be
``shape``  when keys came or went below, or the length changed
``deep``   when anything at or below changed
=========  ===================================================================================

A read of key ``k`` in container ``p`` stands if neither ``k`` nor ``p`` nor anything above was replaced since; a shape
or deep read asks the other two numbers of ``p``. Written paths are checked for a replacement above them too, so
an operation always finds its container. Where ``deep`` is not newer than the reader's version, the whole
subtree is skipped: the usual check ends at the first step. (The rule is FoundationDB's: reads conflict, writes do not.)

Nobody asks as long as one commit comes after the other, so what is to be noted in the tree is only put down at first, and
noted when somebody asks, or every sixteen commits: many in a row take a fraction of one alone.

Places that no living snapshot is older than are swept when the tree has doubled, so its size follows the number
of different places written while the oldest snapshot is held, not the number of commits.

**Staging.** A store that has to wait for a disk or a network stages commits: each is validated against the tip (the state
with all that is staged), which it then extends, but readers see nothing of it before ``publish``. ``discard`` forgets all
that was staged. The tip is applied for trial, so forgetting it costs nothing.

::

    published ──stage──> tip ──stage──> tip ──publish──> published        (or ──discard──> as before)

Threads: ``commit``, ``stage`` and ``renew`` hold one short lock; reading ``snapshot`` and ``version`` needs none, because a
snapshot is complete before it is published.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

from theus.errors import Path
from theus.protocols import Commit, Committed, Conflict
from theus.state.access import Ops, Reads
from theus.state.apply import ON_PART, Edits, apply_op
from theus.state.history import History
from theus.state.snapshot import Snapshot
from theus.state.transaction import Transaction, TrialTransaction
from theus.state.values import ingest_domain

_ON_MEMBERS = frozenset(("include", "discard"))
_SPARE = 16  #: versions for which the tree is kept though nobody is seen to need them
_ERA = 16  #: versions between two looks at what can be swept, which share one sign of life


class _Era:
    """What the snapshots of neighbouring versions have in common: it is alive as long as one of them is.

    So the head learns how old the oldest snapshot is, up to an era, without a weak reference to each of them.
    """

    __slots__ = ("__weakref__",)


Stamp = tuple[int, str]  #: when and by whom: a version and the process that made it
_NEVER: Stamp = (0, "")


#: What the tree has to know of an operation: its kind and path, the members that came or went, whether keys or length changed
_Change = tuple[str, Path, Collection[Any], bool, Stamp]


class _Place:
    """What happened at one written path."""

    __slots__ = ("below", "deep", "shape", "whole")

    def __init__(self) -> None:
        self.whole = self.shape = self.deep = _NEVER
        self.below: dict[Any, _Place] = {}


@dataclass(slots=True)
class Staged:
    """A commit that is decided on but not published yet."""

    snapshot: Snapshot  #: with it and all before it; may hold patches
    author: str
    ops: Ops
    reads: Reads  #: its own, and what its completion read in ``snapshot``'s predecessor
    moved: list[bool]  #: for each operation, whether keys or length changed
    lasts: bool  #: there is no patch in the snapshot


@dataclass(slots=True)
class Looked:
    """A commit that turned out to write nothing."""

    version: int  #: of the state that its completion saw, staged or not
    reads: Reads  #: what was read there


class Head:
    """The newest state in memory. Safe to use from any number of threads."""

    def __init__(self, domain: Any, version: int = 0) -> None:
        self._lock = Lock()
        self.version = version  #: of the newest state
        self._era = _Era()
        self.snapshot = Snapshot(version, ingest_domain(domain), self, self._era)  #: the newest committed state
        self._written = _Place()
        self._places = 0
        self._unmarked: list[_Change] = []  #: what is not noted in the tree yet
        self._horizon = version  #: reads on older versions cannot be validated any more
        self._eras = [(weakref.ref(self._era), version)]  #: those that may be alive, with the first version of each
        self._sweep_at = 256
        self.history = History(self.snapshot)
        self._staged: list[Staged] = []

    def commit(self, commit: Commit, at: float | None = None) -> Committed | Conflict:
        """Make the commit or change nothing. What ``commit.complete`` raises comes out of here. ``at``: None is now."""
        operations = commit.ops
        complete = commit.complete
        if not operations and complete is None:
            return Committed(commit.base, ())
        with self._lock:
            # A sender that wrote nothing itself is serialized at its snapshot, whatever it read: its messages are
            # transactions of their own (semantics.md, 4).
            if operations and commit.base != self.version:
                conflict = self._validate(commit.base, commit.reads, operations)
                if conflict is not None:
                    return conflict
            if complete is not None:
                operations = _completed(Transaction(self.snapshot, commit.author), operations, complete)[1]
                if not operations:
                    return Committed(self.version, ())
            author = commit.author
            version = self.version + 1
            stamp = version, author
            root = self.snapshot.root
            if len(operations) == 1:  # what most commits are
                operation = operations[0]
                kind = operation[0]
                root, moved = apply_op(root, operation)
                self._unmarked.append((kind, operation[1], operation[2] if kind in _ON_MEMBERS else (), moved, stamp))
            else:
                edits = Edits()
                changes = []
                for operation in operations:
                    root, moved = apply_op(root, operation, edits)
                    changes.append(moved)
                root = edits.finish(root)
                self._put_down(operations, changes, stamp)  # only now: nothing can fail any more
            if not version % _ERA:
                self._begin_era(version)
            self.snapshot = snapshot = Snapshot(version, root, self, self._era)
            self.version = version
            self.history.add(snapshot, author, operations, at)
            return Committed(version, operations)

    def holds(self, base: int, reads: Reads, operations: Ops) -> int | Conflict:
        """The newest version, if a commit that read on version ``base`` could be made now; else what is in its way."""
        with self._lock:
            return self._validate(base, reads, operations) or self.version

    def renew(self, base: int, reads: Reads) -> Snapshot | None:
        """The newest snapshot if nothing of ``reads``, made on version ``base``, has changed since; else None."""
        with self._lock:
            return self.snapshot if self._validate(base, reads, ()) is None else None

    # --- staging ---

    def stage(self, commit: Commit, check: Callable[[Ops], None]) -> Staged | Looked | Conflict:
        """Let the commit count as made for those that are staged after it, and for nobody else yet.

        What ``commit.complete`` raises comes out of here, and what ``check``, called with all operations, raises;
        then nothing was staged.
        """
        operations, reads = commit.ops, commit.reads
        with self._lock:
            tip = self._staged[-1].snapshot if self._staged else self.snapshot
            if operations and commit.base != tip.version:
                conflict = self._validate(commit.base, reads, operations)
                if conflict is not None:
                    return conflict
            if commit.complete is not None:
                kind = TrialTransaction if self._staged and not self._staged[-1].lasts else Transaction
                seen, operations = _completed(kind(tip, commit.author), operations, commit.complete)
                reads = [*reads, *seen] if commit.ops else seen  # a mere sender is serialized at its snapshot
            if not operations and not commit.records:
                return Looked(tip.version, reads)
            check(operations)
            version, edits, root, moved = tip.version + 1, Edits(trial=True), tip.root, []
            for operation in operations:
                root, moves = apply_op(root, operation, edits)
                moved.append(moves)
            lasts = not edits.has_patches and (not self._staged or self._staged[-1].lasts)
            stamp = version, commit.author
            staged = Staged(Snapshot(version, edits.finish(root)), commit.author, operations, reads, moved, lasts)
            self._put_down(operations, moved, stamp)
            self._staged.append(staged)
            return staged

    def publish(self, at: float) -> list[Committed]:
        """Let everybody see what was staged."""
        staged, self._staged = self._staged, []
        return [
            self._publish(one.snapshot, one.author, one.ops, at) if one.lasts else self.follow(one.author, one.ops, at)
            for one in staged
        ]

    def discard(self) -> None:
        """Forget what was staged."""
        with self._lock:
            if self._staged:
                self._staged = []
                self._catch_up()
                _lower(self._written, self.version)

    def follow(self, author: str, operations: Ops, at: float) -> Committed:
        """Take over a commit that was decided on elsewhere. One without operations counts as well."""
        assert not self._staged, "what was staged comes after the published state"
        if operations:
            answer = self.commit(Commit(self.version, (), operations, author), at)
            assert type(answer) is Committed, "it was validated already"
            return answer
        return self._publish(Snapshot(self.version + 1, self.snapshot.root), author, (), at)

    def _publish(self, snapshot: Snapshot, author: str, operations: Ops, at: float) -> Committed:
        """Let a state that is complete, and marked in the tree of written paths, be the newest."""
        with self._lock:
            version = snapshot.version
            if not version % _ERA:
                self._begin_era(version)
            snapshot.head, snapshot.era = self, self._era
            self.snapshot = snapshot
            self.version = version
            if operations:
                self.history.add(snapshot, author, operations, at)
            return Committed(version, operations)

    def jump(self, newer: Head) -> None:
        """Become what a newer head is. Nobody can tell what was written in between, so older reads do not stand."""
        with self._lock:
            self._written = _Place()
            self._places = 0
            self._unmarked.clear()
            self._horizon = self.version = newer.version
            self._begin_era(newer.version)
            self.snapshot = Snapshot(newer.version, newer.snapshot.root, self, self._era)
            self.history = newer.history

    # --- the rule of conflict ---

    def _validate(self, base: int, reads: Reads, operations: Ops) -> Conflict | None:
        if base < self._horizon:
            return Conflict((), "")
        self._catch_up()
        for path, keys, shape, deep in reads:
            place = self._reach(path, base)
            if place is None:
                continue
            if type(place) is Conflict:
                return place
            if deep and place.deep[0] > base:
                return Conflict(path, place.deep[1])
            if shape and place.shape[0] > base:
                return Conflict(path, place.shape[1])
            below = place.below
            if below:
                for key in keys if len(keys) <= len(below) else [key for key in below if key in keys]:
                    child = below.get(key)
                    if child is not None and child.whole[0] > base:
                        return Conflict((*path, key), child.whole[1])
        for operation in operations:
            path = operation[1]
            place = self._reach(path[:-1] if operation[0] in ON_PART else path, base)
            if type(place) is Conflict:
                return place
        return None

    def _reach(self, path: Path, base: int) -> Any:
        """The place at ``path``; None if nothing at or below changed since ``base``; a Conflict if it was replaced."""
        place = self._written
        if place.deep[0] <= base:
            return None
        if place.whole[0] > base:
            return Conflict((), place.whole[1])
        for depth, key in enumerate(path, 1):
            found = place.below.get(key)
            if found is None or found.deep[0] <= base:
                return None
            if found.whole[0] > base:
                return Conflict(path[:depth], found.whole[1])
            place = found
        return place

    # --- the change ---

    def _begin_era(self, version: int) -> None:
        self._catch_up()
        self._era = _Era()
        self._eras.append((weakref.ref(self._era), version))
        if len(self._eras) > self._sweep_at or self._places > self._sweep_at:
            self._sweep()

    def _put_down(self, operations: Ops, moved: Sequence[bool], stamp: Stamp) -> None:
        for operation, moves in zip(operations, moved, strict=True):
            kind = operation[0]
            self._unmarked.append((kind, operation[1], operation[2] if kind in _ON_MEMBERS else (), moves, stamp))

    def _catch_up(self) -> None:
        """Note in the tree of written paths what was put down."""
        for kind, path, members, moved, stamp in self._unmarked:
            above = place = self._written
            place.deep = stamp
            for key in path:
                above = place
                place = above.below.get(key) or self._new_place(above, key)
                place.deep = stamp
            if kind in ON_PART:
                place.whole = stamp
                if place.below and kind != "add":
                    self._places -= _count(place)
                    place.below = {}
                if moved:
                    above.shape = stamp
                continue
            if moved:
                place.shape = stamp
            for member in members:
                child = place.below.get(member) or self._new_place(place, member)
                child.whole = child.deep = stamp
        self._unmarked.clear()

    def _new_place(self, above: _Place, key: Any) -> _Place:
        place = above.below[key] = _Place()
        self._places += 1
        return place

    def _sweep(self) -> None:
        """Forget what happened before the oldest living snapshot."""
        self._eras = [(era, first) for era, first in self._eras if era() is not None]
        self._horizon = max(self._horizon, min(self._eras[0][1], self.version - _SPARE))
        _drop(self._written, self._horizon)
        self._places = _count(self._written)
        self._sweep_at = max(256, 2 * self._places, 2 * len(self._eras))


def _completed(tx: Transaction, operations: Ops, complete: Callable[[Transaction], None]) -> tuple[Reads, Ops]:
    """What a commit reads and writes when it is complete."""
    try:
        if operations:
            tx.replay(operations)
        complete(tx)
        return tx.finish()
    finally:
        tx.close()


def _lower(place: _Place, version: int) -> None:
    """What was marked with a later version never came to be: let it count as changed at ``version`` at the latest."""
    if place.deep[0] > version:
        place.deep, place.whole, place.shape = (
            (min(when, version), who) for when, who in (place.deep, place.whole, place.shape)
        )
        for child in place.below.values():
            _lower(child, version)


def _drop(place: _Place, horizon: int) -> None:
    outdated = [key for key, child in place.below.items() if child.deep[0] <= horizon]
    for key in outdated:
        del place.below[key]
    for child in place.below.values():
        _drop(child, horizon)


def _count(place: _Place) -> int:
    return len(place.below) + sum(_count(child) for child in place.below.values() if child.below)
