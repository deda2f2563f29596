"""Workers are replaced when they have served long enough, or hold too much; no call is lost by it."""

import asyncio
import os
import signal
import sys
from collections import Counter

import pytest
from worker_tools import call, nothing_left, until, workers

from theus import DefinitionError, Engine, process
from theus.environments.peer import Limits
from theus.errors import EnvironmentBroken
from theus.events import CallRetried, WorkerLost
from theus.processes import Process
from theus.testing.environments import make_call

MEGABYTE = 1 << 20
KEPT = []


@pytest.fixture(autouse=True)
def clean():
    with nothing_left():
        yield


def whoami():
    return os.getpid()


def slowly(seconds):
    import time

    time.sleep(seconds)
    return os.getpid()


def keep(megabytes):
    KEPT.append(bytearray(b"x" * (megabytes * MEGABYTE)))
    return os.getpid()


def grow_too_big(ctx):
    """What the system does to a process that takes too much memory; the second attempt is well."""
    if ctx.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return ctx.attempt


@pytest.mark.parametrize("in_flight", [1, 40])
def test_a_worker_is_replaced_after_so_many_calls(in_flight):
    async def main():
        async with workers(2, limits=Limits(calls=10)) as environment:
            turns = asyncio.Semaphore(in_flight)
            asked = Process(whoami)  # the same each time, so that it is known to be short and sent ahead

            async def one():
                async with turns:
                    return (await environment.run(make_call(asked))).value

            pids = await asyncio.gather(*(one() for _ in range(60)))
        served = Counter(pids)
        assert sum(served.values()) == 60
        assert max(served.values()) == 10

    asyncio.run(main())


def test_what_runs_beside_the_last_call_goes_on():
    async def main():
        async with workers(2, limits=Limits(calls=1)) as environment:
            pids = await asyncio.gather(*(call(environment, slowly, 0.01 * (n % 3)) for n in range(6)))
        assert len(set(pids)) == 6

    asyncio.run(main())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the memory of a process is read from /proc")
def test_a_worker_that_holds_too_much_is_replaced():
    async def main():
        async with workers(1, limits=Limits(memory=200 * MEGABYTE)) as environment:
            first = await call(environment, keep, 1)
            assert [await call(environment, whoami) for _ in range(3)] == [first] * 3
            assert await call(environment, keep, 250) == first  # what it returns is not lost
            second = await call(environment, whoami)
            assert second != first
            await until(lambda: [worker.pid for worker in environment.workers()] == [second])

    asyncio.run(main())


def test_an_engine_passes_its_limits_on():
    with Engine(workers=1, max_tasks_per_worker=2) as engine:
        pids = [engine.run(process(nature="cpu")(whoami)) for _ in range(6)]
    assert sorted(Counter(pids).values()) == [2, 2, 2]


@pytest.mark.parametrize("name", ["max_tasks_per_worker", "max_worker_rss"])
@pytest.mark.parametrize("value", [0, -1, 2.5, True, "1GB"])
def test_limits_are_numbers(name, value):
    with pytest.raises(DefinitionError, match=name):
        Engine(**{name: value})


def test_a_worker_that_the_system_killed():
    events = []
    with Engine(workers=1, observers=[events.append]) as engine:
        with pytest.raises(EnvironmentBroken, match="likely out of memory") as found:
            engine.run(process(nature="cpu")(grow_too_big))
        assert found.value.exit_code == -signal.SIGKILL
        (lost,) = [event for event in events if isinstance(event, WorkerLost)]
        assert (lost.process, lost.environment, lost.exit_code) == ("grow_too_big", "worker", -signal.SIGKILL)
        assert lost.run_id
        assert not [event for event in events if isinstance(event, CallRetried)]


def test_such_a_call_is_made_again_if_it_may_run_twice():
    again = process(nature="cpu", idempotent=True, retries=1, retry_on=EnvironmentBroken)(grow_too_big)
    with Engine(workers=1) as engine:
        assert engine.run(again) == 2


def test_memory_that_a_limit_of_the_process_denies_is_a_memory_error():
    def allocate():
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        return len(bytearray(2 << 30))

    async def main():
        async with workers(1) as environment:
            with pytest.raises(MemoryError):
                await call(environment, allocate)
            assert await call(environment, whoami)

    asyncio.run(main())
