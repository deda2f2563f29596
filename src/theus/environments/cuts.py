"""The part of the domain that a call can need: what its contract names whole, the rest hollow.

A hollow value keeps its kind and loses its content: an empty dict for a dict, an object whose fields are hollow. So an
access that the contract does not grant is refused on the far side with the same words as elsewhere.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from theus.state.snapshot import Snapshot
from theus.state.values import (
    DEQUE,
    DICT,
    LEAF,
    LIST,
    OBJECT,
    SET,
    TUPLE,
    is_model,
    kind_of,
    map_object,
    rebuild_tuple,
)

if TYPE_CHECKING:
    from theus.protocols import Call

_SMALL = 256  # characters; a text up to this size goes as it is
_NUMBERS = (bool, int, float, complex)
_EMPTY: dict[int, Callable[[], Any]] = {DICT: dict, LIST: list, SET: set, DEQUE: deque}


def fields_of(call: Call) -> tuple[str, ...]:
    """The top-level fields that a call's contract names; none: all go. (One that names nothing gives one empty name.)"""
    contract = call.process.contract
    assert call.snapshot is not None
    root = type(call.snapshot.root)
    if not call.strict or not contract.declared or kind_of(root) != OBJECT or is_model(root):
        return ()
    found = {""}
    for pattern in (*(contract.reads or ()), *(contract.writes or ())):
        first = pattern.partition(".")[0]
        if not first.isidentifier():  # quoted, a star or an argument
            return ()
        found.add(first)
    return tuple(sorted(found))


def cut(snapshot: Snapshot, fields: tuple[str, ...]) -> Snapshot:
    """The snapshot with these fields; all others are hollow."""
    if not fields:
        return snapshot
    return Snapshot(
        snapshot.version, map_object(snapshot.root, lambda name, part: part if name in fields else _hollow(part))
    )


def _hollow(value: Any) -> Any:
    kind = kind_of(type(value))
    if kind == LEAF:
        return value if isinstance(value, _NUMBERS) or (isinstance(value, str) and len(value) <= _SMALL) else None
    if kind == OBJECT:
        return None if is_model(type(value)) else map_object(value, lambda _, part: _hollow(part))
    if kind == TUPLE:
        return rebuild_tuple(value, [_hollow(part) for part in value])
    empty = _EMPTY.get(kind)
    return None if empty is None else empty()
