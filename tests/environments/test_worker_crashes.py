"""Whatever a call does to its worker process costs that call only, with an error that says what happened."""

import asyncio
import os
import signal
import threading

import crash_bodies as bodies
import pytest
from crash_bodies import WhenOpened, WhenPacked
from worker_tools import begin, call, fork, is_gone, nothing_left, start, until, wait_until, workers

from theus.environments.worker import WorkerEnvironment
from theus.errors import CallTimeout, EnvironmentBroken, NotTransferable
from theus.processes import Process, process
from theus.testing.environments import EngineStub, make_call

STARTS = [pytest.param(start, id="started"), pytest.param(fork, id="forked")]


@pytest.fixture(autouse=True, scope="module")
def clean():
    with nothing_left():
        yield


@pytest.fixture(scope="module", params=STARTS)
def pool(clean, request):
    """One environment for the whole table: it has to heal again and again."""
    lost = []
    environment = WorkerEnvironment(2, on_lost=lambda call, environment, code: lost.append((call.process.name, code)))
    request.param(environment)
    yield environment, lost
    assert bool(environment._pool.templates.alive) == (request.param is fork)  # to the end
    asyncio.run(environment.stop(2.0))


def broken(code):
    return lambda e: type(e) is EnvironmentBroken and e.exit_code == code and e.environment == "worker"


def refused(what):
    return lambda e: type(e) is NotTransferable and what in e.what and e.what in str(e)


def raised(kind, *args):
    return lambda e: type(e) is kind and (not args or e.args == args)


#: name: function, arguments, what its error must be
CRASHES = {
    "exit 0": (bodies.leave, (0,), broken(0)),
    "exit 7": (bodies.leave, (7,), broken(7)),
    "sys.exit": (bodies.leave_politely, (4,), raised(SystemExit, 4)),
    "SIGKILL": (bodies.send_self, (signal.SIGKILL,), broken(-9)),
    "SIGTERM": (bodies.send_self, (signal.SIGTERM,), broken(-15)),
    "SIGSEGV": (bodies.send_self, (signal.SIGSEGV,), broken(-11)),
    "null pointer": (bodies.read_nowhere, (), broken(-11)),
    "abort": (bodies.abort, (), broken(-6)),
    "KeyboardInterrupt": (bodies.interrupt, (), raised(KeyboardInterrupt, "not from the keyboard")),
    "CancelledError": (bodies.cancelled, (), raised(asyncio.CancelledError, "not by anybody")),
    "MemoryError": (bodies.out_of_memory, (), raised(MemoryError)),
    "recursion": (bodies.endless, (), raised(RecursionError)),
    "exit while opening the argument": (bodies.give, (WhenOpened(os._exit, 9),), broken(9)),
    "sys.exit while opening the argument": (bodies.give, (WhenOpened(bodies.leave_politely, 9),), refused("its arguments")),
    "error while opening the argument": (bodies.give, (WhenOpened(bodies.fail, 9),), refused("its arguments")),
    "unpicklable argument": (bodies.give, ([1, {"x": threading.Lock()}],), refused("argument 'value'[1]['x']: a _thread.lock")),
    "error while packing the argument": (bodies.give, (WhenPacked(bodies.fail, 1),), refused("argument 'value': a crash_bodies.WhenPacked")),
    "unpicklable result": (bodies.give_lock, (), refused("the result['rows'][2]['guard']: a _thread.lock")),
    "error while packing the result": (bodies.give_when_packed, (bodies.fail, 1), refused("the result: a crash_bodies.WhenPacked")),
    "exit while packing the result": (bodies.give_when_packed, (os._exit, 5), broken(5)),
    "sys.exit while packing the result": (bodies.give_when_packed, (bodies.leave_politely, 5), refused("the result")),
    "error while opening the result": (bodies.give_when_opened, ("fail",), refused("the result")),
    "sys.exit while opening the result": (bodies.give_when_opened, ("exit",), refused("the result")),
    "result opens only there": (bodies.give_what_opens_only_here, (), refused("the result")),
    "result too deep": (bodies.deep_result, (), refused("the result")),
    "all descriptors closed": (bodies.close_all, (), broken(-9)),
    "error with another __init__": (bodies.raise_twisted, (), lambda e: type(e) is bodies.Twisted and e.a == 1 and str(e) == "1 and 2"),
    "error that holds a lock": (bodies.raise_holding, (), lambda e: type(e) is bodies.Holding and "lock" in e.thing),
    "error of a local class": (bodies.raise_local, (), lambda e: type(e).__name__ == "Local" and e.args == ("only known there",)),
    "error that never pickles": (bodies.raise_unpicklable, (), lambda e: "Unpicklable" in repr(e) and "cannot" in str(e)),
}  # fmt: skip


@pytest.mark.parametrize("name", CRASHES)
def test_a_crash_costs_one_call(name, pool):
    function, args, expected = CRASHES[name]
    environment, lost = pool
    lost.clear()

    async def main():
        others = [asyncio.ensure_future(call(environment, bodies.give, n)) for n in range(4)]
        answer = asyncio.ensure_future(environment.run(make_call(Process(function), *args)))
        others += [asyncio.ensure_future(call(environment, bodies.give, n)) for n in range(4, 8)]
        (error,) = await asyncio.gather(answer, return_exceptions=True)
        error = getattr(error, "error", error)  # of the outcome: raised in a task, SystemExit would end the loop
        assert expected(error), repr(error)
        assert await asyncio.gather(*others) == list(range(8))
        assert await call(environment, bodies.give, "again") == "again"
        assert len(environment.workers()) <= 2
        if isinstance(error, EnvironmentBroken):
            assert error.process == function.__name__
            assert lost == [(function.__name__, error.exit_code)]
        else:
            assert not lost

    asyncio.run(main())


@pytest.mark.parametrize(
    ("death", "code"),
    [("os.kill(os.getpid(), signal.SIGSEGV)", -11), ("os._exit(4)", 4), ("os.close(1); os.kill(os.getpid(), 9)", -9)],
)
def test_one_that_dies_while_it_starts_costs_one_call(death, code, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(f"import os, signal; {death}")
    lost = []

    async def main():
        async with workers(1, on_lost=lambda call, _, code: lost.append((call.process.name, code))) as environment:
            with monkeypatch.context() as patch:
                patch.setenv("PYTHONPATH", str(tmp_path))
                with pytest.raises(EnvironmentBroken, match="ended before it was ready") as failure:
                    await call(environment, bodies.give, 1)
            assert failure.value.exit_code == code
            assert lost == [("give", code)]
            assert await asyncio.gather(*(call(environment, bodies.give, n) for n in range(4))) == [0, 1, 2, 3]

    asyncio.run(main())


@pytest.mark.parametrize("how_to_start", STARTS)
def test_no_process_thread_or_descriptor_remains_after_each_kind_of_end(how_to_start):
    for function, args in ((bodies.leave, (7,)), (bodies.close_all, ()), (bodies.give, (threading.Lock(),))):
        with nothing_left():

            async def main(function=function, args=args):
                async with workers() as environment:
                    how_to_start(environment)
                    await asyncio.gather(environment.run(make_call(Process(function), *args)), return_exceptions=True)

            asyncio.run(main())


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (bodies.close_streams, "closed"),
        (bodies.read_stdin, ""),
        (bodies.fork_and_leave, 0),
        (bodies.fork_and_return, "parent"),
        (bodies.fork_and_raise, "parent"),
        (bodies.leave_thread, "left"),
    ],
)
@pytest.mark.parametrize("how_to_start", STARTS)
def test_what_a_worker_survives(how_to_start, function, expected):
    async def main():
        async with workers(1) as environment:
            how_to_start(environment)
            assert await call(environment, function) == expected
            pid = environment.workers()[0].pid
            assert await call(environment, bodies.give, "again") == "again"
            assert environment.workers()[0].pid == pid
            if function is bodies.leave_thread:
                await environment.stop(0.0)  # it would wait for its thread

    asyncio.run(main())


def test_a_group_of_errors_comes_back_whole():
    async def main():
        async with workers(1) as environment:
            with pytest.raises(ExceptionGroup) as failure:
                await call(environment, bodies.raise_group)
            inner, twisted = failure.value.exceptions
            assert type(inner) is KeyError
            assert inner.__traceback__ is not None
            assert type(twisted) is bodies.Twisted
            assert failure.value.__suppress_context__

    asyncio.run(main())


@pytest.mark.parametrize(
    "function", [bodies.spin, bodies.spin_and_swallow, bodies.stop_self, bodies.start_program_and_hang]
)
@pytest.mark.parametrize("how", ["timeout", "cancel"])
@pytest.mark.parametrize("how_to_start", STARTS)
def test_a_body_that_does_not_end_is_ended(how_to_start, function, how, tmp_path):
    async def main():
        async with workers(1) as environment:
            how_to_start(environment)
            if how == "timeout":
                task, file = await begin(environment, function, tmp_path)
            else:
                file = tmp_path / "pid"
                task = asyncio.ensure_future(environment.run(make_call(Process(function), str(file))))
            waiting = [asyncio.ensure_future(call(environment, bodies.give, n)) for n in range(3)]
            if how == "cancel":
                await until(file.exists)
                task.cancel()
            (error,) = await asyncio.gather(task, return_exceptions=True)
            assert isinstance(error, CallTimeout if how == "timeout" else asyncio.CancelledError)
            wait_until(lambda: is_gone(int(file.read_text())), "the end of what it started")
            assert await asyncio.gather(*waiting) == [0, 1, 2]

    asyncio.run(main())


@pytest.mark.parametrize("how_to_start", STARTS)
def test_a_child_that_keeps_the_stream_open_does_not_hide_the_death(how_to_start, tmp_path):
    file = tmp_path / "pid"

    async def main():
        async with workers(1) as environment:
            how_to_start(environment)
            with pytest.raises(EnvironmentBroken) as failure:
                await call(environment, bodies.leave_child_and_die, str(file))
            assert failure.value.exit_code == 3
            wait_until(lambda: is_gone(int(file.read_text())), "the end of the child")
            assert await call(environment, bodies.give, 1) == 1

    asyncio.run(main())


def test_a_storm_of_signals(tmp_path):
    file, answer = tmp_path / "pid", tmp_path / "answer"

    async def main():
        async with workers(1) as environment:
            task = asyncio.ensure_future(call(environment, bodies.storm, str(file), str(answer)))
            await until(file.exists)
            for _ in range(200):
                os.kill(int(file.read_text()), signal.SIGINT)
            answer.touch()
            assert await task == "calm"

    asyncio.run(main())


def test_both_directions_full():
    """Neither side waits for the other to read: 8 MB there and back for several calls at once."""

    async def main():
        async with workers(2) as environment:
            big = os.urandom(1 << 20) * 8
            for found in await asyncio.gather(*(call(environment, bodies.give, [big, n]) for n in range(6))):
                assert found[0] == big

    asyncio.run(main())


def test_killed_between_calls():
    async def main():
        async with workers(2) as environment:
            await asyncio.gather(*(call(environment, bodies.give, n) for n in range(4)))
            pids = [worker.pid for worker in environment.workers()]
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            await until(lambda: not {worker.pid for worker in environment.workers()} & set(pids))
            assert await asyncio.gather(*(call(environment, bodies.give, n) for n in range(4))) == [0, 1, 2, 3]

    asyncio.run(main())


@process
def tell(ctx, n, lives):
    ctx.report(os.getpid())
    if not lives:
        os._exit(1)
    return n


def test_killing_under_load_loses_what_ran_and_nothing_else():
    """Calls that wait inside a worker that dies are not lost and not run twice."""

    async def main():
        async with workers(2) as environment:
            for n in range(20):
                await environment.run(make_call(tell, n, True))
            host = EngineStub()
            calls = [make_call(tell, n, n % 10 != 5, host=host) for n in range(50)]
            results = await asyncio.gather(*map(environment.run, calls), return_exceptions=True)
            for n, result in enumerate(results):
                if n % 10 == 5:
                    assert broken(1)(result)
                else:
                    assert result.value == n
            assert len(host.reports) == 50

    asyncio.run(main())
