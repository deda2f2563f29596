"""``Tally``: the field whose updates commute.

::

    @dataclass
    class Shop:
        hits: Tally = 0

    def count(ctx): ctx.domain.hits += 1

For type checkers, in a snapshot, in a store and in JSON it is an ``int``. In a draft ``+=`` and ``-=`` record
"add n" without reading, so a thousand concurrent increments neither conflict nor get lost. Any other use (comparing,
formatting, ``int()``, arithmetic) reads the number, and then it is an ordinary value of the transaction.

An ``int`` subclass that notices its use is no way to do this: ``[0] * n``, ``range(n)``, ``"%d" % n`` and json
read the C value without a hook. So the draft hands out a handle (``tally.TallyDraft``) instead.
"""

from __future__ import annotations

import functools
import inspect
import sys
import typing
from typing import Annotated, Any


class _TallyMark:
    __slots__ = ()

    def __repr__(self) -> str:
        return "Tally"


Tally = Annotated[int, _TallyMark()]


@functools.cache
def tally_fields(cls: type) -> frozenset[str]:
    """The names of the fields that a class declares as ``Tally``; hints that cannot be resolved count as none."""
    return frozenset(name for name, hint in hints_of(cls).items() if is_tally(hint))


def hints_of(cls: type) -> dict[str, Any]:
    """The annotations of a class and its bases; ``Any`` for those that cannot be resolved."""
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except Exception:  # a hint that names something unknown: look at each class and field by itself
        return _hints_one_by_one(cls)


def is_tally(hint: Any) -> bool:
    """Whether an annotation is ``Tally``."""
    return any(isinstance(mark, _TallyMark) for mark in getattr(hint, "__metadata__", ()))


def _hints_one_by_one(cls: type) -> dict[str, Any]:
    hints: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        space = dict(vars(sys.modules[base.__module__])) if base.__module__ in sys.modules else {}
        for name, hint in annotations_of(base).items():
            holder = type("_Holder", (), {"__annotations__": {name: hint}, "__module__": base.__module__})
            try:
                hints[name] = typing.get_type_hints(holder, globalns=space, include_extras=True)[name]
            except Exception:  # unresolvable: no Tally, unless it is plainly called so
                tally = isinstance(hint, str) and hint.rpartition(".")[2] == "Tally"
                hints[name] = Tally if tally else Any
    return hints


def annotations_of(cls: type) -> dict[str, Any]:
    """What the class itself annotates, unresolved where it is text."""
    try:
        return inspect.get_annotations(cls)
    except NameError:  # Python 3.14 evaluates annotations when asked
        from annotationlib import Format, get_annotations  # type: ignore[import-not-found,unused-ignore]  # new in Python 3.14

        return dict(get_annotations(cls, format=Format.FORWARDREF))
