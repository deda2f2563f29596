"""Who keeps an event loop waiting is named while it happens, and moved if it may; on every kind of loop."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import re
import sys
import threading
import time

import httpx
import pytest
import rloop
import uvloop

from theus import CallTimeout, Engine, process
from theus.events import Stalled
from theus.placement import threads_are_parallel
from theus.resources import Resources
from theus.surroundings import bound_to_loop, cannot_change_loop
from theus.testing import FakeClock
from theus.watchdog import Stall, Watchdog, _Watch

# rloop leaves the sockets with which it wakes itself to the garbage collector.
RLOOP = pytest.param(
    rloop.new_event_loop, marks=pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
)
on_every_loop = pytest.mark.parametrize(
    "factory", [asyncio.new_event_loop, uvloop.new_event_loop, RLOOP], ids=["asyncio", "uvloop", "rloop"]
)
name = contextvars.ContextVar("name", default="nobody")
gate = asyncio.Lock()
notes: list[str] = []


@process
async def hogs(told, *rest):
    told.wait(60)
    await asyncio.sleep(0)
    return threading.current_thread().name


@process
async def asks_at_the_gate(told):
    told.wait(60)
    async with gate:
        return threading.current_thread().name


@process
async def notes_down(told):
    told.wait(60)
    notes.append("told")
    return threading.current_thread().name


@pytest.fixture
def told():
    return threading.Event()


@pytest.fixture
def stalls():
    return []


@pytest.fixture
def engine(told, stalls):
    def observe(event):
        if isinstance(event, Stalled):
            stalls.append(event)
            told.set()

    with Engine(observers=[observe]) as engine:
        yield engine


@on_every_loop
def test_the_line_is_named_while_it_happens(engine, told, stalls, factory, caplog):
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(engine.arun(hogs, told))  # it ends only because it was told of
    (stall,) = stalls
    assert (stall.process, stall.file, stall.function) == ("hogs", __file__, "hogs")
    assert stall.line == hogs.fn.__code__.co_firstlineno + 2
    assert "ctx.compute" in stall.advice
    assert f"{__file__}:{stall.line}" in caplog.text


@on_every_loop
def test_the_engines_own_loop_is_watched_too(told, stalls, factory):
    def observe(event):
        if isinstance(event, Stalled):
            stalls.append(event.process)
            told.set()

    with Engine(loop_factory=factory, observers=[observe]) as engine:
        engine.run(hogs, told)
    assert stalls == ["hogs"]


def test_it_has_a_loop_of_its_own_from_the_second_call_on(engine, told):
    async def main():
        here = threading.current_thread().name
        assert await engine.arun(hogs, told) == here
        assert await engine.arun(hogs, told) == "theus-own-loop-1"
        assert await engine.arun(hogs, told) == "theus-own-loop-1"

    asyncio.run(main())
    row = engine.explain(hogs).rows[0]
    assert (row.environment, row.reason) == (
        "own loop",
        "async def that kept its event loop waiting: on a loop of its own, in a thread",
    )


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (asks_at_the_gate, "the global 'gate' it uses is a Lock, which belongs to its event loop"),
        (notes_down, "the global 'notes' it uses is a list, which others may use on their loop at the same time"),
    ],
)
def test_what_belongs_to_its_loop_is_reported_only(engine, told, stalls, target, reason):
    async def main():
        for _ in range(2):
            assert await engine.arun(target, told) == threading.current_thread().name

    asyncio.run(main())
    assert len(stalls) == 1  # once for each place
    assert engine.explain(target).rows[0].reason.endswith(reason)


def test_a_client_as_an_argument_keeps_the_call_on_its_loop_and_says_why(engine, told):
    async def main():
        async with httpx.AsyncClient() as client:
            for _ in range(2):
                assert await engine.arun(hogs, told, {"clients": [client]}) == threading.current_thread().name

    asyncio.run(main())
    reason = engine.explain(hogs).rows[0].reason
    assert "it was given a AsyncClient, which belongs to its event loop" in reason


@pytest.mark.parametrize("value", [asyncio.Lock(), {"deep": [asyncio.Event()]}, httpx.AsyncClient(), hogs])
def test_what_is_bound_to_a_loop(value):
    assert bool(bound_to_loop(value)) is (value is not hogs)


def test_plain_data_is_bound_to_nothing():
    assert bound_to_loop([1, {"a": (2.0, "x")}, threading.Event(), re.compile("a")]) is None
    assert cannot_change_loop(hogs.fn) is None


def test_a_task_that_a_process_started_is_found_by_its_context(engine, told, stalls):
    async def main():
        @process
        async def starts():
            await asyncio.create_task(waits())

        async def waits():
            told.wait(60)

        await engine.arun(starts)

    asyncio.run(main())
    assert stalls[0].function.endswith("waits")
    assert stalls[0].process == ("starts" if sys.version_info >= (3, 12) else "")


def test_what_is_no_process_is_told_of_as_well(engine, told, stalls):
    async def main():
        run = engine.submit(sleeps)
        await asyncio.sleep(0)
        told.wait(60)
        await run

    @process
    async def sleeps():
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(main())
    assert (stalls[0].process, stalls[0].file) == ("", __file__)


def test_a_run_beside_a_healthy_loop_is_never_told_of(engine, stalls):
    async def main():
        beats = 0
        before = time.perf_counter()
        while time.perf_counter() - before < 0.2:
            beats += await engine.arun(one)
        assert beats > 1

    @process
    async def one():
        await asyncio.sleep(0)
        return 1

    asyncio.run(main())
    assert stalls == []


def test_on_a_loop_of_its_own_errors_variables_cancel_and_timeout_are_as_elsewhere(told, caplog):
    clock, inside = FakeClock(), threading.Event()

    async def main(engine):
        await engine.arun(moves, told, "first")
        with pytest.raises(ZeroDivisionError) as caught:
            await engine.arun(moves, told, "fails")
        assert "run own loop" in caught.value.__notes__[0]
        name.set("somebody")
        assert await engine.arun(moves, told, "name") == "somebody"
        task = asyncio.ensure_future(engine.arun(moves, inside, "hangs"))
        await asyncio.to_thread(inside.wait, 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        inside.clear()
        task = asyncio.ensure_future(engine.arun(moves, inside, "hangs"))
        await asyncio.to_thread(inside.wait, 60)
        while not clock.sleepers:
            await asyncio.sleep(0)
        clock.advance(11)
        with pytest.raises(CallTimeout):
            await task

    with Engine(observers=[lambda event: told.set() if isinstance(event, Stalled) else None], clock=clock) as engine:
        asyncio.run(main(engine))
        assert engine.explain(moves).rows[0].environment == "own loop"


@process(timeout=10)
async def moves(signal, what):
    if what == "first":
        signal.wait(60)
    if what == "fails":
        raise ZeroDivisionError
    if what == "hangs":
        signal.set()
        await asyncio.Event().wait()
    return name.get()


class Connection:
    """Knows on which thread it was closed."""

    closed: list[str] = []  # noqa: RUF012 - one list for the test

    async def aclose(self):
        self.closed.append(threading.current_thread().name)


@process
async def uses_a_connection(ctx, told):
    told.wait(60)
    return id(ctx.resource("connection"))


def test_a_moved_process_gets_its_own_resources_closed_on_its_loop(told):
    async def main(engine):
        first, second, third = [await engine.arun(uses_a_connection, told) for _ in range(3)]
        assert first != second == third
        await engine.aclose()

    Connection.closed.clear()
    observe = lambda event: told.set() if isinstance(event, Stalled) else None  # noqa: E731
    asyncio.run(main(Engine(resources={"connection": Connection}, observers=[observe])))
    assert "theus-own-loop-1" in Connection.closed


@process
async def asks_for_a_slow_client(ctx, told, *rest):
    ctx.resource("client")
    told.wait(60)


@pytest.fixture
def looks(monkeypatch):
    """How often a watchdog has looked so far."""
    rest, count = Watchdog._rest, 0

    def counted(self):
        nonlocal count
        count += 1
        return rest(self)

    monkeypatch.setattr(Watchdog, "_rest", counted)
    return lambda: count


def test_making_a_resource_is_excused_and_what_comes_after_it_is_not(told, stalls, looks):
    def observe(event):
        if isinstance(event, Stalled):
            stalls.append(event)
            told.set()

    def slow_client():
        before = looks()
        while looks() < before + 5:  # it looked several times, over more than its bound
            time.sleep(0.001)
        assert not stalls
        return object()

    with Engine(observers=[observe], resources={"client": slow_client}) as engine:
        asyncio.run(engine.arun(asks_for_a_slow_client, told))
    assert [event.process for event in stalls] == ["asks_for_a_slow_client"]


def test_nobody_is_to_blame_for_the_time_of_the_garbage_collector(engine, stalls, looks):
    much = [[] for _ in range(300_000)]  # to look through

    @process
    async def makes_the_next_object():
        before = looks()
        while looks() < before + 8:  # over more than the bound
            gc.collect()

    asyncio.run(engine.arun(makes_the_next_object))
    assert much
    assert not stalls


def test_a_place_is_told_of_once_and_counted_each_time(engine, stalls, looks, caplog):
    @process
    async def stays():  # it uses the engine, which others may use at the same time
        before = profile.stalls
        while profile.stalls == before:
            time.sleep(0.001)
        told_of = looks()
        while looks() < told_of + 2:
            time.sleep(0.001)

    profile = engine.profile(stays)
    for _ in range(3):
        asyncio.run(engine.arun(stays))
    assert [event.process for event in stalls] == ["stays"]
    assert caplog.text.count("keeps the event loop waiting") == 1
    assert engine.explain(stays).rows[0].stalls == 3
    assert engine.explain(stays).rows[0].nature == "blocks its loop (async def)"
    assert "kept an event loop waiting 3 times" in str(engine.explain(stays))


@pytest.mark.skipif(threads_are_parallel(), reason="without the interpreter's lock nobody can keep it")
def test_who_keeps_the_lock_in_a_call_of_c_is_named(engine, stalls):
    @process(environment="thread")
    def backtracks():
        re.match(r"(a+)+$", "a" * 23 + "!")

    async def main():
        for _ in range(100):  # nobody is to blame if the watchdog waited for a processor as well
            await engine.arun(backtracks)
            if stalls:
                return

    asyncio.run(main())
    assert (stalls[0].process, stalls[0].function.rpartition(".")[2]) == ("backtracks", "backtracks")
    assert stalls[0].line == backtracks.fn.__code__.co_firstlineno + 2
    assert stalls[0].advice == "If it computes, nature='cpu' sends it to another core."


def test_an_inline_process_is_named_too(engine, told, stalls):
    @process(environment="inline")
    def waits_here():
        told.wait(60)

    asyncio.run(engine.arun(waits_here))
    assert stalls[0].process == "waits_here"
    assert "inline" in stalls[0].advice


def test_the_watchdog_ends_when_there_is_nothing_to_watch(monkeypatch):
    monkeypatch.setattr("theus.watchdog.IDLE_SECONDS", 0.01)
    seen: list[Stall] = []
    watchdog = Watchdog(seen.append, Resources({}))

    async def main():
        loop = asyncio.get_running_loop()
        for _ in range(2):
            watchdog.enter(loop)
            thread = watchdog._thread
            watchdog.leave(loop)
            await asyncio.to_thread(thread.join, 60)
            assert not thread.is_alive()
        assert not watchdog._watched  # it keeps no loop alive

    asyncio.run(main())


def test_a_closed_engine_leaves_no_thread_that_watches(monkeypatch):
    monkeypatch.setattr("theus.watchdog.IDLE_SECONDS", 3600)
    monkeypatch.setattr("theus.environments.meter.IDLE_SECONDS", 3600)
    others = set(threading.enumerate())
    with Engine() as engine:
        asyncio.run(engine.arun(process(lambda: None)))
        threads = {thread.name: thread for thread in set(threading.enumerate()) - others}
    for name in ("theus-ticker", "theus-watchdog"):
        threads[name].join(60)
        assert not threads[name].is_alive(), name


def test_an_engine_that_nobody_holds_is_not_kept_by_its_watchdog(told):
    import weakref

    told.set()
    engine = Engine()
    asyncio.run(engine.arun(hogs, told))
    gone = weakref.ref(engine)
    del engine
    gc.collect()
    assert gone() is None


@on_every_loop
def test_a_loop_gives_signs_of_life_as_long_as_it_has_runs(factory):
    async def main():
        watch = _Watch(asyncio.get_running_loop())
        watch.runs = 1
        watch.beat()
        first = watch.due
        while watch.due == first:
            await asyncio.sleep(0.001)
        assert watch.look(watch.due, sys._current_frames(), 0.0, blind=False) is None
        watch.runs = 0
        while watch.is_beating:
            await asyncio.sleep(0.001)
        watch.close()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(asyncio.wait_for(main(), 60))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a thread computed")
@pytest.mark.parametrize(("seconds", "is_told"), [(0.0, False), (0.1, True)], ids=["it waited", "it computed"])
def test_who_did_nothing_is_not_to_blame_for_a_lock_that_could_not_be_had(seconds, is_told):
    watches, ready, over = [], threading.Event(), threading.Event()

    async def main():
        watch = _Watch(asyncio.get_running_loop())
        watch.runs = 1
        watch.beat()
        watches.append(watch)
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass
        ready.set()
        over.wait(60)

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    assert ready.wait(60)
    stall = watches[0].look(time.perf_counter(), sys._current_frames(), 0.0, blind=True)
    over.set()
    thread.join()
    watches[0].close()
    assert (stall is not None) is is_told
