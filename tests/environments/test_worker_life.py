"""Worker processes live no longer than they should, however the program ends, and their pool is shared as it should be."""

import asyncio
import gc
import os
import platform
import signal
import subprocess
import sys
import textwrap
import threading

import crash_bodies as bodies
import psutil
import pytest
from worker_tools import (
    LIMIT,
    call,
    is_gone,
    nothing_left,
    run_program,
    start_program,
    until,
    wait_until,
    workers,
)

from theus.environments.cpus import usable_cpus
from theus.environments.worker import WorkerEnvironment
from theus.errors import CallTimeout, EnvironmentBroken
from theus.processes import Process
from theus.testing.environments import make_call


@pytest.fixture(autouse=True)
def clean():
    with nothing_left():
        yield


BUSY = """
import subprocess

def spin(file):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) if "child" in sys.argv else None
    with open(file + ".tmp", "w") as out:
        out.write(f"{os.getpid()} {child.pid if child else os.getpid()}")
    os.rename(file + ".tmp", file)
    while True:
        pass

def idle():
    return os.getpid()

async def begin(environment):
    tasks = [asyncio.ensure_future(call(environment, spin, f"busy{n}")) for n in range(2)]
    while not all(os.path.exists(f"busy{n}") for n in range(2)):
        await asyncio.sleep(0.005)
    print("ready", flush=True)
    return tasks
"""

ENDS = {
    # how the program goes on once two workers compute for ever -> its exit code (None: whatever)
    "falls off its end": ("", 0),
    "raises": ("raise ValueError('over')", 1),
    "sys.exit": ("sys.exit(5)", 5),
    "os._exit": ("os._exit(6)", 6),
    "waits": ("await asyncio.gather(*tasks)", None),
}


@pytest.mark.parametrize(
    ("end", "number"),
    [
        ("falls off its end", None),
        ("raises", None),
        ("sys.exit", None),
        ("os._exit", None),
        ("waits", signal.SIGKILL),
        ("waits", signal.SIGTERM),
        ("waits", signal.SIGINT),
        ("waits", signal.SIGHUP),
    ],
)
def test_no_worker_outlives_its_program(end, number, tmp_path):
    text, code = ENDS[end]
    main = f"""
async def main():
    environment = WorkerEnvironment(2)
    tasks = await begin(environment)
    {text}

asyncio.run(main())
"""
    program = start_program(tmp_path, BUSY + main)
    assert program.stdout.readline() == "ready\n"
    pids = [int((tmp_path / f"busy{n}").read_text().split()[0]) for n in range(2)]
    if number is not None:
        program.send_signal(number)
    _, err = program.communicate(timeout=20)
    if code is not None:
        assert program.returncode == code, err
    wait_until(lambda: all(map(is_gone, pids)), "the end of the workers")
    if end == "falls off its end":
        assert err == ""


def test_what_a_worker_started_ends_with_it(tmp_path):
    main = """
sys.argv.append("child")

async def main():
    environment = WorkerEnvironment(2)
    tasks = await begin(environment)
    sys.exit(0)

asyncio.run(main())
"""
    program = start_program(tmp_path, BUSY + main)
    assert program.stdout.readline() == "ready\n"
    pids = [int(pid) for n in range(2) for pid in (tmp_path / f"busy{n}").read_text().split()]
    program.communicate(timeout=20)
    wait_until(lambda: all(map(is_gone, pids)), "the end of the workers and their children")


def test_idle_workers_end_quietly_with_a_program_that_closes_nothing(tmp_path):
    out = run_program(
        tmp_path,
        BUSY
        + """
import atexit
environment = WorkerEnvironment(1)

class Closing:
    def close(self):
        print("resource closed", flush=True)

async def main():
    other = WorkerEnvironment(1, resources={"it": Closing})
    outcome = await other.run(make_call(process(lambda ctx: ctx.resource("it") and os.getpid())))
    print(outcome.value, await call(environment, idle), flush=True)

asyncio.run(main())
""",
    )
    pids, closed = out.splitlines()
    assert closed == "resource closed"
    assert all(is_gone(int(pid)) for pid in pids.split())


def test_resources_close_in_reverse_on_their_loop(tmp_path):
    out = run_program(
        tmp_path,
        """
class Sync:
    def close(self):
        sys.stdout.write("sync closed\\n")  # in one piece

class Async:
    def __init__(self):
        self.loop = asyncio.get_running_loop()
    async def aclose(self):
        assert asyncio.get_running_loop() is self.loop
        sys.stdout.write("async closed\\n")

class Bad:
    def close(self):
        raise ValueError("does not close")

@process
async def use(ctx):
    for name in ("sync", "bad", "async"):
        ctx.resource(name)
    return id(ctx.resource("async"))

async def main():
    import logging
    logging.getLogger("theus").addHandler(logging.StreamHandler(sys.stdout))
    environment = WorkerEnvironment(1, resources={"sync": Sync, "async": Async, "bad": Bad})
    first = await environment.run(make_call(use))
    assert (await environment.run(make_call(use))).value == first.value
    await environment.stop(5)
    print("stopped")

asyncio.run(main())
""",
    )
    lines = out.splitlines()
    assert [line for line in lines if line.endswith(("closed", "stopped"))] == [
        "async closed",
        "sync closed",
        "stopped",
    ]
    assert "resource 'bad' failed to close" in lines


def test_a_forgotten_environment_ends_its_workers():
    async def main():
        environment = WorkerEnvironment(2)
        await asyncio.gather(*(call(environment, os.getpid) for _ in range(4)))
        return [worker.pid for worker in environment.workers()]

    pids = asyncio.run(main())
    gc.collect()
    wait_until(lambda: all(map(is_gone, pids)), "the end of the workers")


def test_stop_lets_calls_end_within_its_grace(tmp_path):
    file, answer = tmp_path / "pid", tmp_path / "answer"

    async def main():
        environment = WorkerEnvironment(1)
        running = asyncio.ensure_future(call(environment, bodies.storm, str(file), str(answer)))
        waiting = asyncio.ensure_future(call(environment, bodies.give, 1))
        await until(file.exists)
        stopping = asyncio.ensure_future(environment.stop(20.0))
        with pytest.raises(EnvironmentBroken, match="closed"):
            await waiting
        answer.touch()
        assert await running == "calm"
        await stopping
        with pytest.raises(EnvironmentBroken, match="closed"):
            await call(environment, bodies.give, 1)

    asyncio.run(main())


def test_a_second_stop_can_be_less_patient(tmp_path):
    file = tmp_path / "pid"

    async def main():
        environment = WorkerEnvironment(1)
        running = asyncio.ensure_future(call(environment, bodies.spin, str(file)))
        await until(file.exists)
        patient = asyncio.ensure_future(environment.stop(100.0))
        await environment.stop(0.0)
        await patient
        with pytest.raises(EnvironmentBroken, match="closed"):
            await running

    asyncio.run(main())


def test_workers_outlive_the_thread_that_first_used_them():
    """On Linux a process dies with the *thread* that started it if it asked to die with its parent."""
    environment = WorkerEnvironment(1)

    def once():
        return asyncio.run(call(environment, os.getpid))

    pids = []
    thread = threading.Thread(target=lambda: pids.append(once()))
    thread.start()
    thread.join()
    for _ in range(3):
        pids.append(once())
    assert len(set(pids)) == 1
    asyncio.run(environment.stop(2.0))


STARTS = pytest.mark.parametrize(
    "start",
    ["environment._pool.templates.give_up('')", "environment._pool.templates.note(['json'])"],
    ids=["started", "forked"],
)


@STARTS
def test_a_child_that_outlives_the_program_keeps_no_worker(start, tmp_path):
    program = start_program(
        tmp_path,
        """
import signal, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # fork in a program with threads

def waits(file):
    open(file, "w").close()
    time.sleep(600)

environment = WorkerEnvironment(1)
START

async def main():
    call_ = asyncio.ensure_future(call(environment, waits, "begun"))
    while not os.path.exists("begun"):
        await asyncio.sleep(0.005)
    child = os.fork()
    if child == 0:
        time.sleep(600)
        os._exit(0)
    print(child, environment.workers()[0].pid, flush=True)
    signal.pause()

asyncio.run(main())
""".replace("START", start),
    )
    child, worker = map(int, program.stdout.readline().split())
    program.kill()
    try:
        wait_until(lambda: is_gone(worker), "the end of the worker")
        assert not is_gone(child)
    finally:
        os.kill(child, signal.SIGKILL)
        program.communicate(timeout=LIMIT)


@STARTS
def test_a_forked_child_has_workers_of_its_own(start, tmp_path):
    out = run_program(
        tmp_path,
        """
import gc, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # fork in a program with threads

def pid():
    return os.getpid()

environment = WorkerEnvironment(1)
START
before = asyncio.run(call(environment, pid))
child = os.fork()
if child == 0:
    mine = asyncio.run(call(environment, pid))
    assert mine != before
    assert [w.pid for w in environment.workers()] == [mine]
    print("child has its own", flush=True)
    sys.exit(0)  # its exit must not end the parent's workers
assert os.waitpid(child, 0)[1] == 0
idle = os.fork()
if idle == 0:
    sys.exit(0)
os.waitpid(idle, 0)
forgets = os.fork()
if forgets == 0:
    del environment
    gc.collect()
    sys.exit(0)
os.waitpid(forgets, 0)
assert asyncio.run(call(environment, pid)) == before
print("parent keeps its own")
""".replace("START", start),
    )
    assert out.splitlines() == ["child has its own", "parent keeps its own"]


def test_each_environment_has_workers_of_its_own():
    async def main():
        async with workers(1) as one, workers(1) as other:
            assert await call(one, os.getpid) != await call(other, os.getpid)

    asyncio.run(main())


def test_workers_start_only_when_needed_and_are_reused():
    async def main():
        async with workers(4) as environment:
            assert environment.workers() == []
            for _ in range(5):
                await call(environment, os.getpid)
            (only,) = environment.workers()
            assert only.calls == 5
            assert only.state == "idle"

    asyncio.run(main())


def test_the_worker_has_its_own_process_group_and_no_stdin():
    async def main():
        async with workers(1) as environment:
            pid = await call(environment, os.getpid)
            assert os.getpgid(pid) == pid != os.getpgid(0)

    asyncio.run(main())


def test_calls_behind_one_that_takes_longer_go_elsewhere(tmp_path):
    """A call that was expected to be short does not hold up those that were sent ahead behind it."""
    file, answer = tmp_path / "pid", tmp_path / "answer"
    slow = [False]

    def sometimes(file, answer, slow):
        return bodies.storm(file, answer) if slow else "quick"

    target = Process(sometimes)

    async def main():
        async with workers(2) as environment:
            for _ in range(40):
                await environment.run(make_call(target, "", "", False))
            await asyncio.gather(*(environment.run(make_call(target, "", "", False)) for _ in range(10)))
            slow = asyncio.ensure_future(environment.run(make_call(target, str(file), str(answer), True)))
            quick = [asyncio.ensure_future(environment.run(make_call(target, "", "", False))) for _ in range(30)]
            await asyncio.gather(*quick)
            assert not slow.done()
            answer.touch()
            assert (await slow).value == "calm"

    del slow[0]
    asyncio.run(main())


def test_cancelling_calls_that_wait_runs_none_of_them(tmp_path):
    """Cancelled in the queue, or already sent ahead: the body never begins."""
    log = tmp_path / "log"

    def note(n):
        with open(log, "a") as out:
            out.write(f"{n}\n")

    target = Process(note)

    async def main():
        async with workers(1) as environment:
            for n in range(30):
                await environment.run(make_call(target, n))
            block = asyncio.ensure_future(call(environment, bodies.storm, str(tmp_path / "pid"), str(tmp_path / "go")))
            await until((tmp_path / "pid").exists)
            waiting = [asyncio.ensure_future(environment.run(make_call(target, 1000 + n))) for n in range(20)]
            await asyncio.sleep(0)
            for task in waiting[::2]:
                task.cancel()
            (tmp_path / "go").touch()
            results = await asyncio.gather(block, *waiting, return_exceptions=True)
            assert all(isinstance(result, asyncio.CancelledError) for result in results[1::2])
            assert all(result.error is None for result in results[2::2])

    asyncio.run(main())
    written = [int(line) for line in log.read_text().split()]
    assert [n for n in written if n >= 1000] == [1000 + n for n in range(1, 20, 2)]


def test_timeouts_of_calls_in_line_count_from_their_turn(tmp_path):
    target = Process(bodies.give, timeout=5.0)
    hanging = Process(bodies.spin, timeout=0.2)

    async def main():
        async with workers(1) as environment:
            tasks = [environment.run(make_call(hanging, str(tmp_path / f"pid{n}"))) for n in range(2)]
            tasks += [environment.run(make_call(target, n)) for n in range(3)]
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(result) for result in results[:2]] == [CallTimeout] * 2
            assert [result.value for result in results[2:]] == [0, 1, 2]

    asyncio.run(main())


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator does otherwise")
def test_the_memory_of_arrays_is_kept_for_the_next_ones():
    def page_faults():
        import resource

        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(100):
            arrays = [bytearray(500_000) for _ in range(4)]  # 488 pages
            assert [array.find(b"x") for array in arrays] == [-1] * 4
            del arrays
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    async def main():
        async with workers(1) as environment:
            assert await call(environment, page_faults) < 5_000

    asyncio.run(main())


def test_many_calls_leave_no_memory_behind():
    """Arguments, results and definitions of calls that ended are let go of, here and there."""
    import weakref

    class Big:
        pass

    def size():
        return psutil.Process().memory_info().rss

    async def main():
        async with workers(1) as environment:
            value = Big()
            ref = weakref.ref(value)
            assert type(await call(environment, bodies.give, value)) is Big
            del value
            gc.collect()
            assert ref() is None
            big = b"x" * 1_000_000
            for _ in range(20):
                await call(environment, bodies.give, big)
            before = await call(environment, size), size()
            for _ in range(100):
                await call(environment, bodies.give, big)
                await call(environment, lambda x: x, 1)
            after = await call(environment, size), size()
            assert all(b - a < 15_000_000 for a, b in zip(before, after, strict=True))

    asyncio.run(main())


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/cpu.max": "150000 100000"}, 2),
        (
            {
                "proc/self/cgroup": "0::/a/b",
                "sys/fs/cgroup/a/cpu.max": "max 100000",
                "sys/fs/cgroup/cpu.max": "50000 100000",
            },
            1,
        ),
        ({"proc/self/cgroup": "0::/gone", "sys/fs/cgroup/cpu.max": "100000 100000"}, 1),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/docker/x\n1:name=systemd:/",
                "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us": "100000",
                "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000",
            },
            1,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu:/",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            None,
        ),
    ],
)
def test_usable_cpus_respects_quotas(files, expected, tmp_path):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    allowed = len(os.sched_getaffinity(0))
    assert usable_cpus(tmp_path) == (allowed if expected is None else min(expected, allowed))


def test_usable_cpus_respects_the_affinity():
    code = (
        "import os; from theus.environments.cpus import usable_cpus; os.sched_setaffinity(0, {0}); print(usable_cpus())"
    )
    cpu = min(os.sched_getaffinity(0))
    done = subprocess.run(
        [sys.executable, "-c", code.replace("{0}", f"{{{cpu}}}")], capture_output=True, text=True, check=True
    )
    assert done.stdout == "1\n"


def test_a_program_that_replaces_sys_path_and_argv(tmp_path):
    out = run_program(
        tmp_path,
        textwrap.dedent(
            """
            from pathlib import Path
            sys.path.append(Path("somewhere"))
            sys.argv += ["--flag"]

            def seen():
                return sys.argv[1:], sys.path[-1]

            async def main():
                environment = WorkerEnvironment(1)
                print(*await call(environment, seen))
                await environment.stop(2)

            asyncio.run(main())
            """
        ),
    )
    assert out == "['--flag'] somewhere\n"
