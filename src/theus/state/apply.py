"""Applying operations to a value at rest: each container on the way is copied once, the rest is shared.

``apply_ops`` never changes what it is given. A big container is not copied but gets its next version
(``versioned.py``), so the price does not grow with the state. With ``trial=True`` nothing is taken from the
newest version's owner either: big containers are covered by a patch (``patched.py``), for looking at a state
that may never be committed. On plain trees this is the oracle of the tests.
"""

from __future__ import annotations

from typing import Any

from theus.errors import Path
from theus.state.access import Op, Ops, show
from theus.state.patched import PatchedDict, PatchedList, patch_of
from theus.state.values import COPIERS, DICT, KINDS, OBJECT, TUPLE, copy_rest, kind_of, rebuild_tuple, set_part
from theus.state.versioned import LIMIT, VDict, VList, VSet


class Editor:
    """The state that a commit is working on."""

    __slots__ = ("_copy", "_fresh", "_grown", "_tuples", "root")

    def __init__(self, root: Any, trial: bool = False) -> None:
        self.root = root
        self._copy = _copy_on_trial if trial else _copy
        #: containers that are our own already, by id; held, so that no id is used twice
        self._fresh: dict[int, Any] = {}
        self._grown: list[tuple[Any, Any, Any]] | None = None  #: (parent, key, container) that may have grown too big
        self._tuples: list[_Tuple] | None = None

    def _own(self, path: Path, depth: int) -> Any:
        """The container at ``path[:depth]``, made our own together with all above it."""
        fresh = self._fresh
        container = self.root
        if id(container) not in fresh:
            self.root = container = self._copy(container)
            fresh[id(container)] = container
        for index in range(depth):
            key = path[index]
            cls = type(container)
            is_object = cls not in _SUBSCRIBED and kind_of(cls) == OBJECT
            child = getattr(container, key) if is_object else container[key]
            if id(child) not in fresh:
                child = self._copy(child)
                fresh[id(child)] = child
                if is_object:
                    set_part(container, key, child)
                else:
                    _put(container, key, child)
                if type(child) is _Tuple:
                    child.parent, child.key = container, key
                    if self._tuples is None:
                        self._tuples = []
                    self._tuples.append(child)
            container = child
        return container

    def apply(self, operation: Op) -> bool:
        """Apply one operation; True if it changed which keys (members, length) its container has."""
        kind = operation[0]
        path = operation[1]
        depth = len(path)
        if kind == "set":
            if not depth:
                self.root = operation[2]
                return True
            parent = self._own(path, depth - 1)
            moved = _put(parent, path[-1], operation[2])
            if moved and type(parent) is dict and len(parent) > LIMIT:
                self._grow(path, depth - 1, parent)
            return moved
        if kind == "add":
            parent = self._own(path, depth - 1)
            _put(parent, path[-1], _part(parent, path[-1]) + operation[2])
            return False
        if kind == "append":
            container = self._own(path, depth)
            container.extend(operation[2])
            if type(container) is list and len(container) > LIMIT:
                self._grow(path, depth, container)
            return True
        if kind == "del":
            _remove(self._own(path, depth - 1), path[-1])
            return True
        container = self._own(path, depth)
        if kind == "include":
            moved = _include(container, operation[2])
            if moved and type(container) is set and len(container) > LIMIT:
                self._grow(path, depth, container)
            return moved
        if kind == "discard":
            return _discard(container, operation[2])
        raise AssertionError(f"unknown operation {kind!r} at {show(path)}")

    def _grow(self, path: Path, depth: int, container: Any) -> None:
        """Note that a container may have to become a big one at the end."""
        if self._grown is None:
            self._grown = []
        parent = self._own(path, depth - 1) if depth else None
        self._grown.append((parent, path[depth - 1] if depth else None, container))

    def finish(self) -> Any:
        """The new root; containers that have outgrown the plain form become big ones."""
        if self._grown is None and self._tuples is None:
            return self.root
        for parent, key, container in self._grown or ():
            if len(container) <= LIMIT:
                continue
            if parent is None:
                if self.root is container:
                    self.root = _PLAIN[type(container)](container)
            elif _part(parent, key, None) is container:  # else it was replaced later, or became big already
                _put(parent, key, _PLAIN[type(container)](container))
        for part in reversed(self._tuples or ()):
            if _part(part.parent, part.key, None) is part:
                _put(part.parent, part.key, rebuild_tuple(part.origin, part.items))
        return self.root


#: plain containers and what they become when they are big
_PLAIN: dict[type, Any] = {dict: VDict, list: VList, set: VSet}


class _Tuple:
    """A tuple while something inside it is changed."""

    __slots__ = ("items", "key", "origin", "parent")

    def __init__(self, origin: tuple[Any, ...]) -> None:
        self.origin = origin
        self.items = list(origin)
        self.parent: Any = None
        self.key: Any = None

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


KINDS[_Tuple] = TUPLE


def _copy(value: Any) -> Any:
    copier = COPIERS.get(type(value))
    if copier is None:
        return _Tuple(value) if isinstance(value, tuple) else copy_rest(value)
    return copier(value)


def _copy_on_trial(value: Any) -> Any:
    return patch_of(value) if type(value) in _BIG else _copy(value)


_SUBSCRIBED = frozenset((dict, list, VDict, VList))
_BIG = frozenset((VDict, VList, VSet))


def _part(container: Any, key: Any, *default: Any) -> Any:
    if kind_of(type(container)) == OBJECT:
        return getattr(container, key, *default)
    try:
        return container[key]
    except (KeyError, IndexError):
        if default:
            return default[0]
        raise


def _put(container: Any, key: Any, value: Any) -> bool:
    """Set a part; True if it is a new key."""
    cls = type(container)
    if cls is dict:
        size = len(container)
        container[key] = value
        return len(container) != size
    kind = KINDS.get(cls)
    if kind is None:
        kind = kind_of(cls)
    if kind == OBJECT:
        try:
            _set_attribute(container, key, value)
        except TypeError:
            set_part(container, key, value)
        return False
    if cls in _KEEPERS:
        return bool(container.put(key, value))
    if cls is _Tuple:
        container.items[key] = value
        return False
    new = kind == DICT and key not in container
    container[key] = value
    return new


_set_attribute = object.__setattr__
_KEEPERS = frozenset((VDict, VList, PatchedDict, PatchedList))


def _remove(container: Any, key: Any) -> None:
    if kind_of(type(container)) == OBJECT:
        object.__delattr__(container, key)
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
    editor = Editor(root, trial)
    for operation in operations:
        editor.apply(operation)
    return editor.finish()
