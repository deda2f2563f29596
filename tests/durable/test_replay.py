"""Any recorded call again, on the snapshot that it ran on."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from theus import Context, DefinitionError, Engine, branch, each, flow, parallel, process, repeat
from theus.journal import forget, logged
from theus.records import unpack
from theus.replay import Replayed, replay
from theus.stores.replica import Replica


@dataclass
class Counts:
    hits: int = 0
    seen: list[str] = field(default_factory=list)


Ctx = Context[Counts]


@process
def hit(ctx: Ctx, by: int) -> int:
    ctx.domain.hits += by
    return ctx.domain.hits


@process(nature="state")
def at_once(ctx: Ctx) -> int:
    ctx.domain.hits += 1
    return ctx.domain.hits


@process
def numbers(ctx: Ctx) -> Iterator[int]:
    yield from (1, 2, 3)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine[Counts]]:
    with Engine(Counts(), store=tmp_path / "counts.db") as engine:
        yield engine


def again(engine: Engine[Counts], target: Any, step: str) -> Replayed:
    found = replay(engine, "r", step, target)
    assert found.outcome.error is None
    return found


def recorded(engine: Engine[Counts]) -> list[tuple[str, Any]]:
    """The key of each call and what it gave, as the log says."""
    assert isinstance(engine.store, Replica)
    found = [(key, *unpack(record.value)) for (_, key), (_, record) in logged(engine.store.past(), "r").items()]
    return [(key, json.loads(parts[0])) for key, _, parts in found if parts]


def test_a_call_sees_the_state_of_then_and_changes_nothing(engine):
    job = flow(hit, hit)
    assert engine.run(job, 1, run_id="r") == 2
    engine.run(hit, 100)
    before = engine.state.hits

    first, second = again(engine, job, "0.hit"), again(engine, job, "1.hit")
    assert (first.outcome.value, second.outcome.value) == (1, 2)
    assert first.same
    assert second.same
    assert second.recorded == 2
    assert engine.state.hits == before


def test_a_state_process_runs_on_what_came_just_before_its_commit(engine):
    @process
    def send(ctx: Ctx) -> None:
        with engine.transaction() as state:  # between the step's begin and its commit
            state.hits += 10

    job = flow(send, at_once)
    assert engine.run(job, run_id="r") == 11
    engine.run(at_once)
    found = again(engine, job, "1.at_once")
    assert found.outcome.value == 11
    assert found.same


def test_what_gives_something_else_now_is_told(engine, monkeypatch):
    assert engine.run(hit, 1, run_id="r") == 1
    monkeypatch.setattr(hit, "fn", lambda ctx, by: -by)
    found = again(engine, hit, "hit")
    assert not found.same
    assert found.recorded == 1


@pytest.mark.parametrize("fails", [True, False])
def test_calls_beside_one_that_failed_and_beside_a_loop(engine, fails):
    @process
    async def wait(ctx: Ctx, by: int) -> int:
        while engine.state.hits < 2:
            await asyncio.sleep(0)
        if fails:
            raise ValueError("as it should")
        return by

    never = repeat(hit, while_=lambda d: False, limit=1)  # its answer comes with no commit: nothing follows
    job = parallel(flow(wait, never), flow(hit, hit))
    with pytest.raises(ValueError, match="as it should") if fails else contextlib.nullcontext():
        engine.run(job, 1, run_id="r")
    calls = dict(recorded(engine))
    assert len(calls) == (2 if fails else 3)
    for key in calls:
        if "hit" in key:
            assert again(engine, job, key).same


def test_sources_rounds_and_sides(engine):
    job = flow(
        numbers,
        each(hit, limit=1),
        branch(lambda d: d.hits == 6, at_once),
        repeat(at_once, while_=lambda d: d.hits < 9, limit=5),
    )
    assert engine.run(job, run_id="r") == 9
    for key, gave in recorded(engine):
        found = again(engine, job, key)
        assert found.outcome.value == gave
        assert found.same


def test_a_run_that_was_forgotten_is_not_taken_for_its_namesake(engine):
    engine.run(flow(hit, hit), 1, run_id="r")
    assert engine.store is not None
    assert len(recorded(engine)) == 2
    forget(engine.store, "r")
    assert recorded(engine) == []
    engine.run(flow(hit, at_once), 1, run_id="r")
    with pytest.raises(DefinitionError, match=r"no call '1\.hit' that is kept"):
        replay(engine, "r", "1.hit", flow(hit, at_once))
