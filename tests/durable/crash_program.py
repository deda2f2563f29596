"""The program that is killed: a durable run with every kind of node. Says each event in a line, and at the end the state.

crash_program.py STORE RUN_ID [torn]
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field, replace
from typing import Any

from theus import Context, Engine, Tally, branch, each, flow, parallel, plain, process, repeat
from theus.events import CallEnded, CallStarted, Event, RunStarted, StateCommitted
from theus.protocols import Commit
from theus.stores import open_store

ITEMS = 12
ENGINE: list[Engine[Any]] = []


@dataclass
class World:
    """Everything here is counted up, never set: what is done twice shows."""

    done: dict[str, int] = field(default_factory=dict)
    calls: Tally = 0
    rounds: int = 0
    answers: list[str] = field(default_factory=list)


def count(ctx: Context[World], name: str) -> None:
    ctx.domain.done[name] = ctx.domain.done.get(name, 0) + 1
    ctx.domain.calls += 1


@process
def load(ctx: Context[World]) -> list[int]:
    count(ctx, "load")
    return list(range(ITEMS))


@process
async def work(ctx: Context[World], item: int) -> int:
    count(ctx, f"work {item}")
    return item


@process(environment="worker")
def far(ctx: Context[World], item: int) -> int:
    count(ctx, f"far {item}")
    ctx.send(note, item=item)
    return item * 2


@process(nature="state")
def note(ctx: Context[World], item: int) -> None:
    count(ctx, f"note {item}")


@process
def odd(ctx: Context[World], item: int) -> int:
    count(ctx, f"odd {item}")
    return item


@process
def even(ctx: Context[World], item: int) -> int:
    count(ctx, f"even {item}")
    return item


@process
async def wait(ctx: Context[World], value: list[int]) -> int:
    answer = await ctx.wait_for("approval")
    count(ctx, "wait")
    ctx.domain.answers.append(answer)
    return sum(value)


@process
def approve(ctx: Context[World], value: list[int]) -> int:
    ctx.once("signal", signal, ctx.key.partition("/")[0])
    count(ctx, "approve")
    return len(value)


def signal(run_id: str) -> None:
    ENGINE[0].signal(run_id, "approval", "yes")


@process
def again(ctx: Context[World], value: tuple[int, int]) -> tuple[int, int]:
    ctx.domain.rounds += 1
    count(ctx, f"again {ctx.domain.rounds}")
    return value[0] + 1, value[1]


@process
def last(ctx: Context[World], value: tuple[int, int]) -> list[int]:
    count(ctx, "last")
    return list(value)


def is_odd(world: World, item: int) -> bool:
    return item % 2 == 1 and f"odd {item}" not in world.done  # asked again after its step it would say the opposite


JOB = flow(
    load,
    each(flow(work, branch(is_odd, odd, even)), limit=4),
    each(far, limit=3),
    parallel(wait, approve),
    repeat(again, while_=lambda world: world.rounds < 5, limit=100),
    last,
)


class Torn:
    """The negative control: changes and their records in two commits, as one might do it without thinking."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, commit: Commit, *, blocking: bool) -> Any:
        if commit.complete is None and commit.ops and commit.records:
            await self._store.commit(replace(commit, records=()), blocking=blocking)
            print("torn", flush=True)
            commit = replace(commit, ops=(), reads=())
        return await self._store.commit(commit, blocking=blocking)


def main(url: str, run_id: str, *options: str) -> None:
    def tell(event: Event) -> None:
        if isinstance(event, (RunStarted, CallStarted, StateCommitted, CallEnded)):
            print(type(event).__name__, event.key, flush=True)

    store: Any = open_store(url, World())
    if "torn" in options:
        store = Torn(store)
    engine = Engine[World](store=store, workers=2, observers=[tell])
    ENGINE.append(engine)
    try:
        result = engine.run(JOB, run_id=run_id)
        print("DONE", json.dumps([result, plain(engine.state).__dict__], sort_keys=True), flush=True)
    finally:
        engine.close()
        store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
