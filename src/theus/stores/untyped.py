"""Values without a declared type, as JSON and back: what JSON has stands for itself, anything else says what it is.

A tag is an object with one key that begins with ``$``: ``{"$set": [1, 2]}``. A dict of the user's that has such a key, or one
that is no text, is written as ``{"$dict": [[key, value], ...]}``, so no data can pass for a tag. Arrays and long bytes go
beside the JSON as *frames*; ``{"$frame": 0}`` stands for the first of them.

Reading gives values at rest (``state/values.py``). It makes builtin values, arrays, and what ``theus.codec`` names: nothing
else, whatever the data say.
"""

from __future__ import annotations

import math
from base64 import b64decode, b64encode
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from theus.state.codecs import codec_named, codec_of
from theus.state.values import OBJECT, kind_of
from theus.state.versioned import LIMIT, VDict, VList, VSet

Frames = list[Any]
LONG = 4096  #: bytes from this length on go beside the JSON


class Unfit(Exception):
    """Something cannot be written or read. The containers around it put their key in front of ``path``."""

    def __init__(self, what: str, advice: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.advice = advice
        self.path: list[Any] = []

    def below(self, key: Any) -> Unfit:
        """The same, seen from one container further up."""
        self.path.insert(0, key)
        return self


# --- leaves ----------------------------------------------------------------------------------------------------------


class Leaf(NamedTuple):
    """How values of one builtin type are written: as text or as a list."""

    tag: str
    json: type  #: str or list
    write: Callable[[Any], Any]
    read: Callable[[Any], Any]


def _zone(zone: tzinfo | None) -> str:
    """``[Europe/Berlin]`` or ``[+01:00]``, with a name if the offset was given one."""
    if zone is None:
        return ""
    if type(zone) is ZoneInfo and zone.key is not None:
        return f"[{zone.key}]"
    if type(zone) is timezone:
        offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]  # typeshed has it not
        return f"[{' '.join([time(tzinfo=timezone(offset)).isoformat()[8:], *name])}]"
    raise Unfit(f"a zone of type {name_of(type(zone))}", "use zoneinfo.ZoneInfo or datetime.timezone")


def _read_zone(text: str) -> tzinfo | None:
    if not text:
        return None
    text = text[1:-1]
    if text[0] not in "+-":
        return ZoneInfo(text)
    offset, space, name = text.partition(" ")
    # As a time of day: before Python 3.14, ``fromisoformat`` takes an offset below a second for UTC.
    east = time.fromisoformat(offset[1:])
    shift = timedelta(hours=east.hour, minutes=east.minute, seconds=east.second, microseconds=east.microsecond)
    if offset[0] == "-":
        shift = -shift
    return timezone(shift, name) if space else timezone(shift)


def _write_moment(value: Any) -> str:
    text = value.replace(tzinfo=None, fold=0).isoformat()
    return f"{text}{_zone(value.tzinfo)}{'!' if value.fold else ''}"


def _moment_reader(cls: Any) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        fold = text.endswith("!")
        local, bracket, zone = text.removesuffix("!").partition("[")
        return cls.fromisoformat(local).replace(tzinfo=_read_zone(bracket + zone), fold=int(fold))

    return read


def _write_complex(value: complex) -> list[Any]:
    return [_write_float(value.real, []), _write_float(value.imag, [])]


LEAVES: dict[type, Leaf] = {
    datetime: Leaf("$datetime", str, _write_moment, _moment_reader(datetime)),
    time: Leaf("$time", str, _write_moment, _moment_reader(time)),
    date: Leaf("$date", str, date.isoformat, date.fromisoformat),
    timedelta: Leaf("$timedelta", list, lambda v: [v.days, v.seconds, v.microseconds], lambda d: timedelta(*d)),
    timezone: Leaf("$zone", str, _zone, _read_zone),
    ZoneInfo: Leaf("$zone", str, _zone, _read_zone),
    Decimal: Leaf("$decimal", str, str, Decimal),
    UUID: Leaf("$uuid", str, str, UUID),
    complex: Leaf("$complex", list, _write_complex, lambda d: complex(read(d[0], []), read(d[1], []))),
    type(Path()): Leaf("$path", str, str, Path),
}


def write_bytes(value: bytes, frames: Frames) -> Any:
    """Text if it is short, else a frame."""
    return _frame(value, frames) if len(value) >= LONG else b64encode(value).decode("ascii")


def _frame(value: Any, frames: Frames) -> dict[str, int]:
    frames.append(value)
    return {"$frame": len(frames) - 1}


def _write_tagged_bytes(value: bytes, frames: Frames) -> Any:
    data = write_bytes(value, frames)
    return data if type(data) is dict else {"$bytes": data}


def _write_int(value: int, frames: Frames) -> Any:
    return value if -(2**63) <= value < 2**63 else {"$int": hex(value)}


def _write_float(value: float, frames: Frames) -> Any:
    return value if math.isfinite(value) else {"$float": repr(value)}


# --- containers ------------------------------------------------------------------------------------------------------

_PLAIN = {str, bool, type(None)}


def _write_list(values: Any, frames: Frames) -> list[Any]:
    if type(values) is not list:
        values = list(values)
    kinds = set(map(type, values))
    if (
        kinds <= _PLAIN
        or (kinds == {int} and min(values) >= -(2**63) and max(values) < 2**63)
        or (kinds == {float} and all(map(math.isfinite, values)))
    ):
        return values  # type: ignore[no-any-return]  # a list of plain values is what is written
    return each_of(values, write, frames)


def each_of(values: Iterable[Any], convert: Callable[[Any, Frames], Any], frames: Frames) -> list[Any]:
    """What ``convert`` (writing or reading) makes of each value."""
    made: list[Any] = []
    try:
        for value in values:
            made.append(convert(value, frames))
    except Unfit as unfit:
        raise unfit.below(len(made)) from None
    return made


def in_order(items: list[Any]) -> list[Any]:
    """The written members of a set, always in the same order."""
    try:
        return sorted(items)
    except TypeError:
        return sorted(items, key=repr)


def _write_dict(value: Any, frames: Frames) -> dict[str, Any]:
    if not has_plain_keys(value):
        return {"$dict": _write_pairs(value, frames)}
    made: dict[str, Any] = {}
    key = None
    try:
        for key, part in value.items():
            cls = type(part)
            made[key] = part if cls is str or cls is bool else write(part, frames)
    except Unfit as unfit:
        raise unfit.below(key) from None
    return made


def has_plain_keys(keys: Iterable[Any]) -> bool:
    """Whether these keys can be those of a JSON object and none looks like a tag."""
    return set(map(type, keys)) <= {str} and "$" not in {key[:1] for key in keys}


def _write_pairs(value: Any, frames: Frames) -> list[Any]:
    return write_pairs(value, write, lambda key: write, frames)


def write_pairs(
    value: Any,
    write_key: Callable[[Any, Frames], Any],
    writer_at: Callable[[Any], Callable[[Any, Frames], Any]],
    frames: Frames,
) -> list[Any]:
    """The entries of a dict whose keys JSON cannot have."""
    made = []
    key = None
    try:
        for key, part in value.items():
            made.append([write_key(key, frames), writer_at(key)(part, frames)])
    except Unfit as unfit:
        raise unfit.below(key) from None
    return made


#: what a defaultdict may call: builtin types only, by name
_FACTORIES: dict[str, Any] = {
    cls.__name__: cls for cls in (int, float, str, bool, list, dict, set, tuple, bytes, frozenset, deque)
}


def write_factory(value: defaultdict[Any, Any]) -> str | None:
    """The name of a defaultdict's factory."""
    factory: Any = value.default_factory
    if factory is None:
        return None
    name = getattr(factory, "__name__", "")
    if _FACTORIES.get(name) is not factory:
        raise Unfit(f"a defaultdict that calls {factory!r}", "let it call a builtin type, or use a plain dict")
    return str(name)


def read_factory(name: str | None) -> Any:
    """What a defaultdict calls."""
    if name is not None and name not in _FACTORIES:
        raise Unfit(f"a defaultdict that calls {name!r}")
    return None if name is None else _FACTORIES[name]


# --- writing ---------------------------------------------------------------------------------------------------------

Writer = Callable[[Any, Frames], Any]

_WRITERS: dict[type, Writer] = {
    str: lambda value, frames: value,
    bool: lambda value, frames: value,
    type(None): lambda value, frames: value,
    int: _write_int,
    float: _write_float,
    bytes: _write_tagged_bytes,
    dict: _write_dict,
    VDict: _write_dict,
    list: _write_list,
    VList: _write_list,
    tuple: lambda value, frames: {"$tuple": _write_list(list(value), frames)},
    set: lambda value, frames: {"$set": in_order(_write_list(list(value), frames))},
    VSet: lambda value, frames: {"$set": in_order(_write_list(list(value), frames))},
    frozenset: lambda value, frames: {"$frozenset": in_order(_write_list(list(value), frames))},
    deque: lambda value, frames: {"$deque": [_write_list(list(value), frames), value.maxlen]},
    OrderedDict: lambda value, frames: {"$ordered": _write_pairs(value, frames)},
    Counter: lambda value, frames: {"$counter": _write_pairs(value, frames)},
    defaultdict: lambda value, frames: {"$defaultdict": [write_factory(value), _write_pairs(value, frames)]},
}


def _leaf_writer(leaf: Leaf) -> Writer:
    return lambda value, frames: {leaf.tag: leaf.write(value)}


_WRITERS.update({cls: _leaf_writer(leaf) for cls, leaf in LEAVES.items()})


def write(value: Any, frames: Frames) -> Any:
    """A value at rest -> what JSON can hold."""
    writer = _WRITERS.get(type(value))
    return writer(value, frames) if writer is not None else _write_other(value, frames)


def _write_other(value: Any, frames: Frames) -> Any:
    cls = type(value)
    if cls is Kept:
        return value.written(frames)
    said = codec_of(cls)
    if said is not None:
        data = said.encode(value)
        if not isinstance(data, bytes):
            raise Unfit(f"a {name_of(cls)} whose codec gave {type(data).__name__}", "its encode must give bytes")
        return {"$codec": [said.name, write_bytes(data, frames)]}
    numpy = _numpy_name(cls)
    if numpy == "ndarray":
        return {"$array": [_write_dtype(value.dtype), list(value.shape), _frame(value.tobytes(), frames)]}
    if numpy:
        return {"$scalar": [_write_dtype(value.dtype), b64encode(value.tobytes()).decode("ascii")]}
    raise undeclared(cls)


class Undeclared(Unfit):
    """A value whose class no declared type names. ``elsewhere``: the advice for where no type can be declared."""

    def __init__(self, cls: type) -> None:
        name = cls.__name__
        self.elsewhere = f"keep plain data instead, or register theus.codec({name}, encode, decode)"
        super().__init__(
            f"a {name_of(cls)}, whose class no declared type names",
            f"annotate the field or container with it ({name}, list[{name}], {name} | Other; its module must be able to"
            f" resolve the annotation), or register theus.codec({name}, encode, decode)",
        )


def undeclared(cls: type) -> Unfit:
    """Why a value of this type cannot be written where no type is declared."""
    unfit = Undeclared(cls)
    if kind_of(cls) == OBJECT or hasattr(cls, "__members__") or hasattr(cls, "_fields"):
        return unfit
    return Unfit(f"a {name_of(cls)}, which stores do not know", unfit.elsewhere)


def name_of(cls: type) -> str:
    """The class as one would import it."""
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


# --- numpy, which is loaded only if the user's values are of it -----------------------------------------------------


def _numpy_name(cls: type) -> str:
    """``ndarray`` or ``generic`` if this is numpy's array type or one of its scalar types."""
    if cls.__module__ != "numpy":
        return ""
    return next((base.__name__ for base in cls.__mro__ if base.__name__ in ("ndarray", "generic")), "")


def _write_dtype(dtype: Any) -> Any:
    import numpy

    if dtype.hasobject:
        raise Unfit(f"an array of {dtype}", "use a dtype of numbers, text of fixed length or dates, or a list")
    described = numpy.lib.format.dtype_to_descr(dtype)
    if _read_dtype(described) != dtype:
        raise Unfit(f"an array of {dtype}, which numpy alone cannot name", "convert it to a dtype of numpy's own")
    return described


def _read_dtype(described: Any) -> Any:
    import numpy

    return numpy.dtype(_as_fields(described))


def _as_fields(described: Any) -> Any:
    """JSON has no tuples, and a structured dtype is made of them."""
    if not isinstance(described, list):
        return described
    return [
        (tuple(name) if isinstance(name, list) else name, _as_fields(kind), *(tuple(shape) for shape in rest))
        for name, kind, *rest in described
    ]


def _read_array(data: Any, frames: Frames) -> Any:
    import numpy

    described, shape, raw = data
    array = numpy.frombuffer(read(raw, frames), dtype=_read_dtype(described)).reshape(shape).copy()
    array.setflags(write=False)
    return array


def _read_scalar(data: Any, frames: Frames) -> Any:
    import numpy

    return numpy.frombuffer(b64decode(data[1]), dtype=_read_dtype(data[0]))[0]


# --- reading ---------------------------------------------------------------------------------------------------------


def rest_list(values: list[Any]) -> Any:
    """A fresh list at rest."""
    return VList(values) if len(values) > LIMIT else values


def rest_dict(entries: dict[Any, Any]) -> Any:
    """A fresh dict at rest."""
    return VDict(entries) if len(entries) > LIMIT else entries


def rest_set(members: set[Any]) -> Any:
    """A fresh set at rest."""
    return VSet(members) if len(members) > LIMIT else members


def read(data: Any, frames: Frames) -> Any:
    """What JSON held -> the value at rest. Takes over the containers of ``data``."""
    cls = type(data)
    if cls is list:
        return rest_list(_read_items(data, frames))
    return _read_object(data, frames) if cls is dict else data


def _read_items(data: list[Any], frames: Frames) -> list[Any]:
    kinds = set(map(type, data))
    return each_of(data, read, frames) if list in kinds or dict in kinds else data


def _read_object(data: dict[str, Any], frames: Frames) -> Any:
    if len(data) == 1:
        (tag,) = data
        if tag[:1] == "$":
            return read_tagged(tag, data[tag], frames)
    key = None
    try:
        for key, part in data.items():
            cls = type(part)
            if cls is list or cls is dict:
                data[key] = read(part, frames)
    except Unfit as unfit:
        raise unfit.below(key) from None
    return rest_dict(data)


def _read_pairs(data: Any, frames: Frames) -> dict[Any, Any]:
    return {read(key, frames): read(part, frames) for key, part in data}


def _read_codec(data: Any, frames: Frames) -> Any:
    name, raw = data
    said = codec_named(name)
    if said is None:
        raise Unfit(f"a {name}", f"register its codec before the store is opened: theus.codec({name}, encode, decode)")
    return said.decode(read_bytes(raw, frames))


def read_bytes(data: Any, frames: Frames) -> bytes:
    """Of what ``write_bytes`` made."""
    return b64decode(data) if type(data) is str else bytes(frames[data["$frame"]])


def _read_deque(data: Any, frames: Frames) -> Any:
    items, length = data
    return deque(_read_items(items, frames), length)


_READERS: dict[str, Callable[[Any, Frames], Any]] = {
    "$frame": lambda data, frames: bytes(frames[data]),
    "$bytes": lambda data, frames: b64decode(data),
    "$int": lambda data, frames: int(data, 16),
    "$float": lambda data, frames: float(data),
    "$text": lambda data, frames: bytes.fromhex(data).decode("utf-8", "surrogatepass"),
    "$dict": lambda data, frames: rest_dict(_read_pairs(data, frames)),
    "$tuple": lambda data, frames: tuple(_read_items(data, frames)),
    "$set": lambda data, frames: rest_set(set(_read_items(data, frames))),
    "$frozenset": lambda data, frames: frozenset(_read_items(data, frames)),
    "$deque": _read_deque,
    "$ordered": lambda data, frames: OrderedDict(_read_pairs(data, frames)),
    "$counter": lambda data, frames: Counter(_read_pairs(data, frames)),
    "$defaultdict": lambda data, frames: defaultdict(read_factory(data[0]), _read_pairs(data[1], frames)),
    "$array": _read_array,
    "$scalar": _read_scalar,
    "$codec": _read_codec,
    "$any": read,
}


def _leaf_reader(leaf: Leaf) -> Callable[[Any, Frames], Any]:
    return lambda data, frames: leaf.read(data)


_READERS.update({leaf.tag: _leaf_reader(leaf) for leaf in LEAVES.values()})


def read_tagged(tag: str, data: Any, frames: Frames) -> Any:
    """The value that a tag stands for."""
    reader = _READERS.get(tag)
    if reader is None:
        raise Unfit(f"a value that is marked {tag!r}", "a newer version of Theus, or a declared type, wrote it")
    return reader(data, frames)


# --- what this program does not know, kept aside --------------------------------------------------------------------


class Kept:
    """A stored field that the class does not have (any more, or yet), as it was: it is written back with its object."""

    __slots__ = ("_data",)

    def __init__(self, data: Any, frames: Frames) -> None:
        self._data = _with_frames(data, frames)

    def written(self, frames: Frames) -> Any:
        """As JSON again."""
        return _without_frames(self._data, frames)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Kept) and self._data == other._data

    def __hash__(self) -> int:
        return hash(repr(self._data))

    def __repr__(self) -> str:
        return f"<kept aside: {self._data!r}>"


def _with_frames(data: Any, frames: Frames) -> Any:
    if type(data) is list:
        return [_with_frames(part, frames) for part in data]
    if type(data) is not dict:
        return data
    if len(data) == 1 and "$frame" in data:
        return bytes(frames[data["$frame"]])
    return {key: _with_frames(part, frames) for key, part in data.items()}


def _without_frames(data: Any, frames: Frames) -> Any:
    if type(data) is list:
        return [_without_frames(part, frames) for part in data]
    if type(data) is dict:
        return {key: _without_frames(part, frames) for key, part in data.items()}
    return _frame(data, frames) if type(data) is bytes else data
