"""The reading side of dict, list and set, for drafts and views alike.

Each class here behaves as the plain container does, built on a few primitives that drafts (``dicts.py``, ``lists.py``,
``sets.py``) and read-only views (``snapshot.py``) supply. None of them is a subclass of ``dict``, ``list`` or ``set``:
C code would read the empty parent behind our back. But each says that it is what it stands for (``__class__``), so
``isinstance(x, dict)``, ``case dict():`` and ``singledispatch`` go the way that they go for the plain container, and
``type(x)(...)`` makes a plain one; use ``plain(x)`` where C code wants a real ``dict``.
"""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, Sequence, Set, ValuesView
from typing import Any

from theus.state.values import FACE, KINDS, MISSING, Face, plain


def bare(value: Any) -> Any:
    """A draft or view as a plain value; anything else as it is."""
    return value._theus_plain() if KINDS.get(type(value)) == FACE else value


class _Said:
    """Before a class of the user's, so that its hook for subclasses is not called for ours."""

    def __init_subclass__(cls) -> None:
        pass


class _Pickled(Face):
    """Copies and pickles of a face are plain values, and so is what its type makes."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]  # as of dict, list and set

    _theus_class: Any  #: what it stands for
    _theus_said: type  #: what it says that it is
    __class__: Any = property(lambda self: self._theus_said)

    def __new__(cls, *values: Any, **entries: Any) -> Any:
        return cls._theus_class(*values, **entries)

    def __init_subclass__(cls) -> None:
        # What C code cannot take it names in its error: "Object of type ... is not JSON serializable".
        name = cls.__name__ = f"{cls.__name__.partition(' ')[0]} (use plain(...) of it)"
        of = cls._theus_class
        cls._theus_said = type(of)(name, (_Said, of), {"__new__": lambda said, *args, **named: of(*args, **named)})

    def __copy__(self) -> Any:
        return self._theus_plain()

    def __deepcopy__(self, memo: Any) -> Any:
        return self._theus_plain()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return plain, (self._theus_plain(),)

    def __repr__(self) -> str:
        return repr(self._theus_plain())


# --- dict ------------------------------------------------------------------------------------------------------------


class DictFace(_Pickled):
    """What a dict can be asked."""

    __slots__ = ()
    _theus_class: Any = dict

    def __array__(self, *arguments: Any, **options: Any) -> Any:
        raise TypeError(f"numpy cannot make an array of a {type(self).__name__}")

    # primitives

    def _at(self, key: Any) -> Any:
        """The value at ``key`` or MISSING."""
        raise NotImplementedError

    def _has(self, key: Any) -> bool:
        raise NotImplementedError

    def _missing(self, key: Any) -> Any:
        raise KeyError(key)

    def __len__(self) -> int:
        raise NotImplementedError

    def _walk(self, backwards: bool) -> Iterator[Any]:
        """Iterate over the keys."""
        raise NotImplementedError

    def _walk_items(self, backwards: bool) -> Iterator[tuple[Any, Any]]:
        raise NotImplementedError

    # dict

    def __getitem__(self, key: Any) -> Any:
        value = self._at(key)
        return self._missing(key) if value is MISSING else value

    def get(self, key: Any, default: Any = None) -> Any:
        value = self._at(key)
        return default if value is MISSING else value

    def __contains__(self, key: Any) -> bool:
        return self._has(key)

    def __bool__(self) -> bool:
        return len(self) > 0

    def __iter__(self) -> Iterator[Any]:
        return self._walk(False)

    def __reversed__(self) -> Iterator[Any]:
        return self._walk(True)

    def keys(self) -> DictKeys:
        return DictKeys(self)

    def values(self) -> DictValues:
        return DictValues(self)

    def items(self) -> DictItems:
        return DictItems(self)

    def copy(self) -> Any:
        return dict(self.items())

    def __eq__(self, other: object) -> Any:
        if isinstance(other, (dict, DictFace)):
            return self._theus_plain() == bare(other)
        return NotImplemented

    def __ne__(self, other: object) -> Any:
        equal = self.__eq__(other)
        return equal if equal is NotImplemented else not equal

    def __or__(self, other: Any) -> Any:
        if isinstance(other, (dict, DictFace)):
            return self.copy() | dict(other.items())
        return NotImplemented

    def __ror__(self, other: Any) -> Any:
        if isinstance(other, dict):
            return other | self.copy()
        return NotImplemented

    @classmethod
    def fromkeys(cls, keys: Iterable[Any], value: Any = None) -> dict[Any, Any]:
        return dict.fromkeys(keys, value)


class DictKeys(KeysView[Any]):
    """``d.keys()``: live, with set operations."""

    _mapping: DictFace

    def __reversed__(self) -> Iterator[Any]:
        return self._mapping._walk(True)

    def __repr__(self) -> str:
        return f"dict_keys({list(self)!r})"

    @property
    def mapping(self) -> Any:
        return self._mapping


class DictValues(ValuesView[Any]):
    """``d.values()``: live."""

    _mapping: DictFace

    def __iter__(self) -> Iterator[Any]:
        return _second(self._mapping._walk_items(False))

    def __reversed__(self) -> Iterator[Any]:
        return _second(self._mapping._walk_items(True))

    def __contains__(self, value: object) -> bool:
        return any(each is value or each == value for each in self)

    def __repr__(self) -> str:
        return f"dict_values({[bare(value) for value in self]!r})"

    @property
    def mapping(self) -> Any:
        return self._mapping


class DictItems(ItemsView[Any, Any]):
    """``d.items()``: live, with set operations."""

    _mapping: DictFace

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return self._mapping._walk_items(False)

    def __reversed__(self) -> Iterator[tuple[Any, Any]]:
        return self._mapping._walk_items(True)

    def __contains__(self, item: object) -> bool:
        if not isinstance(item, tuple) or len(item) != 2:
            return False
        value = self._mapping._at(item[0])
        return value is not MISSING and (value is item[1] or value == item[1])

    def __repr__(self) -> str:
        return f"dict_items({[(key, bare(value)) for key, value in self]!r})"

    @property
    def mapping(self) -> Any:
        return self._mapping


def _second(items: Iterator[tuple[Any, Any]]) -> Iterator[Any]:
    for _, value in items:
        yield value


# --- list ------------------------------------------------------------------------------------------------------------


class ListFace(_Pickled):
    """What a list can be asked."""

    __slots__ = ()
    _theus_class: Any = list

    # primitives

    def __len__(self) -> int:
        raise NotImplementedError

    def _get(self, index: int) -> Any:
        """The value at an index; IndexError outside (negative indices count from the end)."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Any]:
        raise NotImplementedError

    # list

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._get(place) for place in range(*index.indices(len(self)))]
        if type(index) is not int:
            if not hasattr(index, "__index__"):
                raise TypeError(f"list indices must be integers or slices, not {type(index).__name__}")
            index = index.__index__()
        return self._get(index)

    def __bool__(self) -> bool:
        return len(self) > 0

    def __contains__(self, value: object) -> bool:
        return any(each is value or each == value for each in self)

    def __reversed__(self) -> Iterator[Any]:
        index = len(self) - 1
        return self._backwards(index)

    def _backwards(self, index: int) -> Iterator[Any]:
        while 0 <= index < len(self):
            yield self._get(index)
            index -= 1

    def index(self, value: Any, start: int = 0, stop: int | None = None) -> int:
        return list(self).index(value, start, len(self) if stop is None else stop)

    def count(self, value: Any) -> int:
        return sum(1 for each in self if each is value or each == value)

    def copy(self) -> Any:
        return list(self)

    def __eq__(self, other: object) -> Any:
        return self._compare(other, lambda a, b: a == b)

    def __ne__(self, other: object) -> Any:
        return self._compare(other, lambda a, b: a != b)

    def __lt__(self, other: object) -> Any:
        return self._compare(other, lambda a, b: a < b)

    def __le__(self, other: object) -> Any:
        return self._compare(other, lambda a, b: a <= b)

    def __gt__(self, other: object) -> Any:
        return self._compare(other, lambda a, b: a > b)

    def __ge__(self, other: object) -> Any:
        return self._compare(other, lambda a, b: a >= b)

    def _compare(self, other: object, how: Callable[[Any, Any], bool]) -> Any:
        if isinstance(other, self._alike()):
            return how(self._theus_plain(), bare(other))
        return NotImplemented

    def _alike(self) -> tuple[type, ...]:
        return (list, ListFace)

    def __add__(self, other: Any) -> Any:
        if not isinstance(other, (list, ListFace)):
            raise TypeError(f'can only concatenate list (not "{type(other).__name__}") to list')
        return [*self, *other]

    def __radd__(self, other: Any) -> Any:
        if not isinstance(other, list):
            return NotImplemented
        return [*other, *self]

    def __mul__(self, count: Any) -> Any:
        return list(self) * count

    __rmul__ = __mul__


# --- set -------------------------------------------------------------------------------------------------------------


def is_set(value: Any) -> bool:
    """Whether the operators of a set take this as the other side."""
    return isinstance(value, (set, frozenset, SetFace, KeysView, ItemsView))


class SetFace(_Pickled):
    """What a set can be asked."""

    __slots__ = ()
    _theus_class: Any = set

    def __array__(self, *arguments: Any, **options: Any) -> Any:
        raise TypeError(f"numpy cannot make an array of a {type(self).__name__}")

    # primitives

    def __len__(self) -> int:
        raise NotImplementedError

    def __contains__(self, member: object) -> bool:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Any]:
        raise NotImplementedError

    # set

    def __bool__(self) -> bool:
        return len(self) > 0

    def copy(self) -> set[Any]:
        return set(self)

    def union(self, *others: Iterable[Any]) -> set[Any]:
        return set(self).union(*others)

    def intersection(self, *others: Iterable[Any]) -> set[Any]:
        return set(self).intersection(*others)

    def difference(self, *others: Iterable[Any]) -> set[Any]:
        return set(self).difference(*others)

    def symmetric_difference(self, other: Iterable[Any]) -> set[Any]:
        return set(self).symmetric_difference(other)

    def issubset(self, other: Iterable[Any]) -> bool:
        return set(self).issubset(other)

    def issuperset(self, other: Iterable[Any]) -> bool:
        return all(member in self for member in other)

    def isdisjoint(self, other: Iterable[Any]) -> bool:
        return not any(member in self for member in other)

    def __or__(self, other: Any) -> Any:
        return set(self) | set(other) if is_set(other) else NotImplemented

    def __and__(self, other: Any) -> Any:
        return set(self) & set(other) if is_set(other) else NotImplemented

    def __sub__(self, other: Any) -> Any:
        return set(self) - set(other) if is_set(other) else NotImplemented

    def __xor__(self, other: Any) -> Any:
        return set(self) ^ set(other) if is_set(other) else NotImplemented

    def __ror__(self, other: Any) -> Any:
        return other | set(self) if is_set(other) else NotImplemented

    def __rand__(self, other: Any) -> Any:
        return other & set(self) if is_set(other) else NotImplemented

    def __rsub__(self, other: Any) -> Any:
        return other - set(self) if is_set(other) else NotImplemented

    def __rxor__(self, other: Any) -> Any:
        return other ^ set(self) if is_set(other) else NotImplemented

    def __eq__(self, other: object) -> Any:
        return set(self) == set(other) if is_set(other) else NotImplemented  # type: ignore[call-overload]

    def __ne__(self, other: object) -> Any:
        return set(self) != set(other) if is_set(other) else NotImplemented  # type: ignore[call-overload]

    def __le__(self, other: Any) -> Any:
        return set(self) <= set(other) if is_set(other) else NotImplemented

    def __lt__(self, other: Any) -> Any:
        return set(self) < set(other) if is_set(other) else NotImplemented

    def __ge__(self, other: Any) -> Any:
        return set(self) >= set(other) if is_set(other) else NotImplemented

    def __gt__(self, other: Any) -> Any:
        return set(self) > set(other) if is_set(other) else NotImplemented


Mapping.register(DictFace)
Sequence.register(ListFace)
Set.register(SetFace)
