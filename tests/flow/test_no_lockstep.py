"""Branches and items go on by themselves: nobody waits for its siblings before the end of the node."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest

from theus import Engine, each, flow, parallel, process, repeat
from theus.schedule import SOURCE_LIMIT
from theus.testing import FakeClock


@dataclass
class Desk:
    log: list[str] = field(default_factory=list)


class Stop(Exception):
    pass


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


@pytest.fixture
def engine():
    with Engine(Desk()) as engine:
        yield engine


@pytest.mark.parametrize("shape", ["each of flows", "each after each", "branches"])
def test_who_goes_on_alone_and_who_waits(engine, shape):
    gate = asyncio.Event()

    @process
    async def first(ctx, name):
        if name == "slow":
            await gate.wait()
        ctx.domain.log.append(f"first {name}")
        return name

    @process
    async def second(ctx, name):
        ctx.domain.log.append(f"second {name}")
        return name

    work = {
        "each of flows": each(flow(first, second)),
        "each after each": flow(each(first), each(second)),
        "branches": parallel(flow(first.bind(name="slow"), second), flow(first.bind(name="quick"), second)),
    }[shape]

    async def main():
        task = asyncio.create_task(engine.arun(work, ["slow", "quick"]))
        await settle()
        alone = list(engine.state.log)
        gate.set()
        return alone, list(await asyncio.wait_for(task, 10))

    alone, result = asyncio.run(main())
    assert result == ["slow", "quick"]
    if shape == "each after each":
        assert alone == ["first quick"]  # the second each begins when the first has ended
        assert sorted(engine.state.log[2:]) == ["second quick", "second slow"]
    else:
        assert alone == ["first quick", "second quick"]  # committed, and gone on, beside the one that waits


def test_a_failed_branch_is_retried_alone():
    made: Counter[str] = Counter()

    @process(retries=3)
    async def work(ctx, name):
        made[name] += 1
        if name == "flaky" and ctx.attempt < 3:
            raise OSError(name)
        ctx.domain.log.append(name)
        return name

    with Engine(Desk(), clock=FakeClock(autojump=True)) as engine:
        branches = parallel(work.bind(name="good"), flow(work.bind(name="before"), work.bind(name="flaky")))
        assert engine.run(branches) == ("good", "flaky")
        assert engine.run(each(work), ["good", "flaky"]) == ["good", "flaky"]
    assert made == {"good": 2, "before": 1, "flaky": 6}


def test_collect_finishes_the_others_and_lists_the_errors(engine):
    @process
    async def half(ctx, n):
        await asyncio.sleep(0)
        if n % 2:
            raise Stop(n)
        ctx.domain.log.append(str(n))
        return n

    results = engine.run(each(half, on_error="collect"), range(6))
    assert [result if isinstance(result, int) else type(result) for result in results] == [0, Stop, 2, Stop, 4, Stop]
    assert sorted(engine.state.log) == ["0", "2", "4"]


@pytest.mark.parametrize("items", ["list", "generator", "async generator"])
def test_a_rate_is_kept_between_the_starts_of_items(items):
    clock = FakeClock(autojump=True)
    starts = []

    @process
    async def note(n):
        starts.append((n, clock.now()))
        return n

    def numbers():
        yield from range(4)

    async def later():
        for n in range(4):
            yield n

    work = each(note, rate="10/s")
    with Engine(clock=clock) as engine:
        if items == "list":
            assert engine.run(work, range(4)) == [0, 1, 2, 3]
        else:
            assert engine.run(flow(numbers if items == "generator" else later, work)) == [0, 1, 2, 3]
    assert [(n, round(at, 9)) for n, at in starts] == [(0, 0.0), (1, 0.1), (2, 0.2), (3, 0.3)]


class LateClock(FakeClock):
    """Each wait takes longer than it should, as waits do."""

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds + 0.02)


def test_what_a_wait_takes_too_long_does_not_slow_down_the_next_ones():
    clock = LateClock(autojump=True)
    starts = []

    @process
    async def note(n):
        starts.append(round(clock.now(), 9))

    with Engine(clock=clock) as engine:
        engine.run(each(note, rate="10/s"), range(5))
        assert starts == [0.0, 0.12, 0.22, 0.32, 0.42]

        async def rare():
            yield 1
            await clock.sleep(0.98)
            yield 2
            yield 3

        starts.clear()
        began = round(clock.now(), 9)
        engine.run(flow(rare, each(note, rate="10/s")))
    assert [round(at - began, 9) for at in starts] == [0.0, 1.0, 1.12]  # what was not used is not made up for


class Item:
    """Can be referred to weakly."""


@pytest.mark.parametrize(("limit", "in_hand"), [(4, 4), (None, SOURCE_LIMIT)], ids=["limit", "no limit"])
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_an_endless_source_is_held_in_bounded_memory(engine, kind, limit, in_hand):
    references: list[Any] = []
    most = 0

    def items():
        while True:
            item = Item()
            references.append(weakref.ref(item))
            yield item
            del item

    async def later():
        for item in items():
            yield item
            del item

    @process
    async def take(item):
        nonlocal most
        alive = sum(reference() is not None for reference in references)
        most = max(most, alive)
        await asyncio.sleep(0)
        if len(references) > 300:
            raise Stop

    with pytest.raises(Stop):
        engine.run(flow(items if kind == "def" else later, each(take, limit=limit)))
    assert len(references) < 306 + in_hand  # pulled as items were taken, and closed at the end
    assert most <= in_hand + 2


def test_what_an_endless_source_gave_is_not_counted_one_by_one(engine):
    blocks = []

    def items():
        yield from iter(int, 1)

    @process
    async def take(item):
        take.fn.taken += 1
        if take.fn.taken % 4_000 == 0:
            gc.collect()
            blocks.append(sys.getallocatedblocks())
        if len(blocks) == 3:
            raise Stop

    take.fn.taken = 0
    with pytest.raises(Stop):
        engine.run(flow(items, each(take, limit=2)))
    assert blocks[2] - blocks[1] < 2_000
    assert engine.run(flow(lambda: iter([1, None, 2]), each(lambda item: item))) == [1, None, 2]


# --- steps that wait for nothing ---

MANY = 50_000  #: calls of nothing take some seconds


async def nothing(ctx, n):
    return n


async def numbers():
    for n in range(MANY):
        yield n


@process
async def stops(n):
    stops.fn.taken += 1
    if n == 3:
        raise Stop


@pytest.mark.parametrize("items", ["list", "async generator"])
def test_a_failure_stops_the_others_though_they_wait_for_nothing(engine, items):
    stops.fn.taken = 0
    with pytest.raises(Stop):
        if items == "list":
            engine.run(each(stops, limit=8), range(MANY))
        else:
            engine.run(flow(numbers, each(stops)))
    assert stops.fn.taken < MANY / 2


NEVER_WAIT = {
    "each": each(nothing, limit=8),
    "each of flows": each(flow(nothing, nothing), limit=8),
    "source": flow(numbers, each(nothing, limit=8)),
    "repeat": repeat(nothing, while_=lambda d: True, limit=MANY),
    "flow": flow(*[process(nothing)] * (MANY // 5)),
    "beside an early one": flow(*[process(nothing)] * (MANY // 5), process(nothing, idempotent=True).bind(n=1)),
}


@pytest.mark.parametrize("shape", NEVER_WAIT)
def test_a_run_that_waits_for_nothing_leaves_the_loop_its_turns_and_can_be_cancelled(engine, shape):
    async def main():
        given = () if shape == "source" else (range(MANY),)
        run = asyncio.ensure_future(engine.arun(NEVER_WAIT[shape], *given))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not run.done()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run

    asyncio.run(main())
