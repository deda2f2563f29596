"""What keeping the state costs: a durable step, commits of many callers, bytes of the log, starting again, and how soon
another process hears of a commit.

DBOS' durable step on SQLite stands beside ours (``make bench`` installs it). With sizes as arguments only
the start is measured, with states of so many megabytes: ``python -m benchmarks.bench_store 100 1000``.
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import multiprocessing
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.measure import in_turns, table, timed
from theus import Context, Engine, flow, process
from theus.stores.sqlite import SqliteDriver

STEPS = 300
COMMITS = 960
HEARD = 200
_numbers = itertools.count()


@dataclass
class Shop:
    n: int = 0
    stock: dict[str, int] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


@process
def step(ctx: Context[Shop]) -> int:
    ctx.domain.n += 1
    return ctx.domain.n


@process(environment="loop")
async def put(ctx: Context[Shop], key: str) -> None:
    ctx.domain.stock[key] = 1


def main(*sizes: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not sizes:
            one_step(folder)
            many_callers(folder)
            heard_elsewhere("SQLite", f"sqlite:{folder}/heard.db?sync=normal")
        starting(folder, [int(size) for size in sizes or ("1", "10", "100")])


def one_step(folder: Path) -> None:
    """One caller, one step after the other."""
    memory = Engine(Shop())
    engines = {sync: Engine(Shop(), store=f"sqlite:{folder}/step-{sync}.db?sync={sync}") for sync in ("normal", "full")}
    durable = flow(*[step] * STEPS)
    cases: dict[str, Callable[[], float]] = {"in memory": timed(lambda: _run(memory), STEPS)}
    for sync in ("normal", "full"):
        cases[f"sqlite3 alone, {sync}: one insert"] = timed(_inserts(folder / f"raw-{sync}.db", sync), STEPS)
    for sync, engine in engines.items():
        cases[f"engine.run on SQLite, {sync}"] = timed(lambda engine=engine: _run(engine), STEPS)  # type: ignore[misc]
        cases[f"a step of a durable run, {sync}"] = timed(
            lambda engine=engine: engine.run(durable, run_id=f"run-{next(_numbers)}"),  # type: ignore[misc]
            STEPS,
        )
    dbos = _dbos(folder)
    if dbos is not None:
        cases["DBOS: a step of a workflow, SQLite"] = timed(dbos, STEPS)
    figures = in_turns(cases)
    table("One durable step (x: times sqlite3 alone, full)", figures, "sqlite3 alone, full: one insert")
    for engine in (memory, *engines.values()):
        engine.close()
    driver = SqliteDriver(folder / "step-full.db")
    entries = driver.load(bytes).entries
    rows = [sum(len(part) for part in (entry.ops, entry.author, entry.group)) + 16 for entry in entries]
    plain = [row for row, entry in zip(rows, entries, strict=True) if not entry.records]
    recorded = [
        row + sum(len(record.key) + len(record.value or b"") for record in entry.records)
        for row, entry in zip(rows, entries, strict=True)
        if entry.records
    ]
    driver.close()
    print(f"  bytes of the log for a step: {sum(plain) / len(plain):.0f}", end="")
    print(f"; of a durable run, with its record: {sum(recorded) / len(recorded):.0f}" if recorded else "")


def _run(engine: Engine[Shop]) -> None:
    for _ in range(STEPS):
        engine.run(step)


def _inserts(path: Path, sync: str) -> Callable[[], None]:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute(f"PRAGMA synchronous = {sync}")
    db.execute("CREATE TABLE log (version INTEGER PRIMARY KEY, data BLOB)")

    def work() -> None:
        for _ in range(STEPS):
            db.execute("BEGIN IMMEDIATE")
            db.execute("INSERT INTO log (data) VALUES (?)", (b"x" * 80,))
            db.execute("COMMIT")

    return work


def _dbos(folder: Path) -> Callable[[], Any] | None:
    if importlib.util.find_spec("dbos") is None:
        return None
    from dbos import DBOS

    DBOS(
        config={
            "name": "bench",
            "system_database_url": f"sqlite:///{folder}/dbos.sqlite",
            "run_admin_server": False,
            "log_level": "ERROR",
            "console_log_level": "ERROR",
        }
    )

    @DBOS.step()  # type: ignore[untyped-decorator]
    def add(n: int) -> int:
        return n + 1

    @DBOS.workflow()  # type: ignore[untyped-decorator]
    def workflow() -> int:
        n = 0
        for _ in range(STEPS):
            n = add(n)
        return n

    DBOS.launch()
    return workflow


def many_callers(folder: Path) -> None:
    """Tasks of one loop that commit at once, beside the same one by one."""

    def commits(engine: Engine[Shop], callers: int, *, grouped: bool) -> Callable[[], float]:
        async def main() -> None:
            gate = asyncio.Semaphore(callers if grouped else 1)

            async def caller(number: int) -> None:
                for _ in range(COMMITS // callers):
                    async with gate:
                        await engine.arun(put, f"k{number}")

            await asyncio.gather(*(caller(number) for number in range(callers)))

        return timed(lambda: asyncio.run(main()), COMMITS)

    for sync in ("full", "normal"):
        with Engine(Shop(), store=f"sqlite:{folder}/many-{sync}.db?sync={sync}") as engine:
            cases = {
                "64 callers, one by one": commits(engine, 64, grouped=False),
                **{f"{callers} callers": commits(engine, callers, grouped=True) for callers in (1, 16, 64)},
            }
            figures = {name: 1e6 / spent for name, spent in in_turns(cases).items()}
        table(f"Commits of many callers on SQLite, {sync}", figures, "64 callers, one by one", unit="/s")


def heard_elsewhere(name: str, store: str) -> None:
    """From the answer to a commit until an engine in another process has its state. Pauses in between, as a service has them."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    listener = context.Process(target=_listen, args=(store, there))
    with Engine(Shop(), store=store) as engine:
        engine.run(step)
        listener.start()
        here.recv()  # it is ready
        seen = []
        for number in range(HEARD):
            time.sleep(0.001 * (number % 25))
            engine.run(step)
            answered = time.monotonic()  # one clock for all processes of the machine
            seen.append(max(0.0, here.recv() - answered) * 1e3)
        here.send(None)
        listener.join()
    seen.sort()
    print(
        f"\n{name}: another process has a commit's state {seen[len(seen) // 2]:.1f} ms (median) after its answer, at most {seen[-1]:.1f} ms"
    )


def _listen(store: str, pipe: Connection) -> None:
    with Engine(Shop(), store=store) as engine:
        _ = engine.state
        assert engine.store is not None
        engine.store.tail(lambda _: pipe.send(time.monotonic()))
        pipe.send(None)
        pipe.recv()


def starting(folder: Path, sizes: list[int]) -> None:
    """From ``Engine(...)`` to the first look at the state."""
    figures = {}
    for megabytes in sizes:
        store = f"sqlite:{folder}/big-{megabytes}.db?sync=normal"
        texts = {str(n): "x" * 1_000 for n in range(1_000 * megabytes)}
        with Engine(Shop(texts=texts), store=store) as engine:
            engine.run(step)
        del texts
        seen = []
        for _ in range(3):
            started = time.perf_counter()
            with Engine(Shop(), store=store) as engine:
                assert engine.state.n == 1
            seen.append(time.perf_counter() - started)
        figures[f"{megabytes} MB"] = sorted(seen)[1]
    table("Starting with what is in the file", figures, f"{sizes[0]} MB", unit="s")


if __name__ == "__main__":
    main(*sys.argv[1:])
