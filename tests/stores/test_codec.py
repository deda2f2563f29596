"""Values at rest go into bytes and come back the same, with their types; what cannot is refused, in words that help."""

from __future__ import annotations

import collections
import dataclasses
import enum
import gc
import math
import threading
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from functools import cached_property, partial
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    TypedDict,
    TypeVar,
    Union,
)
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import numpy
import pydantic
import pytest
from hypothesis import given, settings, strategies as st

import theus
from theus import NotStorable, StoreError, Tally
from theus.state.values import ingest, parts_of
from theus.state.versioned import VDict, VList, VSet
from theus.stores.codec import Codec

T = TypeVar("T")
U = TypeVar("U")


class Color(enum.Enum):
    RED = 1
    GREEN = "green"
    ROUGE = 1  # noqa: PIE796


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Right(enum.Flag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: int
    y: float = 0.5


@dataclass
class Item:
    name: str
    price: float = 0.0
    tags: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Place:
    shelf: int
    color: Color = Color.RED


@dataclass
class Bound(Item):
    place: Place | None = None


@dataclass
class Box(Generic[T]):
    content: T
    more: list[T] = field(default_factory=list)


@dataclass
class Crate(Box[U]):
    label: U | None = None


@dataclass
class ItemBox(Box[Item]):
    pass


class User(pydantic.BaseModel):
    name: str
    born: date = date(2000, 1, 1)
    friends: list[User] = []
    _secret: int = 0


class Open(pydantic.BaseModel, extra="allow"):
    name: str = "x"


class Event(msgspec.Struct):
    at: datetime
    note: str = ""
    points: list[Point] = []


class Fixed(msgspec.Struct, frozen=True, kw_only=True):
    number: int


class Row(TypedDict):
    id: int
    when: NotRequired[datetime]


@dataclass
class Tree:
    value: int
    children: list[Tree] = field(default_factory=list)


NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
Cents = NewType("Cents", int)
Json = Union[None, bool, int, float, str, "list[Json]", "dict[str, Json]"]


def canon(value: Any) -> Any:
    """What a value is, with all types: equal only for values that nobody can tell apart."""
    cls = type(value)
    if cls in (dict, VDict, OrderedDict, Counter):
        return cls.__name__, [(canon(key), canon(part)) for key, part in value.items()]
    if cls is defaultdict:
        return cls.__name__, value.default_factory, [(canon(key), canon(part)) for key, part in value.items()]
    if cls in (set, VSet, frozenset):
        return cls.__name__, sorted(map(repr, map(canon, value)))
    if cls in (list, VList) or isinstance(value, tuple):
        return cls, [canon(part) for part in value]
    if cls is deque:
        return cls, value.maxlen, [canon(part) for part in value]
    if isinstance(value, numpy.ndarray | numpy.generic):
        return cls, value.dtype, value.shape, value.tobytes()
    if dataclasses.is_dataclass(value) or isinstance(value, pydantic.BaseModel | msgspec.Struct):
        return cls, [(name, canon(part)) for name, part in sorted(parts_of(value).items())]
    return cls, hex(value) if cls is int else repr(value)


numbers = st.decimals().filter(lambda number: not number.is_snan())  # a signaling NaN has no hash


def survives(value: Any, hint: Any = Any) -> bytes:
    """The value comes back as it was: as part of a domain, as the value of an operation, by itself."""
    codec = Codec(hint)
    rest = ingest(value, ())
    data = codec.encode_state(rest)
    assert canon(codec.decode_state(data)) == canon(rest)
    assert codec.encode_state(codec.decode_state(data)) == data
    assert canon(Codec(Any).decode(codec.encode(value, hint), hint)) == canon(value)
    (operation,) = codec.decode_ops(codec.encode_ops([("set", (), rest)]))
    assert canon(operation[2]) == canon(rest)
    return data


# --- values without a declared type ----------------------------------------------------------------------------------

zones = st.one_of(
    st.none(),
    st.sampled_from([UTC, ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Kolkata"), timezone(timedelta(hours=1), "X")]),
    st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23))),
)
texts = st.text(st.characters(), max_size=8) | st.sampled_from(
    ["$set", "$any", "\ud800", "a\udfff", "", "\0", "\U0001f600"]
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 10**300]),
    st.floats(),
    texts,
)
leaves = st.one_of(
    scalars,
    st.complex_numbers(),
    st.binary(max_size=20),
    st.sampled_from([b"x" * 4095, b"y" * 4096, Path("a/b"), UTC, ZoneInfo("Europe/Berlin")]),
    st.datetimes(timezones=zones) | st.builds(datetime.replace, st.datetimes(), fold=st.just(1)),
    st.times() | st.builds(time.replace, st.times(), tzinfo=st.just(UTC), fold=st.just(1)),
    st.dates(),
    st.timedeltas(),
    numbers,
    st.uuids(),
)
keys = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3), max_leaves=4
)
untyped = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.sets(keys, max_size=4),
        st.frozensets(keys, max_size=4),
        st.dictionaries(texts, inner, max_size=4),
        st.dictionaries(keys, inner, max_size=4),
        st.builds(deque, st.lists(inner, max_size=4), st.none() | st.integers(0, 5)),
        st.dictionaries(keys, inner, max_size=3).map(OrderedDict),
        st.dictionaries(keys, inner, max_size=3).map(lambda entries: defaultdict(list, entries)),
        st.dictionaries(keys, st.integers(), max_size=3).map(Counter),
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(untyped)
def test_builtin_values_come_back_as_they_were(value: Any) -> None:
    survives(value)


@pytest.mark.parametrize(
    "value",
    [
        dict.fromkeys(range(300)),
        {str(number): {"$set": 1} for number in range(300)},
        list(range(257)),
        [0.5] * 300 + [math.inf],
        [2**70] * 300,
        set(range(257)),
        ["a"] * 300 + ["\ud800"],
        {"\ud800": "\ud800", "b": {"\udfff"}},
        {"$frame": 0},
        {"$dict": {"$any": 1}},
        numpy.arange(12.0).reshape(3, 4),
        numpy.array(5, "i2"),
        numpy.zeros((0, 3), ">u4"),
        numpy.array(["2024-01-01"], "M8[ns]"),
        numpy.array([("a", 1, [1, 2])], [("name", "U3"), ("inner", "<i4"), ("grid", "f4", (2,))]),
        numpy.float64(0.1),
        10**5000,
        Decimal("sNaN"),
        numpy.bool_(True),
        {"a": [numpy.ones(3), b"z" * 5000, (numpy.ones(2, "c8"), b"")]},
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_big_or_odd_comes_back_too(value: Any) -> None:
    survives(value)


def test_arrays_come_back_read_only_and_stand_beside_the_json() -> None:
    codec = Codec(Any)
    array = ingest(numpy.arange(1000.0), ())
    data = codec.encode_state({"x": array})
    back = codec.decode_state(data)["x"]
    assert not back.flags.writeable
    assert back.base is None
    assert array.tobytes() in data


def test_big_containers_are_at_rest_after_loading_and_plain_as_values() -> None:
    codec = Codec(dict[str, list[Item]])
    rest = ingest({"a": [Item("x")] * 300}, ())
    assert type(codec.decode_state(codec.encode_state(rest))["a"]) is VList
    assert (
        type(codec.decode(codec.encode({"a": [Item("x")] * 300}, dict[str, list[Item]]), dict[str, list[Item]])["a"])
        is list
    )


# --- declared types --------------------------------------------------------------------------------------------------

items = st.builds(Item, texts, st.floats() | st.integers(), st.sets(texts, max_size=3))
places = st.builds(Place, st.integers(), st.sampled_from(Color))
declared: list[tuple[Any, Any]] = [
    (int, st.integers()),
    (float, st.floats()),
    (str, texts),
    (str | None, texts | st.none()),
    (bytes, st.binary()),
    (datetime, st.datetimes(timezones=zones)),
    (timedelta, st.timedeltas()),
    (complex, st.complex_numbers()),
    (Decimal, numbers),
    (UUID, st.uuids()),
    (Color, st.sampled_from(Color)),
    (Level, st.sampled_from(Level)),
    (Right, st.sampled_from([Right.READ, Right.READ | Right.WRITE, Right(0)])),
    (Point, st.builds(Point, st.integers(), st.floats())),
    (Item, items),
    (Place, places),
    (Item | None, items | st.none()),
    (Item | str | int, items | texts | st.integers()),
    (Item | Place, items | places),
    (Item | Place | dict[str, Item] | None, items | places | st.dictionaries(texts, items, max_size=2) | st.none()),
    (list[Item] | list[Place], st.lists(items, max_size=2) | st.lists(places, min_size=1, max_size=2)),
    (datetime | str | bytes, st.datetimes() | texts | st.binary()),
    (Color | Level | Right, st.sampled_from([*Color, *Level, *Right])),
    (Literal[1, "a", Color.RED], st.sampled_from([1, "a", Color.RED])),
    (Annotated[Cents, "money"], st.integers()),
    (Tally, st.integers()),
    (Row, st.builds(lambda number, when: Row(id=number, when=when), st.integers(), st.datetimes())),
    (Row, st.just({"id": 1}) | st.just({"id": 1, "$set": 2, "other": {1}})),
    (User, st.builds(lambda name: User(name=name, friends=[User(name="b", born=date(1999, 9, 9))]), st.text())),
    (Event, st.builds(Event, st.datetimes(), texts, st.lists(st.builds(Point, st.integers()), max_size=2))),
    (Fixed, st.builds(lambda number: Fixed(number=number), st.integers())),
    (Box[Item], st.builds(lambda item: Box(item, [item]), items)),
    (Crate[datetime], st.builds(lambda at: Crate(at, [at], at), st.datetimes())),
    (ItemBox, st.builds(lambda item: ItemBox(item, [item]), items)),
    (Box[int] | Box[Item], st.builds(Box, items) | st.builds(Box, st.integers())),
    (Tree, st.just(Tree(1, [Tree(2, [Tree(3)]), Tree(4)]))),
    (Json, st.just({"a": [1, None, {"b": 2.5}]})),
    (collections.abc.Sequence[Item], st.lists(items, max_size=2) | st.lists(items, max_size=2).map(tuple)),
    (collections.abc.Mapping[Color, Item], st.dictionaries(st.sampled_from(Color), items)),
    (object, untyped),
]
hashable = (int, str, bytes, datetime, Decimal, UUID, Color, Point, Place)


@st.composite
def typed_values(draw: Any, depth: int = 2) -> tuple[Any, Any]:
    """An annotation and a value that fits it, containers of containers included."""
    if depth == 0:
        hint, values = draw(st.sampled_from(declared))
        return hint, draw(values)
    shape = draw(
        st.sampled_from(["plain", "list", "tuple", "row", "dict", "set", "deque", "object", "optional", "default"])
    )
    if shape in ("set", "dict", "default"):
        key = draw(st.sampled_from(hashable))
        members = draw(st.sets(dict(declared)[key], max_size=3))
        if shape == "set":
            return set[key], members  # type: ignore[valid-type]
        hint, value = draw(typed_values(depth - 1))
        entries = dict.fromkeys(members, value)
        return (dict[key, hint], entries) if shape == "dict" else (defaultdict[key, hint], defaultdict(set, entries))
    hint, value = draw(typed_values(depth - 1))
    if shape == "list":
        return list[hint], [value, value]
    if shape == "tuple":
        return tuple[hint, ...], (value,) * draw(st.integers(0, 3))
    if shape == "row":
        return tuple[int, hint], (1, value)
    if shape == "deque":
        return deque[hint], deque([value], draw(st.none() | st.integers(1, 3)))
    if shape == "object":
        slots = draw(st.booleans())
        cls = dataclasses.make_dataclass(
            "Made", [("a", hint), ("b", Any), ("c", hint | None)], slots=slots, frozen=slots
        )
        return cls, cls(value, draw(untyped), draw(st.sampled_from([value, None])))
    return (hint | None, value) if shape == "optional" else (hint, value)


@pytest.mark.parametrize(
    "offset", [timedelta(microseconds=1), -timedelta(microseconds=1), -timedelta(hours=3, seconds=2)]
)
@pytest.mark.parametrize("name", [(), ("X",)])
def test_any_offset_comes_back(offset: timedelta, name: tuple[str, ...]) -> None:
    survives(datetime(2000, 1, 1, tzinfo=timezone(offset, *name)))


@settings(max_examples=400, deadline=None)
@given(typed_values())
def test_declared_types_come_back_as_they_were(typed: tuple[Any, Any]) -> None:
    hint, value = typed
    survives(value, hint)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([hint for hint, _ in declared]), untyped)
def test_a_builtin_value_comes_back_whatever_was_declared(hint: Any, value: Any) -> None:
    survives(value, hint)
    survives([value], list[hint])
    survives({1: value}, dict[int, hint])


def test_where_the_type_says_it_the_json_is_plain() -> None:
    assert survives(Item("tea", 2.5, {"b", "a"}), Item) == b'{"name":"tea","price":2.5,"tags":["a","b"]}'
    assert survives({1: Color.RED}, dict[int, Color]) == b'{"1":"RED"}'
    assert survives({Color.RED: (1, 2)}, dict[Color, tuple[int, ...]]) == b'{"RED":[1,2]}'
    assert (
        survives(datetime(2024, 1, 2, tzinfo=ZoneInfo("Europe/Berlin")), datetime)
        == b'"2024-01-02T00:00:00[Europe/Berlin]"'
    )
    assert survives(Item("x"), Item | None) == b'{"name":"x","price":0.0,"tags":[]}'
    assert survives("x", Item | str) == b'"x"'
    assert survives("x", Item | Place | str) == b'"x"'
    assert survives("x", datetime | bytes | str) == b'{"$any":"x"}'
    assert survives(Place(1), Item | Place) == b'{"$type":["Place",{"shelf":1,"color":"RED"}]}'
    assert survives({1: 2, "a": (3,)}) == b'{"$dict":[[1,2],["a",{"$tuple":[3]}]]}'


@given(st.sets(leaves, max_size=8))
def test_equal_sets_give_the_same_bytes(members: set[Any]) -> None:
    other = {(number,) for number in range(100)}  # another history, so another order inside
    other |= members
    other -= {(number,) for number in range(100)} - members
    assert Codec(Any).encode_state(members) == Codec(Any).encode_state(other)


def test_what_stands_beside_the_fields_comes_back() -> None:
    item = Item("x")
    item.more = {1}  # type: ignore[attr-defined]
    del item.price
    survives(item, Item)
    user = User(name="a")
    user._secret = 5
    survives(user, User)
    open_one = Open(name="a", height=3)  # type: ignore[call-arg]
    survives(open_one, Open)
    data = Codec(User).encode_state(User(name="a"))
    assert Codec(User).decode_state(data).model_fields_set == {"name"}


def test_code_of_the_class_does_not_run_on_load() -> None:
    codec = Codec(Loud)
    data = codec.encode_state(Loud.quiet(1))
    assert codec.decode_state(data).number == 1


@dataclass
class Loud:
    number: int

    def __post_init__(self) -> None:
        raise AssertionError("ran")

    @classmethod
    def quiet(cls, number: int) -> Loud:
        made = object.__new__(cls)
        made.number = number
        return made

    @cached_property
    def double(self) -> int:
        return self.number * 2


def test_what_a_cached_property_keeps_is_not_stored() -> None:
    loud = Loud.quiet(2)
    assert loud.double == 4
    assert Codec(Loud).encode_state(loud) == b'{"number":2}'


def test_post_init_of_a_msgspec_model_does_not_change_what_was_stored() -> None:
    counted = Counted(1)
    assert counted.number == 2
    survives(counted, Counted)


class Counted(msgspec.Struct):
    number: int

    def __post_init__(self) -> None:
        self.number += 1


# --- operations ------------------------------------------------------------------------------------------------------


@dataclass
class Shop:
    items: dict[str, Item] = field(default_factory=dict)
    by_color: dict[Color, list[Place]] = field(default_factory=dict)
    by_day: dict[date, Item | Place] = field(default_factory=dict)
    route: tuple[Point, list[Item]] = (Point(0), [])
    rights: set[Right] = field(default_factory=set)
    hits: Tally = 0
    other: Any = None


@pytest.mark.parametrize(
    "operation",
    [
        ("set", ("hits",), 5),
        ("set", ("items", "a.b"), Item("x")),
        ("set", ("items", "a", "tags"), {"x"}),
        ("set", ("items", 5, "price"), math.nan),
        ("set", ("by_color", Color.GREEN), [Place(1)]),
        ("append", ("by_color", Color.GREEN), [Place(1), Place(2)]),
        ("set", ("by_color", Color.GREEN, 0, "shelf"), 3),
        ("set", ("by_day", date(2024, 1, 1)), Place(1)),
        ("set", ("by_day", date(2024, 1, 1), "color"), Color.GREEN),
        ("set", ("by_day", date(2024, 1, 1), "tags"), {"x"}),
        ("append", ("route", 1), [Item("z")] * 300),
        ("set", ("route", 0, 1), 0.5),
        ("include", ("rights",), {Right.READ, Right.WRITE}),
        ("discard", ("rights",), {Right.READ}),
        ("include", ("other", "a"), {(1, 2), b"x", "\ud800"}),
        ("del", ("items", "a")),
        ("del", ("other", (1, "x"), 2**70, None, 1.5, True, b"", date(2024, 1, 1))),
        ("add", ("hits",), -(2**80)),
        ("set", (), Shop({"a": Item("b")})),
        ("set", ("other",), {"x": numpy.arange(3), "y": b"0" * 5000}),
        ("set", ("unknown",), {1, 2}),
    ],
    ids=lambda operation: f"{operation[0]} {operation[1]}",
)
def test_operations_come_back_as_they_were(operation: Any) -> None:
    codec = Codec(Shop)
    (back,) = codec.decode_ops(codec.encode_ops([operation], "p"))
    assert canon(back) == canon(operation)


def test_many_operations_stay_in_order() -> None:
    codec = Codec(Shop)
    many = [("set", ("other", number), b"x" * 4096 + bytes([number])) for number in range(5)]
    assert codec.decode_ops(codec.encode_ops(many)) == many


# --- refusals --------------------------------------------------------------------------------------------------------


class Zone(tzinfo):
    pass


class Mine(str):
    __slots__ = ()


class MyDict(dict):  # type: ignore[type-arg]
    pass


class Circle(Item):
    pass


@pytest.mark.parametrize(
    ("hint", "value", "words"),
    [
        (Any, Item("x"), ["test_codec.Item", "no declared type names", "list[Item]", "theus.codec(Item"]),
        (Place, Item("x"), ["test_codec.Item", "no declared type names"]),
        (Any, Color.RED, ["test_codec.Color", "no declared type names"]),
        (Any, Point(1), ["test_codec.Point", "no declared type names"]),
        (Any, User(name="a"), ["test_codec.User", "no declared type names"]),
        (Item, Bound("x"), ["test_codec.Bound where Item is declared", "Item | Bound"]),
        (Item, Circle("x"), ["test_codec.Circle where Item is declared", "Item | Circle"]),
        (Any, object(), ["a object, which stores do not know", "theus.codec(object"]),
        (Any, threading.Lock(), ["lock", "theus.codec"]),
        (Any, print, ["builtin_function_or_method"]),
        (Any, int, ["a type, which stores do not know"]),
        (Any, bytearray(b"x"), ["bytearray"]),
        (str, Mine("x"), ["test_codec.Mine"]),
        (Any, MyDict(), ["test_codec.MyDict"]),
        (Any, numpy.array([object()]), ["array of object", "a dtype of numbers"]),
        (Any, numpy.ma.masked_array([1], [True]), ["MaskedArray"]),
        (Any, datetime(2024, 1, 1, tzinfo=Zone()), ["test_codec.Zone", "zoneinfo.ZoneInfo"]),
        (Any, defaultdict(partial(int, 5)), ["defaultdict that calls functools.partial", "builtin type"]),
        (defaultdict[str, int], defaultdict(lambda: 5), ["defaultdict that calls"]),
    ],
    ids=lambda part: part[0] if isinstance(part, list) else "",
)
def test_what_cannot_be_stored_is_refused_when_it_is_written(hint: Any, value: Any, words: list[str]) -> None:
    @dataclass
    class Domain:
        fields: dict[str, list[hint]]  # type: ignore[valid-type]

    Domain.__annotations__["fields"] = dict[str, list[hint]]
    with pytest.raises(NotStorable) as caught:
        Codec(Domain).encode_ops([("set", ("fields", "a b"), [None, value])], "restock")
    message = str(caught.value)
    assert message.startswith("process 'restock': cannot store fields.'a b'.1: it holds ")
    assert [word for word in words if word not in message] == []
    assert (caught.value.process, caught.value.path) == ("restock", "fields.'a b'.1")
    assert caught.value.what in message


def test_a_refusal_inside_what_is_big_names_the_place() -> None:
    codec = Codec(Shop)
    for operation, path in [
        (("set", ("other",), {"a": ({1: {"b": object()}},)}), "other.a.0.1.b"),
        (("set", ("other",), {(1, object()): 5}), "other.(1,"),
        (("append", ("other",), [1, object()]), "other.1"),
        (("set", (), Shop(items={"a": Item("x", object())})), "items.a.price"),  # type: ignore[arg-type]
        (("set", ("other", object()), 5), "other"),
    ]:
        with pytest.raises(NotStorable) as caught:
            codec.encode_ops([operation])
        assert caught.value.path.startswith(path)


def test_what_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(NotStorable, match="cannot store the result of step 'x': it holds a value that contains itself"):
        Codec(Any).encode(value, where="the result of step 'x'")


def test_a_value_by_itself_is_named_by_what_it_is() -> None:
    with pytest.raises(NotStorable, match=r"the result of step 'x' at a\.0: it holds a object"):
        Codec(Any).encode({"a": [object()]}, where="the result of step 'x'")


# --- codecs ----------------------------------------------------------------------------------------------------------


class Model:
    def __init__(self, weights: list[float]) -> None:
        self.weights = weights


class Trained(Model):
    pass


def test_an_opaque_type_is_stored_by_its_codec() -> None:
    theus.codec(Model, lambda model: msgspec.json.encode(model.weights), lambda data: Model(msgspec.json.decode(data)))
    for hint in (Any, Model, Model | None):
        codec = Codec(list[hint])
        for weights in ([1.0], [0.5] * 5000):
            (back,) = codec.decode_state(codec.encode_state([Model(weights)]))
            assert type(back) is Model
            assert back.weights == weights
    with pytest.raises(NotStorable, match="Trained"):
        Codec(Any).encode(Trained([]))


def test_a_codec_that_is_not_registered_is_asked_for() -> None:
    gone = type("Gone", (), {})
    theus.codec(gone, lambda value: b"", lambda data: None)
    data = Codec(Any).encode({"a": gone()})
    del gone
    gc.collect()
    with pytest.raises(StoreError, match=r"stored at a: .*Gone; register its codec before the store is opened"):
        Codec(Any).decode(data)


def test_a_codec_must_give_bytes_and_takes_a_type() -> None:
    class Odd:
        pass

    theus.codec(Odd, lambda odd: "text", lambda data: Odd())  # type: ignore[arg-type, return-value]
    with pytest.raises(NotStorable, match="whose codec gave str; its encode must give bytes"):
        Codec(Any).encode(Odd())
    with pytest.raises(theus.DefinitionError, match="takes a type"):
        theus.codec(Odd(), bytes, bytes)  # type: ignore[arg-type]


# --- evolution -------------------------------------------------------------------------------------------------------


def test_a_new_field_takes_its_default() -> None:
    @dataclass
    class New:
        name: str
        count: int = 5
        log: list[int] = field(default_factory=lambda: list(range(300)))

    back = Codec(New).decode_state(b'{"name":"a"}')
    assert (back.name, back.count, type(back.log), len(back.log)) == ("a", 5, VList, 300)
    assert Codec(User).decode_state(b'{"name":"a"}').born == date(2000, 1, 1)
    assert Codec(Event).decode_state(b'{"at":"2024-01-01T00:00:00"}').points == []
    assert Codec(Point).decode_state(b'{"x":1}') == Point(1, 0.5)


@pytest.mark.parametrize(
    ("hint", "field"),
    [(Item, "name"), (User, "name"), (Event, "at"), (Fixed, "number"), (Point, "x"), (Place, "shelf")],
)
def test_a_new_field_without_default_is_asked_for(hint: Any, field: str) -> None:
    with pytest.raises(
        StoreError, match=rf"stored at a\.0\.{field}: it is a .* without '{field}'.*give the field '{field}'"
    ):
        Codec(dict[str, list[hint]]).decode_state(b'{"a":[{}]}')


@pytest.mark.parametrize("hint", [Item, User])
def test_an_unknown_field_is_kept_and_written_back(hint: Any) -> None:
    codec = Codec(dict[str, hint])
    data = codec.encode_state({"a": Item("x") if hint is Item else User(name="x")})
    frame = msgspec.json.encode([{"$any": "x"}, {"$type": ["Old", {"y": 1}]}])
    old = data[:-2] + b',"old":' + frame + b"}}"
    back = codec.decode_state(old)
    assert back["a"] == (Item("x") if hint is Item else User(name="x"))
    copy = ingest(back, ())  # as a draft that was changed would be
    assert msgspec.json.decode(codec.encode_state(copy)) == msgspec.json.decode(old)


def test_an_unknown_field_keeps_its_frames() -> None:
    @dataclass
    class Old:
        name: str
        blob: bytes
        grid: Any

    grid = numpy.arange(1000.0)
    data = Codec(list[Old]).encode_state([Old("a", b"x" * 5000, grid)])
    again = Codec(list[Item]).encode_state(Codec(list[Item]).decode_state(data))
    (back,) = Codec(list[Old]).decode_state(again)
    assert (back.name, back.blob) == ("a", b"x" * 5000)
    assert (back.grid == grid).all()


def test_an_unknown_field_without_a_place_is_refused() -> None:
    for hint, value in ((Place, Place(1)), (Event, Event(NOON)), (Point, Point(1))):
        data = Codec(hint).encode_state(value)
        with pytest.raises(StoreError, match=r"a field 'old', which the class does not have"):
            Codec(hint).decode_state(data[:-1] + b',"old":1}')


def test_a_union_may_grow_and_shrink() -> None:
    data = Codec(Item).encode_state(Item("x"))
    assert Codec(Item | Place).decode_state(data) == Item("x")
    data = Codec(Item | Place).encode_state(Item("x"))
    assert Codec(Item | None).decode_state(data) == Item("x")
    data = Codec(Item | Place).encode_state(Place(1))
    with pytest.raises(StoreError, match="a Place; declared are Item, Bound"):
        Codec(Item | Bound).decode_state(data)


def test_a_member_that_is_gone_is_named() -> None:
    with pytest.raises(StoreError, match=r"stored at a: it is 'BLUE', which is no member of Color; it has RED, GREEN"):
        Codec(dict[str, Color]).decode_state(b'{"a":"BLUE"}')


@pytest.mark.parametrize(
    "data",
    [b"{", b"", b"\0\1", b'{"a":{"$new":1}}', b'{"a":{"$datetime":"x"}}', b'{"a":{"$codec":["os.system","eA=="]}}'],
)
def test_damaged_data_are_an_error_of_the_store(data: bytes) -> None:
    with pytest.raises(StoreError, match="cannot load what is stored"):
        Codec(Any).decode_state(data)
