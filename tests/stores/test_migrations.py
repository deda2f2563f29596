"""A state that was stored by an older version of its class."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from theus import DefinitionError, Engine, StoreError, migration, plain, process
from theus.stores import open_store
from theus.stores.replica import Replica

OLD = """
from dataclasses import dataclass, field

@dataclass
class Item:
    name: str = ""
    price: float = 0.0

@dataclass
class Shop:
    hits: int = 0
    owner: str = "ann"
    items: dict[int, Item] = field(default_factory=lambda: {1: Item("tea", 2.5)})
    tags: set[str] = field(default_factory=lambda: {"a"})
    log: list[str] = field(default_factory=list)
"""

NEW = """
from dataclasses import dataclass, field
from theus import migration

@dataclass
class Item:
    name: str = ""
    cents: int = 0

@dataclass
class Shop:
    schema_version = 3
    hits: int = 0
    owners: list[str] = field(default_factory=list)
    items: dict[int, Item] = field(default_factory=dict)
    tags: set[str] = field(default_factory=set)
    log: list[str] = field(default_factory=list)

@migration(2, 3)
def owners(shop):
    return {**{name: value for name, value in shop.items() if name != "owner"}, "owners": [shop["owner"]]}

@migration(1, 2)
def cents(shop):
    for item in shop["items"].values():
        item["cents"] = round(100 * item.pop("price"))
"""


def module(code: str) -> Any:
    """The code as a module of the name ``shops``."""
    made = types.ModuleType("shops")
    sys.modules["shops"] = made
    exec(code, vars(made))
    return made


@pytest.fixture(autouse=True)
def no_module():
    yield
    sys.modules.pop("shops", None)


def fill(engine: Engine[Any], code: Any) -> None:
    """Changes of each kind, on declared types."""

    @process
    def change(ctx: Any) -> None:
        shop = ctx.domain
        shop.hits += 1
        shop.items[7] = code.Item("milk", 1.25)
        shop.items[1].price = 3.0
        shop.tags.add("b")
        shop.tags.discard("a")
        shop.log.append("one")

    engine.run(change)


def stored(path: Path) -> Any:
    """A store with a state of the old class; its engine is still open."""
    old = module(OLD)
    engine = Engine(old.Shop(), store=path)
    fill(engine, old)
    return engine


def expected(new: Any) -> Any:
    items = {1: new.Item("tea", 300), 7: new.Item("milk", 125)}
    return new.Shop(1, ["ann"], items, {"b"}, ["one"])


def test_migrations_run_once_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    stored(path).close()
    new = module(NEW)
    with Engine(new.Shop(), store=path) as engine:
        assert plain(engine.state) == expected(new)
        assert [change.process for change in engine.history()] in (["migration to 3"], [])
        version = engine.store.snapshot.version  # type: ignore[union-attr]
        with engine.transaction() as shop:
            shop.hits = 5
    del new.cents, new.owners  # they are not needed again
    with Engine(new.Shop(), store=path) as engine:
        assert engine.state.hits == 5
        assert engine.store.snapshot.version == version + 1  # type: ignore[union-attr]


def test_two_engines_migrate_once(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    stored(path).close()
    new = module(NEW)
    one, two = Engine(new.Shop(), store=path), Engine(new.Shop(), store=path)
    assert plain(one.state) == plain(two.state) == expected(new)
    assert one.store.snapshot.version == two.store.snapshot.version == 2  # type: ignore[union-attr]
    one.close()
    two.close()


def test_an_engine_with_the_older_code_stops(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    old_engine = stored(path)
    new = module(NEW)
    with Engine(new.Shop(), store=path) as engine:
        assert engine.state.owners == ["ann"]
    with pytest.raises(StoreError, match="has migrated the store to version 3, this one runs code of version 1"):
        fill(old_engine, module(OLD))
    old_engine.close()
    with Engine(new.Shop(), store=path) as engine:
        assert engine.state.hits == 1


def test_older_code_does_not_open_a_newer_state(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    with Engine(module(NEW).Shop(hits=4), store=path) as engine, engine.transaction() as shop:
        shop.hits = 5
    old = module(OLD)
    with Engine(old.Shop(), store=path) as engine, pytest.raises(DefinitionError, match="newer code has written it"):
        _ = engine.state


def test_a_missing_migration_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    stored(path).close()
    new = module(NEW)
    del new.owners
    with Engine(new.Shop(), store=path) as engine, pytest.raises(DefinitionError, match=r"@migration\(2, 3\)"):
        _ = engine.state


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    stored(path).close()
    new = module(NEW.replace('item.pop("price")', 'item.pop("prise")'))
    with Engine(new.Shop(), store=path) as engine, pytest.raises(KeyError):
        _ = engine.state
    new = module(NEW.replace("100 * ", "'x' * "))
    with Engine(new.Shop(), store=path) as engine, pytest.raises(TypeError):
        _ = engine.state
    new = module(NEW)
    with Engine(new.Shop(), store=path) as engine:
        assert plain(engine.state) == expected(new)


def test_what_would_change_can_be_seen_before(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    stored(path).close()
    new = module(NEW)
    for _ in range(2):  # it is only looked at
        store = open_store(path, new.Shop())
        assert isinstance(store, Replica)
        pending = store.pending()
        assert pending is not None
        assert (pending.old, pending.new, pending.steps) == (1, 3, ("cents", "owners"))
        assert pending.before["owner"] == "ann"
        assert pending.before["items"]["1"] == {"name": "tea", "price": 3.0}
        assert pending.after["items"]["1"] == {"name": "tea", "cents": 300}
        store.close()
    with Engine(new.Shop(), store=path) as engine:
        _ = engine.state
    store = open_store(path, new.Shop())
    assert isinstance(store, Replica)
    assert store.pending() is None
    store.close()


def test_a_new_field_has_its_default_and_an_unknown_one_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    stored(path).close()
    other = module(OLD.replace('    owner: str = "ann"\n', "    colour: str = 'red'\n"))
    with Engine(other.Shop(), store=path) as engine:
        assert engine.state.colour == "red"
        with engine.transaction() as shop:
            shop.colour = "blue"
    again = module(OLD)
    with Engine(again.Shop(owner="eve"), store=path) as engine:
        assert engine.state.owner == "ann"
        assert engine.state.hits == 1


def test_another_domain_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    stored(path).close()
    other = module(OLD.replace("class Shop", "class Bank"))
    with Engine(other.Bank(), store=path) as engine, pytest.raises(DefinitionError, match=r"holds a Shop.*a Bank"):
        _ = engine.state
    with Engine({"hits": 1}, store=path) as engine, pytest.raises(DefinitionError, match=r"holds a Shop.*a dict"):
        _ = engine.state


def test_a_migration_makes_another_domain_of_it(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    stored(path).close()
    new = module(NEW.replace("class Shop", "class Market"))
    with Engine(new.Market(), store=path) as engine:
        assert engine.state.items[7].cents == 125
    with Engine(new.Market(), store=path) as engine:
        assert engine.state.owners == ["ann"]


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 1), (0, 1)])
def test_a_migration_goes_forward(before: int, after: int) -> None:
    with pytest.raises(DefinitionError, match="the older one first"):
        migration(before, after)
