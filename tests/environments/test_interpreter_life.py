"""Sub-interpreters come and go without a trace, and Python ends in good order however the program left them."""

import asyncio
import contextlib
import logging
import os
import sys

import psutil
import pytest
from worker_tools import LIMIT, call, nothing_left, run_program, start_program, until

from theus.errors import CallTimeout, EnvironmentBroken
from theus.processes import Process
from theus.testing.environments import make_call

if sys.version_info < (3, 14):
    pytest.skip("sub-interpreters need Python 3.14", allow_module_level=True)

from concurrent import interpreters

import interpreter_bodies as bodies

from theus.environments.interpreter import InterpreterEnvironment
from theus.environments.near_blocks import Blocks
from theus.environments.peer import Peer
from theus.environments.sub_interpreter import SubInterpreter


@pytest.fixture(autouse=True)
def clean():
    before = len(interpreters.list_all())
    with nothing_left():
        yield
    assert len(interpreters.list_all()) == before


@contextlib.asynccontextmanager
async def interpreters_of(capacity, **options):
    environment = InterpreterEnvironment(capacity, **options)
    try:
        yield environment
    finally:
        await environment.stop(1.0)


def test_calls_run_in_an_interpreter_of_this_process():
    async def main():
        async with interpreters_of(1) as environment:
            outcome = await environment.run(make_call(Process(bodies.where), [1]))
            number, pid, value = outcome.value
            assert (pid, value) == (os.getpid(), [1])
            assert number not in (0, interpreters.get_current().id)
            assert outcome.place == f"interpreter {number}"
            assert [(worker.pid, worker.calls) for worker in environment.workers()] == [(number, 1)]

    asyncio.run(main())


def test_a_memory_error_is_a_memory_error():
    async def main():
        async with interpreters_of(1) as environment:
            with pytest.raises(MemoryError, match="as if"):
                await call(environment, bodies.out_of_memory)
            with pytest.raises(MemoryError):
                await call(environment, bodies.too_big)
            assert environment.workers()[0].calls == 2  # the interpreter that had it goes on

    asyncio.run(main())


@pytest.mark.parametrize(
    "function", [bodies.spin, bodies.spin_in_generators, bodies.swallow, bodies.spin_async, bodies.swallow_async]
)
def test_python_code_that_does_not_end_is_ended(function, tmp_path, caplog):
    async def main():
        async with interpreters_of(1) as environment:
            started = tmp_path / "started"
            assert await call(environment, bodies.echo, 1) == 1
            task = asyncio.ensure_future(call(environment, function, str(started)))
            await until(started.exists)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled()
            assert await call(environment, bodies.echo, 7) == 7  # in a fresh one

    asyncio.run(main())
    assert not caplog.records


def test_a_resource_that_does_not_close_is_given_no_more_time_than_there_is(caplog):
    async def main():
        async with interpreters_of(1, resources={"it": bodies.NeverCloses}) as environment:
            assert await call(environment, bodies.use, "it") == "NeverCloses"
            await environment.stop(0.1)

    asyncio.run(main())
    assert not caplog.records


def test_what_cannot_be_stopped_is_given_up_and_reported(tmp_path, caplog):
    lost = []

    async def main():
        async with interpreters_of(
            1, on_lost=lambda call, *rest: lost.append((call.process.name, *rest))
        ) as environment:
            assert await call(environment, bodies.echo, 6) == 6
            with pytest.raises(CallTimeout):  # long enough for the body to begin on a busy machine
                await environment.run(make_call(Process(bodies.block, timeout=0.5), str(tmp_path / "started")))
            assert await call(environment, bodies.echo, 7) == 7  # another took its place

    asyncio.run(main())
    assert lost == [("block", "interpreter", None)]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "does not end" in record.getMessage()


def test_a_stop_that_cannot_wait(tmp_path):
    async def main():
        environment = InterpreterEnvironment(1)
        started = tmp_path / "started"
        task = asyncio.ensure_future(call(environment, bodies.swallow, str(started)))
        await until(started.exists)
        await environment.stop(0.0)
        with pytest.raises(EnvironmentBroken, match="engine was closed"):
            await task

    asyncio.run(main())


def test_a_thread_that_a_body_left_is_waited_for():
    async def main():
        async with interpreters_of(1) as environment:
            await call(environment, bodies.leave_thread)

    asyncio.run(main())


def test_big_values_cross_and_leave_nothing():
    async def main():
        big = bytes(8 << 20) + b"ok"
        async with interpreters_of(2) as environment:
            calls = [call(environment, bodies.end_of, value) for value in (big, big, bytearray(big), bytearray(big))]
            assert await asyncio.gather(*calls) == [(len(big), b"ok")] * 4
            assert await call(environment, bodies.echo, big) == big

    asyncio.run(main())


def test_one_that_cannot_start_leaves_nothing_open(monkeypatch):
    def no_more(thread):
        raise RuntimeError("can't start new thread")

    before = set(os.listdir("/proc/self/fd"))
    monkeypatch.setattr("threading.Thread.start", no_more)
    with pytest.raises(OSError, match="start new thread"):
        Peer(SubInterpreter, Blocks(lambda: None))
    assert set(os.listdir("/proc/self/fd")) == before


def test_many_come_and_go():
    async def main():
        for _ in range(15):
            async with interpreters_of(2) as environment:
                outcomes = await asyncio.gather(*(call(environment, bodies.where, n) for n in range(4)))
                assert [value for *_, value in outcomes] == [0, 1, 2, 3]

    asyncio.run(main())


def test_the_memory_of_those_that_ended_is_free():
    async def come_and_go(times):
        for _ in range(times):
            async with interpreters_of(1) as environment:
                await call(environment, bodies.echo)
        return psutil.Process().memory_info().rss

    async def main():
        before = await come_and_go(3)
        assert await come_and_go(10) - before < 40_000_000  # one takes 8 MB

    asyncio.run(main())


def test_the_directory_of_the_program_stays(tmp_path):
    async def main():
        async with interpreters_of(1) as environment:
            await call(environment, bodies.echo)
            before = os.getcwd()
            os.chdir(tmp_path)
            try:
                assert await call(environment, os.getcwd) == str(tmp_path)
            finally:
                os.chdir(before)
            assert await call(environment, os.getcwd) == before

    asyncio.run(main())


HEAD = """
import logging, threading
from theus.environments.interpreter import InterpreterEnvironment

def spin(file):
    open(file, "w").close()
    while True:
        pass

def swallow(file):
    open(file, "w").close()
    while True:
        try:
            time.sleep(0)
        except BaseException:
            continue

def block(file):
    lock = threading.Lock()
    lock.acquire()
    open(file, "w").close()
    lock.acquire()

def idle(file):
    open(file, "w").close()

environment = InterpreterEnvironment(2)

async def main():
    tasks = [asyncio.ensure_future(call(environment, BODY, f"begun{n}")) for n in range(2)]
    while not all(os.path.exists(f"begun{n}") for n in range(2)):
        await asyncio.sleep(0.005)
    print("ready", flush=True)
"""


@pytest.mark.parametrize("body", ["idle", "spin", "swallow"])
def test_a_program_that_closes_nothing_ends_well(body, tmp_path):
    assert (
        run_program(tmp_path, HEAD.replace("BODY", body) + "\nasyncio.run(main())\nprint('over')\n") == "ready\nover\n"
    )


def test_a_program_that_raises_keeps_its_exit_code(tmp_path):
    program = start_program(tmp_path, HEAD.replace("BODY", "spin") + "\nasyncio.run(main())\nsys.exit(5)\n")
    out, err = program.communicate(timeout=LIMIT)
    assert (program.returncode, out, err) == (5, "ready\n", "")


def test_a_program_that_forgets_its_environment_ends_well(tmp_path):
    text = HEAD.replace("BODY", "spin") + "\nasyncio.run(main())\ndel environment\nprint('over')\n"
    assert run_program(tmp_path, text) == "ready\nover\n"


def test_a_program_with_a_call_that_cannot_be_stopped_is_ended(tmp_path):
    program = start_program(tmp_path, HEAD.replace("BODY", "block") + "\nasyncio.run(main())\nprint('over')\n")
    out, err = program.communicate(timeout=LIMIT)
    assert (program.returncode, out) == (1, "ready\nover\n"), err
    assert "the program is ended" in err
