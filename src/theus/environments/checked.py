"""For ``Engine(debug=True)``: what is read-only by rule was not changed in place.

Arguments, the pipe value and opaque values of the domain (models, data frames, any object a draft does not know) are
handed out as they are: to guard them would cost every call. While debugging, a checksum of each is taken before the
body and compared after it. What cannot be pickled cannot be checked.

The sums of opaque values are kept from call to call; after a body only those that it read are summed again. So a
change is found by the first process that reads the value afterwards, which usually is the one that made it.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from typing import TYPE_CHECKING, Any
from uuid import UUID

from theus.environments.witness import Witness, checksum
from theus.errors import Path, ScopeError
from theus.state.access import show
from theus.state.values import ARRAY, DICT, LEAF, OBJECT, SET, kind_of, parts_of

if TYPE_CHECKING:
    from theus.protocols import Call, Environment, Outcome


class CheckedEnvironment:
    """An environment that looks for changes in place after each call."""

    def __init__(self, inner: Environment) -> None:
        self._inner = inner
        self.name = inner.name
        self.capacity = inner.capacity
        self._sums: dict[int, tuple[Any, bytes | None]] = {}  #: of what stands in the state, by id

    async def start(self) -> None:
        await self._inner.start()

    async def run(self, call: Call) -> Outcome:
        witness = Witness(call)
        opaque = self._opaque(call)
        outcome = await self._inner.run(call)
        if outcome.error is None:
            outcome.error = _changed_argument(call, witness) or self._changed_value(call, outcome, opaque)
        return outcome

    async def stop(self, grace: float) -> None:
        await self._inner.stop(grace)

    def _opaque(self, call: Call) -> dict[Path, Any]:
        """The opaque values of the state as the call begins, by path; the sum of each is known from now on."""
        if call.snapshot is None:
            return {}
        found = dict(_opaque_parts(call.snapshot.root))
        known = self._sums
        self._sums = {
            id(value): known[id(value)] if id(value) in known else (value, checksum(value)) for value in found.values()
        }
        return found

    def _changed_value(self, call: Call, outcome: Outcome, opaque: dict[Path, Any]) -> ScopeError | None:
        for path, value in opaque.items():
            if not _was_read(path, outcome):
                continue
            before, now = self._sums[id(value)][1], checksum(value)
            if before is None or before == now:
                continue
            self._sums[id(value)] = (value, now)
            return ScopeError(
                f"process {call.process.name!r}: the {type(value).__qualname__} at {show(path)} was changed in place, by "
                "this process or by whoever else holds it. Every snapshot shares that one object, so the change is already "
                "in the state, outside of any commit: change a copy and assign it (copy.deepcopy(...), then "
                f"ctx.domain.{show(path)} = ...).",
                scope="domain",
                process=call.process.name,
            )
        return None


def _changed_argument(call: Call, witness: Witness) -> ScopeError | None:
    changed = witness.changed()
    if changed is None:
        return None
    name, kind = changed
    return ScopeError(
        f"process {call.process.name!r} has changed its {name} ({kind.__qualname__}) in place. What is handed to a "
        "process is read-only: others may hold it too, another attempt would get it changed, and a process in a "
        "worker changes only a copy. Change a copy, and return it.",
        scope="pipe" if name == "ctx.pipe" else "arguments",
        process=call.process.name,
    )


def _was_read(path: Path, outcome: Outcome) -> bool:
    """Whether the value at ``path`` was handed to the process."""
    for container, keys, _, deep in outcome.reads:
        size = len(container)
        if path[:size] == container and (deep or (len(path) > size and path[size] in keys)):
            return True
    return False


#: leaves that nobody can change
_FIXED = {type(None), bool, int, float, complex, str, bytes, frozenset, range, Decimal, Fraction, UUID}
_FIXED |= {date, datetime, time, timedelta, timezone}


def _opaque_parts(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """The opaque objects inside a value at rest, and where they stand."""
    kind = kind_of(type(value))
    if kind == LEAF:
        if type(value) not in _FIXED and not isinstance(value, (Enum, type)):
            yield path, value
    elif kind == DICT:
        for key, part in value.items():
            yield from _opaque_parts(part, (*path, key))
    elif kind == OBJECT:
        for name, part in parts_of(value).items():
            yield from _opaque_parts(part, (*path, name))
    elif kind == SET:
        for member in value:
            yield from _opaque_parts(member, (*path, member))
    elif kind != ARRAY:
        for index, part in enumerate(value):
            yield from _opaque_parts(part, (*path, index))
