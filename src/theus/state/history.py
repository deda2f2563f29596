"""Who changed what: the last commits, bounded, and what lies between two versions.

An entry is the snapshot that a commit made and the operations that led to it. Snapshots share all that did not
change, so an entry costs about what was written; entries are let go of, oldest first, as soon as there are more
than 256 or what they wrote weighs more than 4 MiB (estimated). A commit that is heavier by itself is not kept:
a state that replaces a gigabyte at each step holds one gigabyte, not two.

Two versions are compared only where something was written between them, so the price follows the changes and not
the state.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from theus.errors import DefinitionError, Path
from theus.state.access import Op, Ops, show
from theus.state.snapshot import Snapshot
from theus.state.values import DICTS, LISTS, OBJECT, SETS, kind_of, parts_of, plain
from theus.state.versioned import MISSING

MOST_ENTRIES = 256
MOST_WEIGHT = 4 * 2**20  #: bytes, estimated
LIGHT = 64  #: bytes that a number or a short text counts for
LOOKED_AT = 32  #: so many items of a container are weighed, and the rest by their average


@dataclass(frozen=True, slots=True)
class Entry:
    """One commit as it is kept."""

    snapshot: Snapshot
    author: str
    ops: Ops
    at: float  #: seconds since the epoch
    weight: int  #: bytes, estimated


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
        self._first: Snapshot | None = first  #: the state before the oldest entry, as long as all are kept

    def add(self, snapshot: Snapshot, author: str, ops: Ops) -> None:
        """Keep a commit, and let go of what is too old or too heavy."""
        weight = LIGHT * 4
        for op in ops:
            weight += _weigh(op[-1])
        entries = self._entries
        entries.append(Entry(snapshot, author, ops, time.time(), weight))
        self._weight += weight
        while self._weight > MOST_WEIGHT or len(entries) > MOST_ENTRIES:
            self._weight -= entries.popleft().weight
            self._first = None

    def last(self, count: int) -> list[Change]:
        """The newest ``count`` commits, oldest of them first."""
        entries = list(self._entries)[-count:] if count > 0 else []
        return [
            Change(entry.snapshot.version, entry.author, entry.at, tuple(_describe(entry.ops))) for entry in entries
        ]

    def snapshot_at(self, version: int, newest: Snapshot) -> Snapshot:
        """The state as it was at ``version``.

        Raises:
            DefinitionError: it is not kept (any more), or does not exist yet.
        """
        kept = {entry.snapshot.version: entry.snapshot for entry in list(self._entries)}
        kept[newest.version] = newest
        if self._first is not None:
            kept[self._first.version] = self._first
        if version not in kept:
            raise DefinitionError(
                f"version {version} is not kept: the history goes from {min(kept)} to {newest.version} "
                f"(at most {MOST_ENTRIES} commits and {MOST_WEIGHT // 2**20} MiB of what they wrote)."
            )
        return kept[version]

    def differences(self, old: Snapshot, new: Snapshot) -> list[Difference]:
        """What is not the same in two kept versions, at rest."""
        low, high = sorted((old.version, new.version))
        touched = {
            tuple(op[1]): None
            for entry in list(self._entries)
            if low < entry.snapshot.version <= high
            for op in entry.ops
        }
        found: dict[Path, Difference] = {}
        for path in touched:
            difference = _compare(path, old.root, new.root)
            if difference is not None:
                found[difference.path] = difference
        return [one for path, one in found.items() if not any(path[:length] in found for length in range(len(path)))]

    def growth(self, newest: Snapshot) -> list[Growth]:
        """The containers that entries were added to and never taken from, fastest first."""
        added: Counter[Path] = Counter()
        commits: Counter[Path] = Counter()
        authors: dict[Path, Counter[str]] = {}
        shrunk: set[Path] = set()
        before = self._first
        for entry in list(self._entries):
            seen: set[Path] = set()
            for op in entry.ops:
                path, number = _grown(op, before)
                if path is None:
                    continue
                if number < 0:
                    shrunk.add(path)
                elif number:
                    added[path] += number
                    authors.setdefault(path, Counter())[entry.author] += number
                    seen.add(path)
            commits.update(seen)
            before = entry.snapshot
        return [
            Growth(
                show(path),
                number,
                len(container),
                commits[path],
                tuple(name for name, _ in authors[path].most_common()),
            )
            for path, number in added.most_common()
            if path not in shrunk and hasattr(container := _at(path, newest.root), "__len__")
        ]


def _weigh(value: Any) -> int:
    """About how many bytes a value holds; looks at a few of many items."""
    cls = type(value)
    if cls in (int, float, bool, type(None)):
        return LIGHT
    if cls in (str, bytes, bytearray):
        return LIGHT + len(value)
    size = getattr(value, "nbytes", None)
    if isinstance(size, int):
        return LIGHT + size
    if cls in (list, tuple, set, frozenset, dict) or cls in DICTS or cls in LISTS or cls in SETS:
        items: Iterable[Any] = value.values() if hasattr(value, "values") else value
        looked, total = 0, 0
        for item in items:
            total += _weigh(item)
            looked += 1
            if looked == LOOKED_AT:
                break
        return LIGHT + (total * len(value) // looked if looked else 0)
    if kind_of(cls) != OBJECT:  # unknown, an enum member, a class: may refer to anything, itself included
        return LIGHT * 4
    return LIGHT + sum(_weigh(item) for item in parts_of(value).values())


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
    if old is new or (type(old) is type(new) and kind_of(type(old)) != OBJECT and old == new):
        return None
    return Difference(path, old, new)


def restoring(differences: Sequence[Difference]) -> list[Op]:
    """The operations that lead from the ``old`` side of the differences to the ``new`` one."""
    return [("del", one.path) if one.new is MISSING else ("set", one.path, one.new) for one in differences]


def readable(difference: Difference) -> Difference:
    """The same with plain values."""
    old, new = (value if value is MISSING else plain(value) for value in (difference.old, difference.new))
    return Difference(difference.path, old, new)


def _grown(op: Op, before: Snapshot | None) -> tuple[Path | None, int]:
    """The container that an operation added entries to (or took them from), and how many."""
    kind, path = op[0], op[1]
    if kind == "append":
        return path, len(op[2])
    if kind in ("include", "discard"):
        return path, len(op[2]) if kind == "include" else -len(op[2])
    if kind == "del":
        return path[:-1], -1
    if kind == "set" and path and before is not None:
        holder = _at(path[:-1], before.root)
        if kind_of(type(holder)) == OBJECT or isinstance(path[-1], int):
            old, new = _at(path, before.root), op[2]
            if hasattr(old, "__len__") and hasattr(new, "__len__") and not isinstance(new, (str, bytes)):
                return path, len(new) - len(old)
            return None, 0
        return path[:-1], int(_child(holder, path[-1]) is MISSING)
    return None, 0


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
