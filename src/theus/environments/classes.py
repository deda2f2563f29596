"""Classes that go by value: what cloudpickle adds to a finished class, and what has to be there when it is made."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import MemberDescriptorType
from typing import Any


def with_slots(reduced: Any) -> None:
    """Have a class made with its slots. cloudpickle sets ``__slots__`` when the class is there, where it has no effect.

    Its objects had a dict, then, and could not come back.
    """
    (_, arguments, (content, _), *_) = reduced
    arguments[3]["__slots__"] = content.pop("__slots__")
    for name in [name for name, part in content.items() if isinstance(part, MemberDescriptorType)]:
        del content[name]  # private ones, which cloudpickle does not find; they come with the slots


def with_fields(model: Any, annotations: dict[str, Any], reduced: Any) -> Any:
    """Have a model of msgspec made with its fields and options: they cannot be added to the finished class."""
    make_it, arguments, (content, slots), *rest = reduced
    for name in ("__slots__", "__annotations_cache__"):
        content.pop(name, None)
    content["__annotations__"] = annotations
    inherited = {name for base in model.__bases__ for name in getattr(base, "__struct_fields__", ())}
    names = [name for name in model.__struct_fields__ if name in annotations or name not in inherited]
    defaults = dict(zip(reversed(model.__struct_fields__), reversed(model.__struct_defaults__), strict=False))
    written = dict(zip(model.__struct_fields__, model.__struct_encode_fields__, strict=True))
    msgspec = sys.modules["msgspec"]
    fields = {}
    for name in names:
        fields[name] = options = {"name": written[name]}
        default = defaults.get(name, msgspec.NODEFAULT)
        if type(default).__module__ != "msgspec._core":
            options["default"] = default
        elif default is not msgspec.NODEFAULT:
            options["default_factory"] = default.factory
    config = model.__struct_config__
    options = {name: getattr(config, name) for name in dir(config) if not name.startswith("_")}
    options["kw_only"] = any(name not in model.__match_args__ for name in names)
    how = (make_it, arguments, msgspec.field, fields, options, "__post_init__" in content)
    return model_class, how, (content, slots), *rest


def model_class(
    make_it: Callable[..., Any],
    arguments: tuple[Any, ...],
    field: Callable[..., Any],
    fields: dict[str, dict[str, Any]],
    options: dict[str, Any],
    has_post_init: bool,
) -> Any:
    """A model of msgspec, for now without its methods."""
    metaclass, name, bases, content, *rest = arguments
    content = {**content, "__annotations__": dict.fromkeys(fields)}
    content |= {name: field(**fields[name]) for name in fields}
    if has_post_init:  # the model keeps the one that is there when it is made
        content["__post_init__"] = _post_init
    return make_it(functools.partial(metaclass, **options), name, bases, content, *rest)


def _post_init(model: Any) -> None:
    """Stands for the one that the class gets later."""
    type(model).__post_init__(model)
