"""Applying operations to a value at rest: each container on the way is copied once, the rest is shared.

``apply_ops`` never changes what it is given. A big container is not copied but gets its next version
(``versioned.py``), so the price does not grow with the state. With ``trial=True`` nothing is taken from the
newest version's owner either: big containers are covered by a patch (``patched.py``), for looking at a state
that may never be committed. On plain trees this is the oracle of the tests.
"""

from __future__ import annotations

from typing import Any

from theus.state.access import Op, Ops, show
from theus.state.patched import PatchedDict, PatchedList, PatchedSet, patch_of
from theus.state.values import (
    COPIERS,
    GETTERS,
    OBJECT,
    SETTERS,
    TupleEdit,
    copy_rest,
    drop_part,
    kind_of,
    rebuild_tuple,
    set_part,
)
from theus.state.versioned import LIMIT, VDict, VList, VSet


def apply_op(root: Any, operation: Op, edits: Edits | None = None) -> tuple[Any, bool]:
    """The state after one operation, and whether that changed which keys (members, length) its container has.

    ``edits``: what operations that are applied together share; without it nobody looks at the state before its end.
    """
    kind, path = operation[0], operation[1]
    if kind in ON_PART:
        if not path:
            return operation[2], True
        way = path[:-1]
    else:
        way = path
    parent: Any = None
    together = edits
    root = container = COPIERS[type(root)](root) if edits is None else edits.own(root)
    for key in way:  # the containers on the way become our own
        parent = container
        child = GETTERS[type(parent)](parent, key)
        container = COPIERS[type(child)](child) if edits is None else edits.own(child)
        if container is not child:
            SETTERS[type(parent)](parent, key, container)
            if type(container) is TupleEdit:
                container.parent, container.key = parent, key
                if together is None:
                    together = Edits()
                together.tuples.append(container)
    if kind == "set":
        moved = SETTERS[type(container)](container, path[-1], operation[2])
    elif kind == "append":
        container.extend(operation[2])
        moved = True
    elif kind == "add":
        set_part(container, path[-1], _part(container, path[-1]) + operation[2])
        moved = False
    elif kind == "del":
        _remove(container, path[-1])
        moved = True
    elif kind == "include":
        moved = _include(container, operation[2])
    elif kind == "discard":
        moved = _discard(container, operation[2])
    else:
        raise AssertionError(f"unknown operation {kind!r} at {show(path)}")
    if moved and type(container) in _PLAIN and len(container) > LIMIT:
        if together is None:
            together = Edits()
        together.grown.append((parent, way[-1] if way else None, container))
    return (root if together is edits else together.finish(root)), moved  # type: ignore[union-attr]  # it is the edits, or made above


class Edits:
    """What operations that are applied together share: which containers are theirs, and what is left for the end."""

    __slots__ = ("_copy", "_fresh", "grown", "tuples")

    def __init__(self, trial: bool = False) -> None:
        self._copy = _copy_on_trial if trial else copy_rest
        #: containers that are our own already, by id; held, so that no id is used twice
        self._fresh: dict[int, Any] = {}
        self.grown: list[tuple[Any, Any, Any]] = []  #: (parent, key, container) that may have grown too big
        self.tuples: list[TupleEdit] = []

    def own(self, value: Any) -> Any:
        """A container that may be changed: itself, if it is our own already."""
        if id(value) in self._fresh:
            return value
        made = self._copy(value)
        self._fresh[id(made)] = made
        return made

    @property
    def has_patches(self) -> bool:
        """Whether a big container was only covered, so that what was made does not last."""
        return not _PATCHES.isdisjoint(map(type, self._fresh.values()))

    def finish(self, root: Any) -> Any:
        """The new root; containers that have outgrown the plain form become big ones."""
        for parent, key, container in self.grown:
            if len(container) <= LIMIT:
                continue
            if parent is None:
                if root is container:
                    root = _PLAIN[type(container)](container)
            elif _part(parent, key, None) is container:  # else it was replaced later, or became big already
                set_part(parent, key, _PLAIN[type(container)](container))
        for part in reversed(self.tuples):
            if _part(part.parent, part.key, None) is part:
                set_part(part.parent, part.key, rebuild_tuple(part.origin, part.items))
        return root


#: plain containers and what they become when they are big
_PLAIN: dict[type, Any] = {dict: VDict, list: VList, set: VSet}


def _copy_on_trial(value: Any) -> Any:
    return patch_of(value) if type(value) in _BIG else copy_rest(value)


#: operations on one part of a container, the last key of their path; the others are on the container as a whole
ON_PART = frozenset(("set", "del", "add"))
_BIG = frozenset((VDict, VList, VSet))
_PATCHES = frozenset((PatchedDict, PatchedList, PatchedSet))


def _part(container: Any, key: Any, *default: Any) -> Any:
    if kind_of(type(container)) == OBJECT:
        return getattr(container, key, *default)
    try:
        return container[key]
    except (KeyError, IndexError):
        if default:
            return default[0]
        raise


_KEEPERS = frozenset((VDict, VList, PatchedDict, PatchedList))


def _remove(container: Any, key: Any) -> None:
    if kind_of(type(container)) == OBJECT:
        drop_part(container, key)
    elif type(container) in _KEEPERS:
        container.remove(key)
    else:
        del container[key]


def _include(members: Any, new: set[Any]) -> bool:
    before = len(members)
    if hasattr(members, "update"):
        members.update(new)
    else:
        for member in new:
            members.include(member)
    return len(members) != before


def _discard(members: Any, old: set[Any]) -> bool:
    before = len(members)
    for member in old:
        members.discard(member)
    return len(members) != before


def apply_ops(root: Any, operations: Ops, trial: bool = False) -> Any:
    """The state after these operations."""
    if not operations:
        return root
    edits = Edits(trial)
    for operation in operations:
        root, _ = apply_op(root, operation, edits)
    return edits.finish(root)
