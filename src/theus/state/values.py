"""Values at rest: how the domain is kept, and the ways into that form and out of it.

At rest a value is one of

* a *leaf*: scalars, text, bytes, dates, enums, frozen sets, read-only arrays, and everything unknown. It is
  replaced, never changed; an unknown object (a model, a data frame) is kept as the very object it is;
* a plain ``dict``, ``list`` or ``set`` up to 256 entries, ``VDict``, ``VList`` or ``VSet`` above;
* a ``deque``, or a subclass of ``dict``, ``list``, ``set`` (``defaultdict``, ``Counter``, ...), kept as it is;
* a ``tuple`` of values at rest;
* an *object*: an instance of the user's dataclass (or pydantic or msgspec model) with values at rest in its fields.

Nobody ever changes a value at rest: a commit copies each container on the way to what it changes and shares
the rest. State is a tree: an object that was assigned at two places is two objects afterwards (Immer's rule).
"""

from __future__ import annotations

import copy
import functools
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, ItemsView, Iterator, KeysView, ValuesView
from dataclasses import is_dataclass
from operator import getitem, setitem
from typing import Any, TypeVar

from theus.errors import DefinitionError, NotStorable, Path
from theus.state.access import show
from theus.state.versioned import LIMIT, MISSING, VDict, VList, VSet

__all__ = ["MISSING", "copy_rest", "ingest", "ingest_domain", "kind_of", "plain", "register"]

K = TypeVar("K")
V = TypeVar("V")


class Registry(dict[K, V]):
    """What is made for each key when it is first asked for, and kept."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[[K], V], known: dict[K, V] | None = None) -> None:
        super().__init__(known or {})
        self._make = make

    def __missing__(self, key: K) -> V:
        value = self[key] = self._make(key)
        return value


LEAF, DICT, LIST, SET, TUPLE, DEQUE, OBJECT, ARRAY, FACE = range(9)

#: type -> kind; filled as types are met, and by ``register`` for drafts and views
KINDS: dict[type, int] = dict.fromkeys((type(None), bool, int, float, complex, str, bytes, type, frozenset), LEAF)
#: those of them that are leaves, for the question that is asked most
LEAVES: set[type] = set(KINDS)
#: the types that stand for an ordinary dict, list and set; subclasses keep their own type
DICTS: set[type] = {dict, VDict}
LISTS: set[type] = {list, VList}
SETS: set[type] = {set, VSet}
KINDS.update({dict: DICT, VDict: DICT, list: LIST, VList: LIST, set: SET, VSet: SET, tuple: TUPLE, deque: DEQUE})


def kind_of(cls: type) -> int:
    """What values of this type are, at rest and for a draft."""
    kind = KINDS.get(cls)
    if kind is None:
        kind = KINDS[cls] = _classify(cls)
        if kind == LEAF and not _passes(cls):
            LEAVES.add(cls)
    return kind


def _passes(cls: type) -> bool:
    """Whether instances give what they hold once only, or show what others change: those are no values to keep."""
    if issubclass(cls, (KeysView, ValuesView, ItemsView)):
        return True
    return cls.__module__ in ("builtins", "itertools") and issubclass(cls, (Iterator, AsyncIterator, Coroutine))


_HEAP = 1 << 9  #: the flag of classes that Python code made; others (exceptions, int) keep more than attributes


def _classify(cls: type) -> int:
    for base, kind in ((tuple, TUPLE), (dict, DICT), (list, LIST), (set, SET), (deque, DEQUE)):
        if issubclass(cls, base):
            return kind
    if (is_dataclass(cls) and all(base.__flags__ & _HEAP for base in cls.__mro__[:-1])) or is_model(cls):
        return OBJECT
    if any(base.__name__ == "ndarray" and base.__module__.partition(".")[0] == "numpy" for base in cls.__mro__):
        return ARRAY
    return LEAF


def is_model(cls: type) -> bool:
    """Whether this is a pydantic or msgspec model (found by their marks, without importing either)."""
    return isinstance(getattr(cls, "__struct_fields__", None), tuple) or (
        isinstance(getattr(cls, "model_fields", None), dict) and hasattr(cls, "__pydantic_validator__")
    )


class Face:
    """Base of what users get in the place of a value at rest: drafts and views. They know their way out."""

    __slots__ = ()

    def _theus_rest(self) -> Any:
        """The value at rest that this stands for (a deep read)."""
        raise NotImplementedError

    def _theus_plain(self) -> Any:
        """A fresh plain value (a deep read)."""
        raise NotImplementedError


def register(cls: type) -> None:
    """Make a class of drafts or views known."""
    KINDS[cls] = FACE


# --- objects ---------------------------------------------------------------------------------------------------------


@functools.cache
def slots_of(cls: Any) -> tuple[str, ...]:
    """The names of all slots that instances of this class have, besides ``__dict__``."""
    names: list[str] = []
    for base in cls.__mro__:
        own = base.__dict__.get("__slots__", ())
        for name in (own,) if isinstance(own, str) else own:
            if name in ("__dict__", "__weakref__"):
                continue
            private = name.startswith("__") and not name.endswith("__")
            names.append(f"_{base.__name__.lstrip('_')}{name}" if private else name)
    return tuple(dict.fromkeys(names))


class TupleEdit:
    """A tuple while something inside it is changed."""

    __slots__ = ("items", "key", "origin", "parent")

    def __init__(self, origin: tuple[Any, ...]) -> None:
        self.origin = origin
        self.items = list(origin)
        self.parent: Any = None
        self.key: Any = None

    def __getitem__(self, index: int) -> Any:
        return self.items[index]

    def __setitem__(self, index: int, value: Any) -> None:
        self.items[index] = value


KINDS[TupleEdit] = TUPLE


def copy_rest(value: Any) -> Any:
    """A copy of a value at rest that may be changed: shallow, or the next version of a big container.

    ``__init__`` and ``__post_init__`` of the user's classes do not run.
    """
    return COPIERS[type(value)](value)


def set_part(value: Any, key: Any, part: Any) -> None:
    """Set an entry or attribute of a value at rest that may be changed."""
    SETTERS[type(value)](value, key, part)


def _copier(cls: Any) -> Callable[[Any], Any]:
    new = object.__new__
    if kind_of(cls) == TUPLE:
        return TupleEdit
    if kind_of(cls) != OBJECT:
        return copy.copy  # subclasses of dict, list, set
    if is_model(cls):
        return copy.copy
    slots = slots_of(cls)
    own: Any = cls.__setattr__
    if not slots and own is object.__setattr__:

        def copy_dict(value: Any) -> Any:
            made: Any = new(cls)
            made.__dict__ = value.__dict__.copy()
            return made

        return copy_dict

    def copy_all(value: Any) -> Any:
        made: Any = new(cls)
        if hasattr(value, "__dict__"):
            made.__dict__.update(value.__dict__)
        for name in slots:
            part = getattr(value, name, MISSING)
            if part is not MISSING:
                object.__setattr__(made, name, part)
        return made

    return copy_all


#: type -> function that gives the next version of a container or object at rest: one that may be changed
COPIERS: Registry[type, Callable[[Any], Any]] = Registry(
    _copier,
    {
        dict: dict.copy,
        list: list.copy,
        set: set.copy,
        deque: deque.copy,
        VDict: VDict.edit,
        VList: VList.edit,
        VSet: VSet.edit,
    },
)


def _getter(cls: type) -> Callable[[Any, Any], Any]:
    return getattr if kind_of(cls) == OBJECT else getitem


#: type -> function(value at rest, key) that gives an entry or attribute
GETTERS: Registry[type, Callable[[Any, Any], Any]] = Registry(_getter, {VDict: VDict.get})


def _setter(cls: Any) -> Callable[[Any, Any, Any], Any]:
    if kind_of(cls) == DICT:
        return _set_entry
    if kind_of(cls) != OBJECT:
        return setitem
    if private_names(cls):
        return _set_private
    # ``setattr`` is the same where the class has no code of its own, and twice as fast
    return setattr if cls.__setattr__ is object.__setattr__ else _set_attribute


#: type -> function(value at rest, key, part) that sets an entry, or an attribute past whatever the class does then; it
#: gives true for a new key of a dict
SETTERS: Registry[type, Callable[[Any, Any, Any], Any]] = Registry(_setter, {VDict: VDict.put, VList: VList.put})


def _set_entry(value: dict[Any, Any], key: Any, part: Any) -> bool:
    new = key not in value
    value[key] = part
    return new


def private_names(cls: Any) -> tuple[str, ...]:
    """The private attributes of a pydantic model: declared in the class, kept in a dict beside the fields."""
    return tuple(getattr(cls, "__private_attributes__", None) or ()) if is_model(cls) else ()


def _set_private(value: Any, name: str, part: Any) -> None:
    if name not in type(value).__private_attributes__:
        object.__setattr__(value, name, part)
        return
    if value.__pydantic_private__ is None:
        object.__setattr__(value, "__pydantic_private__", {})
    value.__pydantic_private__[name] = part


def _set_attribute(value: Any, name: str, part: Any) -> None:
    try:
        object.__setattr__(value, name, part)
    except TypeError:  # msgspec before Python 3.12
        getattr(type(value), name).__set__(value, part)


def drop_part(value: Any, name: str) -> None:
    """Delete an attribute of an object at rest."""
    private = getattr(value, "__pydantic_private__", None)
    if private and name in private:
        del private[name]
    else:
        object.__delattr__(value, name)


def parts_of(value: Any) -> dict[str, Any]:
    """The attributes that an instance has, by name: its fields and whatever else was set on it."""
    cls: Any = type(value)
    names: tuple[str, ...] = getattr(cls, "__struct_fields__", None) or slots_of(cls)
    parts = {name: part for name in names if (part := getattr(value, name, MISSING)) is not MISSING}
    parts.update(getattr(value, "__dict__", ()))
    parts.update(parts.pop("__pydantic_private__", None) or ())
    return parts


def map_object(value: Any, change: Callable[[str, Any], Any]) -> Any:
    """A copy of an object with ``change(name, part)`` in place of each part. Cached properties are left out."""
    cls: Any = type(value)
    made = copy_rest(value)
    for name, part in parts_of(value).items():
        if isinstance(getattr(cls, name, None), functools.cached_property):
            made.__dict__.pop(name, None)
        elif (new := change(name, part)) is not part:
            set_part(made, name, new)
    return made


def rebuild_tuple(value: tuple[Any, ...], items: list[Any]) -> tuple[Any, ...]:
    """A tuple of the same (perhaps named) type with other items."""
    return tuple.__new__(type(value), items)


def copy_as(value: Any, entries: Any) -> Any:
    """A container of the same type (a subclass of dict, list or set, or a deque) with other entries."""
    cls: Any = type(value)
    if issubclass(cls, deque):
        return cls(entries, value.maxlen)
    new = value.copy() if hasattr(value, "copy") else cls(value)
    if type(new) is not cls:
        new = cls.__new__(cls)
    new.clear()
    if issubclass(cls, list):
        new.extend(entries)
    else:
        new.update(entries)
    return new


# --- in --------------------------------------------------------------------------------------------------------------


def ingest(value: Any, path: Path, process: str = "", _inside: tuple[int, ...] = ()) -> Any:
    """A value as the user made it -> the same value at rest, sharing nothing with the user's objects.

    Drafts inside are resolved; unknown objects are kept as they are. A cycle is refused.
    """
    if type(value) in LEAVES:
        return value
    cls = value.__class__ if type(value) in KINDS else type(value)
    kind = kind_of(type(value))
    if kind == LEAF:
        if _passes(cls):
            raise _no_value(value, path, process)
        return value
    if kind == FACE:
        return value._theus_rest()
    if kind == ARRAY:
        return freeze_array(value)
    if id(value) in _inside:
        raise NotStorable(
            f"{_by(process)}the value at {show(path)} contains itself ({cls.__name__}); state is a tree:"
            " keep a key or an id of the other object instead of the object",
            process=process,
            path=show(path),
            what=f"{cls.__name__} that contains itself",
        )
    inside = (*_inside, id(value))
    if kind == DICT:
        entries = {
            key if kind_of(type(key)) == LEAF else plain(key): ingest(item, (*path, key), process, inside)
            for key, item in value.items()
        }
        if type(value) in DICTS:
            return VDict(entries) if len(entries) > LIMIT else entries
        return copy_as(value, entries)
    if kind == SET:
        members = {member if kind_of(type(member)) == LEAF else plain(member) for member in value}
        if type(value) in SETS:
            return VSet(members) if len(members) > LIMIT else members
        return copy_as(value, members)
    if kind == OBJECT:
        return map_object(value, lambda name, part: ingest(part, (*path, name), process, inside))
    items = [ingest(item, (*path, index), process, inside) for index, item in enumerate(value)]
    if kind == TUPLE:
        same = all(new is old for new, old in zip(items, value, strict=True))
        return value if same else rebuild_tuple(value, items)
    if type(value) in LISTS:
        return VList(items) if len(items) > LIMIT else items
    return copy_as(value, items)


def _no_value(value: Any, path: Path, process: str) -> NotStorable:
    name = type(value).__name__
    if isinstance(value, Coroutine):
        called = getattr(value, "__qualname__", name)
        what, advice = f"the coroutine {called}(...), which has not run", "an await is missing"
    else:
        what, advice = f"a {name}, which is no value to keep: it is used up, or changes with another", "write list(...)"
    return NotStorable(
        f"{_by(process)}{show(path)} was given {what}; {advice}", process=process, path=show(path), what=f"a {name}"
    )


def freeze_array(array: Any) -> Any:
    """A numpy array that nobody can write to: itself if that is so already, else a copy."""
    if is_fixed(array):
        return array
    frozen = array.copy()
    frozen.setflags(write=False)
    return frozen


#: types whose instances are memory that arrays lie in -> whether nobody can write to this one, once all views of it that
#: are in use are read-only
FIXED: dict[type, Callable[[Any], bool]] = {bytes: lambda memory: True}


def is_fixed(value: Any) -> bool:
    """Whether nobody can write to the memory of this array or view. (An array that owns it could be made writeable again.)"""
    while True:
        cls = type(value)
        if cls in FIXED:
            return FIXED[cls](value)
        if cls is memoryview:
            if not value.readonly:
                return False
            value = value.obj
        elif kind_of(cls) == ARRAY:
            if value.flags.writeable:
                return False
            if value.base is None:
                return True
            value = value.base
        else:
            return False


def memory_of(value: Any) -> Any:
    """What the memory of an array or view belongs to."""
    while True:
        cls = type(value)
        if cls is memoryview:
            value = value.obj
        elif kind_of(cls) == ARRAY and value.base is not None:
            value = value.base
        else:
            return value


def ingest_domain(domain: Any) -> Any:
    """The user's initial domain, at rest; refuses what can be no domain."""
    if isinstance(domain, type):
        raise DefinitionError(
            f"the domain must be an instance, not the class {domain.__name__}: write {domain.__name__}()"
        )
    kind = kind_of(type(domain))
    if kind == OBJECT or (kind == DICT and type(domain) is dict) or (kind == FACE and isinstance(domain, Face)):
        return ingest(domain, ())
    raise DefinitionError(
        f"{type(domain).__name__} cannot be the domain: it must be an instance of a dataclass,"
        " a pydantic or msgspec model, or a plain dict (TypedDict)"
    )


def _by(process: str) -> str:
    return f"process {process!r}: " if process else ""


# --- out -------------------------------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """A draft, view or value of the domain -> plain Python: fresh dicts, lists, sets and instances all the way down.

    Changing the result never touches the state. Use it where C code needs a real dict or list:
    ``json.dumps(plain(ctx.domain.users))``. It reads everything below. Drafts and views inside ordinary
    containers are resolved too.
    """
    kind = kind_of(type(value))
    if kind == LEAF or kind == ARRAY:
        return value
    if kind == FACE:
        return value._theus_plain()
    if kind == DICT:
        entries = {key if kind_of(type(key)) == LEAF else plain(key): plain(item) for key, item in value.items()}
        return entries if type(value) in DICTS else copy_as(value, entries)
    if kind == SET:
        members = {member if kind_of(type(member)) == LEAF else plain(member) for member in value}
        return members if type(value) in SETS else copy_as(value, members)
    if kind == OBJECT:
        return map_object(value, lambda name, part: plain(part))
    items = [plain(item) for item in value]
    if kind == TUPLE:
        same = all(new is old for new, old in zip(items, value, strict=True))
        return value if same else rebuild_tuple(value, items)
    return items if type(value) in LISTS else copy_as(value, items)


def holds_face(value: Any) -> bool:
    """Whether there is a draft or view in this value, also inside builtin containers and dataclasses."""
    kind = kind_of(type(value))
    if kind == LEAF or kind == ARRAY:
        return False
    if kind == FACE:
        return True
    return _holds_face(value, set())


def _holds_face(value: Any, seen: set[int]) -> bool:
    kind = kind_of(type(value))
    if kind == LEAF or kind == ARRAY:
        return False
    if kind == FACE:
        return True
    if id(value) in seen:
        return False
    seen.add(id(value))
    if kind == DICT:
        return any(_holds_face(part, seen) for item in value.items() for part in item)
    if kind == OBJECT:
        return any(_holds_face(part, seen) for part in parts_of(value).values())
    return any(_holds_face(part, seen) for part in value)


def detach(value: Any, used: bool = True) -> Any:
    """What leaves a process: drafts and views in it become plain values. The same object if it has none.

    ``used``: whether the transaction was touched at all; if not, there can be no draft to look for.
    """
    if not used or not holds_face(value):
        return value
    return _detach(value, {})


def _detach(value: Any, done: dict[int, Any]) -> Any:
    """Copies only the containers on the way to a draft; an object that occurs twice stays one object."""
    kind = kind_of(type(value))
    if kind == LEAF or kind == ARRAY:
        return value
    if kind == FACE:
        return value._theus_plain()
    if id(value) in done:
        return done[id(value)]
    if not holds_face(value):
        return value
    done[id(value)] = value  # a cycle through here keeps the original
    new: Any
    if kind == DICT:
        entries = {_detach(key, done): _detach(item, done) for key, item in value.items()}
        new = entries if type(value) is dict else copy_as(value, entries)
    elif kind == SET:
        new = copy_as(value, {_detach(member, done) for member in value})
    elif kind == OBJECT:
        new = map_object(value, lambda name, part: _detach(part, done))
    elif kind == TUPLE:
        new = rebuild_tuple(value, [_detach(item, done) for item in value])
    else:
        items = [_detach(item, done) for item in value]
        new = items if type(value) is list else copy_as(value, items)
    done[id(value)] = new
    return new
