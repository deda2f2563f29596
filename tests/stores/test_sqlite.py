"""SQLite: files that cannot be used, durability by name, engines that are inert until used, forks."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest

from theus import Context, DefinitionError, Engine, NotStorable, StoreError, StoreUnavailable, process
from theus.stores import replica, sqlite as module
from theus.stores.sqlite import SqliteDriver


@dataclass
class Shop:
    hits: int = 0
    log: list[str] = field(default_factory=list)
    anything: dict[str, Any] = field(default_factory=dict)


@process
def hit(ctx: Context[Shop]) -> int:
    ctx.domain.hits += 1
    return ctx.domain.hits


@process(environment="loop")
async def keep(ctx: Context[Shop], key: str, value: Any) -> None:
    ctx.domain.anything[key] = value


# --- through an engine ---


def test_an_engine_goes_on_where_it_stopped(tmp_path) -> None:
    path = tmp_path / "shop.db"
    with Engine(Shop(), store=path) as engine:
        assert [engine.run(hit), engine.run(hit)] == [1, 2]
    with Engine(Shop(), store=str(path)) as engine:
        assert engine.run(hit) == 3
        assert [made.process for made in engine.history()] == ["hit"] * 3
        assert engine.restore(1) == 4
        assert engine.state.hits == 1


def test_nothing_is_touched_before_the_first_use(tmp_path) -> None:
    engine = Engine(Shop(), store=tmp_path / "shop.db")
    assert "not used yet" in repr(engine)
    assert os.listdir(tmp_path) == []
    engine.close()
    assert os.listdir(tmp_path) == []


def test_opening_does_not_hold_up_a_loop(tmp_path, monkeypatch) -> None:
    gate, loaded = threading.Event(), SqliteDriver.load

    def slow(self: SqliteDriver, initial: Any) -> Any:
        gate.wait(60)
        return loaded(self, initial)

    monkeypatch.setattr(SqliteDriver, "load", slow)

    async def main() -> None:
        async with Engine(Shop(), store=tmp_path / "shop.db") as engine:
            asyncio.get_running_loop().call_soon(gate.set)  # the loop is free to do it
            assert await engine.arun(hit) == 1

    asyncio.run(main())


def test_a_call_with_a_value_that_cannot_be_stored_fails_alone(tmp_path) -> None:
    with Engine(Shop(), store=tmp_path / "shop.db") as engine:

        async def main() -> list[Any]:
            calls = [engine.arun(keep, str(n), threading.Lock() if n == 5 else n) for n in range(10)]
            return await asyncio.gather(*calls, return_exceptions=True)

        answers = asyncio.run(main())
        assert [type(answer) for answer in answers] == [type(None)] * 5 + [NotStorable] + [type(None)] * 4
        assert answers[5].process == "keep"
        assert answers[5].path == "anything.'5'"
        assert "lock" in answers[5].what
        assert sorted(engine.state.anything) == [*"012346789"]


def test_an_initial_state_that_cannot_be_stored_is_refused(tmp_path) -> None:
    with Engine(Shop(anything={"a": object()}), store=tmp_path / "shop.db") as engine, pytest.raises(NotStorable):
        engine.run(hit)
    with Engine(Shop(), store=tmp_path / "shop.db") as engine:
        assert engine.run(hit) == 1


@pytest.mark.parametrize("domain", [{"hits": 1}, None])
def test_a_dict_is_a_domain_and_nothing_is_none(domain: Any, tmp_path) -> None:
    if domain is None:
        with pytest.raises(DefinitionError, match=r"Engine\(Shop\(\)"):
            Engine(store=tmp_path / "shop.db")
        return
    for _ in range(2):
        with Engine(domain, store=tmp_path / "shop.db") as engine, engine.transaction() as state:
            state["hits"] += 1
    with Engine(domain, store=tmp_path / "shop.db") as engine:
        assert engine.state["hits"] == 3


def test_who_commits_a_lot_gets_room_for_it_at_once(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "_MANY", 3)
    path = tmp_path / "shop.db"
    with Engine(Shop(), store=path) as engine:
        for _ in range(2):
            engine.run(hit)
        assert os.path.getsize(f"{path}-wal") < 2**20
        engine.run(hit)
        assert os.path.getsize(f"{path}-wal") > 2**20
        driver: Any = engine.store._driver  # type: ignore[union-attr]
        assert driver._db.execute("SELECT min(version) FROM part").fetchone() == (0,)  # nothing was written
    assert path.stat().st_size < 2**20
    with Engine(Shop(), store=path) as engine:
        assert engine.state.hits == 3


def test_a_file_that_was_exchanged_for_an_older_one_is_noticed(tmp_path) -> None:
    path = tmp_path / "shop.db"
    with Engine(Shop(), store=path) as engine:
        engine.run(hit)
        engine.run(hit)
        with sqlite3.connect(path) as other:  # as a restored backup would
            other.execute("DELETE FROM journal WHERE version = 2")
        other.close()
        with pytest.raises(StoreError, match="ends before version 2"):
            engine.run(hit)
        assert engine.state.hits == 2
    with Engine(Shop(), store=path) as engine:
        assert engine.run(hit) == 2


# --- what the store is called ---


@pytest.mark.parametrize(
    ("url", "sync", "size"), [("{}", "full", 2), ("sqlite:{}", "full", 2), ("sqlite:{}?sync=normal", "normal", 1)]
)
def test_durability_is_chosen_by_name(url: str, sync: str, size: int, tmp_path) -> None:
    with Engine(Shop(), store=url.format(tmp_path / "shop.db")) as engine:
        engine.run(hit)
        driver: Any = engine.store._driver  # type: ignore[union-attr]
        assert driver._db.execute("PRAGMA synchronous").fetchone() == (size,)
        assert driver._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert (tmp_path / "shop.db").exists()


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:",
        "sqlite:x.db?sync=off",
        "sqlite:x.db?durability=full",
        "sqlite:///x.db",
        "mysql://host/db",
        "s3://b/x",
        "x.db?sync=off",
        "file:shop.db",
    ],
)
def test_a_url_that_says_nothing_is_refused_at_once(url: str) -> None:
    with pytest.raises(DefinitionError, match=r"sqlite:"):
        Engine(Shop(), store=url)


@pytest.mark.parametrize("url", ["", "memory", "memory:", ":memory:", "sqlite::memory:"])
def test_a_url_that_names_no_file_is_refused_at_once(url: str) -> None:
    with pytest.raises(DefinitionError, match="leave store= out"):
        Engine(Shop(), store=url)


def test_something_that_is_no_store_is_refused() -> None:
    with pytest.raises(DefinitionError, match="a path, a URL or a Store"):
        Engine(Shop(), store=5)  # type: ignore[arg-type]


# --- files that cannot be used ---


def refused(path: Any, words: str) -> None:
    """The first use says what is wrong, and leaves the file as it is."""
    before = path.read_bytes() if path.is_file() else None
    with Engine(Shop(), store=path) as engine, pytest.raises(StoreError, match=words) as caught:
        engine.run(hit)
    assert str(path) in str(caught.value)
    assert (path.read_bytes() if path.is_file() else None) == before


def test_a_missing_directory(tmp_path) -> None:
    refused(tmp_path / "no" / "shop.db", "there is no directory .*no")


def test_a_directory(tmp_path) -> None:
    (tmp_path / "shop.db").mkdir()
    refused(tmp_path / "shop.db", "this is a directory; name a file")
    assert not (tmp_path / "shop.db-queue").exists()


def test_a_file_that_is_something_else(tmp_path) -> None:
    (tmp_path / "shop.db").write_text("my shopping list\n" * 100)
    refused(tmp_path / "shop.db", "not a SQLite file")
    assert os.listdir(tmp_path) == ["shop.db"]


def test_a_device(tmp_path) -> None:
    with Engine(Shop(), store="/dev/null") as engine, pytest.raises(StoreError, match="a device or the like") as caught:
        engine.run(hit)
    assert not isinstance(caught.value, StoreUnavailable)


def test_a_database_of_somebody_else(tmp_path) -> None:
    other = sqlite3.connect(tmp_path / "shop.db")
    other.execute("CREATE TABLE journal (x)")
    other.close()
    refused(tmp_path / "shop.db", "not one of Theus")
    assert os.listdir(tmp_path) == ["shop.db"]


def test_runs_need_no_state_but_an_empty_one(tmp_path) -> None:
    with pytest.raises(DefinitionError, match=r"the store keeps runs only, Engine\(\{\}"):
        Engine(store=tmp_path / "runs.db")
    for _ in range(2):
        with Engine({}, store=tmp_path / "runs.db") as engine:
            assert engine.run(process(lambda value: value + 1), 1, run_id="r") == 2


def test_a_newer_format(tmp_path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, "_FORMAT", 7)
        with Engine(Shop(), store=tmp_path / "shop.db") as engine:
            engine.run(hit)
    refused(tmp_path / "shop.db", "has format 7")


def test_a_damaged_file(tmp_path) -> None:
    path = tmp_path / "shop.db"
    with Engine(Shop(), store=path) as engine:
        for _ in range(100):
            engine.run(hit)
    data = bytearray(path.read_bytes())
    data[4096:] = b"\x55" * (len(data) - 4096)
    path.write_bytes(data)
    refused(path, "malformed|failed")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_file_that_may_not_be_written(tmp_path) -> None:
    path = tmp_path / "shop.db"
    with Engine(Shop(), store=path) as engine:
        engine.run(hit)
    path.chmod(0o444)
    refused(path, "cannot be written")


def test_a_shell_that_holds_the_file_for_long_makes_it_unavailable(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "_BUSY", 0.05)
    path = tmp_path / "shop.db"
    with Engine(Shop(), store=path) as engine:
        engine.run(hit)
        shell = sqlite3.connect(path, isolation_level=None)
        shell.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="cannot be used at the moment"):
            engine.run(hit)
        shell.execute("ROLLBACK")
        shell.close()
        assert engine.run(hit) == 2


def test_a_disk_that_is_full_changes_nothing(tmp_path) -> None:
    with Engine(Shop(), store=tmp_path / "shop.db") as engine:
        engine.run(hit)
        driver: Any = engine.store._driver  # type: ignore[union-attr]
        (pages,) = driver._db.execute("PRAGMA page_count").fetchone()
        driver._db.execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(StoreUnavailable, match="full"):
            engine.run(keep, "big", "x" * 100_000)
        assert not engine.state.anything
        assert engine.run(hit) == 2


# --- for long ---


def steps(path: Any, count: int) -> int:
    """Small steps; the bytes of all files of the store at the end."""
    with Engine(Shop(), store=f"sqlite:{path}?sync=normal") as engine:
        for _ in range(count):
            engine.run(hit)
        assert engine.state.hits == count
    return sum(file.stat().st_size for file in path.parent.iterdir())


def test_the_file_does_not_grow_with_the_number_of_steps(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(replica, "MOST_WEIGHT", 20_000)  # cut the log every few hundred steps
    size = steps(tmp_path / "shop.db", 3_000)
    assert size < 150_000
    with Engine(Shop(), store=tmp_path / "shop.db") as engine:
        assert engine.run(hit) == 3_001


@pytest.mark.soak
@pytest.mark.timeout(4 * 3600)
def test_ten_million_steps(tmp_path) -> None:
    count = 10_000_000
    size = steps(tmp_path / "shop.db", count)
    print(f"{count:,} small steps: {size / 2**20:.1f} MiB of files")
    assert size < 64 * 2**20


# --- processes ---

CHILD = """
import os, sys
from dataclasses import dataclass
from theus import Engine, process

@dataclass
class Shop:
    hits: int = 0

@process
def hit(ctx):
    ctx.domain.hits += 1
    return ctx.domain.hits

engine = Engine(Shop(), store=sys.argv[1])
if sys.argv[2] == "used":
    assert engine.run(hit) == 1
child = os.fork()
before = 1 if sys.argv[2] == "used" else 0
if child == 0:
    for n in range(5):
        engine.run(hit)
    engine.close()
    os._exit(0 if engine.state.hits >= 5 else 1)
assert os.waitpid(child, 0)[1] == 0
assert engine.run(hit) == before + 6, engine.state.hits
engine.close()
print("ok")
"""


@pytest.mark.parametrize("when", ["used", "unused"])
def test_a_forked_child_begins_anew_on_the_same_store(when: str, tmp_path) -> None:
    script = tmp_path / "fork.py"
    script.write_text(CHILD)
    command = [sys.executable, "-W", "ignore::DeprecationWarning", str(script), str(tmp_path / "shop.db"), when]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("ok\n", "")
