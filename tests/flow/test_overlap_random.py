"""Random flows of random processes: what comes out is what a sequence gives, to the letter, however their steps meet.

Each flow runs twice. Once with ``Engine(debug=True)``, one step after the other. Once with steps that start early, whose
bodies wait after each action until a driver lets one of them go on, in a random order. State (with its order), result or
error, and emits must be the same; if the run is cancelled on the way, they must be those of its first steps.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from theus import Engine, branch, flow, parallel, plain, process, repeat
from theus.errors import CallTimeout, ContractError
from theus.events import StateCommitted
from theus.testing import FakeClock
from theus.testing.oracle import KEYS, World, act, random_script

EXAMPLES = 400 if not os.environ.get("THEUS_SOAK") else 20_000

#: What an action needs: reads, writes.
NEEDS: dict[str, tuple[list[str], list[str]]] = {
    "read number": (["number"], []),
    "write number": ([], ["number"]),
    "read key": (["numbers.{key}"], []),
    "write key": ([], ["numbers.{key}"]),
    "drop key": (["numbers.{key}"], ["numbers.{key}"]),
    "count keys": (["numbers"], []),
    "sum all": (["numbers"], []),
    "read item": (["items.{key}.value"], []),
    "write item": ([], ["items.{key}.value"]),
    "tag item": ([], ["items.{key}.tags"]),
    "mark item": ([], ["items.{key}.seen"]),
    "replace item": ([], ["items.{key}"]),
    "length of log": (["log"], []),
    "last of log": (["log"], []),
    "log": ([], ["log"]),
    "tally": ([], ["total"]),
}


class Driver:
    """Lets bodies that wait go on one by one, in an order of its own."""

    def __init__(self, rng: random.Random | None) -> None:
        self.rng = rng
        self.waiting: list[asyncio.Future[None]] = []

    async def pause(self) -> None:
        if self.rng is not None:
            waiter = asyncio.get_running_loop().create_future()
            self.waiting.append(waiter)
            await waiter

    async def drive(self, task: asyncio.Task[Any], stop_after: int | None) -> None:
        """Until the task has ended; cancels it after so many steps of its bodies."""
        assert self.rng is not None
        gone = 0
        while not task.done():
            for _ in range(self.rng.choice((1, 4, 12))):
                await asyncio.sleep(0)
            if gone == stop_after:
                task.cancel()
                stop_after = None
            self.waiting = [waiter for waiter in self.waiting if not waiter.done()]
            if self.waiting:
                self.waiting.pop(self.rng.randrange(len(self.waiting))).set_result(None)
                gone += 1


@dataclass
class Plan:
    """One step, as it is drawn: from it a process is made for each of the two runs."""

    script: tuple[Any, ...]
    idempotent: bool
    contract: str  #: none, exact, wide, short (forgets something that it needs)
    takes_pipe: bool
    looks_at_pipe: bool
    fails: str  #: never, always, if (what it read is odd), first (attempt), hangs (until its timeout)
    emits: bool
    sends: bool
    swallows: bool
    node: str  #: what it stands in
    seed: int = 0
    name: str = field(default="")


def drawn(rng: random.Random, index: int) -> Plan:
    return Plan(
        script=random_script(rng, rng.randrange(0, 5)),
        idempotent=rng.random() < 0.85,
        contract=rng.choice(("none", "exact", "exact", "wide", "short")),
        takes_pipe=rng.random() < 0.1,
        looks_at_pipe=rng.random() < 0.1,
        fails=rng.choice(("never",) * 30 + ("always", "if", "first", "hangs")),
        emits=rng.random() < 0.3,
        sends=rng.random() < 0.15,
        swallows=rng.random() < 0.1,
        node=rng.choice(("step",) * 14 + ("flow", "branch", "repeat", "parallel")),
        seed=rng.randrange(10**9),
        name=f"s{index}",
    )


@process(nature="state")
def receive(ctx, n):
    ctx.domain.log.append(n)
    ctx.emit("received", (n, len(ctx.domain.log)))


@process
async def begin():
    return 1


@process
async def first_of(both):
    return both[0]


def made(plan: Plan, pause: Callable[[], Awaitable[None]]) -> Any:
    """The step."""

    async def body(ctx, given):
        so_far = 1
        if plan.fails == "hangs":
            await asyncio.Event().wait()
        for action in plan.script:
            so_far = act(ctx.domain, action, so_far)
            await pause()
        if plan.looks_at_pipe:
            try:
                so_far = so_far * 5 + (hash(ctx.pipe) % 1000 if isinstance(ctx.pipe, int) else 1)
            except Exception:
                if not plan.swallows:
                    raise
        if given is not None:
            so_far = (so_far * 3 + given) % 1_000_003 if isinstance(given, int) else so_far
        if plan.emits:
            ctx.emit("said", (plan.name, so_far))
        if plan.sends:
            ctx.send(receive, n=so_far)
        if plan.fails == "always" or (plan.fails == "if" and so_far % 2):
            raise ValueError(f"{plan.name}: {so_far}")
        if plan.fails == "first" and ctx.attempt == 1:
            raise OSError(plan.name)
        return so_far

    async def takes(ctx, value):
        return await body(ctx, value)

    async def takes_none(ctx):
        return await body(ctx, None)

    function = takes if plan.takes_pipe else takes_none
    function.__name__ = plan.name
    options: dict[str, Any] = {"idempotent": plan.idempotent, "retries": int(plan.fails == "first")}
    if plan.fails == "hangs":
        options["timeout"] = 5  # of a clock that jumps
    if plan.contract != "none":
        reads: list[str] = []
        writes: list[str] = []
        for kind, key, _ in plan.script:
            r, w = NEEDS[kind]
            reads += [pattern.format(key=key) for pattern in r]
            writes += [pattern.format(key=key) for pattern in w]
        rng = random.Random(plan.seed)
        if plan.contract == "wide":
            pattern = rng.choice(["numbers", "items", "items.*.value", "items.*", f"numbers.{KEYS[0]}", "log"])
            (reads if rng.random() < 0.5 else writes).append(pattern)
        if plan.contract == "short" and rng.random() < 0.2:
            for patterns in (reads, writes):
                if patterns:
                    patterns.pop(rng.randrange(len(patterns)))
        options |= {"reads": list(dict.fromkeys(reads)), "writes": list(dict.fromkeys(writes))}
    step = process(function, **options)
    if plan.node == "flow":
        return flow(step, step)
    if plan.node == "branch":
        return branch(lambda d: d.number % 2 == 0, step)
    if plan.node == "repeat":
        return repeat(step, while_=lambda d: len(d.log) < 3, limit=2)
    if plan.node == "parallel":
        return flow(parallel(step), first_of)
    return step


@dataclass
class Ended:
    """How a run ended."""

    result: Any
    said: list[Any]
    state: Any  #: plain, with its order
    stages: list[Any]  #: the state after each commit, the first one included
    tried: int = 0


def shown(world: Any) -> Any:
    """All of a state, with the order of its keys."""
    value = plain(world)
    return (
        value.number,
        list(value.numbers.items()),
        [(key, item.value, item.tags, sorted(item.seen)) for key, item in value.items.items()],
        value.log,
        value.total,
    )


def run(plans: list[Plan], rng: random.Random | None, rounds: int = 1, stop_after: int | None = None) -> list[Ended]:
    """Each of so many runs of one flow, on a state that goes on; the last one is cancelled after ``stop_after``."""

    async def main() -> list[Ended]:
        driver = Driver(rng)
        stages: list[Any] = []
        tried = 0

        def observe(event: Any) -> None:
            nonlocal tried
            tried += type(event).__name__ == "CallStarted"
            if isinstance(event, StateCommitted):
                stages.append(shown(engine.state))

        engine = Engine(World(), debug=rng is None, observers=[observe], clock=FakeClock(autojump=True))
        said: list[Any] = []
        engine.on("said", said.append)
        engine.on("received", said.append)
        work = flow(begin, *[made(plan, driver.pause) for plan in plans])
        ends = []
        for number in range(rounds):
            said.clear()
            stages[:] = [shown(engine.state)]
            tried = 0
            task = asyncio.create_task(engine.arun(work))
            if rng is not None:
                await driver.drive(task, stop_after if number == rounds - 1 else None)
            try:
                result: Any = await task
            except asyncio.CancelledError:
                result = "cancelled"
            except Exception as error:
                result = (type(error).__name__, getattr(error, "path", None) or str(error))
            await heard()
            ends.append(Ended(result, [*said], shown(engine.state), [*stages], tried))
        await engine.aclose()
        return ends

    return asyncio.run(main())


async def heard() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def check(seed: int, length: int, cancel: bool) -> tuple[int, int]:
    rng = random.Random(seed)
    plans = [drawn(rng, index) for index in range(length)]
    expected = run(plans, None, rounds=3)
    stop_after = rng.randrange(3 * length) if cancel else None
    found = run(plans, random.Random(rng.random()), rounds=3, stop_after=stop_after)
    for number, (one, other) in enumerate(zip(expected, found, strict=True)):
        where = f"seed {seed}, length {length}, run {number}"
        if other.result == "cancelled":
            assert other.state in one.stages, where
            assert other.stages == one.stages[: len(other.stages)], where
            assert other.said == one.said[: len(other.said)], where
            break
        assert other.result == one.result, where
        assert other.state == one.state, where
        assert other.stages == one.stages, where
        assert other.said == one.said, where
    return sum(end.tried for end in expected), sum(end.tried for end in found)


@settings(max_examples=EXAMPLES)
@given(st.integers(0, 10**9), st.integers(1, 9), st.booleans())
def test_the_result_is_the_sequential_one(seed, length, cancel):
    check(seed, length, cancel)


def test_that_is_no_wonder_only_if_steps_really_start_early():
    """The flows of this page are not all barriers: bodies that ran in vain tell that others ran before their turn."""
    sequential = overlapping = 0
    for seed in range(40):
        one, other = check(seed, 8, cancel=False)
        sequential += one
        overlapping += other
    assert overlapping > 1.05 * sequential


@pytest.mark.soak
def test_many_more_of_them():
    seeds = random.Random(20261124)
    for _ in range(12_000):
        check(seeds.randrange(10**12), seeds.randrange(1, 14), seeds.random() < 0.5)


@pytest.mark.parametrize("error", [ContractError, CallTimeout])
def test_such_errors_are_among_them(error):
    assert any(
        end.result[0] == error.__name__
        for seed in range(60)
        for end in run([drawn(random.Random(seed), index) for index in range(6)], None)
        if isinstance(end.result, tuple)
    )
