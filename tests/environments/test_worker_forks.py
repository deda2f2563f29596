"""Where a heavy import was seen, workers come from a template: it is imported once more, and what is forked is as if started."""

import asyncio
import importlib
import logging
import os
import random
import signal
import sys
import sysconfig

import crash_bodies as bodies
import psutil
import pytest
from worker_tools import (
    LIMIT,
    begin,
    call,
    fork,
    is_gone,
    nothing_left,
    start,
    start_program,
    until,
    wait_until,
    workers,
)

from theus.environments import keeper
from theus.environments.changes import is_own
from theus.environments.peer import Limits
from theus.errors import EnvironmentBroken

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")

COUNTED = """
import os, sys
def count(name):
    with open({log!r}, "a") as log:
        log.write(f"{{name}} {{os.getpid()}}\\n")
is_here = os.getpid() == {pid}
in_template = "theus.environments.far_template" in sys.modules
count(__name__)
"""
HEAVY = """
import time
end = time.perf_counter() + 0.15
while time.perf_counter() < end:
    pass
"""
OWN = """
import heavy_thing

def who():
    return os.getpid(), os.getppid()

def look(name):
    return getattr(heavy_thing, name)

def exists(name):
    return os.path.exists(getattr(heavy_thing, name))
"""


@pytest.fixture(autouse=True)
def clean():
    with nothing_left():
        yield


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Makes an installed package that is heavy and a module of the user's that needs it; gives the latter."""
    monkeypatch.syspath_prepend(tmp_path / "some-packages")
    monkeypatch.syspath_prepend(tmp_path)
    counted = COUNTED.format(log=str(tmp_path / "log"), pid=os.getpid())
    (tmp_path / "some-packages").mkdir()

    def make(heavy="", own=""):
        (tmp_path / "some-packages" / "heavy_thing.py").write_text(counted + HEAVY + heavy)
        (tmp_path / "own_thing.py").write_text(counted + OWN + own)
        return importlib.import_module("own_thing")

    yield make
    for name in ("own_thing", "heavy_thing"):
        sys.modules.pop(name, None)


@pytest.fixture
def imports(tmp_path):
    """Which processes have imported a module, but for this one."""

    def found(name):
        lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
        return [int(pid) for module, pid in lines if module == name and int(pid) != os.getpid()]

    return found


async def lose(environment):
    """Have the one worker die."""
    with pytest.raises(EnvironmentBroken):
        await call(environment, os._exit, 3)


def test_a_heavy_import_runs_once_more_and_then_never_again(modules, imports, tmp_path):
    own = modules()

    async def main():
        async with workers(1) as environment:
            first, parent = await call(environment, own.who)
            assert parent == os.getpid()
            task, _ = await begin(environment, bodies.spin, tmp_path)
            await asyncio.gather(task, return_exceptions=True)
            second, template = await call(environment, own.who)
            assert template != os.getpid()
            await lose(environment)
            third, same = await call(environment, own.who)
            assert same == template
            assert imports("heavy_thing") == [first, template]
            assert imports("own_thing") == [first, second, third]
        assert is_gone(template)

    asyncio.run(main())


def test_what_is_not_in_the_list_of_the_standard_library_is_part_of_it_all_the_same():
    name = sysconfig._get_sysconfigdata_name()
    assert name not in sys.stdlib_module_names
    importlib.import_module(name)
    assert not is_own(name)


def test_a_light_import_needs_no_template(modules, tmp_path):
    own = modules()
    (tmp_path / "light_thing.py").write_text("import os\ndef parent():\n    import wave\n    return os.getppid()")
    light = importlib.import_module("light_thing")

    async def main():
        async with workers(1) as environment:
            await call(environment, light.parent)
            await lose(environment)
            assert await call(environment, light.parent) == os.getpid()
            assert (await call(environment, own.who))[1] == os.getpid()
            await lose(environment)
            assert await call(environment, light.parent) != os.getpid()

    asyncio.run(main())


def test_what_a_body_imports_counts_by_the_number_of_modules(modules, tmp_path, imports):
    for n in range(250):
        (tmp_path / "some-packages" / f"part_{n}.py").write_text("")
    own = modules(
        own="""
def late():
    for n in range(250):
        importlib.import_module(f"part_{n}")
    end = time.perf_counter() + 0.15
    while time.perf_counter() < end:
        pass
    return os.getppid(), "part_9" in at_start
import importlib, sys, time
at_start = set(sys.modules)
"""
    )
    sys.modules.pop("heavy_thing")
    (tmp_path / "some-packages" / "heavy_thing.py").write_text("")  # so that only the parts are

    async def main():
        async with workers(1) as environment:
            assert await call(environment, own.late) == (os.getpid(), False)
            await lose(environment)
            template, was_there = await call(environment, own.late)
            assert template != os.getpid()
            assert was_there

    asyncio.run(main())


def test_workers_that_are_forked_at_once_have_numbers_of_their_own():
    numpy = pytest.importorskip("numpy")

    def draw():
        return os.getpid(), random.random(), float(numpy.random.random())

    async def main():
        async with workers(2, limits=Limits(calls=1)) as environment:
            environment._pool.templates.note(["numpy.random", "random"])
            drawn = await asyncio.gather(*(call(environment, draw) for _ in range(6)))
            assert [len(set(values)) for values in zip(*drawn, strict=True)] == [6, 6, 6]

    asyncio.run(main())


def forked_pair(environment):
    """The worker and its template."""
    (worker,) = environment.workers()
    return worker.pid, psutil.Process(worker.pid).ppid()


def test_a_worker_is_as_if_it_had_been_started(modules, monkeypatch, tmp_path, capfd):
    """Of the moment: variables (also those read at import), directory, limits, output; a group of its own."""
    own = modules(
        "SEEN = os.environ.get('SEEN'), os.getcwd()",
        """
def state():
    import resource
    print("hello from", os.getpid())
    pid = os.getpid()
    return os.environ.get("SEEN"), heavy_thing.SEEN, os.getpgid(pid) == pid, resource.getrlimit(resource.RLIMIT_NOFILE)[0]
""",
    )
    import resource

    old, most = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def main():
        async with workers(1) as environment:
            await call(environment, own.who)
            templates = []
            for value, limit in (("1", old), ("1", old), ("2", old - 1)):
                monkeypatch.setenv("SEEN", value)
                (tmp_path / value).mkdir(exist_ok=True)
                monkeypatch.chdir(tmp_path / value)
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
                await lose(environment)
                seen = value, str(tmp_path / value)
                assert await call(environment, own.state) == (value, seen, True, limit)
                pid, template = forked_pair(environment)
                templates.append(template)
                assert f"hello from {pid}" in capfd.readouterr().out
            assert templates[0] == templates[1] != templates[2] != os.getpid()
            wait_until(lambda: is_gone(templates[0]), "the end of the first template")

    try:
        asyncio.run(main())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (old, most))


def test_a_worker_holds_no_descriptors_but_its_own():
    def hold():
        links = [
            os.readlink(f"/proc/self/fd/{n}")
            for n in os.listdir("/proc/self/fd")
            if int(n) > 2 and os.path.exists(f"/proc/self/fd/{n}")
        ]
        return sorted(link.partition(":")[0] for link in links)

    async def held(how_to_start):
        async with workers(2, limits=Limits(calls=2)) as environment:
            how_to_start(environment)
            return await asyncio.gather(*(call(environment, hold) for _ in range(4)))

    assert asyncio.run(held(fork)) == asyncio.run(held(start))


def test_what_an_import_left_to_do_at_the_end_is_done_once(modules):
    own = modules("""
import atexit, shutil, tempfile
if not is_here:
    one = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, one)
    kept = tempfile.TemporaryDirectory()
    other = kept.name
""")

    async def main():
        async with workers(1, limits=Limits(calls=2)) as environment:
            await call(environment, own.who)
            await lose(environment)
            made = [await call(environment, own.look, name) for name in ("one", "other")]
            for _ in range(2):
                assert [await call(environment, own.exists, name) for name in ("one", "other")] == [True, True]
            return made

    made = asyncio.run(main())
    wait_until(lambda: not any(map(os.path.exists, made)), "the end of the directories")


@pytest.mark.parametrize(
    ("heavy", "reason"),
    [
        (
            "import threading; is_here or threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
            "started threads",
        ),
        (
            "import ctypes; c = ctypes.CDLL(None)\nis_here or c.pthread_create(ctypes.byref(ctypes.c_ulong()), None, c.pause, None)",
            "started threads",
        ),
        ("if in_template: os._exit(3)", "it has died"),
        ("if in_template: os.kill(os.getpid(), 9)", "it has died"),
        ("import plugin_thing", "imports plugin_thing, which is not"),
        ("while in_template: time.sleep(0.01)", "it has not answered"),
    ],
)
def test_a_template_that_is_unfit_is_given_up(heavy, reason, modules, tmp_path, caplog, monkeypatch):
    (tmp_path / "plugin_thing.py").write_text("")
    own = modules(heavy)
    caplog.set_level(logging.INFO, "theus.environments")
    if "answered" in reason:
        monkeypatch.setattr(keeper, "STARTING", 0.5)

    async def main():
        async with workers(1) as environment:
            await call(environment, own.who)
            for _ in range(2):
                await lose(environment)
                assert (await call(environment, own.who))[1] == os.getpid()

    asyncio.run(main())
    (said,) = [record.getMessage() for record in caplog.records if "template" in record.getMessage()]
    assert reason in said


def test_an_import_that_fails_in_the_template_is_the_workers_own(modules, imports):
    own = modules("if in_template and 'own_thing' not in sys.modules: raise ValueError('not here')")

    async def main():
        async with workers(1) as environment:
            await call(environment, own.who)
            await lose(environment)
            worker, template = await call(environment, own.who)
            assert template != os.getpid()
            assert imports("heavy_thing")[1:] == [template, worker]

    asyncio.run(main())


def test_the_death_of_a_template_costs_what_runs_and_no_more(caplog, tmp_path):
    caplog.set_level(logging.INFO, "theus.environments")

    async def main():
        async with workers(1) as environment:
            fork(environment)
            running = asyncio.ensure_future(call(environment, bodies.spin, str(tmp_path / "pid")))
            await until((tmp_path / "pid").exists)
            pid, template = forked_pair(environment)
            os.kill(template, signal.SIGKILL)
            with pytest.raises(EnvironmentBroken) as failure:
                await running
            assert failure.value.exit_code == -signal.SIGKILL
            wait_until(lambda: is_gone(pid), "the end of the worker")
            assert await call(environment, os.getppid) == os.getpid()
        assert "it has died" in caplog.text

    asyncio.run(main())


def test_an_idle_template_that_dies_is_reaped_and_missed_by_nobody():
    async def main():
        async with workers(1) as environment:
            fork(environment)
            await call(environment, bodies.give, 1)
            _, template = forked_pair(environment)
            await lose(environment)
            os.kill(template, signal.SIGKILL)
            await until(lambda: not psutil.pid_exists(template), "the end of the template")
            assert await call(environment, os.getppid) == os.getpid()

    asyncio.run(main())


def test_a_template_that_stands_still_keeps_nobody_from_closing(tmp_path):
    async def main():
        async with workers(1) as environment:
            fork(environment)
            await call(environment, bodies.give, 1)
            _, template = forked_pair(environment)
            os.kill(template, signal.SIGSTOP)
            with pytest.raises(EnvironmentBroken):
                running = asyncio.ensure_future(call(environment, bodies.spin, str(tmp_path / "pid")))
                await until((tmp_path / "pid").exists)
                await asyncio.wait_for(environment.stop(0.1), LIMIT)
                await running

    asyncio.run(main())


@pytest.mark.parametrize("how", ["closed", "forgotten"])
def test_a_pool_that_ends_while_its_template_imports(how, modules, imports):
    own = modules("while in_template: time.sleep(0.01)")

    async def main():
        async with workers(1) as environment:
            first, _ = await call(environment, own.who)
            await lose(environment)
            waiting = asyncio.ensure_future(call(environment, own.who))
            await until(lambda: imports("heavy_thing") != [first])
            if how == "forgotten":
                waiting.cancel()
            await asyncio.wait_for(environment.stop(100.0), LIMIT)
        with pytest.raises((EnvironmentBroken, asyncio.CancelledError)):
            await waiting

    asyncio.run(main())


PROGRAM = """
def spin(file):
    with open(file + ".tmp", "w") as out:
        out.write(f"{os.getpid()} {os.getppid()}")
    os.rename(file + ".tmp", file)
    while True:
        pass

async def main():
    environment = WorkerEnvironment(2)
    environment._pool.templates.note(["json"])
    tasks = [asyncio.ensure_future(call(environment, spin, f"busy{n}")) for n in range(2)]
    while not all(os.path.exists(f"busy{n}") for n in range(2)):
        await asyncio.sleep(0.005)
    child = os.fork() if "fork" in sys.argv else 1  # it holds what the program holds
    if not child:
        time.sleep(600)
    print(child, flush=True)
    await asyncio.gather(*tasks)

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("forks", [False, True])
def test_neither_template_nor_worker_outlives_the_program(number, forks, tmp_path):
    program = start_program(tmp_path, ("sys.argv.append('fork')\n" if forks else "") + PROGRAM)
    child = int(program.stdout.readline())
    try:
        pids = {int(pid) for n in range(2) for pid in (tmp_path / f"busy{n}").read_text().split()}
        assert len(pids) == 3
        program.send_signal(number)
        program.wait(20)
        wait_until(lambda: all(map(is_gone, pids)), "the end of the template and its workers")
    finally:
        if forks:
            os.kill(child, signal.SIGKILL)
        program.communicate()


@pytest.mark.skipif(sys.version_info < (3, 14), reason="there are no sub-interpreters")
def test_sub_interpreters_have_no_template():
    from theus.environments.interpreter import InterpreterEnvironment

    async def main():
        environment = fork(InterpreterEnvironment(1))
        assert await call(environment, os.getpid) == os.getpid()
        assert not environment._pool.templates.alive
        await environment.stop(2.0)

    asyncio.run(main())
