"""Values whose type is declared, as JSON and back: a *plan* for each annotation.

The plan of ``Item`` writes ``{"name": "tea", "price": 2.5}``; on load ``Item`` comes from the annotation, never from the data. Where an
annotation says no more than JSON itself does (``int``, ``dict[str, float]``, ``Any``), the plan is ``ANY``, and the value is
written as in ``untyped.py``. A value that is not what was declared still comes back as it was, if it is builtin:
it is written untyped, as ``{"$any": ...}`` where it could pass for the declared type.

====================  ============================================================================
dataclass, model      an object of its fields; what else was set on it in ``$more``
named tuple           an object of its fields
enum                  the name of the member; a flag, its number
union                 the value itself if all but one member are plain, else ``{"$type": [class, ...]}``
set, tuple, deque     a list; sets in order
dict                  an object if its keys are text or declared ``int``, else ``{"$dict": pairs}``
====================  ============================================================================

An instance of a subclass of the declared class is refused: the data cannot say which class to make. Declare the union.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import types
import typing
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from enum import Enum, Flag
from functools import cached_property
from typing import Any, Literal, TypeVar, Union

from theus.state.codecs import codec_of
from theus.state.fields import annotations_of, hints_of
from theus.state.values import MISSING, OBJECT, ingest, kind_of, parts_of, set_part, slots_of
from theus.state.versioned import VDict, VList, VSet
from theus.stores.untyped import (
    LEAVES,
    Frames,
    Kept,
    Leaf,
    Unfit,
    each_of,
    has_plain_keys,
    in_order,
    name_of,
    read,
    read_bytes,
    read_factory,
    read_tagged,
    rest_dict,
    rest_list,
    rest_set,
    write,
    write_bytes,
    write_factory,
    write_pairs,
)


class Plan:
    """How to write and read values of one annotation. This one: of none."""

    def write(self, value: Any, frames: Frames) -> Any:
        """A value at rest -> what JSON can hold."""
        return write(value, frames)

    def read(self, data: Any, frames: Frames) -> Any:
        """What JSON held -> the value at rest."""
        return read(data, frames)

    def at(self, key: Any) -> Plan:
        """The plan of a part, one segment of a path further down; of the members of a set."""
        return ANY

    @property
    def keys(self) -> Plan:
        """The plan of the keys by which parts are found."""
        return ANY


ANY = Plan()
_TEXT = (str, bool, type(None))


class Typed(Plan):
    """Of a type that JSON does not have. ``put`` and ``get`` are for values that are what was declared."""

    json: type = dict  #: what ``put`` gives
    label: str = ""  #: what it is called in a union

    def __init__(self, classes: Iterable[type]) -> None:
        self.classes = tuple(classes)  #: of values that ``put`` takes

    def put(self, value: Any, frames: Frames) -> Any:
        """Write."""
        raise NotImplementedError

    def get(self, data: Any, frames: Frames) -> Any:
        """Read."""
        raise NotImplementedError

    def write(self, value: Any, frames: Frames) -> Any:
        if type(value) in self.classes:
            return self.put(value, frames)
        return self._write_other(value, frames)

    def _write_other(self, value: Any, frames: Frames) -> Any:
        """Of a value that is not what was declared."""
        if isinstance(value, self.classes) and kind_of(type(value)) == OBJECT and codec_of(type(value)) is None:
            declared, found = self.classes[0].__name__, type(value).__name__
            raise Unfit(
                f"a {name_of(type(value))} where {declared} is declared",
                f"name all classes that may stand there: {declared} | {found}",
            )
        data = write(value, frames)
        return {"$any": data} if type(data) is self.json or type(data) is dict else data

    def read(self, data: Any, frames: Frames) -> Any:
        if type(data) is dict and len(data) == 1:
            (tag,) = data
            if tag[:1] == "$":
                return self.tagged(tag, data[tag], frames)
        return self.get(data, frames) if type(data) is self.json else read(data, frames)

    def tagged(self, tag: str, data: Any, frames: Frames) -> Any:
        """Read what says for itself what it is."""
        if tag == "$type" and data[0] == self.label:  # of a union that was declared before
            return self.read(data[1], frames)
        return read_tagged(tag, data, frames)


class Scalar(Typed):
    """Of a builtin type that is written as text or as a list."""

    def __init__(self, cls: type, leaf: Leaf) -> None:
        super().__init__([cls])
        self.label = cls.__name__
        self.json = leaf.json
        self._leaf = leaf

    def put(self, value: Any, frames: Frames) -> Any:
        return self._leaf.write(value)

    def get(self, data: Any, frames: Frames) -> Any:
        return self._leaf.read(data)


class Binary(Typed):
    """Of bytes."""

    json = str
    label = "bytes"

    def put(self, value: Any, frames: Frames) -> Any:
        return write_bytes(value, frames)

    def get(self, data: Any, frames: Frames) -> Any:
        return read_bytes(data, frames)


class Member(Typed):
    """Of an enum: by name, so that what its members stand for may change."""

    def __init__(self, cls: Any) -> None:
        super().__init__([cls])
        self.label = cls.__qualname__
        self._cls = cls
        self._is_flag = issubclass(cls, Flag)
        self.json = int if self._is_flag else str

    def put(self, value: Any, frames: Frames) -> Any:
        return int(value.value) if self._is_flag else value.name

    def get(self, data: Any, frames: Frames) -> Any:
        if self._is_flag:
            return self._cls(data)
        member = self._cls.__members__.get(data)
        if member is None:
            raise Unfit(f"{data!r}, which is no member of {self.label}", f"it has {', '.join(self._cls.__members__)}")
        return member


# --- containers ------------------------------------------------------------------------------------------------------


class Items(Typed):
    """Of a list, tuple, set, frozenset or deque with items of one type."""

    json = list

    def __init__(self, cls: type, item: Plan, label: str) -> None:
        super().__init__(_AT_REST.get(cls, (cls,)))
        self._cls = cls
        self._item = item
        self.label = label

    def put(self, value: Any, frames: Frames) -> Any:
        items = each_of(value, self._item.write, frames)
        if self._cls is set or self._cls is frozenset:
            return in_order(items)
        if self._cls is deque and value.maxlen is not None:
            return {"$deque": [items, value.maxlen]}
        return items

    def get(self, data: Any, frames: Frames) -> Any:
        items = each_of(data, self._item.read, frames)
        if self._cls is list:
            return rest_list(items)
        return rest_set(set(items)) if self._cls is set else self._cls(items)

    def tagged(self, tag: str, data: Any, frames: Frames) -> Any:
        if tag == "$deque" and self._cls is deque:
            return deque(each_of(data[0], self._item.read, frames), data[1])
        return super().tagged(tag, data, frames)

    def at(self, key: Any) -> Plan:
        return self._item


class Row(Typed):
    """Of a tuple with a type for each place."""

    json = list

    def __init__(self, places: list[Plan], label: str) -> None:
        super().__init__([tuple])
        self._places = places
        self.label = label

    def put(self, value: Any, frames: Frames) -> Any:
        return each_of(enumerate(value), lambda each, frames: self.at(each[0]).write(each[1], frames), frames)

    def get(self, data: Any, frames: Frames) -> Any:
        return tuple(each_of(enumerate(data), lambda each, frames: self.at(each[0]).read(each[1], frames), frames))

    def at(self, key: Any) -> Plan:
        return self._places[key] if isinstance(key, int) and key < len(self._places) else ANY


class Entries(Typed):
    """Of a dict whose keys are of one type and values of another."""

    def __init__(self, cls: type, key: Plan, value: Plan, int_keys: bool, label: str) -> None:
        super().__init__(_AT_REST.get(cls, (cls,)))
        self._cls = cls
        self._key = key
        self._value = value
        self._int_keys = int_keys
        self.label = label

    def put(self, value: Any, frames: Frames) -> Any:
        plan = self._key
        if self._int_keys:
            if set(map(type, value)) <= {int}:
                return self._object(value, map(str, value), frames)
        elif plan is ANY:
            if has_plain_keys(value):
                return self._object(value, value, frames)
        else:
            keys = each_of(value, plan.write, frames)
            if has_plain_keys(keys):
                return self._object(value, keys, frames)
        return {"$dict": write_pairs(value, plan.write, lambda key: self.at(key).write, frames)}

    def _object(self, value: Any, names: Iterable[str], frames: Frames) -> dict[str, Any]:
        made: dict[str, Any] = {}
        key = None
        try:
            for name, (key, part) in zip(names, value.items(), strict=True):
                made[name] = self.at(key).write(part, frames)
        except Unfit as unfit:
            raise unfit.below(key) from None
        return made

    def get(self, data: Any, frames: Frames) -> Any:
        made = {}
        name = None
        try:
            for name, part in data.items():
                key = int(name) if self._int_keys else self._key.read(name, frames)
                made[key] = self.at(key).read(part, frames)
        except Unfit as unfit:
            raise unfit.below(name) from None
        return self._made(made)

    def tagged(self, tag: str, data: Any, frames: Frames) -> Any:
        if tag != "$dict":
            return super().tagged(tag, data, frames)
        made = {}
        for name, part in data:
            key = self._key.read(name, frames)
            made[key] = self.at(key).read(part, frames)
        return self._made(made)

    def _made(self, entries: dict[Any, Any]) -> Any:
        return rest_dict(entries) if self._cls is dict else self._cls(entries)

    def at(self, key: Any) -> Plan:
        return self._value

    @property
    def keys(self) -> Plan:
        return self._key


class Defaults(Typed):
    """Of a defaultdict: the name of the builtin type that it calls, and its entries."""

    json = list

    def __init__(self, entries: Entries) -> None:
        super().__init__([defaultdict])
        self._entries = entries
        self.label = entries.label

    def put(self, value: Any, frames: Frames) -> Any:
        return [write_factory(value), self._entries.put(value, frames)]

    def get(self, data: Any, frames: Frames) -> Any:
        factory, entries = data
        return defaultdict(read_factory(factory), dict(self._entries.read(entries, frames).items()))

    def at(self, key: Any) -> Plan:
        return self._entries.at(key)

    @property
    def keys(self) -> Plan:
        return self._entries.keys


class Shape(Entries):
    """Of a ``TypedDict``: a type for each key."""

    def __init__(self, cls: Any, plans: Plans) -> None:
        super().__init__(dict, ANY, ANY, False, cls.__qualname__)
        self._named = _Later(lambda: {name: plans.of(hint) for name, hint in hints_of(cls).items()})

    def at(self, key: Any) -> Plan:
        plan: Plan = self._named().get(key, ANY)
        return plan


_AT_REST: dict[type, tuple[type, ...]] = {dict: (dict, VDict), list: (list, VList), set: (set, VSet)}


class _Later:
    """Made when first asked for: a class may contain itself."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make: Callable[[], Any] | None = make
        self._made: Any = None

    def __call__(self) -> Any:
        make = self._make
        if make is not None:
            self._made = make()  # perhaps by two threads: they make the same
            self._make = None
        return self._made


# --- objects ---------------------------------------------------------------------------------------------------------


class Object(Typed):
    """Of the user's class: by its fields. Neither ``__init__`` nor ``__post_init__`` runs on load."""

    def __init__(self, cls: Any, plans: Callable[[], dict[str, Plan]], label: str) -> None:
        super().__init__([cls])
        self._cls = cls
        self.label = label
        self._fields = _Later(plans)
        self._has_dict = "__dict__" in dir(cls)
        self._has_slots = type(self) is Object and bool(slots_of(cls))

    def put(self, value: Any, frames: Frames) -> Any:
        parts = self._parts(value)
        fields = self._fields()
        made: dict[str, Any] = {}
        name = None
        try:
            for name, plan in fields.items():
                part = parts.get(name, MISSING)
                if part is not MISSING:
                    made[name] = part if plan is ANY and type(part) in _TEXT else plan.write(part, frames)
            if len(parts) > len(made):
                self._put_others(parts, made, frames)
            if not fields.keys() <= parts.keys():
                made["$unset"] = [name for name in fields if name not in parts]
        except Unfit as unfit:
            raise unfit.below(name) from None
        return made

    def _parts(self, value: Any) -> dict[str, Any]:
        return parts_of(value) if self._has_slots else value.__dict__

    def _put_others(self, parts: Mapping[str, Any], made: dict[str, Any], frames: Frames) -> None:
        """What was set on the object beside its fields."""
        more: dict[str, Any] = {}
        for name, part in parts.items():
            if name in self._fields() or isinstance(getattr(self._cls, name, None), cached_property):
                continue
            if type(part) is Kept:
                made[name] = part.written(frames)
            else:
                more[name] = part
        if more:
            made["$more"] = write(more, frames)

    def get(self, data: Any, frames: Frames) -> Any:
        parts: dict[str, Any] = {}
        name = None
        known = 0
        try:
            for name, plan in self._fields().items():
                part = data.get(name, MISSING)
                if part is not MISSING:
                    parts[name] = plan.read(part, frames)
                    known += 1
                elif name not in data.get("$unset", ()):
                    parts[name] = self._default(name)
        except Unfit as unfit:
            raise unfit.below(name) from None
        if len(data) > known:
            self._get_others(data, parts, frames)
        return self.make(parts)

    def _get_others(self, data: dict[str, Any], parts: dict[str, Any], frames: Frames) -> None:
        for name, part in data.items():
            if name[:1] == "$":
                if name == "$more":
                    parts.update(read(part, frames).items())
            elif name not in self._fields():
                if not self._has_dict:
                    raise Unfit(
                        f"a {self.label} with a field {name!r}, which the class does not have, nor has it a __dict__ to"
                        " keep it in",
                        f"give the class the field {name!r} (with a default), or take it out by a migration",
                    )
                parts[name] = Kept(part, frames)

    def _default(self, name: str) -> Any:
        value = self.default(name)
        if value is MISSING:
            raise Unfit(
                f"a {self.label} without {name!r}, which has no default",
                f"give the field {name!r} of {name_of(self._cls)} a default, or fill it by a migration",
            )
        return ingest(value, ())

    def default(self, name: str) -> Any:
        """What a field is if the data lack it."""
        field = self._cls.__dataclass_fields__[name]
        if field.default_factory is not dataclasses.MISSING:
            return field.default_factory()
        return MISSING if field.default is dataclasses.MISSING else field.default

    def make(self, parts: dict[str, Any]) -> Any:
        """The instance."""
        made = object.__new__(self._cls)
        if self._has_slots:
            for name, part in parts.items():
                set_part(made, name, part)
        else:
            made.__dict__.update(parts)
        return made

    def at(self, key: Any) -> Plan:
        plan: Plan = self._fields().get(key, ANY)
        return plan


class Struct(Object):
    """Of a msgspec model. There is no way to make one without ``__post_init__``; msgspec's own decoder runs it too."""

    def _parts(self, value: Any) -> dict[str, Any]:
        return parts_of(value)

    def default(self, name: str) -> Any:
        import msgspec

        field = next(field for field in msgspec.structs.fields(self._cls) if field.name == name)
        if field.default_factory is not msgspec.NODEFAULT:
            return field.default_factory()
        return MISSING if field.default is msgspec.NODEFAULT else field.default

    def make(self, parts: dict[str, Any]) -> Any:
        made = self._cls(**{name: part for name, part in parts.items() if name in self._fields()})
        for name, part in parts.items():
            if (
                getattr(made, name, MISSING) is not part
            ):  # __post_init__ ran when it was made; what it did is in the data
                set_part(made, name, part)
        return made


class Pydantic(Object):
    """Of a pydantic model. No validator runs on load: what is stored was validated."""

    def put(self, value: Any, frames: Frames) -> Any:
        made = super().put(value, frames)
        given = value.__pydantic_fields_set__
        if given != set(self._fields()):
            made["$set"] = sorted(given)
        for tag, parts in (("$extra", value.__pydantic_extra__), ("$private", value.__pydantic_private__)):
            if parts is not None:
                made[tag] = write(parts, frames)
        return made

    def get(self, data: Any, frames: Frames) -> Any:
        made = super().get(data, frames)
        given = data.get("$set")
        object.__setattr__(made, "__pydantic_fields_set__", set(self._fields()) if given is None else set(given))
        for tag, name in (("$extra", "__pydantic_extra__"), ("$private", "__pydantic_private__")):
            parts = data.get(tag)
            object.__setattr__(made, name, None if parts is None else dict(read(parts, frames).items()))
        return made

    def default(self, name: str) -> Any:
        field = self._cls.model_fields[name]
        return MISSING if field.is_required() else field.get_default(call_default_factory=True, validated_data={})

    def make(self, parts: dict[str, Any]) -> Any:
        made = self._cls.__new__(self._cls)
        object.__setattr__(made, "__dict__", parts)
        return made


class Named(Object):
    """Of a named tuple."""

    def put(self, value: Any, frames: Frames) -> Any:
        made = {}
        name = None
        try:
            for (name, plan), part in zip(self._fields().items(), value, strict=True):
                made[name] = plan.write(part, frames)
        except Unfit as unfit:
            raise unfit.below(name) from None
        return made

    def default(self, name: str) -> Any:
        return self._cls._field_defaults.get(name, MISSING)

    def make(self, parts: dict[str, Any]) -> Any:
        return tuple.__new__(self._cls, parts.values())

    def at(self, key: Any) -> Plan:
        return list(self._fields().values())[key] if isinstance(key, int) else ANY


# --- unions ----------------------------------------------------------------------------------------------------------


class Either(Typed):
    """Of a union with several members that JSON does not have: the data say which of them."""

    def __init__(self, members: list[Typed]) -> None:
        super().__init__(cls for member in members for cls in member.classes)
        labels = [member.label for member in members]
        self._members = {
            member.label
            if labels.count(member.label) == 1
            else f"{member.classes[0].__module__}.{member.label}": member
            for member in members
        }
        self._jsons = {member.json for member in members}
        self._parts: dict[tuple[Plan, ...], Plan] = {}

    def put(self, value: Any, frames: Frames) -> Any:
        first: Unfit | None = None
        begin = len(frames)
        for label, member in self._members.items():
            if type(value) in member.classes:
                try:
                    return {"$type": [label, member.put(value, frames)]}
                except Unfit as unfit:  # list[A] | list[B]: perhaps the other one
                    del frames[begin:]
                    first = first or unfit
        assert first is not None
        raise first

    def _write_other(self, value: Any, frames: Frames) -> Any:
        data = write(value, frames)
        return {"$any": data} if type(data) is dict or type(data) in self._jsons else data

    def read(self, data: Any, frames: Frames) -> Any:
        if type(data) is dict and len(data) == 1:
            (tag,) = data
            if tag == "$type":
                label, body = data[tag]
                if label not in self._members:
                    raise Unfit(f"a {label}", f"declared are {', '.join(self._members)}")
                return self._members[label].read(body, frames)
            if tag[:1] == "$":
                return read_tagged(tag, data[tag], frames)
        for member in self._members.values():  # written when this was the only one
            if member.json is type(data):
                return member.read(data, frames)
        return read(data, frames)

    def at(self, key: Any) -> Plan:
        plans = tuple(dict.fromkeys(plan for member in self._members.values() if (plan := member.at(key)) is not ANY))
        if plans not in self._parts:
            self._parts[plans] = either([plan for plan in plans if isinstance(plan, Typed)])
        return self._parts[plans]

    @property
    def keys(self) -> Plan:
        return either([plan for member in self._members.values() if isinstance(plan := member.keys, Typed)])


def either(members: list[Typed]) -> Plan:
    """The plan of a union, without its members that are plain."""
    if not members:
        return ANY
    flat = [
        each for member in members for each in (member._members.values() if isinstance(member, Either) else [member])
    ]
    different = list({id(member): member for member in flat}.values())
    return different[0] if len(different) == 1 else Either(different)


# --- from annotations ------------------------------------------------------------------------------------------------

_UNWRAPPED = {typing.Annotated, typing.Final, typing.ClassVar, typing.Required, typing.NotRequired}
_LISTS = (
    collections.abc.Sequence,
    collections.abc.MutableSequence,
    collections.abc.Collection,
    collections.abc.Iterable,
)
_SETS = (collections.abc.Set, collections.abc.MutableSet)
_DICTS = (collections.abc.Mapping, collections.abc.MutableMapping)


class Plans:
    """The plans of the annotations of one domain, each made once."""

    def __init__(self) -> None:
        self._plans: dict[Any, Plan] = {}
        self._aliases: list[Any] = []  #: being made: one that contains itself is plain inside

    def of(self, hint: Any) -> Plan:
        """The plan of an annotation."""
        try:
            plan = self._plans.get(hint)
        except TypeError:  # Annotated with something that has no hash
            return self._make(hint)
        if plan is None:
            plan = self._plans[hint] = self._make(hint)
        return plan

    def _make(self, hint: Any) -> Plan:
        origin = typing.get_origin(hint)
        args = typing.get_args(hint)
        if isinstance(hint, TypeVar):
            return self.of(hint.__bound__) if hint.__bound__ is not None else self._either(hint.__constraints__)
        if hasattr(hint, "__supertype__"):  # NewType
            return self.of(hint.__supertype__)
        if origin in _UNWRAPPED or getattr(origin, "_name", "") == "ReadOnly":
            return self.of(args[0])
        if hasattr(origin or hint, "__type_params__") and hasattr(origin or hint, "__value__"):  # type X = ...
            return self._of_alias(origin or hint, args)
        if origin is Union or origin is types.UnionType:
            return self._either(args)
        if origin is Literal:
            return self._either(tuple(dict.fromkeys(map(type, args))))
        cls = origin or hint
        if not isinstance(cls, type) or codec_of(cls) is not None:
            return ANY
        return self._of_class(cls, args, hint)

    def _of_alias(self, alias: Any, args: tuple[Any, ...]) -> Plan:
        if alias in self._aliases:
            return ANY
        self._aliases.append(alias)
        plan = self.of(_fill(alias.__value__, dict(zip(alias.__type_params__, args, strict=False))))
        self._aliases.remove(alias)
        return plan

    def _either(self, hints: Iterable[Any]) -> Plan:
        return either([plan for hint in hints if isinstance(plan := self.of(hint), Typed)])

    def _of_class(self, cls: Any, args: tuple[Any, ...], hint: Any) -> Plan:
        label = str(hint) if args else cls.__qualname__
        if cls in LEAVES:
            return Scalar(cls, LEAVES[cls])
        if cls is bytes:
            return Binary([bytes])
        if issubclass(cls, Enum):
            return Member(cls)
        if cls in (list, set, frozenset, deque) or (cls is tuple and (not args or args[1:] == (...,))):
            item = self.of(args[0]) if args else ANY
            return ANY if cls is list and item is ANY else Items(cls, item, label)
        if cls is tuple:
            return Row([self.of(arg) for arg in args if arg != ()], label)
        if cls in _LISTS:
            item = self.of(args[0]) if args else ANY
            return ANY if item is ANY else either([Items(list, item, "list"), Items(tuple, item, "tuple")])
        if cls in _SETS:
            item = self.of(args[0]) if args else ANY
            return either([Items(set, item, "set"), Items(frozenset, item, "frozenset")])
        if cls in _DICTS or cls in (dict, OrderedDict, defaultdict, Counter):
            return self._of_dict(dict if cls in _DICTS else cls, args, label)
        if typing.is_typeddict(cls):
            return Shape(cls, self)
        return self._of_object(cls, args, label)

    def _of_dict(self, cls: Any, args: tuple[Any, ...], label: str) -> Plan:
        key, value = (*args, int) if cls is Counter and args else args or (Any, Any)
        keys, values = self.of(key), self.of(value)
        int_keys = key is int
        if cls is dict and keys is ANY and values is ANY and not int_keys:
            return ANY
        entries = Entries(dict if cls is defaultdict else cls, keys, values, int_keys, label)
        return Defaults(entries) if cls is defaultdict else entries

    def _of_object(self, cls: Any, args: tuple[Any, ...], label: str) -> Plan:
        if issubclass(cls, tuple) and hasattr(cls, "_fields"):
            kind: type[Object] = Named
            names = cls._fields
        elif kind_of(cls) != OBJECT:
            return ANY
        elif hasattr(cls, "__struct_fields__"):
            kind, names = Struct, cls.__struct_fields__
        elif hasattr(cls, "__pydantic_validator__") and hasattr(cls, "model_fields"):
            hints = {name: field.annotation for name, field in cls.model_fields.items()}
            return Pydantic(cls, lambda: {name: self.of(hint) for name, hint in hints.items()}, label)
        else:
            kind, names = Object, tuple(field.name for field in dataclasses.fields(cls))

        def plans() -> dict[str, Plan]:
            hints = hints_of(cls)
            filled = _variables(cls, args)
            return {name: self.of(_fill(hints.get(name, Any), filled.get(name, {}))) for name in names}

        return kind(cls, plans, label)


def _fill(hint: Any, variables: Mapping[Any, Any]) -> Any:
    """The annotation with type variables replaced."""
    if not variables:
        return hint
    if hint in variables:
        return variables[hint]
    parameters = getattr(hint, "__parameters__", ())
    return hint[tuple(variables.get(each, each) for each in parameters)] if parameters else hint


def _variables(cls: Any, args: tuple[Any, ...]) -> dict[str, dict[Any, Any]]:
    """For each annotated name of a generic class: what the type variables of the class that annotates it stand for."""
    filled: dict[Any, dict[Any, Any]] = {}

    def walk(base: Any, args: tuple[Any, ...]) -> None:
        filled[base] = dict(zip(getattr(base, "__parameters__", ()), args, strict=False))
        for inherited in getattr(base, "__orig_bases__", ()):
            origin = typing.get_origin(inherited)
            if isinstance(origin, type) and origin is not typing.Generic:
                walk(origin, tuple(_fill(arg, filled[base]) for arg in typing.get_args(inherited)))

    walk(cls, args)
    names: dict[str, dict[Any, Any]] = {}
    for base in reversed(cls.__mro__):
        names.update(dict.fromkeys(annotations_of(base), filled.get(base, {})))
    return names
