"""Everything can be stopped, and nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from theus import CallTimeout, Engine, EnvironmentBroken, each, parallel, process
from theus.environments.thread import ThreadEnvironment
from theus.testing import FakeClock


@process(timeout=0.5)
def for_ever():
    while True:
        pass


@process(nature="cpu")
def dies(n):
    os._exit(n)


@process(nature="cpu", retries=3, idempotent=True)
def dies_once(path):
    if not os.path.exists(path):
        with open(path, "w"):
            pass
        os.kill(os.getpid(), signal.SIGKILL)
    return "the second time"


@process(nature="cpu", retries=3)
def dies_though_not_idempotent(path):
    with open(path, "a") as file:
        file.write("x")
    os._exit(1)


def test_a_def_that_computes_for_ever_is_stopped_by_its_timeout():
    with Engine(workers=1) as engine:
        with pytest.raises(CallTimeout) as caught:
            engine.run(for_ever)
        assert caught.value.process == "for_ever"
        assert engine.explain(for_ever).rows[0].environment == "worker"


def test_a_dead_worker_costs_one_call(tmp_path):
    with Engine(workers=2) as engine:
        results = engine.run(parallel(each(dies, on_error="collect"), each(square)), [3])
        assert isinstance(results[0][0], EnvironmentBroken)
        assert results[0][0].exit_code == 3
        assert results[1] == [9]
        assert engine.run(dies_once, str(tmp_path / "once")) == "the second time"
        with pytest.raises(EnvironmentBroken):
            engine.run(dies_though_not_idempotent, str(tmp_path / "count"))
        assert (tmp_path / "count").read_text() == "x"


@process(nature="cpu")
def square(n):
    return n * n


def test_when_all_threads_are_taken_it_is_said_once_and_nobody_is_lost(caplog):
    release = threading.Event()

    @process(environment="thread")
    def waits(number):
        release.wait(60)
        return number

    def told():
        return [record.message for record in caplog.records if record.name == "theus.environments"]

    async def main(engine):
        run = asyncio.ensure_future(engine.arun(each(waits), range(6)))
        while not told():
            await asyncio.sleep(0)
        release.set()
        assert await run == list(range(6))

    with Engine() as engine:
        engine.threads.capacity = 2
        asyncio.run(main(engine))
    assert len(told()) == 1
    assert "all 2 threads are taken" in told()[0]


def test_a_process_that_calls_the_engine_gets_a_thread_though_all_are_taken():
    @process(environment="thread")
    def inner(number):
        return number + 1

    @process(environment="thread")
    def outer(number):
        return engine.run(each(inner), [number])

    with Engine() as engine:
        engine.threads.capacity = 2
        assert engine.run(each(outer), range(5)) == [[1], [2], [3], [4], [5]]


def test_also_after_all_were_taken_once():
    @process(environment="thread")
    def inner(number):
        return number + 1

    @process(environment="thread")
    def outer(number):
        return engine.run(each(inner), [number])

    with Engine() as engine:
        engine.threads.capacity = 2
        engine.run(each(inner), range(100))
        assert engine.submit(each(outer), range(5)).result(60) == [[1], [2], [3], [4], [5]]


@pytest.mark.parametrize("door", ["run", "submit"])
def test_a_process_whose_helpers_call_the_engine_gets_its_answer_though_all_are_taken(door):
    @process(environment="thread")
    def inner(number):
        return number + 1

    def ask(number, answers):
        answers.append(engine.run(each(inner), [number]) if door == "run" else engine.submit(inner, number).result())

    @process(environment="thread")
    def outer(number):
        answers = []
        helpers = [threading.Thread(target=ask, args=(number, answers), daemon=True) for _ in range(3)]
        for helper in helpers:
            helper.start()
        for helper in helpers:
            helper.join()
        return answers

    with Engine() as engine:
        engine.threads.capacity = 2
        answers = [[number + 1] if door == "run" else number + 1 for number in range(8)]
        assert engine.submit(each(outer), range(8)).result(60) == [[answer] * 3 for answer in answers]


def test_a_thread_is_let_go_of_when_its_time_is_over():
    clock, started, release = FakeClock(), threading.Event(), threading.Event()

    @process(nature="io", timeout=5)
    def hangs(ctx):
        ctx.domain["late"] = True
        started.set()
        release.wait(30)

    with Engine({}, clock=clock) as engine:
        run = engine.submit(hangs)
        assert started.wait(10)
        clock.advance(5)
        with pytest.raises(CallTimeout):
            run.result(10)
        assert engine.threads.abandoned == 1
        release.set()
        assert engine.run(each(lambda n: n), [1]) == [1]
        assert engine.state == {}


def test_a_call_that_is_cancelled_in_line_for_a_thread_never_begins():
    started, release, ran = threading.Event(), threading.Event(), []

    def hold():
        started.set()
        release.wait(30)

    async def main():
        threads = ThreadEnvironment(FakeClock(), capacity=1)
        first = asyncio.ensure_future(threads.call(hold))
        await asyncio.to_thread(started.wait, 30)
        second = asyncio.ensure_future(threads.call(ran.append, 1))
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        release.set()
        await first
        await threads.call(int)  # the one thread has come past what was cancelled
        assert threads.abandoned == 0
        await threads.stop(1)

    asyncio.run(main())
    assert ran == []


SCRIPT = """
    import asyncio, os, sys, time
    from theus import Engine, each, flow, parallel, process

    @process
    async def waits(ctx, n):
        try:
            await asyncio.sleep(600)
        finally:
            print("closed", flush=True)

    @process(nature="cpu")
    def computes(n):
        print("pid", os.getpid(), flush=True)
        while True:
            pass

    engine = Engine(workers=1)
    WHAT
"""


@pytest.mark.parametrize(
    ("what", "sent", "code"),
    [
        ("engine.run(parallel(waits, computes), 1)", signal.SIGINT, -signal.SIGINT),
        ("engine.run(parallel(waits, computes), 1)", signal.SIGTERM, -signal.SIGTERM),
        ("engine.run(parallel(waits, computes), 1)", signal.SIGKILL, -signal.SIGKILL),
        ("asyncio.run(engine.arun(parallel(waits, computes), 1))", signal.SIGINT, -signal.SIGINT),
        ("engine.submit(parallel(waits, computes), 1); sys.stdin.readline()", None, 0),
    ],
    ids=["Ctrl-C", "SIGTERM", "SIGKILL", "Ctrl-C on a loop", "exit without close"],
)
def test_a_program_that_ends_leaves_no_process(what, sent, code, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT).replace("WHAT", what))
    program = subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert program.stdout is not None
    line = program.stdout.readline()
    assert line.startswith("pid"), program.communicate()
    worker = int(line.split()[1])
    if sent is not None:
        program.send_signal(sent)
    out, err = program.communicate("\n", timeout=30)
    assert program.returncode == code, err
    if sent == signal.SIGINT:
        assert "closed" in out
        assert "KeyboardInterrupt" in err
    assert "Exception ignored" not in err
    assert gone(worker)


def gone(pid: int) -> bool:
    """Wait for the end of a process that is not our child (at most 10 s of it being there)."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    import select

    try:
        return bool(select.select([watched], [], [], 10)[0])
    finally:
        os.close(watched)


def test_debug_runs_everything_in_order_in_the_callers_thread():
    seen = []

    @process(nature="cpu")
    def computes(n):
        seen.append((n, threading.current_thread().name))
        return n

    @process
    async def waits(ctx, n):
        seen.append((n, threading.current_thread().name))
        return n

    with Engine(debug=True, workers=1) as engine:
        assert engine.run([each(parallel(computes, waits))], range(3)) == [(0, 0), (1, 1), (2, 2)]
    here = threading.current_thread().name
    assert seen == [(n, here) for n in (0, 0, 1, 1, 2, 2)]
