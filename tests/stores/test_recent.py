"""Records that only the log shows yet: whoever asks, and whenever the table is brought up to the log, they are the same."""

from __future__ import annotations

import gc
import os
import random
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from theus import Context, Engine, flow, process
from theus.protocols import Record
from theus.state.head import Staged
from theus.state.snapshot import Snapshot
from theus.stores import open_store, sqlite as module
from theus.stores.driver import Proposed
from theus.stores.recent import Recent
from theus.stores.sqlite import SqliteDriver

KINDS = ["step", "run"]
KEYS = ["a", "a/1", "a/2", "a/10", "b/1", "ä/1"]


@dataclass
class Shop:
    n: int = 0


@process
def step(ctx: Context[Shop]) -> int:
    ctx.domain.n += 1
    return ctx.domain.n


def proposed(records: list[Record]) -> Proposed:
    return Proposed("test", 0.0, b"[]", records, (), Staged(Snapshot(0, None), "test", (), (), [], True))


class Actor:
    """An engine's driver, which appends after what it has seen, like a replica."""

    def __init__(self, path: Path) -> None:
        self.driver = SqliteDriver(path, "normal")
        self.known = 0
        self.load()

    def load(self) -> None:
        loaded = self.driver.load(lambda: b"state")
        self.known = loaded.entries[-1].version if loaded.entries else loaded.version

    def append(self, *groups: list[Record]) -> None:
        seen: list[int] = []

        def make(others: Any) -> list[Proposed]:
            seen.extend(entry.version for entry in others)
            for group in groups:
                for record in group:
                    self.driver.record(record.kind, record.key)
            return [proposed(group) for group in groups]

        self.driver.append(self.known, f"g{random.random()}", make)
        self.known = (seen[-1] if seen else self.known) + len(groups)

    def follow(self) -> None:
        entries = self.driver.tail(self.known)
        self.known = entries[-1].version if entries else self.known


@pytest.mark.parametrize("seed", range(int(os.environ.get("THEUS_SOAK", "1")) * 5))
def test_whoever_asks_gets_what_was_written_last(tmp_path, monkeypatch, seed: int) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(module, "_RECENT", rng.choice([300, 5_000]))
    path, model, version = tmp_path / "shop.db", dict[tuple[str, str], bytes](), 0
    actors = [Actor(path) for _ in range(3)]
    for number in range(300):
        actor = rng.choice(actors[: 2 if number % 100 < 60 else 3])  # the third is away for long
        what = rng.random()
        if what < 0.6:
            groups = []
            for _ in range(rng.choice([1, 1, 3])):
                value = rng.choice([None, b"x" * rng.randrange(100)])
                groups.append([Record(rng.choice(KINDS), rng.choice(KEYS), value) for _ in range(rng.randrange(3))])
            actor.append(*groups)
            version += len(groups)
            for record in (record for group in groups for record in group):
                if record.value is None:
                    model.pop((record.kind, record.key), None)
                else:
                    model[record.kind, record.key] = record.value
        elif what < 0.7:
            actor.follow()
        elif what < 0.8:
            actor.driver.keep(actor.known, b"later state", actor.known)  # the log before goes
        elif what < 0.85:
            actor.driver.close()
            actors[actors.index(actor)] = Actor(path)
        for kind, prefix in [(rng.choice(KINDS), rng.choice(["", "a", "a/", "a/1", "ä", "c"]))]:
            expected = {key: value for (of, key), value in model.items() if of == kind and key.startswith(prefix)}
            asked = rng.choice(actors)
            assert asked.driver.records(kind, prefix) == [Record(kind, key, expected[key]) for key in sorted(expected)]
        actor = rng.choice(actors)
        actor.append([])  # as in a commit: then what it is told is certain
        version += 1
        for kind in KINDS:
            for key in KEYS:
                assert actor.driver.record(kind, key) == model.get((kind, key)), (number, kind, key)
    for actor in actors:
        actor.driver.close()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT max(version) FROM journal").fetchone() == (version,)
        assert db.execute("SELECT version FROM folded").fetchone()[0] > 0


def test_a_record_that_was_changed_again_is_known_in_its_newest_form() -> None:
    recent = Recent(10)
    recent.note(11, [Record("run", "a", b"1"), Record("run", "b", b"1")])
    recent.note(12, [Record("run", "a", None)])
    assert recent.get("run", "a") == (12, None)
    assert recent.of("run", "a") == {"a": (12, None)}
    recent.forget(11)
    assert recent.get("run", "b") is None
    assert recent.changed(0) == [("run", "a", None)]


def test_records_are_looked_at_while_garbage_is_collected() -> None:
    """Collecting garbage runs code, and lets other threads in: here it notes records, as they would."""
    recent = Recent(0)
    recent.note(1, [Record("run", f"a{n}", b"") for n in range(300)])

    def note(phase: str, info: dict[str, int]) -> None:
        recent.note(recent.version + 1, [Record("run", f"b{recent.version}", b"")])

    before = gc.get_threshold()
    gc.callbacks.append(note)
    gc.set_threshold(1)
    try:
        found = [recent.of("run", "a") for _ in range(5)]
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(note)
    assert [len(records) for records in found] == [300] * 5


class Interrupted:
    """A connection that reads, and between its first look at the file and the next lets others go on."""

    def __init__(self, db: Any, then: Any) -> None:
        self._db, self._then = db, then

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    def execute(self, statement: str, *arguments: Any) -> Any:
        found = self._db.execute(statement, *arguments).fetchall()
        then, self._then = (None, self._then) if statement == "BEGIN" else (self._then, None)
        if then is not None:
            then()
        return Rows(found)


class Rows(list[Any]):
    def fetchone(self) -> Any:
        return self[0]


def test_what_is_folded_while_somebody_reads_is_not_missed(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "_RECENT", 0)
    actor = Actor(tmp_path / "shop.db")
    actor.append([Record("run", "a", b"1"), Record("run", "b", b"1")])

    def more() -> None:
        actor.append([Record("run", "a", b"2")])
        actor.append([])
        assert actor.driver._recent.get("run", "b") is None  # it is in the table by now

    actor.driver._reader = Interrupted(actor.driver._reader, more)
    assert actor.driver.records("run", "") in (
        [Record("run", "a", b"1"), Record("run", "b", b"1")],
        [Record("run", "a", b"2"), Record("run", "b", b"1")],
    )
    actor.driver.close()


def test_what_a_run_recorded_and_let_go_of_never_came_to_the_table(tmp_path) -> None:
    path = tmp_path / "shop.db"
    with Engine(Shop(), store=path) as engine:
        engine.run(flow(*[step] * 20), run_id="r")
        assert [record.key for record in engine.store.records("run")] == ["r"]  # type: ignore[union-attr]
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM record").fetchone() == (0,)


def test_a_file_of_the_first_format_is_brought_up_to_this_one(tmp_path) -> None:
    path = tmp_path / "shop.db"
    with Engine(Shop(), store=path) as engine:
        engine.run(flow(step, step), run_id="r")
        found = [record for kind in ("run", "owner", "result") for record in engine.store.records(kind)]  # type: ignore[union-attr]
    with closing(sqlite3.connect(path, isolation_level=None)) as db:  # as the version before wrote it
        db.executemany("INSERT INTO record VALUES (?, ?, ?)", [(one.kind, one.key, one.value) for one in found])
        db.execute("DROP TABLE folded")
        db.execute("PRAGMA user_version = 1")
    store = open_store(path, Shop())
    assert [record for kind in ("run", "owner", "result") for record in store.records(kind)] == found
    store.close()
    with Engine(Shop(), store=path) as engine:
        assert engine.run(flow(step, step), run_id="r") == 2
        assert engine.run(flow(step, step), run_id="s") == 4
