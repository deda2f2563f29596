"""pydantic and msgspec models as the domain and inside it."""

from __future__ import annotations

import copy
import pickle
from typing import Annotated, Any

import pytest
from state_tools import Session

from theus.errors import ScopeError
from theus.state.fields import Tally
from theus.state.values import plain

pydantic = pytest.importorskip("pydantic")
msgspec = pytest.importorskip("msgspec")


class Address(pydantic.BaseModel):  # type: ignore[name-defined,misc]
    city: str = "x"
    tags: list[str] = pydantic.Field(default_factory=list)


class Person(pydantic.BaseModel):  # type: ignore[name-defined,misc]
    name: str = "n"
    age: int = 1
    address: Address = Address()
    scores: dict[str, int] = pydantic.Field(default_factory=dict)
    hits: Tally = 0

    @property
    def loud(self) -> str:
        return self.name.upper()

    def birthday(self) -> int:
        self.age += 1
        return self.age

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def kind(cls) -> str:
        return cls.__name__


class Keeper(pydantic.BaseModel):  # type: ignore[name-defined,misc]
    n: int = 0
    _seen: int = pydantic.PrivateAttr(default=0)
    _notes: list[str] = pydantic.PrivateAttr(default_factory=list)

    def look(self) -> int:
        self._seen += 1
        self.n += 1
        return self._seen


class StrictKeeper(Keeper):
    model_config = pydantic.ConfigDict(validate_assignment=True)


class FixedKeeper(pydantic.BaseModel):  # type: ignore[name-defined,misc]
    model_config = pydantic.ConfigDict(frozen=True)
    _seen: int = pydantic.PrivateAttr(default=0)


class Strict(pydantic.BaseModel):  # type: ignore[name-defined,misc]
    model_config = pydantic.ConfigDict(validate_assignment=True)
    n: int = 0
    low: Annotated[int, pydantic.Field(ge=0)] = 0


class Fixed(pydantic.BaseModel):  # type: ignore[name-defined,misc]
    model_config = pydantic.ConfigDict(frozen=True)
    n: int = 0
    items: list[int] = pydantic.Field(default_factory=list)


class Spot(msgspec.Struct):  # type: ignore[name-defined,misc]
    x: int = 0
    marks: list[int] = msgspec.field(default_factory=list)
    inner: Any = None
    hits: Tally = 0

    def move(self, by: int) -> int:
        self.x += by
        return self.x


class Stone(msgspec.Struct, frozen=True):  # type: ignore[name-defined,misc,call-arg]
    x: int = 0
    marks: list[int] = msgspec.field(default_factory=list)


def change(d: Any) -> None:
    assert d.birthday() == 2
    assert d.loud == "N"
    d.name = "m"
    d.address.city = "y"
    d.address.tags.append("t")
    d.scores["a"] = 1
    d.scores["a"] += 1
    d.hits += 1
    assert len(d) == 1
    assert d.kind() == "Person"


def test_pydantic() -> None:
    session = Session(Person())
    session.run(change)
    expected = Person()
    change(expected)
    assert plain(session.state) == expected
    assert type(plain(session.state)) is Person
    assert session.state == expected
    assert repr(session.state) == repr(expected)
    reads, ops = session.observe(lambda d: setattr(d, "hits", d.hits.__iadd__(1)))
    assert (list(reads), list(ops)) == ([], [("add", ("hits",), 1)])
    reads, ops = session.observe(lambda d: d.age)
    assert list(reads) == [((), {"age"}, False, False)]


def test_pydantic_faces() -> None:
    session = Session({"p": Person(), "many": [Person(name="q")]})
    tx = session.begin("place")
    draft = tx.domain["p"]
    draft.name = "new"
    assert isinstance(draft, Person)
    assert draft == Person(name="new")
    assert Person(name="new") == plain(draft)
    assert draft.model_dump()["name"] == "new"
    assert '"name":"new"' in draft.model_dump_json()
    assert copy.deepcopy(draft) == Person(name="new")
    assert pickle.loads(pickle.dumps(draft)) == Person(name="new")
    assert tx.domain["many"][0].loud == "Q"
    with pytest.raises(AttributeError, match="nosuch"):
        draft.nosuch = 1
    with pytest.raises(AttributeError, match="nosuch"):
        draft.nosuch  # noqa: B018
    session.end(tx)
    with pytest.raises(ScopeError, match="'place'"):
        draft.name  # noqa: B018
    with pytest.raises(ScopeError, match="'place'"):
        draft.birthday()
    view = session.state["p"]
    assert view.loud == "NEW"
    assert view.model_dump()["name"] == "new"
    with pytest.raises(ScopeError, match="read-only"):
        view.name = "x"
    with pytest.raises(ScopeError, match="read-only"):
        view.birthday()
    with pytest.raises(ScopeError, match="read-only"):
        view.address.tags.append("x")


def test_wrong_types_are_refused_as_the_model_does() -> None:
    session = Session(Strict())
    tx = session.begin()
    with pytest.raises(pydantic.ValidationError, match="valid integer"):
        tx.domain.n = "many"
    with pytest.raises(pydantic.ValidationError, match="greater than or equal"):
        tx.domain.low = -1
    tx.domain.n = "7"
    assert tx.domain.n == 7
    session.end(tx)
    assert session.state.n == 7
    fixed = Session(Fixed()).begin().domain
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        fixed.n = 1
    session = Session(Fixed())
    session.run(lambda d: d.items.append(1))
    assert session.state.items == [1]


@pytest.mark.parametrize("kind", [Keeper, StrictKeeper])
def test_private_attributes_are_a_part_of_the_model(kind: Any) -> None:
    mine = kind(n=1)
    mine._seen = 7
    mine._notes.append("mine")
    session = Session({"k": mine, "list": []})
    mine._notes.append("the owner's own")

    def use(d: Any) -> None:
        assert (d["k"]._seen, list(d["k"]._notes)) == (7, ["mine"])
        assert d["k"].look() == 8
        d["k"]._notes.append("a")
        d["k"].n = 5
        assert plain(d["k"])._notes == ["mine", "a"]

    def move(d: Any) -> None:
        other = kind(n=2)
        other._seen = 3
        d["list"].append(other)
        other._seen = 4
        d["list"].append(d["k"])

    def lose(d: Any) -> None:
        del d["k"]._seen
        with pytest.raises(AttributeError, match="_seen"):
            d["k"]._seen  # noqa: B018

    session.run(use)
    held = session.state["k"]
    assert (held.n, held._seen, list(held._notes)) == (5, 8, ["mine", "a"])
    session.run(move)
    session.run(lose)
    assert [one._seen for one in session.state["list"]] == [4, 8]
    assert plain(session.state["list"])[1]._notes == ["mine", "a"]
    with pytest.raises(AttributeError, match="_seen"):
        session.state["k"]._seen  # noqa: B018
    assert held._seen == 8
    with pytest.raises(ScopeError):
        held._seen = 1


def test_private_attributes_of_a_frozen_model_may_change() -> None:
    session = Session({"k": FixedKeeper()})
    session.run(lambda d: setattr(d["k"], "_seen", 2))
    assert session.state["k"]._seen == 2


def test_msgspec() -> None:
    session = Session({"s": Spot(), "f": Stone()})

    def body(d: Any) -> None:
        assert d["s"].move(2) == 2
        d["s"].marks.append(1)
        d["s"].inner = Spot(5)
        d["s"].inner.x = 6
        d["s"].hits += 1
        d["f"].marks.append(3)
        with pytest.raises(AttributeError, match="immutable"):
            d["f"].x = 1

    session.run(body)
    session.run(lambda d: d["s"].inner.marks.append(9))
    state = plain(session.state)
    assert state["s"] == Spot(2, [1], Spot(6, [9]), 1)
    assert state["f"] == Stone(0, [3])
    assert isinstance(session.state["s"], Spot)
    assert session.state["s"] == Spot(2, [1], Spot(6, [9]), 1)
    assert repr(session.state["s"].inner) == repr(Spot(6, [9]))
    assert Session(Spot(1)).state.x == 1


def test_owners_changes_do_not_reach_the_state() -> None:
    mine = Person(scores={"a": 1})
    spot = Spot(1, [1])
    session = Session({"p": mine, "s": spot})
    mine.scores["a"] = 5
    mine.address.city = "changed"
    spot.marks.append(2)
    assert session.state["p"].scores["a"] == 1
    assert session.state["p"].address.city == "x"
    assert session.state["s"].marks == [1]
