"""Drafts and views of subclasses of dict, list, set and deque: what the subclass brings along works on them too.

``Counter.update`` adds where ``dict.update`` replaces, ``OrderedDict`` has ``move_to_end``, and a class of the user's
may have any method. So for each such class a face is generated, once. A method that the subclass brings along gets a
plain copy of the whole as ``self``; that is a deep read. If it leaves the copy changed, its content is taken over; that
is a write of the whole. So it is always right, and never cheap: what is changed often belongs into a dataclass.
"""

from __future__ import annotations

import operator
from collections import deque
from types import FunctionType
from typing import Any

from theus.state.values import plain, register

PLAIN = (dict, list, set, deque)

#: of no use on a face, or supplied by it
_OWN = frozenset(
    [
        "__init__",
        "__new__",
        "__init_subclass__",
        "__class_getitem__",
        "__reduce__",
        "__reduce_ex__",
        "__getstate__",
        "__setstate__",
        "__copy__",
        "__deepcopy__",
        "__repr__",
        "__missing__",
        "__getattribute__",
        "__getattr__",
        "__setattr__",
        "__delattr__",
        "__del__",
        "__sizeof__",
        "__dir__",
        "__hash__",
    ]
)


_FACES: dict[tuple[type, type], Any] = {}


def face_of(face: Any, cls: type) -> Any:
    """The face for a class of values: ``face`` itself, or what is made of it for a subclass."""
    made = _FACES.get((face, cls))
    if made is None:
        made = _FACES[face, cls] = _generate(face, cls)
    return made


def _generate(face: Any, cls: type) -> Any:
    bare: Any = next((base for base in PLAIN if issubclass(cls, base)), cls)
    if bare is cls:
        return face
    body: dict[str, Any] = {}
    for base in cls.__mro__[: cls.__mro__.index(bare)]:
        for name, value in vars(base).items():
            if name in _OWN or name in body:
                continue
            # What is written in C and dict has as well (of OrderedDict, defaultdict) does the same as dict's.
            if isinstance(value, FunctionType) or name == "popitem" or (callable(value) and not hasattr(bare, name)):
                body[name] = _on_copy(name)
    own = {"__slots__": (), "__getattr__": _attribute, "_theus_class": cls}
    made: Any = type(face.__name__, (face,), {**body, **own})
    register(made)
    return made


def _on_copy(name: str) -> Any:
    def method(self: Any, *arguments: Any, **options: Any) -> Any:
        before = self._theus_plain()
        value = plain(before)
        result = getattr(value, name)(*map(plain, arguments), **options)
        if result is NotImplemented and hasattr(operator, name):  # then it is for the other operand to say
            result = getattr(operator, name)(value, *map(plain, arguments))
        if result is value:
            result = self
        if not _same(value, before):
            self._become(value)
        return result

    method.__name__ = name
    return method


def _attribute(self: Any, name: str) -> Any:
    """A property, or whatever else is no method."""
    if name.startswith("__"):
        raise AttributeError(name)
    return getattr(self._theus_plain(), name)


def _same(one: Any, other: Any) -> bool:
    try:
        return bool(one == other and (isinstance(one, set) or list(one) == list(other)))
    except (TypeError, ValueError):  # arrays do not tell
        return False
