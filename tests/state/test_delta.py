"""What leads from one state to another: done again on the old one it makes the new one, and it is as small as the change."""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from pydantic import BaseModel
from state_tools import Session

from theus import plain
from theus.state.apply import apply_ops
from theus.state.delta import MOST, delta

SEEDS = 40


@dataclass
class Item:
    value: int = 0
    tags: list[str] = field(default_factory=list)


class Model(BaseModel):
    number: int = 0
    names: dict[str, int] = {}


def numbers(size: int) -> dict[str, int]:
    return {f"key {n}": n for n in range(size)}


@dataclass
class World:
    number: int = 0
    big: dict[str, int] = field(default_factory=lambda: numbers(300))
    items: dict[str, Item] = field(default_factory=lambda: {name: Item(n) for name, n in numbers(300).items()})
    log: list[int] = field(default_factory=lambda: list(range(300)))
    seen: set[int] = field(default_factory=lambda: set(range(300)))
    small: dict[str, int] = field(default_factory=lambda: numbers(5))
    few: list[Any] = field(default_factory=lambda: [1, [2, 3], 4])
    some: set[int] = field(default_factory=lambda: {1, 2})
    pair: tuple[int, list[int]] = (1, [2])
    counts: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int, a=1))
    last: deque[int] = field(default_factory=lambda: deque([1, 2], maxlen=5))
    model: Model = field(default_factory=lambda: Model(names={"a": 1}))
    item: Item | None = field(default_factory=Item)


def change(world: World, rng: random.Random) -> None:
    """One random change."""
    key, n = f"key {rng.randrange(305)}", rng.randrange(1000)
    place = rng.randrange(len(world.log))
    kind = rng.randrange(24)
    if kind == 0:
        world.number = n
    elif kind in (1, 2):
        world.big[key] = n
    elif kind == 3:
        world.big.pop(key, None)
    elif kind == 4:
        world.big[key] = world.big.pop(key, n)  # it moves to the end
    elif kind == 5:
        world.items.setdefault(key, Item(n)).value = n
    elif kind == 6:
        world.items.setdefault(key, Item(n)).tags.append(str(n))
    elif kind == 7:
        world.items[key] = Item(n)
    elif kind == 8:
        world.items.pop(key, None)
    elif kind == 9:
        world.log.append(n)
    elif kind == 10:
        world.log[place] = n
    elif kind == 11:
        world.log.pop()
    elif kind == 12:
        world.seen.add(n)
    elif kind == 13:
        world.seen.discard(n)
    elif kind == 14:
        world.small[key] = n
    elif kind == 15:
        world.small.pop(next(iter(world.small), ""), None)
    elif kind == 16:
        world.few.append(n)
    elif kind == 17:
        world.few[1] = [n]
    elif kind == 18:
        world.some ^= {n % 5}
    elif kind == 19:
        world.pair[1].append(n)
    elif kind == 20:
        world.counts["a"] += 1
    elif kind == 21:
        world.last.append(n)
    elif kind == 22:
        world.model.names[key] = n
    elif kind == 23:
        world.item = None if world.item else Item(n)


def shown(root: Any) -> str:
    """All of it, with the order of dicts."""
    value = plain(root)
    value.seen = sorted(value.seen)
    value.some = sorted(value.some)
    return repr(value)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_done_again_it_makes_the_new_state(seed: int) -> None:
    rng, session, told = random.Random(seed), Session(World()), 0
    kept = [session.head.snapshot]
    for _ in range(30):
        session.run(lambda world: [change(world, rng) for _ in range(rng.randrange(1, 6))])
        new = session.head.snapshot
        for old in kept:
            ops = delta(old.root, new.root)
            if ops is not None:
                told += 1
                assert shown(apply_ops(old.root, ops)) == shown(new.root)
        kept = [old for old in kept if rng.random() < 0.8] + [new]
    assert told


CHANGES: list[tuple[Callable[[Any], Any], list[Any]]] = [
    (lambda w: setattr(w, "number", 7), [("set", ("number",), 7)]),
    (lambda w: w.big.update({"key 7": 0}), [("set", ("big", "key 7"), 0)]),
    (lambda w: w.big.pop("key 7"), [("del", ("big", "key 7"))]),
    (lambda w: w.big.update(new=1, newer=2), [("set", ("big", "new"), 1), ("set", ("big", "newer"), 2)]),
    (lambda w: setattr(w.items["key 3"], "value", 9), [("set", ("items", "key 3", "value"), 9)]),
    (lambda w: w.items["key 3"].tags.append("a"), [("append", ("items", "key 3", "tags"), ["a"])]),
    (lambda w: w.log.extend([1, 2]), [("append", ("log",), [1, 2])]),
    (lambda w: w.log.__setitem__(-1, 0), [("set", ("log", 299), 0)]),
    (lambda w: w.seen.add(1000), [("include", ("seen",), {1000})]),
    (lambda w: w.seen.remove(7), [("discard", ("seen",), {7})]),
    (lambda w: w.small.pop("key 0"), [("del", ("small", "key 0"))]),
    (lambda w: w.few[1].append(5), [("append", ("few", 1), [5])]),
    (lambda w: w.model.names.update(b=2), [("set", ("model", "names", "b"), 2)]),
]


@pytest.mark.parametrize(("mutate", "expected"), CHANGES)
def test_it_is_as_small_as_the_change(mutate: Callable[[Any], Any], expected: list[Any]) -> None:
    session = Session(World())
    old = session.head.snapshot
    session.run(mutate)
    assert delta(old.root, session.head.snapshot.root) == expected


def test_what_is_the_same_has_none_and_what_changed_much_is_not_told() -> None:
    session = Session({"big": numbers(2 * MOST)})
    old = session.head.snapshot
    assert delta(old.root, old.root) == []
    session.run(lambda d: d["big"].update(dict.fromkeys(d["big"], -1)))
    assert delta(old.root["big"], session.head.snapshot.root["big"]) is None
    assert delta(1, 2) is None  # all of it is another
    assert delta(session.head.snapshot.root["big"], old.root["big"]) is None  # backwards
