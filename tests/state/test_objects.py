"""Drafts of dataclasses of every kind behave like the plain instance."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import decimal
import enum
import functools
import pickle
import uuid
from dataclasses import InitVar, dataclass, field
from typing import Any, ClassVar, NamedTuple

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from state_tools import Session, examples
from test_dict_like_plain import outcome

from theus.errors import DefinitionError, NotStorable, ScopeError
from theus.protocols import Committed
from theus.state.fields import Tally
from theus.state.head import Head
from theus.state.transaction import Transaction
from theus.state.values import detach, plain


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass
class Base:
    kind: ClassVar[str] = "base"
    name: str
    tags: set[str] = field(default_factory=set)

    def rename(self, name: str) -> str:
        old, self.name = self.name, name
        return old

    @property
    def upper(self) -> str:
        return self.name.upper()

    @upper.setter
    def upper(self, value: str) -> None:
        self.name = value.upper()


@dataclass
class Child(Base):
    scale: InitVar[int] = 2
    numbers: list[int] = field(default_factory=list)
    made: int = field(init=False, default=0)
    colour: Colour = Colour.RED
    parent: Child | None = None

    def __post_init__(self, scale: int) -> None:
        self.made = scale * 10

    def rename(self, name: str) -> str:
        return super().rename(name + "!")

    @functools.cached_property
    def total(self) -> int:
        return sum(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True)
class Point:
    x: int
    y: int = 0
    trail: list[int] = field(default_factory=list, compare=False)


@dataclass(slots=True)
class Slotted:
    a: int = 1
    items: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FrozenSlotted:
    a: int = 1
    inner: Slotted = field(default_factory=Slotted)


class Pair(NamedTuple):
    left: list[int]
    right: int


@dataclass
class World:
    child: Child = field(default_factory=lambda: Child("c"))
    point: Point = field(default_factory=lambda: Point(1))
    slotted: Slotted = field(default_factory=Slotted)
    frozen: FrozenSlotted = field(default_factory=FrozenSlotted)
    pair: Pair = field(default_factory=lambda: Pair([1], 2))
    flat: tuple[int, str] = (1, "a")
    deep: tuple[Any, ...] = field(default_factory=lambda: ({"k": [1]}, Slotted()))
    many: list[dict[int, Slotted]] = field(default_factory=lambda: [{1: Slotted()}])
    hits: Tally = 0
    value: Any = None
    dotted: dict[Any, Any] = field(default_factory=lambda: {"a.b": {1: {None: "x"}}})


def test_reads_like_the_instance() -> None:
    plainly = World()
    draft = Session(World()).begin().domain
    assert draft == plainly
    assert plainly == draft
    assert repr(draft) == repr(plainly)
    assert isinstance(draft, World)
    assert draft.__class__ is World
    assert isinstance(draft.child, Base)
    assert draft.child.kind == "base"
    assert draft.child.upper == "C"
    assert draft.child.made == 20
    assert draft.child.colour is Colour.RED
    assert draft.child.total == 0
    assert len(draft.child) == 0
    assert not draft.child
    assert hash(draft.point) == hash(Point(1))
    assert draft.point in {Point(1), Point(2)}
    assert dataclasses.asdict(plain(draft)) == dataclasses.asdict(plainly)
    assert [f.name for f in dataclasses.fields(draft)] == [f.name for f in dataclasses.fields(World)]
    replaced = dataclasses.replace(draft.point, x=5)
    assert type(replaced) is Point
    assert replaced.x == 5
    match draft.point:
        case Point(x, y):
            assert (x, y) == (1, 0)
        case _:
            pytest.fail("positional patterns work")
    with pytest.raises(AttributeError, match="nosuch"):
        draft.nosuch  # noqa: B018


def test_writes_are_committed() -> None:
    session = Session(World())

    def body(d: Any) -> None:
        assert d.child.rename("n") == "c"
        d.child.upper = "low"
        d.child.tags |= {"t"}
        d.child.numbers += [1, 2]
        assert d.child.total == 3
        d.child.parent = Child("p")
        d.child.parent.name = "q"
        d.point.trail.append(9)
        d.slotted.a += 1
        d.slotted.items["k"] = 2
        d.frozen.inner.a = 7
        d.pair.left.append(5)
        d.deep[0]["k"].append(2)
        d.deep[1].a = 3
        d.many[0][1].items["z"] = 1
        d.dotted["a.b"][1][None] = "y"
        d.value = (Pair([1], 2), {"x": {1, 2}})

    session.run(body)
    expected = World()
    body(expected)
    assert plain(session.state) == expected
    assert type(plain(session.state).pair) is Pair
    assert plain(session.state).point.trail == [9]


def test_frozen_and_unknown_attributes() -> None:
    draft = Session(World()).begin("p").domain
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'x'"):
        draft.point.x = 2
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot delete field 'x'"):
        del draft.point.x
    with pytest.raises(AttributeError, match=r"child: Child has no field 'typo'.*declare"):
        draft.child.typo = 1
    with pytest.raises(AttributeError, match="kind"):
        draft.child.kind = "x"


def test_attributes_without_a_field() -> None:
    @dataclass
    class Lazy:
        n: int = 0

        def __post_init__(self) -> None:
            self._cache: dict[str, int] = {}

    session = Session(Lazy())

    def body(d: Any) -> None:
        d._cache["a"] = 1

    session.run(body)
    assert session.state._cache == {"a": 1}
    session.run(lambda d: setattr(d, "_cache", {"b": 2}))
    assert session.state._cache == {"b": 2}


def test_delete_a_field() -> None:
    session = Session(World())

    def body(d: Any) -> None:
        del d.value
        assert d.value is None  # the default of the class shows, as in plain Python
        del d.slotted.a
        with pytest.raises(AttributeError):
            d.slotted.a  # noqa: B018
        with pytest.raises(AttributeError):
            del d.slotted.a

    session.run(body)
    with pytest.raises(AttributeError):
        session.state.slotted.a  # noqa: B018


def test_set_behind_our_back() -> None:
    @dataclass
    class Odd:
        n: int = 0
        m: int = 0

        def poke(self) -> None:
            object.__setattr__(self, "n", 5)
            self.__dict__["m"] = 6

    session = Session(Odd())
    session.run(lambda d: d.poke())
    assert (session.state.n, session.state.m) == (5, 6)
    assert session.observe(lambda d: d.n)[1] == []


def test_own_setattr() -> None:
    @dataclass
    class Checked:
        n: int = 0
        last: str = ""

        def __setattr__(self, name: str, value: Any) -> None:
            if name == "n" and value < 0:
                raise ValueError("negative")
            super().__setattr__(name, value)
            if name == "n":
                super().__setattr__("last", f"n={value}")

    session = Session(Checked())

    def body(d: Any) -> None:
        d.n = 3
        with pytest.raises(ValueError, match="negative"):
            d.n = -1

    session.run(body)
    assert (session.state.n, session.state.last) == (3, "n=3")


def test_hooks_of_the_class_do_not_run() -> None:
    seen = []

    class Registry:
        def __init_subclass__(cls, **options: Any) -> None:
            seen.append(cls.__name__)

    @dataclass
    class Thing(Registry):
        n: int = 0

        def __post_init__(self) -> None:
            seen.append("post")

    session = Session(Thing())
    seen.clear()
    session.run(lambda d: setattr(d, "n", 1))
    assert session.state.n == 1
    assert seen == []


def test_copies_are_plain() -> None:
    draft = Session(World()).begin().domain
    draft.child.numbers.append(3)
    for made in (
        copy.copy(draft),
        copy.deepcopy(draft),
        pickle.loads(pickle.dumps(draft)),
        plain(draft),
        detach(draft),
    ):
        assert type(made) is World
        assert type(made.child.numbers) is list
        assert made.child.numbers == [3]
        made.child.numbers.append(4)
    assert draft.child.numbers == [3]


def test_leaves() -> None:
    values = [
        datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
        decimal.Decimal("1.5"),
        uuid.UUID(int=5),
        b"x",
        Colour.BLUE,
        frozenset({1}),
        range(3),
        len,
        World,
        object(),
    ]
    session = Session({"v": None})
    for value in values:
        session.run(lambda d, value=value: d.__setitem__("v", value))  # type: ignore[misc]
        assert session.state["v"] is value


def test_classes_that_cannot_be_copied_attribute_by_attribute_are_leaves() -> None:
    @dataclass
    class Failure(Exception):
        code: int = 0

    failure = Failure(5)
    session = Session({"last": None})
    session.run(lambda d: d.__setitem__("last", failure))
    assert session.state["last"] is failure


def test_arrays_are_read_only() -> None:
    numpy = pytest.importorskip("numpy")
    mine = numpy.zeros(3)
    session = Session({"a": mine, "o": [mine]})
    mine[0] = 7
    assert session.state["a"][0] == 0
    with pytest.raises(ValueError, match="read-only"):
        session.state["a"][0] = 1

    def body(d: Any) -> None:
        with pytest.raises(ValueError, match="read-only"):
            d["a"][0] = 1
        d["a"] = d["a"] + 1

    session.run(body)
    assert session.state["a"].tolist() == [1, 1, 1]
    assert plain(session.state)["o"][0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("domain", [3, "x", [1], {1}, object(), World, None, (1,)])
def test_what_can_be_no_domain(domain: Any) -> None:
    with pytest.raises(DefinitionError, match="domain"):
        Head(domain)


def test_cycles_are_refused() -> None:
    session = Session(World())
    tx = session.begin("p")
    loop: list[Any] = []
    loop.append({"again": loop})
    tx.domain.value = loop
    with pytest.raises(NotStorable, match=r"process 'p': the value at value\.0\.again contains itself") as caught:
        tx.finish()
    assert caught.value.path == "value.0.again"


def test_tally() -> None:
    session = Session(World())
    reads, ops = session.observe(lambda d: setattr(d, "hits", d.hits + 0) or None)
    assert reads == [((), {"hits"}, False, False)]

    def add(d: Any) -> None:
        d.hits += 2
        d.hits -= 1

    reads, ops = session.observe(add)
    assert (list(reads), list(ops)) == ([], [("add", ("hits",), 1)])

    def keep(d: Any) -> None:
        before = d.hits
        d.hits += 1
        assert before == 0
        assert d.hits == 1
        other = d.hits
        other += 5
        assert d.hits == 1

    session.run(keep)
    assert session.state.hits == 1

    def use(d: Any) -> None:
        hits = d.hits
        assert isinstance(hits, int)
        assert [0] * hits == [0]
        assert list(range(hits)) == [0]
        assert f"{hits:03}" == "001"
        assert "%d" % hits == "1"  # noqa: UP031
        assert (hits + 1, 1 + hits, -hits, hits / 2, 3 % hits, hits**2, divmod(hits, 1)) == (
            2,
            2,
            -1,
            0.5,
            0,
            1,
            (1, 0),
        )
        assert hits == 1
        assert hits != 2
        assert hits < 2
        assert hash(hits) == hash(1)
        assert bool(hits)
        assert int(hits) == 1
        assert float(hits) == 1.0
        assert repr(hits) == "1"
        assert hits.bit_length() == 1
        assert max(hits, 0) == 1
        assert sum([hits, hits]) == 2
        assert {1: "a"}[hits] == "a"
        d.hits = 10
        d.hits += 1
        d.value = hits

    session.run(use)
    assert session.state.hits == 11
    assert session.state.value == 1
    with pytest.raises(TypeError, match="hits is a Tally"):
        session.run(lambda d: setattr(d, "hits", None))


def test_tally_with_hints_that_cannot_be_resolved() -> None:
    @dataclass
    class Half:
        other: Nowhere | None = None  # type: ignore[name-defined]  # noqa: F821
        hits: Tally = 0

    _, ops = Session(Half()).observe(lambda d: d.__setattr__("hits", d.hits.__iadd__(1)))
    assert ops == [("add", ("hits",), 1)]


@dataclass
class Node:
    n: int = 0
    label: str = ""
    kids: list[Node] = field(default_factory=list)
    named: dict[str, Node] = field(default_factory=dict)
    friend: Node | None = None


def nodes(depth: int) -> st.SearchStrategy[Node]:
    if depth == 0:
        return st.builds(Node, n=st.integers(0, 3))
    inner = nodes(depth - 1)
    return st.builds(
        Node,
        n=st.integers(0, 3),
        kids=st.lists(inner, max_size=2),
        named=st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
        friend=st.one_of(st.none(), inner),
    )


steps = st.lists(st.sampled_from(["k0", "k1", "a", "b", "f"]), max_size=3)


def walk(root: Any, way: list[str]) -> Any:
    for step in way:
        if step == "f":
            root = root.friend
        elif step[0] == "k":
            root = root.kids[int(step[1])]
        else:
            root = root.named[step]
    return root


class LikeObjects(RuleBasedStateMachine):
    """Trees of dataclasses: change, move, copy and swap parts anywhere."""

    @initialize(start=nodes(2))
    def begin(self, start: Node) -> None:
        self.model = plain(start)
        self.session = Session(start)
        self.open()

    def open(self) -> None:
        self.tx = self.session.begin()
        self.draft = self.tx.domain

    def both(self, action: Any) -> None:
        assert outcome(lambda: action(self.draft)) == outcome(lambda: action(self.model))

    @rule()
    def commit(self) -> None:
        self.session.end(self.tx)
        assert self.session.state == self.model
        self.model = plain(self.model)  # in the state, what was one object at two places is two
        self.open()

    @rule()
    def replayed(self) -> None:
        other = self.session.begin()
        other.replay(self.tx.finish()[1])
        assert plain(other.domain) == self.model
        other.close()

    @rule(way=steps, n=st.integers(0, 9))
    def set_number(self, way: list[str], n: int) -> None:
        self.both(lambda root: setattr(walk(root, way), "n", n))

    @rule(way=steps)
    def increment(self, way: list[str]) -> None:
        def change(root: Any) -> None:
            walk(root, way).n += 1

        self.both(change)

    @rule(way=steps, new=nodes(1))
    def set_friend(self, way: list[str], new: Node) -> None:
        self.both(lambda root: setattr(walk(root, way), "friend", plain(new)))

    @rule(way=steps, new=nodes(1), key=st.sampled_from("ab"))
    def set_named(self, way: list[str], new: Node, key: str) -> None:
        self.both(lambda root: walk(root, way).named.__setitem__(key, plain(new)))

    @rule(way=steps, new=nodes(1))
    def append_kid(self, way: list[str], new: Node) -> None:
        self.both(lambda root: walk(root, way).kids.append(plain(new)))

    @rule(way=steps)
    def pop_kid(self, way: list[str]) -> None:
        self.both(lambda root: walk(root, way).kids.pop(0))

    @rule(way=steps, key=st.sampled_from("ab"))
    def delete_named(self, way: list[str], key: str) -> None:
        self.both(lambda root: walk(root, way).named.__delitem__(key))

    @rule(way=steps)
    def change_a_detached_part(self, way: list[str]) -> None:
        def change(root: Any) -> None:
            part = walk(root, way)
            old, part.friend = part.friend, None
            old.n = 77  # it is in the tree no more
            part.named["a"] = old
            old.label = "again"

        self.both(change)

    @rule(way=steps)
    def swap(self, way: list[str]) -> None:
        def change(root: Any) -> None:
            part = walk(root, way)
            part.named["a"], part.named["b"] = part.named["b"], part.named["a"]

        self.both(change)

    @rule(way=steps)
    def copy_assign(self, way: list[str]) -> None:
        def change(root: Any) -> None:
            part = walk(root, way)
            part.named = {**part.named, "b": Node(5)}

        self.both(change)

    @rule(way=steps)
    def reverse(self, way: list[str]) -> None:
        def change(root: Any) -> None:
            kids = walk(root, way).kids
            kids.reverse()
            kids[0].n += 1

        self.both(change)

    @rule(way=steps, new=nodes(0))
    def keep_a_name(self, way: list[str], new: Node) -> None:
        """What was assigned stays the same object until the end, as in plain Python."""

        def change(root: Any) -> None:
            mine = plain(new)
            walk(root, way).friend = mine
            mine.label = "mine"

        self.both(change)

    @invariant()
    def equal(self) -> None:
        if hasattr(self, "draft"):
            assert plain(self.draft) == self.model


TestLikeObjects = LikeObjects.TestCase
TestLikeObjects.settings = examples(60)


def test_transaction_view_and_nested() -> None:
    session = Session(World())
    tx = session.begin("outer")
    tx.domain.child.name = "x"
    tx.domain.dotted["new"] = [1]
    assert tx.view().child.name == "x"
    inner = tx.nested(process="inner")
    assert inner.domain.child.name == "x"
    inner.domain.dotted["new"].append(2)
    inner.domain.hits += 1
    tx.replay(inner.finish()[1])
    inner.close()
    assert tx.domain.dotted["new"] == [1, 2]
    assert session.end(tx).version == 1
    assert session.state.child.name == "x"
    assert session.state.dotted["new"] == [1, 2]
    assert session.state.hits == 1


def test_untouched_is_empty() -> None:
    session = Session(World())
    tx = session.begin()
    assert tx.finish() == ((), ())
    tx.close()
    tx.close()
    assert isinstance(tx, Transaction)


def test_a_method_that_replaces_the_dict() -> None:
    @dataclass
    class Pair:
        a: int = 0
        b: int = 0

        def become(self, a: int, b: int) -> None:
            self.__dict__ = {"a": a, "b": b}

    session = Session(Pair())

    def body(pair: Pair) -> None:
        pair.a += 1
        pair.become(7, 8)
        assert (pair.a, pair.b) == (7, 8)
        pair.b += 1

    session.run(body)
    assert session.state == Pair(7, 9)


@dataclass
class Card:
    name: str = "n"
    tags: list[str] = field(default_factory=list)
    hits: Tally = 0

    def as_dict(self) -> dict[str, Any]:
        return dict(self.__dict__)

    @functools.cached_property
    def loud(self) -> str:
        return self.name.upper()


def test_vars_is_all_that_the_object_has() -> None:
    session = Session({"card": Card("ann", ["x"], 3)})

    def body(d: Any) -> None:
        d["card"].tags.append("y")
        d["card"].hits += 1
        assert d["card"].as_dict() == vars(d["card"]) == {"name": "ann", "tags": ["x", "y"], "hits": 4}
        assert list(vars(d["card"])) == ["name", "tags", "hits"]

    session.run(body)
    assert vars(session.state["card"]) == {"name": "ann", "tags": ["x", "y"], "hits": 4}
    assert list(vars(session.state["card"])) == ["name", "tags", "hits"]
    with pytest.raises(ScopeError):
        vars(session.state["card"])["name"] = "eve"
    with pytest.raises(ScopeError):
        session.state["card"].__dict__.update(name="eve")


def test_what_is_done_to_vars_is_done_to_the_object() -> None:
    session = Session({"card": Card("ann", ["x"], 3), "other": Card("bob")})

    def body(d: Any) -> None:
        vars(d["card"]).update(name="eve", hits=7)
        d["card"].hits += 1
        d["card"].__dict__["tags"].append("y")
        del vars(d["other"])["name"]
        assert d["other"].name == "n"  # the default of the class shows, as in plain Python

    session.run(body)
    assert session.state["card"] == Card("eve", ["x", "y"], 8)
    assert "name" not in vars(plain(session.state["other"]))


def test_to_look_at_vars_is_to_read_all_of_it() -> None:
    session = Session({"card": Card("ann")})
    tx = session.begin()
    vars(tx.domain["card"])
    tx.domain["seen"] = True
    session.run(lambda d: setattr(d["card"], "name", "eve"))
    assert not isinstance(session.end(tx), Committed)


def test_a_cached_property_reads_what_it_uses() -> None:
    session = Session({"card": Card("ann")})
    tx = session.begin()
    assert (tx.domain["card"].loud, tx.domain["card"].loud) == ("ANN", "ANN")
    tx.domain["seen"] = True
    session.run(lambda d: d["card"].tags.append("x"))
    assert isinstance(session.end(tx), Committed)
    view = session.state["card"]
    assert (view.loud, view.loud, Card.loud) == ("ANN", "ANN", type(view).loud)


def test_vars_of_what_has_no_dict_is_refused_as_ever() -> None:
    session = Session({"s": Slotted()})

    def body(d: Any) -> None:
        with pytest.raises(TypeError, match="__dict__"):
            vars(d["s"])

    session.run(body)
    with pytest.raises(AttributeError, match="__dict__"):
        session.state["s"].__dict__  # noqa: B018


def test_vars_of_a_model() -> None:
    pydantic = pytest.importorskip("pydantic")

    class Person(pydantic.BaseModel):  # type: ignore[name-defined,misc]
        name: str = ""
        tags: list[str] = pydantic.Field(default_factory=list)

    session = Session({"p": Person(name="ann")})

    def body(d: Any) -> None:
        d["p"].tags.append("x")
        assert vars(d["p"]) == {"name": "ann", "tags": ["x"]}

    session.run(body)
    assert vars(session.state["p"]) == {"name": "ann", "tags": ["x"]}


@dataclass
class Spot:
    x: int = 0

    @classmethod
    def at(cls, x: int) -> Spot:
        return cls(x)

    def moved(self) -> Spot:
        return type(self)(self.x + 1)


def test_what_a_method_makes_of_its_class_is_plain() -> None:
    session = Session({"spot": Spot(1), "slotted": Slotted()})

    def use(d: Any) -> None:
        made = [d["spot"].moved(), d["spot"].at(3), type(d["slotted"])(a=5)]
        assert made == [Spot(2), Spot(3), Slotted(5)]
        assert [type(one) for one in made] == [Spot, Spot, Slotted]
        d["spot"] = d["spot"].moved()

    session.run(use)
    assert session.state["spot"] == Spot(2)
    assert type(session.state["spot"].moved()) is Spot


def test_what_a_method_of_a_model_makes_of_its_class_is_plain() -> None:
    pydantic = pytest.importorskip("pydantic")

    class Dot(pydantic.BaseModel):  # type: ignore[name-defined,misc]
        x: int = 0

        def moved(self) -> Dot:
            return type(self)(x=self.x + 1)

    session = Session({"dot": Dot(x=1)})
    found = []
    session.run(lambda d: found.append(d["dot"].moved()))
    assert found == [Dot(x=2)]
    assert type(session.state["dot"].moved()) is Dot
