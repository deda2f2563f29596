"""The near side's view of the domain in parts (``parts.py``): how it is split, and what changed in its big fields."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from theus.environments.parts import WHOLE, Part, can_split, entries_of
from theus.state.delta import MOST, delta
from theus.state.snapshot import Snapshot
from theus.state.values import DICT, LEAF, LIST, OBJECT, SET, TUPLE, kind_of, map_object, parts_of
from theus.state.weight import weigh

if TYPE_CHECKING:
    from theus.environments.job import Packed
    from theus.protocols import Call
    from theus.state.access import Op, Ops, Reads

_LONGEST = 256  # characters of a small text
_MOST = 32  # values in a small field
_MOST_WEIGHT = 2**20  # bytes, estimated, of the operations that are kept of a field
_SHORT = (type(None), bool, int, float, complex, Decimal, date, time, timedelta, UUID, Enum)


class Split(NamedTuple):
    """A snapshot without its big fields."""

    snapshot: Snapshot
    version: int  #: as this environment counts them
    numbers: Mapping[str, int]  #: of the big fields


class _Step(NamedTuple):
    """What led from a value of a field, by its number, to the next."""

    before: int
    ops: Sequence[Op]
    weight: int


class _Field:
    """What is known of a field: the value that stands there, the number of that, and as what it is sent."""

    __slots__ = ("count", "deltas", "number", "packed", "sent", "steps", "value", "weight")

    def __init__(self, value: Any, number: int) -> None:
        self.value = value
        self.number = number  #: 0: it is small
        self.packed: Packed | None = None
        self.sent = False  #: some worker has this value, or one before it
        self.steps: tuple[_Step, ...] = ()  #: the last one leads to this value
        self.count = self.weight = 0  #: operations in all steps, and bytes of those
        self.deltas: dict[int, Packed | None] = {}  #: by the number from which they lead here; None: there is none

    def follow(self, before: _Field) -> None:
        """Note what led here, as far as it is light enough to be kept."""
        self.sent = before.sent
        if not self.sent or (ops := delta(before.value, self.value)) is None:
            return
        step = _Step(before.number, ops, sum(weigh(op[-1]) for op in ops))
        steps = (*before.steps, step)
        count, weight, first = before.count + len(ops), before.weight + step.weight, 0
        while first < len(steps) and (count > MOST or weight > _MOST_WEIGHT or len(steps) - first > MOST):
            count, weight = count - len(steps[first].ops), weight - steps[first].weight
            first += 1
        self.steps, self.count, self.weight = steps[first:], count, weight

    def since(self, number: int) -> list[Op] | None:
        """The operations that lead here from the value of that number; None: they are not known."""
        for place in reversed(range(len(self.steps))):  # mostly a worker is few values behind
            if self.steps[place].before == number:
                return [op for later in self.steps[place:] for op in later.ops]
        return None


class NearParts:
    """The fields of the newest domain. Used by many threads: what two of them do at once is only done twice."""

    def __init__(self, pack: Callable[[Any], Packed]) -> None:
        self._pack = pack
        self._fields: dict[str, _Field] = {}
        self._splits: weakref.WeakKeyDictionary[Snapshot, Split] = weakref.WeakKeyDictionary()
        self._numbers = itertools.count(1)

    def split(self, snapshot: Snapshot) -> Split:
        """The snapshot without its big fields."""
        found = self._splits.get(snapshot)
        if found is None:
            root = snapshot.root
            numbers: dict[str, int] = {}
            names: set[str] = set()

            def cut(name: str, value: Any) -> Any:
                names.add(name)
                number = self._number(name, value)
                if not number:
                    return value
                numbers[name] = number
                return Part(name, number)

            if not can_split(root):
                rest = cut(WHOLE, root)
            elif type(root) is dict:
                rest = {name: cut(name, value) for name, value in root.items()}
            else:
                rest = map_object(root, cut)
            for name in self._fields.keys() - names:
                self._fields.pop(name, None)
            split = Split(Snapshot(snapshot.version, rest), next(self._numbers), numbers)
            found = self._splits.setdefault(snapshot, split)
        return found

    def pack(self, root: Any, name: str, number: int, had: int) -> tuple[int, Packed]:
        """A field of a domain, packed for a worker that has it under the number ``had`` (0: not at all).

        Gives the number that it builds on, 0 if it is whole. Raises what packing it raises.
        """
        field = self._fields.get(name)
        if field is None or field.number != number:  # of an older domain
            return 0, self._pack(entries_of(root)[name])
        if had:
            if had not in field.deltas:
                ops = field.since(had)
                field.deltas[had] = None if ops is None else self._pack(ops)
            found = field.deltas[had]
            if found is not None:
                return had, found
        if field.packed is None:
            field.packed = self._pack(field.value)
            field.sent = True
        return 0, field.packed

    def _number(self, name: str, value: Any) -> int:
        before = self._fields.get(name)
        if before is not None and before.value is value:
            return before.number
        field = _Field(value, 0 if is_small(value) else next(self._numbers))
        if before is not None and field.number:
            field.follow(before)
        self._fields[name] = field
        return field.number


def named(call: Call, numbers: Mapping[str, int]) -> list[str] | None:
    """The big fields that a call's contract names; None: it has none, or says it with a star or an argument."""
    contract = call.process.contract
    if not call.strict or not contract.declared:
        return None
    first = {pattern.partition(".")[0] for pattern in (*(contract.reads or ()), *(contract.writes or ()))}
    if not all(name.isidentifier() for name in first):  # quoted, a star or an argument
        return None
    return [name for name in numbers if name in first]


def touched(reads: Reads, ops: Ops, numbers: Mapping[str, int]) -> list[str]:
    """The big fields that a call came to."""
    found = {op[1][0] for op in ops if op[1]}
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


def _room_after(value: Any, room: int) -> int:
    """How many more values fit in; negative: not even this one, or who knows how big it is."""
    kind = kind_of(type(value))
    room -= 1
    if kind == LEAF:
        fits = isinstance(value, _SHORT) or (isinstance(value, (str, bytes)) and len(value) <= _LONGEST)
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
