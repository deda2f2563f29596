"""ctx.once, ctx.sleep_until and ctx.wait_for: what was recorded before a stop is not done again."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

import numpy
import pytest

from theus import DefinitionError, Engine, NotStorable, NotTransferable, codec, each, flow, parallel, process
from theus.events import CallStarted
from theus.run import Run
from theus.stores import open_store
from theus.stores.memory import MemoryStore
from theus.surroundings import cannot_be_inline
from theus.testing import FakeClock
from theus.testing.clock import EPOCH


@dataclass
class Shop:
    log: list[str] = field(default_factory=list)
    total: int = 0


class Trouble(Exception):
    pass


ASKED: list[str] = []
WORK: dict[str, bool] = {}


def ask(question):
    ASKED.append(question)
    return f"answer to {question}"


async def ask_slowly(question):
    return ask(question)


@process
def charge(ctx, card: str):
    first = ctx.once("model", ask, card)
    second = ctx.once("bank", ask, first)
    if WORK["fails"]:
        raise Trouble
    return second


@process
async def charge_async(ctx, card: str):
    first = await ctx.once("model", ask, card)
    second = await ctx.once("bank", ask_slowly, first)
    if WORK["fails"]:
        raise Trouble
    return second


@pytest.fixture(params=["memory", "sqlite"])
def store(request, tmp_path):
    ASKED.clear()
    WORK["fails"] = True
    store = MemoryStore(Shop()) if request.param == "memory" else open_store(tmp_path / "shop.db", Shop())
    yield store
    store.close()


@pytest.fixture
def clock():
    return FakeClock()


def begin(engine: Engine, way: str, target, *args, **options):
    """Start a run, blocking in a thread of its own or on the engine's loop."""
    if way != "run":
        return engine.submit(target, *args, **options)
    return InThread(lambda: engine.run(target, *args, **options))


class InThread:
    def __init__(self, work):
        self.value = self.error = None
        self.thread = threading.Thread(target=self._do, args=(work,))
        self.thread.start()

    def _do(self, work):
        try:
            self.value = work()
        except BaseException as error:
            self.error = error

    def result(self):
        self.thread.join()
        if self.error is not None:
            raise self.error
        return self.value


def until(condition):
    """Spin until something is so; the test's own limit of time ends it."""
    while not condition():
        threading.Event().wait(0.001)


# --- once


@pytest.mark.parametrize("target", [charge, charge_async])
@pytest.mark.parametrize("way", ["run", "submit"])
def test_once_results_survive(store, target, way):
    for fails in (True, True, False):
        WORK["fails"] = fails
        with Engine(store=store) as shop:
            begun = begin(shop, way, target, "card", run_id="r")
            if fails:
                with pytest.raises(Trouble):
                    begun.result()
            else:
                assert begun.result() == "answer to answer to card"
    assert ASKED == ["card", "answer to card"]


class Colour(IntEnum):
    RED = 1


class Opaque:
    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    def __repr__(self) -> str:
        return f"Opaque({self.raw!r})"


@dataclass
class Answer:
    text: str


class Pair(NamedTuple):
    one: int
    two: int


@pytest.mark.parametrize("value", [Answer("x"), [Answer("x")], Colour.RED, Pair(1, 2), range(3), object()], ids=repr)
def test_what_would_come_back_as_another_type_is_refused_when_it_is_written(store, value):
    @process
    def body(ctx):
        ctx.once("model", lambda: value)

    with Engine(store=store) as shop:
        name = type(value[0] if type(value) is list else value).__name__
        for write, what in [
            (lambda: shop.run(body, run_id="r"), "process 'body': cannot store what ctx.once kept as 'model'"),
            (lambda: shop.signal("r", "go", value), "cannot store the signal 'go'"),
        ]:
            with pytest.raises(NotStorable) as refused:
                write()
            assert str(refused.value).startswith(what)
            assert f"keep plain data instead, or register theus.codec({name}, encode, decode)" in str(refused.value)
        assert store.records("once") == store.records("signal") == []


def test_what_a_codec_or_json_does_not_lose_comes_back_as_it_was(store):
    codec(Opaque, lambda value: value.raw, Opaque)
    given = (1, {2, 3}, {(4, 5): b"six"}, Decimal("7.0"), Path("eight"), Opaque(b"nine"), numpy.arange(10))
    fails = True

    @process
    async def body(ctx):
        kept = await ctx.once("model", lambda: given)
        sent = await ctx.wait_for("go")
        if fails:
            raise Trouble
        return [repr(kept), repr(sent)]

    with Engine(store=store) as shop:
        begun = shop.submit(body, run_id="r")
        while not shop.waits._waiting:
            pass
        shop.signal("r", "go", given)
        with pytest.raises(Trouble):
            begun.result()
    fails = False
    with Engine(store=store) as shop:
        assert shop.run(body, run_id="r") == [repr(given), repr(given)]


def test_a_once_result_is_recorded_before_the_body_goes_on(store):
    seen = []

    @process
    def body(ctx):
        ctx.once("a", ask, "x")
        seen.append([record.key for record in store.records("once")])

    with Engine(store=store) as shop:
        shop.run(body, run_id="r")
    assert seen == [["r/body/a"]]


def test_once_results_of_a_worker_process_survive(store, tmp_path):
    asked = tmp_path / "asked"
    fails = tmp_path / "fails"
    fails.touch()

    def ask_in_file(question):
        with open(asked, "a") as file:
            file.write(question)
        return question.upper()

    @process(environment="worker")
    def far(ctx):
        answer = ctx.once("model", ask_in_file, "x")
        if fails.exists():
            raise Trouble
        return answer

    with Engine(store=store, workers=1) as shop:
        with pytest.raises(Trouble):
            shop.run(far, run_id="r")
        fails.unlink()
    with Engine(store=store, workers=1) as shop:
        assert shop.run(far, run_id="r") == "X"
    assert asked.read_text() == "x"


# --- until when


def at(seconds):
    return datetime.fromtimestamp(EPOCH, UTC) + timedelta(seconds=seconds)


@process
def sleep_def(ctx, seconds: float):
    ctx.domain.log.append("before")
    ctx.sleep_until(at(seconds))
    return "awake"


@process
async def sleep_async(ctx, seconds: float):
    ctx.domain.log.append("before")
    await ctx.sleep_until(at(seconds))
    return "awake"


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("target", [sleep_def, sleep_async])
@pytest.mark.parametrize("way", ["run", "submit"])
def test_sleeping(store, clock, target, way, durable):
    with Engine(store=store, clock=clock) as shop:
        run = begin(shop, way, target, 3600.0, run_id="r" if durable else None)
        until(lambda: clock.sleepers)
        clock.advance(3599)
        until(lambda: clock.sleepers)
        assert shop.state.log == []
        clock.advance(1)
        assert run.result() == "awake"
        assert shop.state.log == ["before"]


def test_a_run_that_is_begun_again_waits_for_the_moment_of_the_first_time(store, clock):
    moments = iter([at(100), at(10_000)])

    @process
    async def nap(ctx):
        await ctx.sleep_until(next(moments))
        return "awake"

    with Engine(store=store, clock=clock) as shop:
        run = shop.submit(nap, run_id="r")
        until(lambda: clock.sleepers)
    assert run.state == "cancelled"
    clock.advance(100)
    with Engine(store=store, clock=clock) as shop:
        assert shop.run(nap, run_id="r") == "awake"


@pytest.mark.parametrize("when", [datetime(2030, 1, 1), timedelta(seconds=1), 12.5])  # noqa: DTZ001 - that is what is refused
def test_only_a_moment_with_its_zone_will_do(store, when):
    @process
    def nap(ctx):
        ctx.sleep_until(when)

    with Engine(store=store) as shop, pytest.raises(DefinitionError, match="time zone"):
        shop.run(nap)


# --- for what


@process
def approve_def(ctx, order: int):
    ctx.once("mail", ask, f"order {order}")
    answer = ctx.wait_for("approval")
    ctx.domain.log.append(answer)
    return answer


@process
async def approve_async(ctx, order: int):
    await ctx.once("mail", ask, f"order {order}")
    answer = await ctx.wait_for("approval")
    ctx.domain.log.append(answer)
    return answer


def waiting(engine: Engine):
    """Wait until somebody waits for a signal there."""
    until(lambda: engine.waits._waiting)


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("target", [approve_def, approve_async])
@pytest.mark.parametrize("way", ["run", "submit"])
def test_a_signal(store, target, way, durable):
    with Engine(store=store) if durable else Engine(Shop()) as shop:
        run = begin(shop, way, target, 7, run_id="r")
        waiting(shop)
        shop.signal("r", "other", "no")
        shop.signal("r", "approval", "yes")
        assert run.result() == "yes"
        assert shop.state.log == ["yes"]


def test_a_signal_to_a_run_that_has_no_run_id(store):
    with Engine(store=store) as shop:
        run = shop.submit(approve_async, 7)
        waiting(shop)
        shop.signal(run.id, "approval", "yes")
        assert run.result() == "yes"


@pytest.mark.parametrize("target", [approve_def, approve_async])
@pytest.mark.parametrize("way", ["run", "submit"])
def test_a_signal_from_another_engine_and_after_a_restart(store, target, way):
    with Engine(store=store) as shop:
        run = shop.submit(target, 7, run_id="r")
        waiting(shop)
    assert run.state == "cancelled"
    with Engine(store=store) as shop, Engine(store=store) as other:
        run = begin(shop, way, target, 7, run_id="r")
        waiting(shop)
        other.signal("r", "approval", "yes")
        assert run.result() == "yes"
    with Engine(store=store) as shop:
        assert shop.run(target, 7, run_id="r") == "yes"
    assert ASKED == ["order 7"]
    assert store.records("signal") == []


def test_a_signal_may_come_before_the_wait(store):
    with Engine(store=store) as shop:
        run = shop.submit(approve_async, 7, run_id="r")
        waiting(shop)
    with Engine(store=store) as shop:
        shop.signal("r", "approval", "yes")
    with Engine(store=store) as shop:
        assert shop.run(approve_async, 7, run_id="r") == "yes"
    assert run.state == "cancelled"


def test_a_signal_may_come_before_the_run_that_was_submitted_has_begun(store):
    with Engine(store=store) as shop:
        run = shop.submit(approve_async, 7, run_id="r")
        shop.signal("r", "approval", "yes")
        assert run.result() == "yes"


def test_each_signal_is_taken_once_and_the_oldest_first(store):
    @process
    async def both(ctx, _):
        return [await ctx.wait_for("part"), await ctx.wait_for("part")]

    with Engine(store=store) as shop:
        shop.submit(both, 0, run_id="r")
        waiting(shop)
    with Engine(store=store) as shop:
        for value in (1, 2, 3):
            shop.signal("r", "part", value)
        assert shop.run(both, 0, run_id="r") == [1, 2]
        assert store.records("signal") == []  # nobody can take the third any more


def test_many_wait_for_signals_of_one_name(store):
    @process
    async def one(ctx, item):
        return await ctx.wait_for("part")

    with Engine(store=store) as shop:
        run = shop.submit(flow(each(one)), list(range(20)), run_id="r")
        waiting(shop)
        for value in range(20):
            shop.signal("r", "part", value)
        assert sorted(run.result()) == list(range(20))


def test_what_was_taken_before_a_failure_stays_taken(store):
    @process
    async def fails_after(ctx):
        value = await ctx.wait_for("part")
        if WORK["fails"]:
            raise Trouble
        return value

    with Engine(store=store) as shop:
        run = shop.submit(fails_after, run_id="r")
        waiting(shop)
        shop.signal("r", "part", "first")
        with pytest.raises(Trouble):
            run.result()
        shop.signal("r", "part", "second")
        WORK["fails"] = False
        assert shop.run(fails_after, run_id="r") == "first"


@process
async def patient(ctx):
    try:
        return await ctx.wait_for("approval", timeout=100)
    except TimeoutError:
        if WORK["fails"]:
            raise
        return "late"


@pytest.mark.parametrize("durable", [True, False])
def test_a_wait_ends_in_time(store, clock, durable):
    with Engine(store=store, clock=clock) as shop:
        run = shop.submit(patient, run_id="r" if durable else None)
        waiting(shop)
        until(lambda: clock.sleepers)
        clock.advance(100)
        with pytest.raises(TimeoutError, match="approval") as caught:
            run.result()
        assert ("Run 'r' has recorded that" in str(caught.value)) is durable


def test_the_time_counts_from_the_first_wait_and_a_late_signal_is_late(store, clock):
    with Engine(store=store, clock=clock) as shop:
        shop.submit(patient, run_id="r")
        until(lambda: clock.sleepers)
    clock.advance(101)
    with Engine(store=store, clock=clock) as shop:
        with pytest.raises(TimeoutError):
            shop.run(patient, run_id="r")
        shop.signal("r", "approval", "too late")
        WORK["fails"] = False
        assert shop.run(patient, run_id="r") == "late"


def test_a_conflict_waits_for_nothing_twice():
    @process
    async def slow(ctx):
        before = ctx.domain.total
        value = await ctx.wait_for("part")
        ctx.domain.total = before + value
        return ctx.attempt

    with Engine(Shop()) as shop:
        run = shop.submit(slow)
        waiting(shop)
        with shop.transaction() as domain:
            domain.total += 100
        shop.signal(run.id, "part", 1)
        assert run.result() == 2
        assert shop.state.total == 101


@pytest.mark.parametrize("way", ["run", "submit"])
def test_a_cancelled_run_waits_no_longer(store, way):
    ended = threading.Event()
    runs: list[Run] = []

    @process
    def wait(ctx):
        try:
            ctx.wait_for("never")
        finally:
            ended.set()

    with Engine(store=store) as shop:
        begun = begin(shop, way, wait, run_id="r")
        waiting(shop)
        runs.extend(shop._active)
        runs[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            begun.result()
        assert ended.wait(30)


def run_beside_a_failure(shop, wait, is_due):
    """Run a process in a branch whose neighbour fails once it is due."""

    @process
    async def fail(ctx):
        while not is_due():
            await asyncio.sleep(0)
        raise Trouble

    with pytest.raises(Trouble):
        shop.run(parallel(wait, fail), run_id="r")


def test_a_branch_that_waits_ends_with_the_run_if_another_fails(store):
    ended = threading.Event()

    @process
    def wait(ctx):
        try:
            ctx.wait_for("never")
        finally:
            ended.set()

    with Engine(store=store) as shop:
        run_beside_a_failure(shop, wait, lambda: shop.waits._waiting)
        assert ended.wait(30)


def test_a_wait_that_begins_after_the_end_of_its_run_ends_at_once(store):
    begun, over, ended = threading.Event(), threading.Event(), threading.Event()

    @process(nature="io")
    def wait(ctx):
        begun.set()
        assert over.wait(30)
        try:
            ctx.wait_for("never")
        finally:
            ended.set()

    with Engine(store=store) as shop:
        run_beside_a_failure(shop, wait, begun.is_set)
        over.set()
        assert ended.wait(30)


def test_where_nobody_can_wait(store):
    @process(nature="state")
    def in_commit(ctx):
        ctx.wait_for("x")

    @process
    async def source(ctx):
        await ctx.sleep_until(at(1))
        yield 1

    @process(environment="worker")
    def far(ctx):
        ctx.wait_for("x")

    @process(environment="worker")
    async def far_async(ctx):
        await ctx.sleep_until(at(1))

    with Engine(store=store, workers=1) as shop:
        for target in (in_commit, flow(source, each(lambda item: item)), far, far_async):
            with pytest.raises((DefinitionError, NotTransferable), match="wait in a step"):
                shop.run(target)


@pytest.mark.parametrize("name", ["x/y", "", 5])
def test_a_signal_that_nobody_can_send_is_not_waited_for(store, name):
    @process
    def wait(ctx):
        ctx.wait_for(name)

    @process
    async def wait_async(ctx):
        await ctx.wait_for(name)

    with Engine(store=store) as shop:
        for target in (wait, wait_async):
            with pytest.raises(DefinitionError, match=r"ctx\.wait_for: a signal's name is a text without a slash"):
                shop.run(target)


def test_signals_that_nobody_can_get(store):
    with Engine(store=store) as shop, Engine(Shop()) as plain:
        shop.run(lambda: 1, run_id="r")
        with pytest.raises(DefinitionError, match="is done"):
            shop.signal("r", "x")
        with pytest.raises(DefinitionError, match="no run"):
            shop.signal("s", "x")
        with pytest.raises(DefinitionError, match="no such run"):
            plain.signal("r", "x")
        with pytest.raises(DefinitionError, match="slash"):
            plain.signal("r", "x/y")


def test_a_call_begins_once_while_it_waits(store):
    """Waiting is inside the call: the engine does not begin it again and again."""
    events = []
    with Engine(store=store, observers=[events.append]) as shop:
        run = shop.submit(approve_async, 1, run_id="r")
        waiting(shop)
        shop.signal("r", "approval", "yes")
        run.result()
    assert sum(isinstance(event, CallStarted) for event in events) == 1


@pytest.mark.parametrize("target", [approve_def, approve_async])
def test_waiting_while_debugging(store, target):
    with Engine(store=store, debug=True) as shop:
        run = InThread(lambda: shop.run(target, 1, run_id="r"))
        waiting(shop)
        shop.signal("r", "approval", "yes")
        assert run.result() == "yes"


def test_a_def_that_waits_is_never_placed_on_the_loop(store):
    """However short it was before: there it would wait for what the loop has to do first."""
    other = {"wait": approve_def.fn}

    @process
    def hidden(ctx, order: int):
        return other["wait"](ctx, order)

    assert cannot_be_inline(approve_def.fn) == "it uses ctx.wait_for"

    async def on_loop():
        with Engine(store=store) as shop:
            shop.environments["thread"] = shop.environments["inline"]  # as if it had been taken for short
            await shop.arun(hidden, 1, run_id="r")

    with pytest.raises(DefinitionError, match="nature='io'"):
        asyncio.run(on_loop())
