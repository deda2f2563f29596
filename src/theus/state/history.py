"""Who changed what: the last commits, bounded, and what lies between two versions.

Kept are the operations of each commit and, of every sixteenth, the snapshot; a version in between is the snapshot
before it with the operations applied for trial. (A snapshot of every commit would keep 256 versions of each big
container readable, and cost more than the commit.) Entries are let go of, oldest first, as soon as what they wrote
weighs more than 4 MiB, estimated, and when a snapshot is kept, if there are more than 256 by then. A commit that is heavier by itself is not kept: a
state that replaces a gigabyte at each step holds one gigabyte, not two.

Two versions are compared only where something was written between them, so the price follows the changes and not
the state.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from theus.errors import DefinitionError, Path
from theus.state.access import Op, Ops, show
from theus.state.apply import apply_ops
from theus.state.snapshot import Snapshot
from theus.state.values import DEQUE, DICT, LIST, LISTS, OBJECT, SET, ingest, kind_of, plain
from theus.state.versioned import MISSING
from theus.state.weight import LIGHT, SMALL, weigh

MOST_ENTRIES = 256
MOST_WEIGHT = 4 * 2**20  #: bytes, estimated
MARK_EVERY = 16  #: commits from one kept snapshot to the next


_EMPTY = 4 * LIGHT  #: what a commit counts for, besides what it wrote
_now = time.time
Entry = tuple[int, str, Ops, float, int]  #: version, author, operations, seconds since the epoch, estimated bytes


@dataclass(frozen=True, slots=True)
class Change:
    """One commit for a reader: ``print`` it, or look at its fields. ``at``: seconds since the epoch."""

    version: int
    process: str
    at: float
    changes: tuple[str, ...]

    def __str__(self) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(self.at))
        return f"{self.version:>6}  {clock}  {self.process}: {'; '.join(self.changes)}"


@dataclass(frozen=True, slots=True)
class Difference:
    """A place that is not the same in two versions; ``MISSING`` where it does not exist."""

    path: Path
    old: Any
    new: Any

    def __str__(self) -> str:
        if self.old is MISSING:
            return f"{show(self.path)}: added {_short(self.new)}"
        if self.new is MISSING:
            return f"{show(self.path)}: removed {_short(self.old)}"
        if isinstance(self.old, list) and isinstance(self.new, list) and self.new[: len(self.old)] == self.old:
            return f"{show(self.path)}: appended {_short(self.new[len(self.old) :])}"
        if isinstance(self.old, (set, frozenset)) and isinstance(self.new, (set, frozenset)):
            parts = [("added", self.new - self.old), ("removed", self.old - self.new)]
            return f"{show(self.path)}: " + ", ".join(f"{word} {_short(some)}" for word, some in parts if some)
        return f"{show(self.path)}: {_short(self.old)} -> {_short(self.new)}"


@dataclass(frozen=True, slots=True)
class Growth:
    """A container that only grew in the commits that are remembered."""

    path: str
    added: int
    size: int  #: entries now
    commits: int  #: how many of the remembered commits added to it
    processes: tuple[str, ...]  #: who adds, most first

    def __str__(self) -> str:
        who = ", ".join(self.processes)
        return f"{self.path}: {self.size:,} entries, +{self.added:,} in {self.commits} commits by {who}, never fewer"


class History:
    """The last commits of one head. ``add`` is called under the head's lock; the rest may run beside it."""

    def __init__(self, first: Snapshot) -> None:
        self._entries: deque[Entry] = deque()
        self._weight = 0
        self._dropped = first.version  #: the newest version whose entry was let go
        self._marks: deque[Snapshot] = deque([first])  #: where an old state can be made from: not older than that

    def add(self, snapshot: Snapshot, author: str, ops: Ops, at: float | None) -> None:
        """Keep a commit, and let go of what is too old or too heavy. ``at``: when it was made; None: now."""
        weight = _EMPTY
        for op in ops:
            value = op[-1]
            if type(value) not in SMALL:
                weight += weigh(value)
        version = snapshot.version
        entries = self._entries
        entries.append((version, author, ops, _now() if at is None else at, weight))
        self._weight = total = self._weight + weight
        if not version % MARK_EVERY or total > MOST_WEIGHT:
            self._marks.append(snapshot)
            self._forget()

    def _forget(self) -> None:
        entries, marks, weight = self._entries, self._marks, self._weight
        extra = len(entries) - MOST_ENTRIES
        while extra > 0 or (weight > MOST_WEIGHT and entries):
            oldest = entries.popleft()
            self._dropped = oldest[0]
            weight -= oldest[4]
            extra -= 1
        self._weight = weight
        while marks[0].version < self._dropped:  # the newest state is among them, and no entry is newer
            marks.popleft()

    def last(self, count: int) -> list[Change]:
        """The newest ``count`` commits, oldest of them first."""
        entries = list(self._entries)[-min(count, MOST_ENTRIES) :] if count > 0 else []
        return [Change(version, author, at, tuple(_describe(ops))) for version, author, ops, at, _ in entries]

    def snapshot_at(self, version: int, newest: Snapshot) -> Snapshot:
        """The state as it was at ``version``.

        Raises:
            DefinitionError: it is not kept (any more), or does not exist yet.
        """
        entries, marks = list(self._entries), list(self._marks)
        oldest = marks[0].version if len(entries) <= MOST_ENTRIES else entries[-MOST_ENTRIES][0] - 1
        if not oldest <= version <= newest.version:
            raise DefinitionError(
                f"version {version} is not kept: the history goes from {oldest} to {newest.version} "
                f"(at most {MOST_ENTRIES} commits and {MOST_WEIGHT // 2**20} MiB of what they wrote)."
            )
        mark = max((mark for mark in (*marks, newest) if mark.version <= version), key=lambda mark: mark.version)
        root = mark.root
        for entry in entries:
            if mark.version < entry[0] <= version:
                root = apply_ops(root, entry[2], trial=True)
        return Snapshot(version, root)

    def differences(self, old: Snapshot, new: Snapshot) -> list[Difference]:
        """What is not the same in two kept versions, at rest."""
        low, high = sorted((old.version, new.version))
        touched = {op[1]: None for entry in list(self._entries) if low < entry[0] <= high for op in entry[2]}
        found: dict[Path, Difference] = {}
        for path in touched:
            difference = _compare(path, old.root, new.root)
            if difference is not None:
                found[difference.path] = difference
        return [one for path, one in found.items() if not any(path[:length] in found for length in range(len(path)))]

    def growth(self, newest: Snapshot) -> list[Growth]:
        """The containers that got more entries and never lost one in the commits that are kept, fastest first."""
        before = self._marks[0].root
        commits: Counter[Path] = Counter()
        authors: dict[Path, Counter[str]] = {}
        shrunk: set[Path] = set()
        lengths: dict[Path, int] = {}  #: of lists, as the operations pass: a rewritten one may have got shorter
        for _, author, ops, _, _ in list(self._entries):
            touched: set[Path] = set()
            for op in ops:
                path, shrinks = _container(op, newest.root)
                if op[0] == "append":
                    lengths[path] = lengths.get(path, _size(path, before) or 0) + len(op[2])
                elif op[0] == "set" and path == op[1]:
                    known = lengths.get(path, _size(path, before) or 0)
                    shrinks = type(op[2]) not in LISTS or len(op[2]) < known
                    lengths[path] = len(op[2])
                if shrinks:
                    shrunk.add(path)
                touched.add(path)
            for path in touched:
                commits[path] += 1
                authors.setdefault(path, Counter())[author] += 1
        found = []
        for path in commits.keys() - shrunk:
            size, size_before = _size(path, newest.root), _size(path, before)
            if size is not None and size > (size_before or 0):
                who = tuple(name for name, _ in authors[path].most_common())
                found.append(Growth(show(path), size - (size_before or 0), size, commits[path], who))
        return sorted(found, key=lambda growth: -growth.added)


def _at(path: Path, root: Any) -> Any:
    for key in path:
        root = _child(root, key)
        if root is MISSING:
            break
    return root


def _child(container: Any, key: Any) -> Any:
    kind = kind_of(type(container))
    if kind == OBJECT:
        return getattr(container, key, MISSING) if isinstance(key, str) else MISSING
    try:
        return container[key]
    except (KeyError, IndexError, TypeError):
        return MISSING


def _compare(path: Path, old: Any, new: Any) -> Difference | None:
    """The highest place on a path where two states part, or the values at its end if they are not equal."""
    for depth, key in enumerate(path):
        if old is new:
            return None
        old_child, new_child = _child(old, key), _child(new, key)
        if (old_child is MISSING) != (new_child is MISSING):
            return Difference(path[: depth + 1], old_child, new_child)
        if old_child is MISSING:
            return None
        old, new = old_child, new_child
    if old is new or plain(old) == plain(new):
        return None
    return Difference(path, old, new)


def restoring(differences: Sequence[Difference]) -> list[Op]:
    """The operations that lead from the ``old`` side of the differences to the ``new`` one."""
    return [
        ("del", one.path) if one.new is MISSING else ("set", one.path, ingest(plain(one.new), one.path))
        for one in differences
    ]


def readable(difference: Difference) -> Difference:
    """The same with plain values."""
    old, new = (value if value is MISSING else plain(value) for value in (difference.old, difference.new))
    return Difference(difference.path, old, new)


def _container(op: Op, root: Any) -> tuple[Path, bool]:
    """The container whose entries an operation changes, and whether it takes some away."""
    kind, path = op[0], op[1]
    if kind in ("append", "include", "discard"):
        return path, kind == "discard"
    if kind == "set" and _size(path, root) is not None:
        return path, False
    return path[:-1], kind == "del"


def _size(path: Path, root: Any) -> int | None:
    """How many entries the container at ``path`` has; None if there is none."""
    value = _at(path, root)
    kind = kind_of(type(value))
    return len(value) if kind in (DICT, LIST, SET, DEQUE) else None


def _describe(ops: Ops) -> Iterator[str]:
    for op in ops:
        kind, path = op[0], show(op[1])
        if kind == "set":
            yield f"{path} = {_short(op[2])}"
        elif kind == "del":
            yield f"del {path}"
        elif kind == "append":
            yield f"{path} += {_short(op[2])}"
        elif kind == "add":
            yield f"{path} {'+' if op[2] >= 0 else '-'}= {abs(op[2])}"
        else:
            yield f"{path} {'|' if kind == 'include' else '-'}= {_short(set(op[2]))}"


def _short(value: Any) -> str:
    text = repr(plain(value))
    return text if len(text) <= 60 else f"{text[:57]}..."
