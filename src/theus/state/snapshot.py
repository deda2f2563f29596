"""The state at one version, and read-only views of it.

A snapshot is a version number and a value at rest; nothing can change it, so holding it costs only the memory of
what was replaced since. ``view()`` gives it the face of the user's own classes and containers: attributes, items,
iteration, methods, properties and equality work, writing raises ``ScopeError``. Views are made as they are
touched and read the values at rest directly.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from theus.errors import ScopeError
from theus.state.draft import face_class, field_names
from theus.state.faces import DictFace, ListFace, SetFace
from theus.state.models import attribute
from theus.state.subclasses import face_of
from theus.state.values import (
    ARRAY,
    DEQUE,
    DICT,
    KINDS,
    LEAF,
    LIST,
    MISSING,
    OBJECT,
    SET,
    TUPLE,
    Face,
    freeze_array,
    ingest,
    is_model,
    kind_of,
    plain,
    rebuild_tuple,
    register,
)

if TYPE_CHECKING:
    from theus.state.head import Head

_ADVICE = {
    "domain": "this is a read-only view of the state; change the state in a process, through ctx.domain",
    "config": "config is read-only; what changes belongs into the domain",
}


class Snapshot:
    """The state at one version. ``head``: where newer ones are; it does not travel to other processes."""

    __slots__ = ("__weakref__", "era", "head", "root", "version")

    def __init__(self, version: int, root: Any, head: Head | None = None, era: object = None) -> None:
        self.version = version
        self.root = root  #: at rest
        self.head = head
        self.era = era  #: lives as long as a snapshot that has it; so the head knows how old the oldest one is

    def view(self) -> Any:
        """The whole domain, read-only."""
        return _view(self.root, "domain")

    def __reduce__(self) -> tuple[Any, ...]:
        return Snapshot, (self.version, self.root)

    def __repr__(self) -> str:
        return f"<Snapshot {self.version} of {type(self.root).__name__}>"


def readonly(value: Any, scope: str = "config") -> Any:
    """A read-only view over any plain value; a leaf or unknown object is given as it is."""
    return _view(value, scope)


def _view(value: Any, scope: str) -> Any:
    kind = KINDS.get(type(value))
    if kind is None:
        kind = kind_of(type(value))
    if kind == LEAF:
        return value
    if kind == OBJECT:
        face: Any = _new(view_class(type(value)))
        _set(face, "_theus_value", value)
        _set(face, "_theus_scope", scope)
        return face
    view = _VIEWS.get(kind)
    if view is not None:
        face = _new(face_of(view, type(value)))
        face._value = value
        face._theus_scope = scope
        return face
    if kind == TUPLE:
        items = [_view(part, scope) for part in value]
        same = all(new is old for new, old in zip(items, value, strict=True))
        return value if same else rebuild_tuple(value, items)
    return freeze_array(value) if kind == ARRAY else value


_set = object.__setattr__
_new = object.__new__


def _refuse(self: Any, *arguments: Any, **options: Any) -> NoReturn:
    scope = self._theus_scope
    raise ScopeError(_ADVICE.get(scope, _ADVICE["domain"]), scope=scope, process="")


class _View(Face):
    __slots__ = ("_theus_scope", "_value")

    _value: Any
    _theus_scope: str

    def __len__(self) -> int:
        return len(self._value)

    def _theus_plain(self) -> Any:
        return plain(self._value)

    def _theus_rest(self) -> Any:
        return ingest(self._value, ())

    def _become(self, value: Any) -> NoReturn:
        _refuse(self)


class DictView(_View, DictFace):
    """A dict, read-only."""

    __slots__ = ()

    def _at(self, key: Any) -> Any:
        value = self._value.get(key, MISSING)
        return value if KINDS.get(type(value)) == LEAF or value is MISSING else _view(value, self._theus_scope)

    def _has(self, key: Any) -> bool:
        return key in self._value

    def _walk(self, backwards: bool) -> Iterator[Any]:
        return reversed(list(self._value)) if backwards else iter(self._value)

    def _walk_items(self, backwards: bool) -> Iterator[tuple[Any, Any]]:
        scope = self._theus_scope
        items = self._value.items()
        for key, value in reversed(list(items)) if backwards else items:
            yield key, value if KINDS.get(type(value)) == LEAF else _view(value, scope)


class ListView(_View, ListFace):
    """A list, read-only."""

    __slots__ = ()

    def _get(self, index: int) -> Any:
        return _view(self._value[index], self._theus_scope)

    def __iter__(self) -> Iterator[Any]:
        scope = self._theus_scope
        for value in self._value:
            yield value if KINDS.get(type(value)) == LEAF else _view(value, scope)


class DequeView(ListView):
    """A deque, read-only."""

    __slots__ = ()
    _theus_class: Any = deque

    @property
    def maxlen(self) -> int | None:
        length: int | None = self._value.maxlen
        return length

    def _alike(self) -> tuple[type, ...]:
        from theus.state.lists import DequeDraft

        return (deque, DequeView, DequeDraft)

    def copy(self) -> Any:
        return deque(self, self.maxlen)


class SetView(_View, SetFace):
    """A set, read-only."""

    __slots__ = ()

    def __contains__(self, member: object) -> bool:
        return member in self._value

    def __iter__(self) -> Iterator[Any]:
        return iter(self._value)


for _cls, _names in (
    (DictView, ("__setitem__", "__delitem__", "__ior__", "clear", "pop", "popitem", "setdefault", "update")),
    (ListView, ("__setitem__", "__delitem__", "__iadd__", "__imul__", "append", "clear", "extend", "insert", "pop")),
    (ListView, ("remove", "reverse", "sort", "appendleft", "popleft", "extendleft", "rotate")),
    (SetView, ("__ior__", "__iand__", "__isub__", "__ixor__", "add", "clear", "discard", "pop", "remove", "update")),
    (SetView, ("difference_update", "intersection_update", "symmetric_difference_update")),
):
    for _name in _names:
        setattr(_cls, _name, _refuse)
    register(_cls)
register(DequeView)

_VIEWS: dict[int, Any] = {DICT: DictView, LIST: ListView, SET: SetView, DEQUE: DequeView}


# --- objects ---------------------------------------------------------------------------------------------------------


class _Field:
    __slots__ = ("cls", "name")

    def __init__(self, cls: type, name: str) -> None:
        self.cls = cls
        self.name = name

    def __get__(self, face: Any, owner: type | None = None) -> Any:
        if face is None:
            return getattr(self.cls, self.name)
        value = getattr(face._theus_value, self.name)
        if KINDS.get(type(value)) != LEAF:
            value = _view(value, face._theus_scope)
        _set(face, self.name, value)
        return value


class _Cached:
    """A ``cached_property`` of the class, that does not ask for ``__dict__``."""

    __slots__ = ("cls", "func", "name")

    def __init__(self, cls: type, name: str, func: Any) -> None:
        self.cls = cls
        self.name = name
        self.func = func

    def __get__(self, face: Any, owner: type | None = None) -> Any:
        if face is None:
            return inspect.getattr_static(self.cls, self.name)
        value = self.func(face)
        _set(face, self.name, value)
        return value


class _Fields(dict[str, Any]):
    """``vars(view)``: read-only as well, and a real dict, which json takes."""

    _theus_scope: str


for _name in ("__setitem__", "__delitem__", "__ior__", "clear", "pop", "popitem", "setdefault", "update"):
    setattr(_Fields, _name, _refuse)


class ObjectView(Face):
    """What all generated read-only subclasses have in common."""

    __slots__ = ()

    _theus_class: type
    _theus_value: Any
    _theus_scope: str

    def __init_subclass__(cls, **options: Any) -> None:
        pass  # the user's hook is for the user's subclasses

    def __getattr__(self, name: str) -> Any:
        if is_model(self._theus_class):
            return attribute(self, self._theus_class, name)
        if not name.startswith("__") and name in getattr(self._theus_value, "__dict__", ()):
            return _Field(self._theus_class, name).__get__(self)
        inherited = getattr(self._theus_class, "__getattr__", None)
        if inherited is not None:
            return inherited(self, name)
        raise AttributeError(f"{self._theus_class.__name__!r} object has no attribute {name!r}")

    def _theus_vars(self) -> dict[str, Any]:
        fields = _Fields((name, getattr(self, name)) for name in self._theus_value.__dict__)
        fields._theus_scope = self._theus_scope
        return fields

    __dict__: Any = property(_theus_vars)

    def __setattr__(self, name: str, value: Any) -> None:
        _refuse(self)

    def __delattr__(self, name: str) -> None:
        _refuse(self)

    def __copy__(self) -> Any:
        return plain(self._theus_value)

    def __deepcopy__(self, memo: Any) -> Any:
        return plain(self._theus_value)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return plain, (plain(self._theus_value),)

    def _theus_plain(self) -> Any:
        return plain(self._theus_value)

    def _theus_rest(self) -> Any:
        return ingest(self._theus_value, ())


_CLASSES: dict[type, type] = {}


def view_class(cls: type) -> type:
    """The generated read-only subclass for a user's class."""
    made = _CLASSES.get(cls)
    if made is None:
        made = _CLASSES[cls] = _generate(cls)
    return made


def _generate(cls: type) -> type:
    body: dict[str, Any] = {name: _Field(cls, name) for name in field_names(cls)}
    made: type = face_class(cls, ObjectView, ("_theus_value", "_theus_scope"), _Cached, body)
    return made
