"""Drafts and views of pydantic and msgspec models: generic faces, as such classes cannot be subclassed for it.

A face is no instance of a subclass of the model but a stand-in whose ``__class__`` reports it, so ``isinstance`` holds.
What the user's classes define (methods, properties, ``__len__``, ...) runs against the face and so reads and writes
through the transaction; what pydantic and msgspec themselves define (``model_dump``, ``__eq__``, ``__repr__``, ...)
works on C level and gets a plain copy. Assignments to a model that validates them, or that is frozen, go through the
model's own ``__setattr__`` on a shallow copy: it raises what it always raises, and the value it makes of it is kept.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any

from theus.state.values import MISSING, set_part

_LIBRARIES = ("pydantic", "msgspec", "pydantic_core", "builtins", "typing")

#: looked up by ``object`` in a way of its own, or supplied by the faces
_OWN = frozenset(
    [
        "__class__",
        "__new__",
        "__init__",
        "__init_subclass__",
        "__subclasshook__",
        "__getattr__",
        "__getattribute__",
        "__setattr__",
        "__delattr__",
        "__dict__",
        "__weakref__",
        "__slots__",
        "__module__",
        "__doc__",
        "__qualname__",
        "__annotations__",
        "__reduce__",
        "__reduce_ex__",
        "__copy__",
        "__deepcopy__",
        "__getstate__",
        "__setstate__",
        "__sizeof__",
        "__dir__",
        "__class_getitem__",
        "__annotate__",
        "__post_init__",
        "__replace__",
    ]
)


def _home(cls: type, name: str) -> type | None:
    """The class of the MRO that defines ``name``."""
    return next((base for base in cls.__mro__ if name in base.__dict__), None)


def _is_library(cls: type) -> bool:
    return cls.__module__.partition(".")[0] in _LIBRARIES


def special_methods(cls: type) -> dict[str, Any]:
    """The special methods that a face of this model needs on its own class."""
    body: dict[str, Any] = {}
    for base in cls.__mro__[:-1]:
        for name, value in base.__dict__.items():
            if (
                not (name.startswith("__") and name.endswith("__"))
                or name in _OWN
                or name in body
                or not callable(value)
            ):
                continue
            generated = getattr(value, "__module__", None) != base.__module__
            body[name] = _on_plain(name) if _is_library(base) or generated else value
    body["__eq__"] = body.get("__eq__") or _on_plain("__eq__")
    body["__repr__"] = body.get("__repr__") or _on_plain("__repr__")
    body.setdefault("__hash__", None)
    return body


def _on_plain(name: str) -> Callable[..., Any]:
    def method(self: Any, *arguments: Any) -> Any:
        arguments = tuple(each._theus_plain() if hasattr(each, "_theus_plain") else each for each in arguments)
        return getattr(self._theus_plain(), name)(*arguments)

    method.__name__ = name
    return method


def attribute(face: Any, cls: type, name: str) -> Any:
    """What is neither a field nor special: a method, a property, a constant of the class."""
    home = _home(cls, name)
    if home is None:
        raise AttributeError(f"{cls.__name__!r} object has no attribute {name!r}")
    if _is_library(home):
        return getattr(face._theus_plain(), name)
    value = inspect.getattr_static(cls, name)
    if isinstance(value, functools.cached_property):
        return value.func(face)
    if isinstance(value, (staticmethod, classmethod)):
        return value.__get__(None, cls)
    return value.__get__(face, cls) if hasattr(value, "__get__") else value


def assigns_itself(cls: type) -> bool:
    """Whether assigning to a field of this model does more than to set it: it validates, refuses, or has code."""
    settings = getattr(cls, "__struct_config__", None)
    if settings is not None:
        return bool(settings.frozen) or type(cls).__setattr__ is not type.__setattr__ or not _is_library_setattr(cls)
    settings = getattr(cls, "model_config", {})
    return bool(settings.get("validate_assignment") or settings.get("frozen")) or not _is_library_setattr(cls)


def _is_library_setattr(cls: type) -> bool:
    home = _home(cls, "__setattr__")
    return home is None or _is_library(home)


def assigned(base: Any, written: dict[str, Any], name: str, value: Any) -> Any:
    """What the model makes of an assignment; raises what the model raises."""
    probe = copy.copy(base)
    for other, given in written.items():
        set_part(probe, other, given)
    setattr(probe, name, value)
    made = getattr(probe, name, MISSING)
    return value if made is MISSING else made
