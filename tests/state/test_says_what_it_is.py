"""Code that asks of what kind a value is goes the same way for a draft and a view as for the plain value."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from state_tools import Session

from theus.state.values import plain


class Bag(dict[str, int]):
    known: ClassVar[list[type]] = []

    def __init_subclass__(cls) -> None:
        Bag.known.append(cls)


@dataclass
class User:
    name: str = ""
    tags: list[str] = field(default_factory=list)


@dataclass
class World:
    tree: dict[str, Any] = field(default_factory=dict)
    user: User = field(default_factory=User)


def world() -> World:
    return World({"a": [{"b": 1}, (2, {"c": {3}})], "q": deque([1], 4), "n": {4}}, User("ann", ["x"]))


def doubled(value: Any) -> Any:
    """A walk over a tree as people write it."""
    if isinstance(value, dict):
        return {key: doubled(part) for key, part in value.items()}
    if isinstance(value, (list, tuple, deque)):
        return type(value)(doubled(part) for part in value)
    return sorted(value) if isinstance(value, set) else value * 2


@functools.singledispatch
def kind(value: Any) -> str:
    return "other"


@kind.register
def _(value: dict) -> str:  # type: ignore[type-arg]
    return "dict"


@kind.register
def _(value: list) -> str:  # type: ignore[type-arg]
    return "list"


def matched(value: Any) -> str:
    match value:
        case dict():
            return "dict"
        case list():
            return "list"
        case set():
            return "set"
        case deque():
            return "deque"
    return "other"


@pytest.mark.parametrize(
    "ask",
    [
        lambda d: doubled(d.tree),
        lambda d: (kind(d.tree), kind(d.tree["a"]), kind(d.tree["n"])),
        lambda d: (matched(d.tree), matched(d.tree["a"]), matched(d.tree["n"]), matched(d.tree["q"])),
        lambda d: dataclasses.asdict(d.user),
    ],
    ids=["isinstance", "singledispatch", "match", "asdict"],
)
def test_a_draft_and_a_view_go_the_way_of_the_plain_value(ask: Callable[[Any], Any]) -> None:
    expected = ask(world())
    session = Session(world())
    assert ask(session.state) == expected
    found = []
    session.run(lambda d: found.append(ask(d)))
    assert found == [expected]


@pytest.mark.parametrize(
    "value",
    [defaultdict(int, a=1), Counter("aab"), OrderedDict(a=1), Bag(a=1), deque([1], 2)],
    ids=lambda v: type(v).__name__,
)
def test_subclasses_say_which(value: Any) -> None:
    session = Session({"v": value})
    hooked = len(Bag.known)

    def use(d: Any) -> None:
        assert isinstance(d["v"], type(value))
        assert not isinstance(d["v"], frozenset)

    session.run(use)
    assert isinstance(session.state["v"], type(value))
    assert len(Bag.known) == hooked  # the user's hook is for the user's subclasses


def test_what_the_type_of_a_draft_makes_is_plain() -> None:
    session = Session({"l": [1, 2], "d": {"a": 1}, "c": Counter("a")})

    def use(d: Any) -> None:
        d["l"] = type(d["l"])(number + 1 for number in d["l"])
        d["d"] = d["d"].__class__(b=2)
        d["c"] = d["c"].__class__("bb")

    session.run(use)
    state = plain(session.state)
    assert state == {"l": [2, 3], "d": {"b": 2}, "c": Counter("bb")}
    assert [type(part) for part in state.values()] == [list, dict, Counter]
    assert isinstance(session.state["d"], dict)
