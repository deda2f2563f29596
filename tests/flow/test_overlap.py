"""Steps of a flow start early and commit in list order: the result is the sequential one."""

from __future__ import annotations

import asyncio
import gc
import weakref
from dataclasses import dataclass, field
from typing import Any

import pytest

from theus import CallTimeout, Engine, InvariantViolated, Tally, each, flow, parallel, process, repeat
from theus.events import CallConflicted, CallEnded, CallRetried, CallStarted
from theus.overlap import AHEAD
from theus.protocols import Outcome
from theus.stores.memory import MemoryStore
from theus.testing import FakeClock


@dataclass
class Desk:
    number: int = 0
    own: dict[str, int] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    total: Tally = 0


class Gates:
    """Lets the bodies of a flow go on one by one, as the test says, and notes when they start."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.open: dict[str, asyncio.Event] = {}

    async def wait(self, name: str) -> None:
        self.started.append(name)
        await self.open.setdefault(name, asyncio.Event()).wait()

    def let_go(self, name: str) -> None:
        self.open.setdefault(name, asyncio.Event()).set()


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


def step(gates: Gates, name: str, *, idempotent: bool = True, body: Any = None, **options: Any) -> Any:
    """A process that waits at its gate before what it reads, and again before its end."""

    async def wait_and_log(ctx):
        await gates.wait(name)
        result = None if body is None else body(ctx)
        ctx.domain.log.append(name)
        return name if result is None else result

    wait_and_log.__name__ = name
    return process(wait_and_log, idempotent=idempotent, **options)


def blind(gates: Gates, name: str, **options: Any) -> Any:
    return step(gates, name, **{"writes": ["log"], **options})


async def ended(task: asyncio.Task[Any]) -> Any:
    return await asyncio.wait_for(task, 10)


def test_steps_start_before_their_turn_and_commit_in_list_order():
    gates, seen = Gates(), []

    async def main():
        engine = Engine(Desk())
        engine.on("said", seen.append)

        def said(ctx):
            ctx.emit("said", ctx.key.rpartition("/")[2])

        task = asyncio.create_task(engine.arun(flow(*[blind(gates, name, body=said) for name in "abc"])))
        await settle()
        assert gates.started == ["a", "b", "c"]
        gates.let_go("c")
        gates.let_go("b")
        await settle()
        assert engine.state.log == []  # held until the turn of each
        gates.let_go("a")
        assert await ended(task) == "c"
        await settle()
        assert engine.state.log == ["a", "b", "c"]
        await engine.aclose()

    asyncio.run(main())
    assert seen == ["0.a", "1.b", "2.c"]


NOT_EARLY = {
    "not idempotent": {"idempotent": False},
    "exclusive": {"exclusive": ["log"]},
    "in the caller's thread": {"environment": "inline"},
}


@pytest.mark.parametrize("why", NOT_EARLY)
def test_who_does_not_start_early(why):
    gates = Gates()
    if why == "in the caller's thread":

        def run(ctx):
            gates.started.append("b")

        late = process(run, idempotent=True, writes=["log"], environment="inline")
    else:
        late = blind(gates, "b", **NOT_EARLY[why])

    async def main():
        engine = Engine(Desk())
        task = asyncio.create_task(engine.arun(flow(blind(gates, "a"), late, blind(gates, "c"))))
        await settle()
        assert gates.started == ["a", "c"]
        for name in "abc":
            gates.let_go(name)
        await ended(task)
        assert gates.started == ["a", "c", "b"]
        await engine.aclose()

    asyncio.run(main())


def test_who_takes_the_pipe_value_does_not_start_early():
    gates = Gates()

    @process(idempotent=True, writes=["log"])
    async def takes(ctx, value="nothing"):  # it could run without
        gates.started.append(f"takes {value}")

    @process(idempotent=True, writes=["log"])
    async def bound(ctx, value):
        gates.started.append(f"bound {value}")

    async def main():
        engine = Engine(Desk())
        task = asyncio.create_task(engine.arun(flow(blind(gates, "a"), takes, bound.bind(value=3))))
        await settle()
        assert gates.started == ["a", "bound 3"]
        gates.let_go("a")
        await ended(task)
        assert gates.started == ["a", "bound 3", "takes a"]
        await engine.aclose()

    asyncio.run(main())


def test_a_step_waits_for_the_last_one_that_writes_what_it_reads():
    gates, read = Gates(), []

    def write(ctx):
        ctx.domain.own["x"] = 7

    def look(ctx):
        read.append(ctx.domain.own["x"])

    async def main():
        engine = Engine(Desk())
        work = flow(
            blind(gates, "a"),
            step(gates, "b", body=write, writes=["own.x", "log"]),
            blind(gates, "c"),
            step(gates, "d", body=look, reads=["own.x"], writes=["log"]),
            step(gates, "e", body=lambda ctx: ctx.domain.own.get("y"), reads=["own.y"], writes=["log"]),
        )
        task = asyncio.create_task(engine.arun(work))
        await settle()
        assert gates.started == ["a", "b", "c", "e"]
        gates.let_go("b")
        await settle()
        assert "d" not in gates.started  # b is not committed yet
        gates.let_go("a")
        await settle()
        assert gates.started[-1] == "d"
        for name in "cde":
            gates.let_go(name)
        await ended(task)
        assert gates.started == ["a", "b", "c", "e", "d"]
        assert read == [7]
        assert engine.state.log == ["a", "b", "c", "d", "e"]
        await engine.aclose()

    asyncio.run(main())


def test_arguments_of_the_contract_are_those_of_bind_and_defaults():
    gates = Gates()

    @process(idempotent=True, reads=["own.{key}"], writes=["own.{key}"])
    async def touch(ctx, *, key="x"):
        gates.started.append(key)
        await gates.wait(f"gate {key}")
        ctx.domain.own[key] = ctx.domain.own.get(key, 0) + 1

    async def main():
        engine = Engine(Desk())
        task = asyncio.create_task(engine.arun(flow(blind(gates, "a"), touch, touch.bind(key="y"), touch)))
        await settle()
        assert [name for name in gates.started if len(name) == 1] == ["a", "x", "y"]
        for name in ("a", "gate x", "gate y"):
            gates.let_go(name)
        await ended(task)
        assert engine.state.own == {"x": 2, "y": 1}
        await engine.aclose()

    asyncio.run(main())


def test_a_contract_does_not_pass_a_step_of_which_nothing_is_known():
    gates = Gates()

    async def main():
        engine = Engine(Desk())
        reads = step(gates, "c", body=lambda ctx: ctx.domain.number, reads=["number"], writes=["log"])
        work = flow(blind(gates, "a"), step(gates, "b", idempotent=False), reads, blind(gates, "d"))
        for name in "bcd":
            gates.let_go(name)
        for expected in (["a", "d", "b", "c"], ["a", "c", "d", "b"]):  # in the second run something is known
            gates.started.clear()
            gates.open["a"] = asyncio.Event()
            task = asyncio.create_task(engine.arun(work))
            await settle()
            gates.let_go("a")
            await ended(task)
            assert gates.started == expected
        await engine.aclose()

    asyncio.run(main())


def test_who_wrote_in_what_was_replaced_runs_again_and_waits_for_nobody():
    gates, events = Gates(), []

    def replace(ctx):
        ctx.domain.own = {"z": 1}

    def write(ctx):
        ctx.domain.own["x"] = 2

    async def main():
        engine = Engine(Desk(), observers=[events.append])
        first = step(gates, "a", body=replace, writes=["own", "log"])
        task = asyncio.create_task(engine.arun(flow(first, step(gates, "b", body=write, writes=["own.x", "log"]))))
        gates.let_go("b")
        await settle()
        gates.let_go("a")
        await ended(task)
        assert gates.started == ["a", "b", "b"]
        assert list(engine.state.own.items()) == [("z", 1), ("x", 2)]
        assert [event.path for event in events if isinstance(event, CallConflicted)] == ["own"]
        assert all(profile.heat == 0.0 for profile in engine.profiled.values())  # such a conflict needs no queue
        await engine.aclose()

    asyncio.run(main())


def test_the_first_step_gets_its_arguments_from_run():
    gates = Gates()

    @process(writes=["own.{key}"])
    async def first(ctx, *, key="x"):
        await gates.wait("first")
        ctx.domain.own[key] = 1

    def look(ctx):
        return ctx.domain.own.get("y", 0)

    async def main():
        engine = Engine(Desk())
        work = flow(first, step(gates, "b", body=look, reads=["own.y"], writes=["log"]))
        task = asyncio.create_task(engine.arun(work, key="y"))
        await settle()
        assert gates.started == ["first"]  # its key is known only when it runs: it may be any
        gates.let_go("first")
        gates.let_go("b")
        assert await ended(task) == 1
        await engine.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("nested", ["each", "parallel", "repeat", "flow"])
def test_nothing_passes_a_nested_workflow(nested):
    gates = Gates()
    inner = {
        "each": flow(process(lambda: [1]), each(blind(gates, "n"))),
        "parallel": parallel(blind(gates, "n"), blind(gates, "m")),
        "repeat": repeat(blind(gates, "n"), while_=lambda d: "n" not in d.log, limit=3),
        "flow": flow(blind(gates, "n")),
    }[nested]

    async def main():
        engine = Engine(Desk())
        task = asyncio.create_task(engine.arun(flow(blind(gates, "a"), blind(gates, "b"), inner, blind(gates, "c"))))
        await settle()
        assert gates.started == ["a", "b"]
        gates.let_go("a")
        gates.let_go("b")
        for _ in range(3):
            await settle()
            await asyncio.to_thread(lambda: None)
        assert "c" not in gates.started
        for name in "nmc":
            gates.let_go(name)
        await ended(task)
        assert engine.state.log[-1] == "c"
        await engine.aclose()

    asyncio.run(main())


def test_if_a_step_fails_nothing_after_it_is_committed_and_what_runs_early_is_stopped():
    gates, closed = Gates(), []

    def fail(ctx):
        raise ValueError("no")

    @process(idempotent=True, writes=["log"])
    async def late(ctx):
        ctx.local.enter(closing(closed))
        ctx.domain.log.append("late")
        try:
            await gates.wait("late")
        finally:
            await settle()  # an end takes its time

    async def main():
        engine = Engine(Desk())
        work = flow(blind(gates, "a"), blind(gates, "b", body=fail), blind(gates, "c"), late)
        task = asyncio.create_task(engine.arun(work))
        await settle()
        gates.let_go("c")
        gates.let_go("b")
        await settle()
        assert not task.done()  # its error is not heard of before its turn
        gates.let_go("a")
        with pytest.raises(ValueError, match="no"):
            await ended(task)
        assert closed == ["closed"]
        assert engine.state.log == ["a"]
        assert gates.started.count("b") == 2  # the early attempt does not count: it ran again at its turn
        await engine.aclose()

    asyncio.run(main())


@pytest.mark.filterwarnings("error")
def test_what_was_stopped_before_it_began_leaves_nothing_behind():
    @process
    async def fails(ctx):
        raise ValueError

    @process(idempotent=True, timeout=5)
    async def late(ctx): ...

    with Engine(Desk()) as engine, pytest.raises(ValueError):
        engine.run(flow(fails, late))
    gc.collect()


class closing:  # noqa: N801 - used as a function
    def __init__(self, closed: list[str]) -> None:
        self.closed = closed

    def __enter__(self) -> None: ...

    def __exit__(self, *exc_info: object) -> None:
        self.closed.append("closed")


def test_an_error_seen_early_may_be_none_at_its_turn():
    gates = Gates()

    def write(ctx):
        ctx.domain.own["x"] = 1

    def need(ctx):
        return ctx.domain.own["x"]

    events: list[Any] = []

    async def main():
        engine = Engine(Desk(), observers=[events.append])
        work = flow(step(gates, "a", body=write), step(gates, "b", body=need))  # undeclared: b is tried at once
        gates.let_go("b")
        task = asyncio.create_task(engine.arun(work))
        await settle()
        assert gates.started == ["a", "b"]
        gates.let_go("a")
        assert await ended(task) == 1
        await engine.aclose()

    asyncio.run(main())
    [again] = [event for event in events if isinstance(event, CallRetried)]
    assert "KeyError" in again.error
    assert again.delay == 0.0
    assert [event.attempt for event in events if isinstance(event, CallEnded)] == [1, 2]


def test_an_undeclared_step_is_tried_at_once_and_checked_at_its_turn():
    gates = Gates()

    def count(ctx):
        ctx.domain.number += 1

    events: list[Any] = []

    async def main():
        engine = Engine(Desk(), observers=[events.append])
        steps = [step(gates, name, body=count) for name in "abc"]
        gates.let_go("b")
        gates.let_go("c")
        task = asyncio.create_task(engine.arun(flow(*steps)))
        await settle()
        gates.let_go("a")
        await ended(task)
        assert engine.state == Desk(3, {}, ["a", "b", "c"], 0)
        await engine.aclose()

    asyncio.run(main())
    assert sorted(gates.started) == ["a", "b", "b", "c", "c"]  # in vain at most once
    conflicts = [event for event in events if isinstance(event, CallConflicted)]
    assert [(event.process, event.path, event.author) for event in conflicts] == [
        ("b", "number", "a"),
        ("c", "number", "b"),
    ]


def test_a_flow_that_is_built_anew_is_the_one_before():
    gates = Gates()

    def count(ctx):
        ctx.domain.number += 1

    async def main():
        engine = Engine(Desk())
        steps = [step(gates, name, body=count) for name in "ab"]
        gates.let_go("b")
        first = asyncio.create_task(engine.arun(flow(*steps)))
        await settle()
        gates.let_go("a")
        await ended(first)
        assert gates.started == ["a", "b", "b"]  # b was begun early, in vain
        del gates.open["a"]
        second = asyncio.create_task(engine.arun(flow(*steps)))
        await settle()
        assert gates.started[3:] == ["a"]  # b waits for what it read the last time
        gates.let_go("a")
        await ended(second)
        assert gates.started[3:] == ["a", "b"]
        await engine.aclose()

    asyncio.run(main())


def test_who_waits_for_whom_is_found_once_for_each_flow():
    @process(idempotent=True, reads=["own.{key}"], writes=["own.{key}"])
    async def touch(ctx, *, key):
        ctx.domain.own[key] = ctx.domain.own.get(key, 0) + 1

    with Engine(Desk()) as engine:
        work = flow(touch.bind(key="x"), touch.bind(key="y"), touch.bind(key="x"))
        engine.run(work)
        order = engine.overlap(work).order
        engine.run(work)
        assert engine.overlap(work).order is order
        assert engine.state.own == {"x": 4, "y": 2}


def test_a_step_that_only_reads_is_checked_as_well():
    gates = Gates()

    def count(ctx):
        ctx.domain.number += 1

    @process(idempotent=True)
    async def look(ctx):
        number = ctx.domain.number
        await gates.wait("look")
        return number

    async def main():
        engine = Engine(Desk())
        gates.let_go("look")
        task = asyncio.create_task(engine.arun(flow(step(gates, "a", body=count), look)))
        await settle()
        assert gates.started == ["a", "look"]
        gates.let_go("a")
        assert await ended(task) == 1
        await engine.aclose()

    asyncio.run(main())


def test_what_was_seen_in_earlier_runs_serves_as_a_contract():
    gates = Gates()

    def count(ctx):
        ctx.domain.number += 1

    async def main():
        engine = Engine(Desk())
        work = flow(step(gates, "a", body=count), step(gates, "b"), step(gates, "c", body=count))
        gates.let_go("b")
        gates.let_go("c")
        for expected in (["a", "b", "c", "c"], ["a", "b", "c"]):  # at first nobody knows that c meets a
            gates.started.clear()
            gates.open["a"] = asyncio.Event()
            task = asyncio.create_task(engine.arun(work))
            await settle()
            assert gates.started[:2] == ["a", "b"]
            gates.let_go("a")
            await ended(task)
            assert gates.started == expected
        assert engine.state.number == 4
        await engine.aclose()

    asyncio.run(main())


def test_a_step_that_is_mostly_in_vain_is_not_tried_early_for_a_while():
    gates = Gates()

    @process(idempotent=True, writes=["log"])
    async def look(ctx):
        gates.started.append("look")
        return ctx.pipe

    async def main():
        engine = Engine(Desk())
        work = flow(blind(gates, "a"), look)
        counts = []
        for _ in range(12):
            gates.started.clear()
            gates.open["a"] = asyncio.Event()
            task = asyncio.create_task(engine.arun(work))
            await settle()
            gates.let_go("a")
            assert await ended(task) == "a"
            counts.append(gates.started.count("look"))
        await engine.aclose()
        return counts

    assert asyncio.run(main()) == [2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 2, 1]


def test_who_reads_the_pipe_early_runs_again_at_its_turn():
    gates, got = Gates(), []

    @process(idempotent=True, writes=["log"])
    async def looks(ctx):
        gates.started.append("looks")
        try:
            got.append(ctx.pipe)
        except Exception:  # whatever the body makes of it
            return "swallowed"
        return "read"

    async def main():
        engine = Engine(Desk())
        task = asyncio.create_task(engine.arun(flow(blind(gates, "a"), looks)))
        await settle()
        assert gates.started == ["a", "looks"]
        gates.let_go("a")
        assert await ended(task) == "read"
        await engine.aclose()

    asyncio.run(main())
    assert got == ["a"]


@process(nature="cpu", idempotent=True, writes=["log"])
def looks_on_the_far_side(ctx):
    try:
        return f"{ctx.pipe}, attempt {ctx.attempt}"
    except Exception:
        return "swallowed"


def test_also_in_a_worker_process():
    gates = Gates()

    async def main():
        engine = Engine(Desk(), workers=1)
        gates.let_go("a")
        assert await engine.arun(flow(blind(gates, "a"), looks_on_the_far_side)) == "a, attempt 2"
        await engine.aclose()

    asyncio.run(main())


def test_who_calls_the_engine_early_does_so_at_its_turn():
    gates = Gates()
    engine = Engine(Desk())

    @process
    def inner(ctx):
        ctx.domain.log.append("inner")

    @process(idempotent=True)
    async def calls(ctx):
        gates.started.append("calls")
        await engine.arun(inner)

    async def main():
        task = asyncio.create_task(engine.arun(flow(blind(gates, "a"), calls)))
        await settle()
        assert gates.started == ["a", "calls"]
        assert engine.state.log == []
        gates.let_go("a")
        await ended(task)
        assert engine.state.log == ["a", "inner"]
        await engine.aclose()

    asyncio.run(main())


def test_once_is_once_although_the_early_attempt_was_in_vain():
    gates, asked = Gates(), []

    def write(ctx):
        ctx.domain.number = 5

    @process(idempotent=True)
    async def asks(ctx):
        answer = await ctx.once("ask", lambda: asked.append(1) or len(asked))
        return ctx.domain.number, answer, ctx.attempt

    async def main():
        engine = Engine(Desk())
        task = asyncio.create_task(engine.arun(flow(step(gates, "a", body=write), asks)))
        while not asked:
            await asyncio.to_thread(lambda: None)
        await settle()
        gates.let_go("a")
        assert await ended(task) == (5, 1, 2)
        await engine.aclose()

    asyncio.run(main())
    assert asked == [1]


def test_messages_of_an_early_step_run_in_its_commit_at_its_turn():
    gates = Gates()

    @process(nature="state")
    def note(ctx, text):
        ctx.domain.log.append(f"{text} after {len(ctx.domain.log)}")

    @process(idempotent=True)
    async def sends(ctx):
        ctx.send(note, text="sent")

    async def main():
        engine = Engine(Desk())
        task = asyncio.create_task(engine.arun(flow(blind(gates, "a"), sends, note.bind(text="step"))))
        await settle()
        gates.let_go("a")
        await ended(task)
        assert engine.state.log == ["a", "sent after 1", "step after 2"]
        await engine.aclose()

    asyncio.run(main())


def test_a_timeout_before_its_turn_does_not_count():
    gates, clock = Gates(), FakeClock()

    @process(idempotent=True, writes=["log"], timeout=5)
    async def slow(ctx):
        await gates.wait("slow")
        ctx.domain.log.append(f"slow {ctx.attempt}")

    async def main():
        engine = Engine(Desk(), clock=clock)
        task = asyncio.create_task(engine.arun(flow(blind(gates, "a"), slow)))
        await settle()
        clock.advance(6)
        await settle()
        gates.let_go("a")
        await settle()
        assert gates.started == ["a", "slow", "slow"]
        gates.let_go("slow")
        await ended(task)
        assert engine.state.log == ["a", "slow 2"]

        gates.open["slow"].clear()
        task = asyncio.create_task(engine.arun(flow(blind(gates, "a"), slow)))
        await settle()
        clock.advance(6)
        await settle()
        clock.advance(6)
        with pytest.raises(CallTimeout):
            await ended(task)
        await engine.aclose()

    asyncio.run(main())


def test_a_cancelled_run_leaves_the_state_of_its_first_steps():
    gates, closed = Gates(), []

    @process(idempotent=True, writes=["log"])
    async def holds(ctx):
        ctx.local.enter(closing(closed))
        await gates.wait("holds")

    async def main():
        engine = Engine(Desk())
        names = "abcd"
        run = engine.submit(flow(*[blind(gates, name) for name in names], holds))
        await settle()
        for name in "adc":
            gates.let_go(name)
        await settle()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert run.state == "cancelled"
        assert engine.state.log == ["a"]
        assert closed == ["closed"]
        await engine.aclose()

    asyncio.run(main())


def test_a_body_that_cancels_itself_early_ends_the_run_at_its_turn():
    gates = Gates()

    @process(idempotent=True, writes=["log"])
    async def stops(ctx):
        gates.started.append("stops")
        raise asyncio.CancelledError

    async def main():
        engine = Engine(Desk())
        task = asyncio.create_task(engine.arun(flow(blind(gates, "a"), stops)))
        await settle()
        assert gates.started == ["a", "stops"]
        assert not task.done()
        gates.let_go("a")
        with pytest.raises(asyncio.CancelledError):
            await ended(task)
        assert engine.state.log == ["a"]
        await engine.aclose()

    asyncio.run(main())


def test_in_debug_mode_everything_stays_in_order():
    gates = Gates()

    async def main():
        engine = Engine(Desk(), debug=True)
        task = asyncio.create_task(engine.arun(flow(blind(gates, "a"), blind(gates, "b"))))
        await settle()
        assert gates.started == ["a"]
        gates.let_go("a")
        gates.let_go("b")
        await ended(task)
        await engine.aclose()

    asyncio.run(main())


def test_a_blocking_run_overlaps_as_well():
    """Two steps that wait for each other's start: one after the other they would never end."""
    import threading

    meeting = threading.Barrier(2)

    @process(idempotent=True, writes=["log"])
    def meets(ctx, *, name):
        meeting.wait(30)
        ctx.domain.log.append(name)
        return name

    with Engine(Desk()) as engine:
        assert engine.run(flow(meets.bind(name="a"), meets.bind(name="b"))) == "b"
        assert engine.state.log == ["a", "b"]


def test_where_nothing_can_overlap_a_blocking_run_stays_in_the_callers_thread():
    import threading

    threads = []

    @process(idempotent=True, reads=["number"], writes=["number"])
    def count(ctx):
        threads.append(threading.current_thread())
        ctx.domain.number += 1

    with Engine(Desk()) as engine:
        engine.run(flow(*[count] * 3))
        assert set(threads) == {threading.current_thread()}


def test_only_so_many_are_begun_ahead():
    gates = Gates()

    async def main():
        engine = Engine(Desk())
        many = AHEAD + 20

        @process(idempotent=True, writes=["total"])
        async def add(ctx):
            gates.started.append("add")
            ctx.domain.total += 1

        task = asyncio.create_task(engine.arun(flow(blind(gates, "a"), *[add] * many)))
        await settle()
        assert gates.started.count("add") == AHEAD
        gates.let_go("a")
        await ended(task)
        assert engine.state.total == many
        await engine.aclose()

    asyncio.run(main())


def test_where_room_is_short_the_longest_way_to_the_end_goes_first():
    order, gates = [], Gates()

    def made(name, seconds, engine, **contract):
        @process(idempotent=True, environment="thread", writes=[f"own.{name}"], **contract)
        def make(ctx):
            order.append(name)
            ctx.domain.own[name] = len(ctx.domain.own) if contract else 0

        engine.profile(make).add(Outcome(wall=seconds))
        return make

    async def main():
        engine = Engine(Desk())
        engine.threads.capacity = 1
        work = flow(
            blind(gates, "a"),
            made("quick", 1.0, engine),
            made("long", 3.0, engine),
            made("leads to more", 2.0, engine),
            made("waits", 5.0, engine, reads=["own.'leads to more'", "own"]),
            made("not measured", 0.0, engine),
        )
        task = asyncio.create_task(engine.arun(work))
        while len(order) < 4:
            await asyncio.to_thread(lambda: None)
        assert order == ["long", "leads to more", "quick", "not measured"]
        gates.let_go("a")
        await ended(task)
        assert list(engine.state.own) == ["quick", "long", "leads to more", "waits", "not measured"]
        await engine.aclose()

    asyncio.run(main())


def test_events_tell_when_an_attempt_began_and_when_it_was_committed():
    gates, events = Gates(), []

    async def main():
        engine = Engine(Desk(), observers=[events.append])
        task = asyncio.create_task(engine.arun(flow(blind(gates, "a"), blind(gates, "b"))))
        await settle()
        gates.let_go("b")
        await settle()
        gates.let_go("a")
        await ended(task)
        await engine.aclose()

    asyncio.run(main())
    told = [(type(e).__name__, e.process) for e in events if isinstance(e, (CallStarted, CallEnded))]
    assert sorted(told[:2]) == [("CallStarted", "a"), ("CallStarted", "b")]
    assert told[2:] == [("CallEnded", "a"), ("CallEnded", "b")]


def test_a_durable_run_that_goes_on_starts_nothing_early_that_is_recorded():
    gates, fails = Gates(), [True]

    def fail(ctx):
        if fails:
            raise ValueError("not yet")

    async def main():
        store = MemoryStore(Desk())
        work = flow(*[blind(gates, name) for name in "abc"], blind(gates, "d", body=fail), blind(gates, "e"))
        for name in "abcde":
            gates.let_go(name)
        with pytest.raises(ValueError, match="not yet"):
            await Engine(store=store).arun(work, run_id="r")
        assert store.snapshot.view().log == ["a", "b", "c"]
        fails.clear()
        gates.started.clear()
        gates.open["d"].clear()
        task = asyncio.create_task(Engine(store=store).arun(work, run_id="r"))
        await until(lambda: len(gates.started) >= 2)
        assert sorted(gates.started) == ["d", "e"]
        gates.let_go("d")
        assert await ended(task) == "e"
        assert store.snapshot.view().log == ["a", "b", "c", "d", "e"]

    asyncio.run(main())


async def until(holds: Any) -> None:
    while not holds():
        await asyncio.to_thread(lambda: None)


class Large(list[int]):
    """Can be referred to weakly."""


@pytest.mark.parametrize("how", ["works", "fails", "fails in the commit", "is in vain"])
def test_what_a_flow_held_goes_away_without_the_garbage_collector(how):
    kept: list[Any] = []

    @process(idempotent=True)
    async def makes(ctx):
        ctx.local.large = Large([1])
        kept.append(weakref.ref(ctx.local.large))
        value = Large([2])
        kept.append(weakref.ref(value))
        if how == "fails":
            raise ValueError
        if how == "fails in the commit":
            ctx.domain.number -= 1
        if how == "is in vain":
            ctx.domain.log.append(str(len(ctx.domain.log)))
        return value

    last = process(lambda ctx: None, idempotent=True, writes=["log"])
    engine = Engine(Desk(), invariants=[lambda desk: desk.number >= 0])
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            try:
                engine.run(flow(process(lambda ctx: ctx.domain.log.append("x")), makes, makes, last))
            except (ValueError, InvariantViolated):
                pass
            assert [reference() for reference in kept if reference() is not None] == []
        assert len(kept) >= 12
    finally:
        gc.enable()
        engine.close()
