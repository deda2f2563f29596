"""One core, two doors: the same process gives the same from a script, a thread, a loop and inside a running loop."""

from __future__ import annotations

import asyncio
import logging
import threading
import warnings
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field

import pytest

from theus import Context, DefinitionError, Engine, each, flow, parallel, process
from theus.errors import CallTimeout, LimitExceeded, Overloaded, ScopeError
from theus.testing import FakeClock


@dataclass
class Shop:
    stock: dict[str, int] = field(default_factory=dict)
    orders: list[str] = field(default_factory=list)
    hits: int = 0


@process(reads=["stock.{sku}"], writes=["stock.{sku}", "orders"])
def place(ctx: Context[Shop], sku: str, qty: int = 1) -> int:
    if ctx.domain.stock[sku] < qty:
        raise ValueError(f"only {ctx.domain.stock[sku]} of {sku} left")
    ctx.domain.stock[sku] -= qty
    ctx.domain.orders.append(sku)
    return ctx.domain.stock[sku]


@process
async def place_later(ctx: Context[Shop], sku: str) -> int:
    await asyncio.sleep(0)
    ctx.domain.stock[sku] -= 1
    await asyncio.sleep(0)
    ctx.domain.orders.append(sku)
    return ctx.domain.stock[sku]


@pytest.fixture
def engine():
    with Engine(Shop(stock={"tea": 3})) as engine:
        yield engine


@pytest.mark.parametrize("target", [place, place_later], ids=["def", "async def"])
class TestSameFromEverywhere:
    def check(self, engine: Engine[Shop], left: int) -> None:
        assert left == 2
        assert engine.state == Shop(stock={"tea": 2}, orders=["tea"])

    def test_script(self, engine, target):
        self.check(engine, engine.run(target, sku="tea"))

    def test_thread(self, engine, target):
        answers = []
        thread = threading.Thread(target=lambda: answers.append(engine.run(target, "tea")))
        thread.start()
        thread.join()
        self.check(engine, answers[0])

    def test_await(self, engine, target):
        self.check(engine, asyncio.run(engine.arun(target, sku="tea")))

    def test_blocking_inside_a_running_loop(self, engine, target):
        async def main() -> int:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return engine.run(target, sku="tea")

        self.check(engine, asyncio.run(main()))

    def test_inside_a_workflow(self, engine, target):
        self.check(engine, engine.run([target, lambda left: left], "tea"))

    def test_submit_and_result(self, engine, target):
        self.check(engine, engine.submit(target, sku="tea").result(10))

    def test_submit_and_await(self, engine, target):
        async def main() -> int:
            return await engine.submit(target, sku="tea")

        self.check(engine, asyncio.run(main()))

    def test_stream(self, engine, target):
        stream = engine.stream(target, sku="tea")
        kinds = [type(event).__name__ for event in stream]
        assert kinds[0] == "RunStarted"
        assert kinds[-1] == "RunEnded"
        self.check(engine, stream.run.result())

    def test_debug(self, target):
        with Engine(Shop(stock={"tea": 3}), debug=True) as engine:
            self.check(engine, engine.run(target, sku="tea"))


def test_who_listens_later_is_told_how_long_the_run_took():
    async def main() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def waits(ctx: Context[Shop]) -> None:
            begun.set()
            await go_on.wait()

        clock = FakeClock()
        clock.advance(1000.0)
        async with Engine(Shop(), clock=clock) as engine:
            run = engine.submit(process(waits))
            await begun.wait()
            events = run.events()
            clock.advance(2.0)
            go_on.set()
            last = [event async for event in events][-1]
            assert (type(last).__name__, last.seconds) == ("RunEnded", 2.0)

    asyncio.run(main())


@pytest.mark.parametrize("step", [place, place_later])
def test_a_blocking_call_on_a_loop_warns_with_the_callers_line(engine, step):
    async def main() -> None:
        engine.run(step, sku="tea")

    with pytest.warns(RuntimeWarning, match="await engine.arun") as caught:
        asyncio.run(main())
    assert caught[0].filename == __file__


def test_a_def_that_the_engine_put_on_the_loop_is_not_blamed_for_its_blocking_call(engine):
    @process(environment="inline")
    def nested(ctx):
        return engine.run(place, sku="tea")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert asyncio.run(engine.arun(nested)) == engine.state.stock["tea"]


def test_a_blocking_call_on_the_engines_own_loop_is_refused(engine):
    @process
    async def nested(ctx):
        engine.run(place_later, sku="tea")

    with pytest.raises(DefinitionError, match=r"await engine\.arun"):
        engine.run(nested)


def test_a_process_in_a_thread_may_call_the_engine(engine):
    @process
    def outer(ctx, sku):
        return engine.run(place_later, sku=sku)

    assert engine.run(each(outer), ["tea", "tea"]) in ([2, 1], [1, 2])


def test_nested_run_after_a_write_is_refused(engine):
    @process
    def outer(ctx):
        ctx.domain.hits += 1
        engine.run(place, sku="tea")

    with pytest.raises(ScopeError, match=r"other\(ctx"):
        engine.run(outer)
    assert engine.state.hits == 0


def test_nested_run_after_a_write_is_refused_from_another_thread(engine):
    """The context variables say who calls, also after a ``def`` ran in the same context."""

    @process(environment="inline")
    def order(ctx):
        ctx.domain.orders.append("tea")

    @process
    async def outer(ctx):
        await engine.arun(order)
        ctx.domain.hits += 1
        await asyncio.to_thread(engine.run, order)

    with pytest.raises(ScopeError, match=r"other\(ctx"):
        asyncio.run(engine.arun(outer))
    assert engine.state.orders == ["tea"]


def test_what_runs_in_one_thread_does_not_count_in_another(engine):
    """A thread with a copy of the context variables of one that is in a ``def`` which has written."""
    contexts, has_written, may_end = [], threading.Event(), threading.Event()

    @process(environment="inline")
    def copies(ctx):
        contexts.append(copy_context())

    @process(environment="inline")
    def writes(ctx):
        ctx.domain.hits += 1
        has_written.set()
        assert may_end.wait(30)

    def one_after_the_other():
        engine.run(copies)
        engine.run(writes)

    thread = threading.Thread(target=one_after_the_other)
    thread.start()
    try:
        assert has_written.wait(30)
        contexts[0].run(engine.run, place, sku="tea")
    finally:
        may_end.set()
        thread.join()
    assert engine.state == Shop(stock={"tea": 2}, orders=["tea"], hits=1)


def test_a_def_inside_a_def_gives_the_turn_back(engine):
    @process
    def inner(ctx):
        ctx.domain.orders.append("inner")

    @process
    def outer(ctx):
        engine.run(inner)
        ctx.domain.hits += 1
        engine.run(inner)

    with pytest.raises(ScopeError, match=r"'outer' has written"):
        engine.run(outer)
    assert engine.state == Shop(stock={"tea": 3}, orders=["inner"])
    engine.run(inner)  # nothing runs around it any more
    assert engine.state.orders == ["inner", "inner"]


def test_calling_another_process_joins_the_transaction(engine):
    @process
    def outer(ctx):
        place(ctx, "tea")
        place(ctx, "tea")
        raise KeyError("nothing of it counts")

    with pytest.raises(KeyError):
        engine.run(outer)
    assert engine.state == Shop(stock={"tea": 3})


def test_no_event_loop_is_needed_for_def(engine):
    engine.run(place, sku="tea")
    assert not engine._portal.is_open


# --- errors ---


def test_an_exception_comes_out_as_it_is_with_its_traceback_and_a_note(engine):
    with pytest.raises(ValueError, match="only 3 of tea left") as caught:
        engine.run(place, sku="tea", qty=9)
    frames = [frame.name for frame in caught.traceback]
    assert frames[-1] == "place"
    assert "in process 'place'" in caught.value.__notes__[0]
    assert engine.state == Shop(stock={"tea": 3})


@pytest.mark.parametrize("nature", [None, "cpu"])
def test_a_next_that_finds_nothing_is_told_with_the_process(engine, nature):
    @process(nature=nature)
    def first(rows):
        return next(row for row in rows if row > 5)

    for step in (first, flow(first, lambda row: row)):
        with pytest.raises(RuntimeError, match=r"'first' raised StopIteration: .* default") as caught:
            engine.run(step, [1])
        assert type(caught.value.__cause__) is StopIteration
        assert "in process 'first'" in caught.value.__notes__[0]
    assert isinstance(engine.run(each(first, on_error="collect"), [[1]])[0], RuntimeError)


def test_the_cause_of_an_exception_stays(engine):
    @process
    async def fails(ctx, n):
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("outer") from error

    with pytest.raises(ValueError) as caught:
        engine.run(each(fails), [1, 2, 3])
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((), {}, "needs an argument 'sku'"),
        ((), {"skuu": "tea"}, "Did you mean 'sku'"),
        (("tea", 1, 2), {}, "got 3 arguments"),
        (("tea",), {"sku": "tea"}, "twice"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_runs(engine, args, kwargs, words):
    with pytest.raises(DefinitionError, match=words):
        engine.run(place, *args, **kwargs)


def test_keyboard_interrupt_passes_untouched(engine):
    @process
    def interrupted(ctx):
        ctx.domain.hits = 9
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.run(interrupted)
    assert engine.state.hits == 0


@pytest.mark.parametrize("kind", ["loop", "thread"])
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt("now")], ids=["SystemExit", "KeyboardInterrupt"])
@pytest.mark.parametrize("door", ["run", "arun"])
def test_what_ends_a_program_reaches_the_caller_and_ends_no_loop(engine, door, error, kind):
    def leaves(ctx, n):
        raise error

    async def leaves_later(ctx, n):
        raise error

    target = each(leaves if kind == "thread" else leaves_later)

    async def main():
        try:
            await engine.arun(target, [1, 2])
        except (SystemExit, KeyboardInterrupt) as caught:
            return caught

    if door == "run":
        with pytest.raises(type(error)) as caught:
            engine.run(target, [1, 2])
        assert caught.value is error
    else:
        assert asyncio.run(main()) is error
    assert engine.run(place_later, sku="tea") == 2  # the engine's loop is alive


def test_cancelling_what_has_ended_is_nothing(engine):
    async def main():
        run = engine.submit(place_later, sku="tea")
        await run
        return run

    run = asyncio.run(main())
    run.cancel()
    assert run.state == "done"


def test_closed_engine_says_so():
    engine = Engine(Shop())
    engine.close()
    with pytest.raises(DefinitionError, match="closed"):
        engine.run(place, sku="tea")


def test_overloaded(engine):
    release = threading.Event()

    @process
    def waits(ctx):
        release.wait(10)

    with Engine(max_pending=2) as small:
        runs = [small.submit(waits) for _ in range(2)]
        with pytest.raises(Overloaded) as caught:
            small.run(waits)
        assert caught.value.pending == 2
        release.set()
        for run in runs:
            run.result(10)
        small.run(waits)


# --- retries ---


def test_retries_wait_longer_each_time_and_count_attempts():
    clock = FakeClock(autojump=True)
    attempts = []

    @process(retries=3, retry_on=ConnectionError)
    def flaky(ctx):
        attempts.append(ctx.attempt)
        ctx.domain.hits += 1
        if len(attempts) < 4:
            raise ConnectionError
        return ctx.key

    with Engine(Shop(), clock=clock) as engine:
        key = engine.run(flaky)
        assert engine.state.hits == 1
    assert attempts == [1, 2, 3, 4]
    assert len(clock.slept) == 3
    assert all(seconds <= 0.1 * 2**n for n, seconds in enumerate(clock.slept))
    assert key.endswith("/flaky")


def test_only_what_is_worth_it_is_retried():
    calls = []

    @process(retries=3, retry_on=ConnectionError)
    def fails(ctx):
        calls.append(1)
        raise ValueError

    with Engine(clock=FakeClock(autojump=True)) as engine, pytest.raises(ValueError):
        engine.run(fails)
    assert len(calls) == 1


# --- timeout ---


def test_async_timeout_by_the_engines_clock():
    clock = FakeClock()
    started = threading.Event()
    cancelled = []

    @process(timeout=5)
    async def hangs(ctx):
        ctx.domain.hits = 1
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(True)

    with Engine(Shop(), clock=clock) as engine:
        run = engine.submit(hangs)
        assert started.wait(10)
        clock.advance(5)
        with pytest.raises(CallTimeout) as caught:
            run.result(10)
        assert isinstance(caught.value, TimeoutError)
        assert (caught.value.process, caught.value.timeout) == ("hangs", 5)
        assert cancelled == [True]
        assert engine.state.hits == 0


def test_timeout_error_of_the_body_is_its_own():
    @process(timeout=60)
    async def fails(ctx):
        raise TimeoutError("mine")

    with Engine() as engine, pytest.raises(TimeoutError, match="mine") as caught:
        engine.run(fails)
    assert not isinstance(caught.value, CallTimeout)


# --- cancel ---


def test_cancel_commits_nothing_and_closes_the_scopes():
    started, closed = threading.Event(), []

    class Manager:
        async def __aenter__(self):
            return self

        async def __aexit__(self, *exc_info):
            closed.append(exc_info[0])

    @process
    async def hangs(ctx):
        await ctx.local.aenter(Manager())
        ctx.domain.hits = 7
        started.set()
        await asyncio.Event().wait()

    with Engine(Shop()) as engine:
        run = engine.submit(hangs)
        assert started.wait(10)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            run.result(10)
        assert run.state == "cancelled"
        assert closed == [asyncio.CancelledError]
        assert engine.state.hits == 0


def test_closing_the_engine_cancels_what_runs():
    started = threading.Event()

    @process
    async def hangs(ctx):
        started.set()
        await asyncio.Event().wait()

    engine = Engine()
    run = engine.submit(hangs)
    assert started.wait(10)
    engine.close()
    assert run.state == "cancelled"
    assert not [thread for thread in threading.enumerate() if thread.name == "theus-loop"]


def test_leaving_a_stream_early_cancels_the_run():
    @process
    async def talks(ctx):
        while True:
            ctx.report("still here")
            await asyncio.sleep(0)

    async def main():
        async with Engine() as engine:
            with engine.stream(talks) as stream:
                async for event in stream:
                    if type(event).__name__ == "Reported":
                        break
            with pytest.raises(asyncio.CancelledError):
                await stream.run
            assert stream.run.state == "cancelled"

    asyncio.run(main())


# --- context variables and logs ---

request_id: ContextVar[str] = ContextVar("request_id", default="none")


@pytest.mark.parametrize("kind", ["inline", "thread", "loop", "worker"])
def test_context_variables_and_logs_cross(kind, caplog):
    request_id.set("r-17")
    with Engine() as engine, caplog.at_level(logging.INFO, "theus.process"):
        if kind == "loop":

            @process
            async def looks(ctx):
                ctx.log.info("looking")
                return request_id.get()

        else:
            looks = process(environment=kind)(look)
        assert engine.run(looks) == "r-17"
    assert [record.message for record in caplog.records] == ["looking"]


def look(ctx):
    ctx.log.info("looking")
    return request_id.get()


# --- flow ---


def test_a_list_is_a_flow_and_none_is_a_value():
    with Engine() as engine:
        assert engine.run([lambda: None, lambda value: value is None]) is True
        assert engine.run([lambda x: x + 1, lambda x: x * 10], 4) == 50


def test_parallel_hands_on_a_tuple_and_each_a_list_in_order():
    @process
    async def late(ctx, n):
        for _ in range(5 - n):
            await asyncio.sleep(0)
        return n

    with Engine() as engine:
        assert engine.run(each(late), range(5)) == [0, 1, 2, 3, 4]
        assert engine.run(parallel(late, lambda n: -n), 3) == (3, -3)
        assert engine.run(flow(each(late, limit=2), sum), range(5)) == 10


def test_repeat_over_its_limit_is_an_error():
    from theus import repeat

    @process
    def more(ctx, value=None):
        ctx.domain.hits += 1

    with Engine(Shop()) as engine:
        engine.run(repeat(more, while_=lambda d: d.hits < 5, limit=10))
        assert engine.state.hits == 5
        with pytest.raises(LimitExceeded):
            engine.run(repeat(more, while_=lambda d: True, limit=3))
        assert engine.state.hits == 8


def test_collect_lists_errors_where_they_happened():
    @process
    async def half(ctx, n):
        if n % 2:
            raise ValueError(n)
        return n

    with Engine() as engine:
        results = engine.run(each(half, on_error="collect"), range(4))
    assert [type(result) for result in results] == [int, ValueError, int, ValueError]


def test_the_first_failure_stops_the_others():
    stopped = []

    @process
    async def works(ctx, n):
        if n == 2:
            raise ValueError("two")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stopped.append(n)
            raise

    with Engine() as engine, pytest.raises(ValueError, match="two"):
        engine.run(each(works), range(4))
    assert sorted(stopped) == [0, 1, 3]


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_source_is_pulled_with_back_pressure(kind):
    made, done, ahead = [], [], []

    def numbers():
        for n in range(100):
            made.append(n)
            yield n

    async def anumbers():
        for n in range(100):
            made.append(n)
            yield n

    @process
    async def take(ctx, n):
        ahead.append(len(made) - len(done))
        await asyncio.sleep(0)
        done.append(n)
        return n

    source = process(numbers if kind == "def" else anumbers)
    with Engine() as engine:
        assert engine.run(flow(source, each(take, limit=3))) == list(range(100))
        assert engine.run(source) == list(range(100))
    assert max(ahead[:100]) <= 4
