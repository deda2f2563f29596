"""Begins engine processes that work on one store until they are killed, one after the other.

    python doomed_process.py STORE ACKNOWLEDGED KIND

For each line from its standard input it forks a child, says its process id, and when that has ended says "gone". The child
commits from threads and from a loop at once, and writes the id of each commit to a side file once it was answered.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from theus import Context, Engine, Tally, process
from theus.stores import replica
from theus.stores.driver import Entry, Make, Proposed

THREADS, CALLERS = 3, 8  # per child
DRIVERS = {
    "sqlite": ("theus.stores.sqlite", "SqliteDriver"),
    "redis": ("theus.stores.redis", "RedisDriver"),
    "postgresql": ("theus.stores.postgres", "PostgresDriver"),
}


@dataclass
class Ledger:
    """Three things that must agree."""

    count: int = 0
    total: Tally = 0
    by_worker: dict[str, int] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    weight: str = ""


@process
def book(ctx: Context[Ledger], worker: str, entry: str) -> None:
    ledger = ctx.domain
    ledger.count += 1
    ledger.total += 1
    ledger.by_worker[worker] = ledger.by_worker.get(worker, 0) + 1
    ledger.log.append(entry)
    ledger.weight = "x" * 300


@process(environment="loop")
async def book_later(ctx: Context[Ledger], worker: str, entry: str) -> None:
    ctx.send(book_now, worker=worker, entry=entry)


@process(nature="state")
def book_now(ctx: Context[Ledger], worker: str, entry: str) -> None:
    ledger = ctx.domain
    ledger.count += 1
    ledger.total += 1
    ledger.by_worker[worker] = ledger.by_worker.get(worker, 0) + 1
    ledger.log.append(entry)


def make_early(module: str, name: str) -> None:
    """Let a driver answer before it has written: a group stands in the log only when the next one comes. For the control."""
    drivers = import_module(module)
    driver: Any = getattr(drivers, name)

    class EarlyDriver(driver):
        late: Sequence[Proposed] = ()

        def append(self, known: int, group: str, make: Make) -> Sequence[Entry]:
            late, self.late = self.late, make([])
            super().append(known - len(late), group, lambda others: late)
            return ()

    setattr(drivers, name, EarlyDriver)


def work(store: str, acknowledged: int) -> None:
    """For ever."""
    with Engine(Ledger(), store=store) as engine:

        def note(entry: str) -> None:
            os.write(acknowledged, f"{entry}\n".encode())

        def in_thread(worker: str) -> None:
            number = 0
            while True:
                number += 1
                engine.run(book, worker, f"{worker}.{number}")
                note(f"{worker}.{number}")

        async def caller(worker: str) -> None:
            number = 0
            while True:
                number += 1
                await engine.arun(book_later, worker, f"{worker}.{number}")
                note(f"{worker}.{number}")

        async def loop() -> None:
            await asyncio.gather(*(caller(f"{os.getpid()}.c{n}") for n in range(CALLERS)))

        for n in range(THREADS):
            threading.Thread(target=in_thread, args=(f"{os.getpid()}.t{n}",), daemon=True).start()
        asyncio.run(loop())


def main(store: str, path: str, kind: str) -> None:
    replica.MOST_WEIGHT = 30_000  # snapshots all the time
    if kind == "early":
        make_early(*DRIVERS[store.partition(":")[0]])
    acknowledged = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            work(store, acknowledged)
        print(child, flush=True)
        os.waitpid(child, 0)
        print("gone", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])


def checked(state: Any, acknowledged: list[str]) -> list[str]:
    """What is wrong with a ledger after a kill; empty if nothing."""
    log = list(state.log)
    found = [f"{entry} was acknowledged and is lost" for entry in set(acknowledged) - set(log)]
    if len(set(log)) < len(log):
        found.append(f"{len(log) - len(set(log))} entries were applied twice")
    if not len(log) == state.count == state.total == sum(state.by_worker.values()):
        found.append(f"{len(log)} entries, count {state.count}, total {state.total}, {sum(state.by_worker.values())}")
    for worker, count in state.by_worker.items():
        numbers = [int(entry.rpartition(".")[2]) for entry in log if entry.startswith(f"{worker}.")]
        if numbers != [*range(1, count + 1)]:
            found.append(f"{worker} has {numbers[:5]}..., in number {count}")
    return found
