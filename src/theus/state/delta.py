"""What leads from one value at rest to another, as operations (``apply.py``).

Found by identity: what is the same object has not changed, so the price is that of what did change, not of the value. Big
containers know by themselves what was written since (``versioned.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from theus.errors import Path
from theus.state.access import Op
from theus.state.values import MISSING, OBJECT, kind_of, parts_of
from theus.state.versioned import VDict, VList, VSet

MOST = 1000  #: operations; what takes more is sent whole
FEW = 8  #: items of a list that may all have changed


class _Whole(Exception):
    """It is not worth it, or cannot be told."""


def delta(old: Any, new: Any) -> list[Op] | None:
    """The operations that make ``new`` of ``old``; None: none are known that are worth it."""
    ops: list[Op] = []
    try:
        _compare((), old, new, ops)
    except _Whole:
        return None
    return ops


def _compare(path: Path, old: Any, new: Any, ops: list[Op]) -> None:
    """Add what leads from a value to the one that stands in its place."""
    if new is old:
        return
    cls = type(new)
    inside = _INSIDE.get(cls) or (_object if kind_of(cls) == OBJECT else None)
    if cls is type(old) and inside is not None and inside(path, old, new, ops):
        return
    if not path or len(ops) >= MOST:
        raise _Whole
    ops.append(("set", path, new))


def _object(path: Path, old: Any, new: Any, ops: list[Op]) -> bool:
    before, after = parts_of(old), parts_of(new)
    ops += [("del", (*path, name)) for name in before.keys() - after.keys()]
    for name, part in after.items():
        _compare((*path, name), before.get(name, MISSING), part, ops)
    return True


def _dict(path: Path, old: dict[Any, Any], new: dict[Any, Any], ops: list[Op]) -> bool:
    stayed = [key for key in old if key in new]
    if [*stayed, *(key for key in new if key not in old)] != list(new):
        return False  # another order
    ops += [("del", (*path, key)) for key in old if key not in new]
    for key, value in new.items():
        _compare((*path, key), old.get(key, MISSING), value, ops)
    return True


def _big_dict(path: Path, old: VDict, new: VDict, ops: list[Op]) -> bool:
    changes = new.changes_since(old)
    if changes is None:
        return False
    for key, before, now in changes:
        if now is MISSING:
            ops.append(("del", (*path, key)))
        else:
            _compare((*path, key), before, now, ops)
    return True


def _list(path: Path, old: list[Any], new: list[Any], ops: list[Op]) -> bool:
    size = len(old)
    if len(new) < size:
        return False
    changed = [place for place in range(size) if new[place] is not old[place]]
    if len(changed) > max(FEW, size // 2):  # perhaps all moved by one
        return False
    for place in changed:
        _compare((*path, place), old[place], new[place], ops)
    if len(new) > size:
        ops.append(("append", path, new[size:]))
    return True


def _big_list(path: Path, old: VList, new: VList, ops: list[Op]) -> bool:
    changes, size = new.changes_since(old), len(old)
    if changes is None:
        return False
    for place, before, now in changes:
        _compare((*path, place), before, now, ops)
    if len(new) > size:
        ops.append(("append", path, [new[place] for place in range(size, len(new))]))
    return True


def _members(path: Path, came: set[Any], went: set[Any], ops: list[Op]) -> bool:
    if went:
        ops.append(("discard", path, went))
    if came:
        ops.append(("include", path, came))
    return True


def _set(path: Path, old: set[Any], new: set[Any], ops: list[Op]) -> bool:
    return _members(path, new - old, old - new, ops)


def _big_set(path: Path, old: VSet, new: VSet, ops: list[Op]) -> bool:
    changes = new.changes_since(old)
    return changes is not None and _members(path, *changes, ops)


_INSIDE: dict[type, Callable[[Path, Any, Any, list[Op]], bool]] = {
    dict: _dict,
    list: _list,
    set: _set,
    VDict: _big_dict,
    VList: _big_list,
    VSet: _big_set,
}
