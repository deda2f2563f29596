"""About how many bytes a value at rest holds."""

from __future__ import annotations

from itertools import islice
from typing import Any

from theus.state.values import DICTS, LISTS, OBJECT, SETS, kind_of, parts_of

LIGHT = 64  #: bytes that a number or a short text counts for
LOOKED_AT = 32  #: so many items of a container are weighed, and the rest by their average

SMALL = frozenset((int, float, bool, type(None)))  #: types that need not be looked at
_TEXTS = frozenset((str, bytes, bytearray))
_MANY = frozenset((tuple, frozenset, *DICTS, *LISTS, *SETS))


def weigh(value: Any) -> int:
    """About how many bytes a value holds; looks at a few of many items."""
    cls = type(value)
    if cls in SMALL:
        return LIGHT
    if cls in _TEXTS:
        return LIGHT + len(value)
    if cls in _MANY:
        items = value.values() if cls in DICTS else value
        if len(value) > LOOKED_AT:
            items = list(islice(items, LOOKED_AT))
        if SMALL.issuperset(map(type, items)):
            return LIGHT * (1 + len(value))
        return LIGHT + sum(map(weigh, items)) * len(value) // len(items)
    size = getattr(value, "nbytes", None)
    if isinstance(size, int):
        return LIGHT + size
    if kind_of(cls) != OBJECT:  # unknown, an enum member, a class: may refer to anything, itself included
        return LIGHT * 4
    return LIGHT + sum(weigh(item) for item in parts_of(value).values())
