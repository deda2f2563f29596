"""Every store passes the checks that ship with theus."""

import random

import pytest

from theus.state.head import Head
from theus.stores import open_store, sqlite
from theus.stores.codec import Codec
from theus.stores.memory import MemoryStore
from theus.stores.replica import Replica
from theus.stores.sqlite import SqliteDriver
from theus.testing import stores
from theus.testing.stores import CHECKS, LossyDriver, Shelf, check_store, checks_for


def lossy(path):
    """A place whose replies get lost, three of ten."""
    rng = random.Random(5)
    codec = Codec(Shelf)
    return lambda domain: Replica(
        lambda: LossyDriver(SqliteDriver(path, "normal"), lambda: rng.random() < 0.3), codec, domain
    )


PLACES = {
    "memory": lambda folder: MemoryStore,
    "sqlite": lambda folder: lambda domain: open_store(folder / "shelf.db", domain),
    "sqlite normal": lambda folder: lambda domain: open_store(f"sqlite:{folder}/shelf.db?sync=normal", domain),
    "sqlite lossy": lambda folder: lossy(folder / "shelf.db"),
}


@pytest.mark.parametrize(("name", "check"), [(name, check) for name in PLACES for check in checks_for(name)], ids=str)
def test_store(name, check, tmp_path):
    check(PLACES[name](tmp_path))


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", PLACES)
def test_a_thousand_rounds_of_write_skew(name, tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "ROUNDS", 1_000)
    for number, check in enumerate(check for check in checks_for(name) if "skew" in str(check)):
        (tmp_path / str(number)).mkdir()
        check(PLACES[name](tmp_path / str(number)))


def test_all_at_once():
    check_store(lambda: MemoryStore, "memory")


def test_a_broken_store_is_found_out(monkeypatch):
    monkeypatch.setattr(Head, "_validate", lambda *args: None)
    with pytest.raises(AssertionError) as failure:
        check_store(lambda: MemoryStore, "memory")
    assert "in the check: lost update" in failure.value.__notes__


def test_a_store_that_decides_on_what_it_last_saw_is_found_out(tmp_path, monkeypatch):
    """Nothing between two engines but the order of their commits: write skew."""
    anyhow = "(SELECT coalesce(max(version), 0) + 1 + 0 * ? FROM journal)"
    monkeypatch.setattr(sqlite, "_APPEND", f"INSERT INTO journal VALUES ({anyhow}, ?, ?, ?, ?, ?)")
    check = next(check for check in CHECKS if "skew between" in str(check))
    with pytest.raises(Exception):  # noqa: B017 - a violation, or a log that is not what was thought
        check(PLACES["sqlite normal"](tmp_path))
