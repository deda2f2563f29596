"""Drafts of objects: the user's own class, in a transaction.

For each class a subclass is generated, once. An instance of it has an empty dict; each field is a *non-data* descriptor of
the subclass, so

* the first read of a field finds the descriptor, which checks the grant, records the read, makes the child
  draft and puts the result into the instance's dict;
* every further read finds it there: a native attribute access, 0.03 us;
* writes go through a generated ``__setattr__``.

The subclass inherits from the user's class, so methods, properties, ``super()``, ``isinstance``, ``match``,
generated ``__eq__`` and ``__repr__`` work; ``__class__`` reports the user's class, so ``dataclasses.replace`` makes a
plain one. ``__dict__`` is a property that reads all fields first, so ``vars(draft)`` is what it is for the plain
object; what was put there is found out at the end. The user's ``__init_subclass__``, ``__init__`` and ``__post_init__`` are not called for it.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from theus.state.access import Grant, Op, show
from theus.state.fields import tally_fields
from theus.state.models import assigned, assigns_itself, attribute, special_methods
from theus.state.node import KIND_MAKERS, NOTHING, Node
from theus.state.tally import TallyDraft
from theus.state.values import (
    FACE,
    KINDS,
    LEAVES,
    MISSING,
    OBJECT,
    TUPLE,
    Face,
    copy_rest,
    drop_part,
    ingest,
    is_model,
    kind_of,
    parts_of,
    plain,
    private_names,
    register,
    set_part,
    slots_of,
)

if TYPE_CHECKING:
    from theus.state.transaction import Transaction


class ObjectNode(Node):
    """What a transaction knows about one object; ``face`` is what the user has in hand."""

    __slots__ = ("_added", "_held", "_written", "face")

    _written: dict[str, None]  #: fields that were assigned or deleted, in order
    _added: dict[str, int] | None  #: what was added to Tally fields
    _held: dict[str, Any]  #: the attributes of the face: what was read or put there
    face: Any

    def _face(self) -> Any:
        return self.face

    def _holds(self, key: Any, face: Any) -> bool:
        return self._held.get(key) is face

    def _emit(self, operations: list[Op]) -> None:
        path = () if self._parent is None else self._path()
        held = self._held
        for name in self._written:
            place = path + (name,)  # noqa: RUF005  (half the price)
            if name in held:
                value = held[name]
                if type(value) not in LEAVES:
                    value = ingest(value, place, self._tx._process)
                operations.append(("set", place, value))
            else:
                operations.append(("del", place))
        if self._added:
            operations += [("add", (*path, name), number) for name, number in self._added.items()]

    def _built(self) -> Any:
        new = copy_rest(self._base)
        held = self._held
        for name in self._written:
            if name in held:
                set_part(new, name, ingest(held[name], (*self._path(), name), self._tx._process))
            else:
                drop_part(new, name)
        for name, number in (self._added or {}).items():
            set_part(new, name, getattr(self._base, name) + number)
        for name, kid in self._kids().items():
            set_part(new, name, kid._current())
        return new

    def _lacks(self, name: str) -> bool:
        """Whether a field that is not held was deleted behind our back."""
        return False

    def _show(self, names: Iterable[str]) -> None:
        """Read all fields, and take what is done to the dict of the instance for writes from now on."""
        held = self._held
        entries: dict[str, Any] = {}
        for name in names:
            if not _is_cached(type(self._base), name) and (name in held or name not in self._written):
                value = getattr(self.face, name)
                if type(value) is TallyDraft:
                    value = int(value)
                    if self._added and self._added.pop(name, None) is not None:
                        self._written[name] = None
                entries[name] = value
        held.update(entries)
        entries.update(held)  # in the order that they have in the plain object
        held.clear()
        held.update(entries)
        self.__class__ = ShownNode
        self._dirty = True

    def _plain(self) -> Any:
        self._read_deep()
        new = copy_rest(self._base)
        held = self._held
        for name, part in parts_of(self._base).items():
            if _is_cached(type(self._base), name):
                new.__dict__.pop(name, None)
            elif name not in self._written and name not in held:
                set_part(new, name, plain(part))
        for name in self._written:
            if name not in held:
                drop_part(new, name)
        for name, value in held.items():
            if name in self._written or hasattr(self._base, name):
                set_part(new, name, plain(value))
        return new

    def _close(self, end: Any) -> None:
        self._held.clear()
        self._tx = end
        self._parent = end
        self._grant = end
        self._base = end
        self._written = end
        self.face = end


class WatchedNode(ObjectNode):
    """Of an object whose fields may be set past ``__setattr__``: what was set is found out at the end."""

    __slots__ = ()

    def _wrote(self) -> bool:
        self._notice()
        return bool(self._written or self._added)

    def _emit(self, operations: list[Op]) -> None:
        self._notice()
        ObjectNode._emit(self, operations)

    def _notice(self) -> None:
        """Fields that were set behind our back (``object.__setattr__``, ``vars(...)[...] =``) were written too."""
        base = self._base
        for name, value in self._held.items():
            if (
                name not in self._written
                and KINDS.get(type(value)) != FACE
                and (old := getattr(base, name, MISSING)) is not value
                and (old is not MISSING or name in type(self.face)._theus_fields)
                and kind_of(type(value)) != TUPLE
                and not _is_cached(type(base), name)
            ):
                self._write(name)
                self._written[name] = None


class ShownNode(WatchedNode):
    """Of an object whose ``__dict__`` somebody has: what it lacks at the end was deleted."""

    __slots__ = ()

    def _lacks(self, name: str) -> bool:
        return name in vars(self._base)

    def _notice(self) -> None:
        for name in vars(self._base):
            if name not in self._held and name not in self._written and not _is_cached(type(self._base), name):
                self._write(name)
                self._note(name)
                self._written[name] = None
        super()._notice()


class _Field:
    """Reads a field for the first time. It has no ``__set__`` on purpose: afterwards the instance's dict answers."""

    __slots__ = ("cls", "name")

    def __init__(self, cls: type, name: str) -> None:
        self.cls = cls
        self.name = name

    def __get__(self, face: Any, owner: type | None = None) -> Any:
        name = self.name
        if face is None:
            return getattr(self.cls, name)
        node = face._theus_node
        tx = node._tx
        head = tx._head
        if head is not None and head.version != tx.base:
            tx._extend()
        if node._dirty and (name in node._written or node._lacks(name)):  # it was deleted
            default = getattr(self.cls, name, MISSING)
            if default is MISSING or name in (*slots_of(self.cls), *private_names(self.cls)):
                raise AttributeError(f"{self.cls.__name__!r} object has no attribute {name!r}")
            return default
        value = getattr(node._base, name)
        if type(value) in LEAVES:
            grant = node._grant
            if grant is not None and not grant.may_read(name):
                node._refuse("read", name)
            if node._reads:
                node._reads.add(name)
            else:
                node._reads = {name}
        else:
            value = node._wrap(name, value)
        node._held[name] = value
        return value


class _Cached:
    """A ``cached_property`` of the class, that is cached without asking for ``__dict__``, which would read all fields."""

    __slots__ = ("cls", "func", "name")

    def __init__(self, cls: type, name: str, func: Any) -> None:
        self.cls = cls
        self.name = name
        self.func = func

    def __get__(self, face: Any, owner: type | None = None) -> Any:
        if face is None:
            return inspect.getattr_static(self.cls, self.name)
        value = face._theus_node._held[self.name] = self.func(face)
        return value


class _TallyField(_Field):
    """Gives a handle, which reads the number only if it is asked for it."""

    __slots__ = ()

    def __get__(self, face: Any, owner: type | None = None) -> Any:
        if face is None:
            return getattr(self.cls, self.name)
        node = face._theus_node
        if node._written or type(getattr(node._base, self.name, None)) is not int:
            return _Field.__get__(self, face, owner)
        handle = TallyDraft(node, self.name, 0)
        node._held[self.name] = handle
        return handle


class ObjectDraft(Face):
    """What all generated subclasses have in common; their instances are drafts of objects."""

    __slots__ = ()

    _theus_class: type
    _theus_fields: frozenset[str] = frozenset()
    _theus_model = False  #: a stand-in for a pydantic or msgspec model
    _theus_watched = False  #: its own code may set fields behind our back
    _theus_node: Any

    def __init_subclass__(cls, **options: Any) -> None:
        pass  # the user's hook is for the user's subclasses

    def __getattr__(self, name: str) -> Any:
        if self._theus_model:
            return attribute(self, self._theus_class, name)
        if not name.startswith("__") and name in getattr(self._theus_node._base, "__dict__", ()):
            return _Field(self._theus_class, name).__get__(self)
        inherited = getattr(self._theus_class, "__getattr__", None)
        if inherited is not None:
            return inherited(self, name)
        raise AttributeError(f"{self._theus_class.__name__!r} object has no attribute {name!r}")

    def _theus_vars(self) -> dict[str, Any]:
        node: ObjectNode = self._theus_node
        own = getattr(node._base, "__dict__", None)
        if own is None:
            raise AttributeError(f"{self._theus_class.__name__!r} object has no attribute '__dict__'")
        if type(node) is not ShownNode:
            node._show(own)
        return node._held

    def _theus_become(self, entries: dict[str, Any]) -> None:
        held = self._theus_vars()
        held.clear()
        held.update(entries)

    __dict__: Any = property(_theus_vars, _theus_become)

    def __delattr__(self, name: str) -> None:
        node = self._theus_node
        if name not in self._theus_fields and not _is_extra(self, node, name):
            object.__delattr__(self, name)
            return
        gone = name in node._written and name not in node._held
        if gone or (name not in node._written and getattr(node._base, name, MISSING) is MISSING):
            raise AttributeError(f"{self._theus_class.__name__!r} object has no attribute {name!r}")
        node._write(name)
        if name not in node._written:
            node._note(name)
        node._written[name] = None
        node._dirty = True
        node._held.pop(name, None)

    def __copy__(self) -> Any:
        return self._theus_plain()

    def __deepcopy__(self, memo: Any) -> Any:
        return self._theus_plain()

    def __reduce_ex__(self, protocol: Any) -> Any:
        value = self._theus_plain()
        return value.__reduce_ex__(protocol)

    def _theus_rest(self) -> Any:
        return self._theus_node._theus_rest()

    def _theus_plain(self) -> Any:
        return self._theus_node._plain()


def _is_extra(face: Any, node: Any, name: str) -> bool:
    """Whether ``name`` is an attribute that the instance has without declaring a field for it."""
    return name in getattr(node._base, "__dict__", ()) and not _is_cached(type(node._base), name)


def _is_cached(cls: type, name: str) -> bool:
    return isinstance(inspect.getattr_static(cls, name, None), functools.cached_property)


def _set_other(face: Any, node: Any, name: str, value: Any) -> None:
    """Assign to something that is no field: a property with a setter, or nothing that would be kept."""
    cls = type(node._base)
    if hasattr(type(inspect.getattr_static(cls, name, None)), "__set__"):
        object.__setattr__(face, name, value)
        return
    raise AttributeError(
        f"{show(node._path())}: {cls.__name__} has no field {name!r}, so it would not be committed;"
        f" declare the field in the class, or keep it in ctx.local"
    )


def _number_for_tally(node: Any, name: str, value: Any) -> int:
    if type(value) is TallyDraft:
        return int(value)
    if not isinstance(value, int):
        raise TypeError(f"{show((*node._path(), name))} is a Tally: it takes an int, not {type(value).__name__}")
    return value


def _assigner(fields: frozenset[str], tallies: frozenset[str], probed: bool) -> Any:
    """The ``__setattr__`` of one class. ``probed``: assignments go through the model's own code."""

    def assign(face: Any, name: str, value: Any) -> None:
        node = face._theus_node
        if name not in fields and not _is_extra(face, node, name):
            _set_other(face, node, name, value)
            return
        held = node._held
        written = node._written
        if name in tallies:
            if type(value) is TallyDraft and value._node is node and value._name == name and name not in written:
                node._write(name)
                if node._added is None:
                    node._added = {}
                node._added[name] = value._delta
                node._dirty = True
                held[name] = value
                return
            value = _number_for_tally(node, name, value)
            if node._added:
                node._added.pop(name, None)
        elif name in held and held[name] is value and KINDS.get(type(value)) == FACE and name not in written:
            return  # ``draft.items += [...]`` puts back what is there
        grant = node._grant
        if grant is not None and not grant.may_write(name):
            node._refuse("write", name)
        if probed:
            value = assigned(node._base, {other: held[other] for other in written if other in held}, name, value)
        written[name] = None
        node._dirty = True
        held[name] = value

    return assign


def _frozen_setattr(self: Any, name: str, value: Any) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _frozen_delattr(self: Any, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


def _watched_setattr(cls: type) -> Any:
    """For a class with a ``__setattr__`` of its own: let it run, then note which fields it has set."""
    own: Any = cls.__setattr__

    def watched(self: Any, name: str, value: Any) -> None:
        node = self._theus_node
        held = node._held
        before = dict(held)
        own(self, name, value)
        for field in self._theus_fields:
            if held.get(field, MISSING) is not before.get(field, MISSING):
                if field != name and field not in before and field not in node._written:
                    if getattr(node._base, field, MISSING) is held[field]:
                        continue  # it was only read
                node._write(field)
                node._written[field] = None
                node._dirty = True

    return watched


def field_names(cls: type) -> list[str]:
    """The fields of a class that are kept in its instances."""
    if dataclasses.is_dataclass(cls):
        names = [field.name for field in dataclasses.fields(cls)]
    else:
        declared: Any = getattr(cls, "__struct_fields__", None) or getattr(cls, "model_fields", ())
        names = [*declared, *private_names(cls)]
    return [name for name in names if not isinstance(inspect.getattr_static(cls, name, None), property)]


class _Room:
    """A base with a dict, for the instances of a class that has none."""

    __slots__ = ("__dict__",)


def face_class(cls: type, face: type, slots: tuple[str, ...], cached: Any, body: dict[str, Any]) -> Any:
    """A generated class: a ``face`` that acts as an instance of ``cls``, or for a model stands in for one.

    ``cached(cls, name, func)``: makes the descriptor in place of a ``cached_property``.
    """
    model = is_model(cls)
    bases: tuple[type, ...] = (face,) if model else (face, cls)
    if model or not getattr(cls, "__dictoffset__", 0):
        bases += (_Room,)
    if model or not getattr(cls, "__weakrefoffset__", 0):
        slots += ("__weakref__",)
    body = {
        **(special_methods(cls) if model else {}),
        "__slots__": slots,
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "__class__": property(lambda self: cls),
        "__new__": lambda made, *args, **named: cls(*args, **named),  # ``type(self)(...)``, ``cls(...)``: a plain one
        "__dict__": vars(face)["__dict__"],  # else Python puts one of its own here
        "__match_args__": getattr(cls, "__match_args__", ()),
        "_theus_class": cls,
        **body,
    }
    if not model:
        for name in dir(cls):
            value = inspect.getattr_static(cls, name)
            if isinstance(value, functools.cached_property):
                body[name] = cached(cls, name, value.func)
    made: Any = type(cls.__name__, bases, body) if model else type(cls)(cls.__name__, bases, body)
    register(made)
    return made


def _generate(cls: type) -> type:
    names = field_names(cls)
    tallies = tally_fields(cls) & set(names)
    model = is_model(cls)
    body: dict[str, Any] = {
        "_theus_fields": frozenset(names),
        "_theus_model": model,
        "__setattr__": _assigner(frozenset(names), tallies, model and assigns_itself(cls)),
        "_theus_watched": not model and _may_bypass(cls),
    }
    for name in names:
        body[name] = _TallyField(cls, name) if name in tallies else _Field(cls, name)
    if dataclasses.is_dataclass(cls):
        own_setattr: Any = cls.__setattr__
        if cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]  # typeshed has it not
            body["__setattr__"] = _frozen_setattr
            body["__delattr__"] = _frozen_delattr
        elif own_setattr is not object.__setattr__:
            body["__setattr__"] = _watched_setattr(cls)
    made: type = face_class(cls, ObjectDraft, ("_theus_node",), _Cached, body)
    return made


def _may_bypass(cls: type) -> bool:
    """Whether the class calls a ``__setattr__`` that is not ours; then its drafts are compared at the end."""
    seldom = {"__init__", "__post_init__", "__setattr__", "__delattr__", "__new__", "__setstate__", "__getstate__"}
    for base in cls.__mro__[:-1]:
        for name, value in vars(base).items():
            code = getattr(inspect.unwrap(value) if callable(value) else getattr(value, "fget", None), "__code__", None)
            if code is not None and name not in seldom and "__setattr__" in code.co_names:
                return True
    return False


_new = object.__new__


def _maker(cls: type) -> Any:
    """The function that makes the drafts of the objects of one class: instances of a subclass generated for it."""
    made: Any = _generate(cls)
    watched = made._theus_watched
    node_class = WatchedNode if watched else ObjectNode
    set_node = vars(made)["_theus_node"].__set__
    dicts = (vars(base).get("__dict__") for base in made.__mro__)
    dict_of = next(found for found in dicts if inspect.isgetsetdescriptor(found)).__get__

    # Filled in here and not in an ``__init__``: this is a good part of a small transaction.
    def make(tx: Transaction, parent: Node | None, key: Any, grant: Grant | None, value: Any) -> Any:
        node = node_class()
        node._tx = tx
        node._parent = parent
        node._key = key
        node._grant = grant
        node._base = value
        node._reads = NOTHING
        node._shape = node._deep = node._active = False
        node._dirty = watched
        node._written = {}
        node._added = None
        node.face = face = _new(made)
        node._held = dict_of(face)
        set_node(face, node)
        tx._nodes.append(node)
        return face

    return make


KIND_MAKERS[OBJECT] = _maker
