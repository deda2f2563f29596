"""Several loops, of any make, busy or closed, share the workers of one environment."""

import asyncio
import gc
import importlib
import os
import random
import threading
import time
import warnings

import crash_bodies as bodies
import pytest
from worker_tools import LIMIT, begin, call, nothing_left, wait_until, workers

from theus.environments.worker import WorkerEnvironment
from theus.errors import CallTimeout, EnvironmentBroken
from theus.processes import Process
from theus.testing.environments import EngineStub, make_call


@pytest.fixture(autouse=True, scope="module")
def warm():
    """The first loop of a kind opens what its library keeps."""
    for kind in ("uvloop", "rloop"):
        try:
            module = importlib.import_module(kind)
        except ImportError:
            continue
        run_on(module.new_event_loop, asyncio.sleep(0))


def run_on(new_loop, coroutine):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # rloop 0.3 forgets to close sockets of its own
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(coroutine)
        del runner
        gc.collect()


@pytest.fixture(autouse=True)
def clean(warm, request):
    forgotten = ("anon_inode:[eventpoll]", "anon_inode:[eventfd]") if "rloop" in request.node.name else ()  # its own
    with nothing_left(but=forgotten):
        yield


def in_thread(coroutine_function, *args):
    """Run a coroutine in a loop of its own, in a thread of its own; gives what waits for its result."""
    found = []

    def run():
        found.append(asyncio.run(coroutine_function(*args)))

    thread = threading.Thread(target=run)
    thread.start()

    def result():
        thread.join(LIMIT)
        assert not thread.is_alive()
        return found[0]

    return result


@pytest.mark.parametrize("kind", ["uvloop", "rloop"])
def test_any_loop(kind):
    module = pytest.importorskip(kind)

    async def main():
        async with workers(1) as environment:
            results = await asyncio.gather(*(call(environment, bodies.give, n) for n in range(50)))
            assert results == list(range(50))
            big = os.urandom(1 << 20)
            assert await call(environment, bodies.give, big) == big
            with pytest.raises(EnvironmentBroken):
                await call(environment, bodies.leave, 3)
            with pytest.raises(CallTimeout):
                await environment.run(make_call(Process(bodies.spin, timeout=0.2), os.devnull + "x"))
            assert await call(environment, bodies.give, 1) == 1

    for _ in range(2):
        run_on(module.new_event_loop, main())


def test_one_loop_after_the_other():
    """Each takes the workers over from one that is closed."""
    environment = WorkerEnvironment(2)

    async def some():
        return await asyncio.gather(*(call(environment, os.getpid) for _ in range(10)))

    pids = set()
    for _ in range(5):
        pids.update(asyncio.run(some()))
    assert len(pids) <= 2
    asyncio.run(environment.stop(2.0))


def test_a_worker_that_dies_between_two_loops():
    environment = WorkerEnvironment(1)
    for _ in range(3):
        pid = asyncio.run(call(environment, os.getpid))
        os.kill(pid, 9)
        wait_until(lambda pid=pid: pid not in [worker.pid for worker in environment.workers()])
    loop = asyncio.new_event_loop()  # open, but it stands still while its worker dies
    pid = loop.run_until_complete(call(environment, os.getpid))
    os.kill(pid, 9)
    wait_until(lambda: not environment.workers())
    assert loop.run_until_complete(call(environment, bodies.give, 1)) == 1
    asyncio.run(environment.stop(2.0))
    loop.close()


@pytest.mark.parametrize("in_hand", [True, False], ids=["with a call in it", "idle"])
def test_a_busy_loop_does_not_hold_up_another(in_hand):
    """The loop that owns the only worker is stuck in somebody's code; another loop's calls go on."""
    stuck, free = threading.Event(), threading.Event()

    async def owner(environment):
        for _ in range(2):
            assert await call(environment, bodies.give, 1) == 1
        pending = asyncio.ensure_future(call(environment, bodies.give, 2))
        if in_hand:
            await asyncio.sleep(0)
        else:
            await pending
        stuck.set()
        assert free.wait(LIMIT), "the other loop had to wait for this one"
        return await pending

    async def other(environment):
        return [await call(environment, bodies.give, n) for n in range(20)]

    environment = WorkerEnvironment(1)
    first = in_thread(owner, environment)
    assert stuck.wait(LIMIT)
    assert asyncio.run(other(environment)) == list(range(20))
    free.set()
    assert first() == 2
    asyncio.run(environment.stop(2.0))


def test_an_answer_in_time_is_not_a_timeout_because_its_loop_was_busy(tmp_path):
    async def main():
        async with workers(1) as environment:
            target = Process(bodies.give, timeout=2.0)
            await environment.run(make_call(target, 0))
            task = asyncio.ensure_future(environment.run(make_call(target, 1)))
            await asyncio.sleep(0)
            time.sleep(2.2)  # somebody's code stalls the loop for longer than the timeout
            assert (await task).value == 1

    asyncio.run(main())


def test_a_timeout_falls_due_while_its_loop_is_busy(tmp_path):
    async def main():
        async with workers(1) as environment:
            task, file = await begin(environment, bodies.spin, tmp_path)
            pid = int(file.read_text())
            wait_until(lambda: pid not in [worker.pid for worker in environment.workers()])  # without the loop
            with pytest.raises(CallTimeout):
                await task

    asyncio.run(main())


def work(ctx, key, seconds, end):
    ctx.report(key)
    if end:
        os._exit(1)
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass
    return key


@pytest.mark.parametrize("seed", range(2))
def test_everything_at_once(seed):
    """Two loops, short and long calls, timeouts, cancels and deaths: each call gets its own answer, or its own end."""
    target, limited = Process(work), Process(work, timeout=0.03)
    environment = WorkerEnvironment(2)

    async def client(rng, number):
        for n in range(30):
            seconds = 0.0 if rng.random() < 0.9 else rng.random() * 0.012
            dies = rng.random() < 0.01
            chosen = limited if rng.random() < 0.1 else target
            key = (number, n)
            host = EngineStub()
            task = asyncio.ensure_future(environment.run(make_call(chosen, key, seconds, dies, host=host)))
            cancelled = rng.random() < 0.05
            if cancelled:
                await asyncio.sleep(rng.choice([0.0, 0.001, 0.004]))
                task.cancel()
            (result,) = await asyncio.gather(task, return_exceptions=True)
            if isinstance(result, BaseException):
                wanted = {asyncio.CancelledError: cancelled, EnvironmentBroken: dies, CallTimeout: chosen is limited}
                assert wanted[type(result)], repr(result)
            else:
                assert result.value == key
                assert host.reports == [key]

    async def main(half):
        async with asyncio.timeout(60):
            await asyncio.gather(*(client(random.Random(100 * seed + n), n) for n in range(half, 24, 2)))
        return True

    other = in_thread(main, 1)
    assert asyncio.run(main(0))
    assert other()
    asyncio.run(environment.stop(2.0))
