"""Big containers under trial: the base as it is, and what would change. Made and used inside one transaction only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from theus.state.values import COPIERS, DICT, DICTS, KINDS, LIST, LISTS, SET, SETS, SETTERS
from theus.state.versioned import MISSING, VDict, VList, VSet


class PatchedDict:
    """A big dict with other values for some keys. ``_later`` are the keys that stand at the end."""

    __slots__ = ("_base", "_changes", "_later", "_size")

    def __init__(self, base: VDict) -> None:
        self._base = base
        self._changes: dict[Any, Any] = {}
        self._later: dict[Any, None] = {}
        self._size = len(base)

    def copy(self) -> PatchedDict:
        new = PatchedDict(self._base)
        new._changes = self._changes.copy()
        new._later = self._later.copy()
        new._size = self._size
        return new

    def __len__(self) -> int:
        return self._size

    def get(self, key: Any, default: Any = None) -> Any:
        value = self._changes.get(key, self)
        if value is self:
            return self._base.get(key, default)
        return default if value is MISSING else value

    def __getitem__(self, key: Any) -> Any:
        value = self.get(key, MISSING)
        if value is MISSING:
            raise KeyError(key)
        return value

    def __contains__(self, key: Any) -> bool:
        return self.get(key, MISSING) is not MISSING

    def keys(self) -> list[Any]:
        changes, later = self._changes, self._later
        return [key for key in self._base if key not in later and changes.get(key) is not MISSING] + list(later)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.keys())

    def items(self) -> list[tuple[Any, Any]]:
        return [(key, self.get(key)) for key in self.keys()]

    def values(self) -> list[Any]:
        return [self.get(key) for key in self.keys()]

    def put(self, key: Any, value: Any) -> bool:
        new = self.get(key, MISSING) is MISSING
        if new:
            self._later[key] = None
            self._size += 1
        self._changes[key] = value
        return new

    def remove(self, key: Any) -> None:
        self[key]
        self._later.pop(key, None)
        self._changes[key] = MISSING
        self._size -= 1


class PatchedList:
    """A big list with other values at some indices and a longer end."""

    __slots__ = ("_base", "_changes", "_tail")

    def __init__(self, base: VList) -> None:
        self._base = base
        self._changes: dict[int, Any] = {}
        self._tail: list[Any] = []

    def copy(self) -> PatchedList:
        new = PatchedList(self._base)
        new._changes = self._changes.copy()
        new._tail = self._tail.copy()
        return new

    def __len__(self) -> int:
        return len(self._base) + len(self._tail)

    def __getitem__(self, index: int) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError("list index out of range")
        index %= len(self)
        size = len(self._base)
        if index >= size:
            return self._tail[index - size]
        return self._changes[index] if index in self._changes else self._base[index]

    def __iter__(self) -> Iterator[Any]:
        for index, value in enumerate(self._base):
            yield self._changes.get(index, value)
        yield from self._tail

    def put(self, index: int, value: Any) -> None:
        size = len(self._base)
        if index >= size:
            self._tail[index - size] = value
        else:
            self._changes[index] = value

    def extend(self, values: Iterable[Any]) -> None:
        self._tail.extend(values)


class PatchedSet:
    """A big set with some more and some fewer members."""

    __slots__ = ("_base", "_less", "_more")

    def __init__(self, base: VSet) -> None:
        self._base = base
        self._more: set[Any] = set()
        self._less: set[Any] = set()

    def copy(self) -> PatchedSet:
        new = PatchedSet(self._base)
        new._more = self._more.copy()
        new._less = self._less.copy()
        return new

    def __len__(self) -> int:
        return len(self._base) + len(self._more) - len(self._less)

    def __contains__(self, member: Any) -> bool:
        return member in self._more or (member not in self._less and member in self._base)

    def __iter__(self) -> Iterator[Any]:
        for member in self._base:
            if member not in self._less:
                yield member
        yield from self._more

    def include(self, member: Any) -> None:
        if member in self._less:
            self._less.remove(member)
        elif member not in self._base:
            self._more.add(member)

    def discard(self, member: Any) -> None:
        if member in self._more:
            self._more.remove(member)
        elif member in self._base:
            self._less.add(member)


def patch_of(value: Any) -> Any:
    """A patch over a big container."""
    if type(value) is VDict:
        return PatchedDict(value)
    return PatchedList(value) if type(value) is VList else PatchedSet(value)


KINDS.update({PatchedDict: DICT, PatchedList: LIST, PatchedSet: SET})
DICTS.add(PatchedDict)
LISTS.add(PatchedList)
SETS.add(PatchedSet)
COPIERS.update({PatchedDict: PatchedDict.copy, PatchedList: PatchedList.copy, PatchedSet: PatchedSet.copy})
SETTERS.update({PatchedDict: PatchedDict.put, PatchedList: PatchedList.put})
