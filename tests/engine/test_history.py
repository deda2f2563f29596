"""Who changed what; what lies between two versions; going back; what only ever grows."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from theus import DefinitionError, Engine, InvariantViolated, Tally, process
from theus.state.values import plain
from theus.testing.oracle import World, play, random_script


@dataclass
class Item:
    name: str = ""
    tags: list[str] = field(default_factory=list)


@dataclass
class Shop:
    stock: dict[str, int] = field(default_factory=lambda: {"tea": 3})
    items: dict[str, Item] = field(default_factory=dict)
    orders: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    hits: Tally = 0


@process
def place(ctx, sku):
    ctx.domain.stock[sku] -= 1
    ctx.domain.orders.append(sku)
    ctx.domain.hits += 1
    ctx.domain.seen.add(sku)


@process
def add_item(ctx, name):
    ctx.domain.items[name] = Item(name)


@pytest.fixture
def engine():
    with Engine(Shop()) as engine:
        yield engine


def test_history_says_who_changed_what(engine):
    engine.run(place, "tea")
    engine.run(add_item, "pot")
    first, second = engine.history(5)
    assert (first.version, first.process) == (1, "place")
    assert set(first.changes) == {"stock.tea = 2", "orders += ['tea']", "hits += 1", "seen |= {'tea'}"}
    assert str(second).endswith("add_item: items.pot = Item(name='pot', tags=[])")
    assert engine.history(1) == [second]
    assert engine.history(0) == []


def test_diff_shows_old_and_new(engine):
    engine.run(place, "tea")
    engine.run(add_item, "pot")
    engine.run(place, "tea")
    lines = {str(difference) for difference in engine.diff(0, 3)}
    assert lines == {
        "stock.tea: 3 -> 1",
        "orders: appended ['tea', 'tea']",
        "hits: 0 -> 2",
        "seen: added {'tea'}",
        "items.pot: added Item(name='pot', tags=[])",
    }
    assert {str(difference) for difference in engine.diff(2, 1)} == {"items.pot: removed Item(name='pot', tags=[])"}
    assert engine.diff(2, 2) == []


def test_restore_is_a_commit_of_its_own(engine):
    engine.run(place, "tea")
    kept = engine.state
    engine.run(add_item, "pot")
    engine.run(place, "tea")
    version = engine.restore(1)
    assert version == 4
    assert engine.state == kept
    assert engine.history(1)[0].process == "engine.restore(1)"
    assert engine.restore(4) == 4
    engine.restore(3)
    assert engine.state.stock["tea"] == 1
    assert "pot" in engine.state.items


def test_what_is_not_kept_says_what_is(engine):
    for _ in range(300):
        engine.run(add_item, "pot")
    with pytest.raises(DefinitionError, match="from 44 to 300"):
        engine.diff(0, 300)
    with pytest.raises(DefinitionError, match="version 301"):
        engine.restore(301)


def test_history_is_bounded_by_what_was_written():
    @process
    def write(ctx, size):
        ctx.domain["blob"] = bytes(size)

    with Engine({}) as engine:
        for _ in range(20):
            engine.run(write, 1_000_000)
        assert len(engine.history(100)) == 4
        engine.run(write, 50_000_000)
        assert engine.history(100) == []


def test_an_invariant_also_holds_for_what_is_restored():
    with Engine(Shop(), invariants=[lambda shop: shop.hits > 0 or not shop.orders]) as engine:
        with engine.transaction() as shop:
            shop.orders.append("tea")
            shop.hits += 1
        with engine.transaction() as shop:
            shop.orders.clear()
            shop.hits = 0
        engine.restore(1)
        engine.invariants = (lambda shop: shop.hits > 0,)
        with pytest.raises(InvariantViolated):
            engine.restore(0)


def test_any_version_can_be_restored():
    rng = random.Random(5)

    @process
    def run_script(ctx, script):
        play(ctx.domain, script)

    with Engine(World()) as engine:
        states = {0: plain(engine.state)}
        for _ in range(100):
            engine.run(run_script, random_script(rng, 4))
            version = engine.store.snapshot.version
            states[version] = plain(engine.state)
        for version in rng.sample(sorted(states), 30):
            engine.restore(version)
            assert engine.state == states[version], version


def test_what_only_grows_is_named_with_who_grows_it(engine):
    @process
    def forget(ctx):
        ctx.domain.items.clear()

    for number in range(10):
        engine.run(place, "tea")
        engine.run(add_item, f"pot {number}")
    engine.run(forget)
    grown = {growth.path: growth for growth in engine.growth()}
    assert grown["orders"].added == 10
    assert grown["orders"].size == 10
    assert grown["orders"].processes == ("place",)
    assert "items" not in grown
    assert str(grown["orders"]) == "orders: 10 entries, +10 in 10 commits by place, never fewer"


def test_a_list_that_was_ever_shorter_does_not_only_grow(engine):
    @process
    def insert_first(ctx):
        ctx.domain.orders.insert(0, "first")

    @process
    def pop(ctx):
        ctx.domain.orders.pop()

    for _ in range(10):
        engine.run(place, "tea")
    engine.run(insert_first)
    assert [growth.path for growth in engine.growth()] == ["orders", "seen"]
    assert engine.growth()[0].added == 11
    engine.run(pop)
    engine.run(place, "tea")
    assert [growth.path for growth in engine.growth()] == ["seen"]


def test_big_containers_are_restored_too():
    @process
    def change(ctx, n):
        ctx.domain["numbers"][n] = -n
        ctx.domain["numbers"].pop(n + 1, None)
        ctx.domain["lines"].append(n)
        if n % 5 == 0:
            ctx.domain["lines"][n] = "changed"
            ctx.domain["seen"].discard(n)

    start = {"numbers": {n: n for n in range(1000)}, "lines": list(range(1000)), "seen": set(range(1000))}
    with Engine(start) as engine:
        states = [plain(engine.state)]
        for n in range(30):
            engine.run(change, n)
            states.append(plain(engine.state))
        for version in (0, 17, 30, 5, 29, 1):
            engine.restore(version)
            assert engine.state == states[version]
            assert engine.diff(version, engine.store.snapshot.version) == []


def test_an_old_state_is_whole_or_not_kept_when_commits_are_heavy():
    """What is let go because it is too heavy was a part of every later state."""
    with Engine({"big": "", "keys": {}}) as engine:
        for number in range(1, 40):
            with engine.transaction() as domain:
                domain["big"] = "x" * (1_500_000 if number % 3 else 10)
                domain["keys"][number] = number
        kept = 0
        for version in range(40):
            try:
                state = engine.store.history.snapshot_at(version, engine.store.snapshot).view()
            except DefinitionError:
                continue
            kept += 1
            assert list(state["keys"]) == list(range(1, version + 1))
        assert kept >= 3
        assert len(engine.store.history._marks) < 10
