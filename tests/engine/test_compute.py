"""``await ctx.compute(fn, ...)``: from inside an async def, on another core; errors, cancel and rules as elsewhere."""

from __future__ import annotations

import asyncio
import os
import threading
import traceback
from dataclasses import dataclass

import pytest

from theus import DefinitionError, Engine, EnvironmentBroken, NotTransferable, ScopeError, each, process


@dataclass
class Shop:
    total: int = 0


def where(number):
    return os.getpid(), number * number


def fails(number):
    raise ZeroDivisionError(number)


def for_ever(path):
    open(path, "w").close()
    while True:
        pass


def dies():
    os._exit(3)


def exits():
    raise SystemExit(4)


def gives_a_lock():
    return threading.Lock()


async def later():
    pass


def with_context(ctx):
    pass


def many():
    yield 1


@process
def squares(number):
    return number * number


@process
async def asks(ctx, function, *args):
    return await ctx.compute(function, *args)


@process
async def adds(ctx, number):
    ctx.domain.total += 1
    _, square = await ctx.compute(where, number)
    ctx.domain.total += square
    return square


@pytest.fixture(scope="module")
def engine():
    with Engine(Shop(), workers=2) as engine:
        yield engine


def test_it_runs_in_another_process_and_says_so(engine):
    pid, square = engine.run(asks, where, 3)
    assert (pid != os.getpid(), square) == (True, 9)
    row = next(row for row in engine.profiles().rows if row.process == "where")
    assert row.calls == 1
    assert row.environment == "worker"


def test_where_threads_compute_at_the_same_time_it_is_one_of_them_and_says_so(monkeypatch):
    monkeypatch.setattr("theus.nature.threads_are_parallel", lambda: True)
    with Engine(workers=2) as engine:
        pid, _ = engine.run(asks, where, 3)
        row = next(row for row in engine.profiles().rows if row.process == "where")
    assert (pid, row.environment) == (os.getpid(), "thread")


def test_a_process_without_context_is_a_function_too(engine):
    assert engine.run(asks, squares, 3) == 9


def test_it_belongs_to_the_transaction_around_it(engine):
    before = engine.state.total
    assert engine.run(each(adds), [1, 2]) == [1, 4]
    assert engine.state.total == before + 7


def test_an_error_comes_as_it_was_with_its_lines(engine):
    with pytest.raises(ZeroDivisionError) as caught:
        engine.run(asks, fails, 3)
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert "fails" in names
    assert "asks" in caught.value.__notes__[0]


def test_the_process_may_go_on_after_an_error(engine):
    @process
    async def tries(ctx):
        try:
            await ctx.compute(dies)
        except EnvironmentBroken as error:
            return error.exit_code

    assert engine.run(tries) == 3


def test_system_exit_comes_out(engine):
    with pytest.raises(SystemExit):
        engine.run(asks, exits)


def test_what_cannot_be_sent_is_named(engine):
    with pytest.raises(NotTransferable, match="lock"):
        engine.run(asks, gives_a_lock)


def test_cancel_stops_the_function(engine, tmp_path):
    async def main():
        os.mkfifo(tmp_path / "begun")
        task = asyncio.ensure_future(engine.arun(asks, for_ever, tmp_path / "begun"))
        await asyncio.to_thread((tmp_path / "begun").read_text)  # until the other side has opened and closed it
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert engine.run(asks, where, 2)[1] == 4


@pytest.mark.parametrize(
    ("function", "word"), [(later, "async def"), (with_context, "with ctx"), (many, "a generator"), (where, "needs")]
)
def test_what_is_no_plain_function_is_refused(engine, function, word):
    with pytest.raises(DefinitionError, match=word):
        engine.run(asks, function)


def test_a_def_is_told_to_call_it_itself(engine):
    @process
    def plain(ctx):
        ctx.compute(where, 1)

    with pytest.raises(DefinitionError, match="call the function itself"):
        engine.run(plain)


def test_in_a_worker_it_is_refused(engine):
    with pytest.raises(DefinitionError, match=r"instead of ctx.compute, call the function itself, where\(...\)"):
        engine.run(asks_in_a_worker)


@process(environment="worker")
async def asks_in_a_worker(ctx):
    return await ctx.compute(where, 1)


def test_after_the_end_it_is_refused(engine):
    kept = []

    @process
    async def leaks(ctx):
        kept.append(ctx)

    engine.run(leaks)
    with pytest.raises(ScopeError):
        kept[0].compute(where, 1)


def test_in_debug_it_runs_in_place():
    with Engine(debug=True) as engine:
        assert engine.run(asks, where, 3) == (os.getpid(), 9)
