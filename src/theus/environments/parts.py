"""The domain in parts, for a call whose contract does not say what it needs. The near side's view of it.

::

    near: Parts                                            far: FarParts
    the domain without its big fields  ── snapshot ──>     each big field is absent, and has a number
    big fields that the last call
    of the same process touched        ──── PART ────>     kept by name, with their number
                                                           the body touches an absent field that is not kept:
    the field, of this call's snapshot <─── FETCH ───      waits, and takes nothing else from the wire
                                       ──── PART ────>     the value takes its place, the body goes on

A field has the same number as long as the very same value stands there, over all versions of the domain; so what did not
change is not sent again. What is read is recorded where it is read, so conflicts are what they are everywhere.
"""

from __future__ import annotations

import functools
import itertools
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from theus.state.snapshot import Snapshot
from theus.state.values import DICT, LEAF, LIST, OBJECT, SET, TUPLE, is_model, kind_of, map_object, parts_of

if TYPE_CHECKING:
    from theus.environments.job import Packed
    from theus.state.access import Ops, Reads

_LONGEST = 256  # characters of a small text
_MOST = 32  # values in a small field


class Part(NamedTuple):
    """Stands for a field that is not sent with the domain."""

    name: str
    number: int


class Split(NamedTuple):
    """A snapshot without its big fields, and what those are."""

    snapshot: Snapshot
    numbers: dict[str, int]


class _Field:
    """What is known of a field: the value that stands there, the number of that, and as what it is sent."""

    __slots__ = ("number", "packed", "value")

    def __init__(self, value: Any, number: int) -> None:
        self.value = value
        self.number = number  #: 0: it is small
        self.packed: Packed | None = None


class Parts:
    """The fields of the newest domain. Used by many threads: what two of them do at once is only done twice."""

    def __init__(self, pack: Callable[[Any], Packed]) -> None:
        self._pack = pack
        self._fields: dict[str, _Field] = {}
        self._splits: weakref.WeakKeyDictionary[Snapshot, Split] = weakref.WeakKeyDictionary()
        self._numbers = itertools.count(1)

    def split(self, snapshot: Snapshot) -> Split | None:
        """The snapshot without its big fields; None if it cannot be split, or has none."""
        found = self._splits.get(snapshot)
        if found is None:
            root = snapshot.root
            if not can_split(root):
                return None
            numbers: dict[str, int] = {}

            def cut(name: str, value: Any) -> Any:
                number = self._number(name, value)
                if not number:
                    return value
                numbers[name] = number
                return Part(name, number)

            if kind_of(type(root)) == OBJECT:
                rest = map_object(root, cut)
            else:
                rest = {name: cut(name, value) for name, value in root.items()}
            for name in self._fields.keys() - entries_of(root).keys():
                self._fields.pop(name, None)
            found = self._splits.setdefault(snapshot, Split(Snapshot(snapshot.version, rest), numbers))
        return found if found.numbers else None

    def pack(self, root: Any, name: str, number: int) -> Packed:
        """A field of a domain, packed. Raises what packing it raises."""
        field = self._fields.get(name)
        if field is None or field.number != number:  # of an older domain
            return self._pack(entries_of(root)[name])
        if field.packed is None:
            field.packed = self._pack(field.value)
        return field.packed

    def _number(self, name: str, value: Any) -> int:
        field = self._fields.get(name)
        if field is None or field.value is not value:
            field = self._fields[name] = _Field(value, 0 if is_small(value) else next(self._numbers))
        return field.number


def can_split(root: Any) -> bool:
    """Whether this domain can be sent in parts: a dataclass, or a dict whose keys are texts."""
    if type(root) is dict:
        return all(type(name) is str for name in root)
    return kind_of(type(root)) == OBJECT and not is_model(type(root))


def entries_of(root: Any) -> dict[str, Any]:
    """The fields of a domain, by name. Of a dict it is that dict."""
    return root if type(root) is dict else parts_of(root)


def touched(reads: Reads, ops: Ops, numbers: Mapping[str, int]) -> list[str]:
    """The big fields that a call came to."""
    found = {op[1][0] for op in ops}
    for path, keys, _, deep in reads:
        if path:
            found.add(path[0])
        elif deep:
            return list(numbers)
        else:
            found.update(keys)
    return [name for name in numbers if name in found]


def is_small(value: Any) -> bool:
    """Whether a value is sent with the domain, because to ask for it would cost more."""
    return _room_after(value, _MOST) >= 0


@functools.cache
def _short() -> tuple[type, ...]:
    """Leaves that are never big."""
    from datetime import date, time, timedelta  # not at the top: the far side would load these for nothing
    from decimal import Decimal
    from enum import Enum
    from uuid import UUID

    return (type(None), bool, int, float, complex, Decimal, date, time, timedelta, UUID, Enum)


def _room_after(value: Any, room: int) -> int:
    """How many more values fit in; negative: not even this one, or who knows how big it is."""
    kind = kind_of(type(value))
    room -= 1
    if kind == LEAF:
        fits = isinstance(value, _short()) or (isinstance(value, (str, bytes)) and len(value) <= _LONGEST)
        return room if fits else -1
    if kind == OBJECT:
        entries: Any = parts_of(value).values()
    elif kind in (DICT, LIST, SET, TUPLE) and len(value) <= room:
        entries = itertools.chain(value.keys(), value.values()) if kind == DICT else value
    else:
        return -1
    for entry in entries:
        room = _room_after(entry, room)
        if room < 0:
            return room
    return room
