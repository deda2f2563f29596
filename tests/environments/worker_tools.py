"""What the tests of worker processes share: waiting for facts, looking for leaks, running whole programs."""

import asyncio
import contextlib
import ctypes  # noqa: F401 - some builds of libffi keep a descriptor from when it is first loaded; that is no leak
import gc
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

from theus.environments.worker import WorkerEnvironment
from theus.errors import CallTimeout
from theus.processes import Process, as_process
from theus.testing.environments import RESOURCES, make_call

LIMIT = 20.0  # seconds that anything here may take


def wait_until(holds, what="it"):
    """Look again and again; a fact that does not come to be is an error, not a hang."""
    end = time.monotonic() + LIMIT
    while not (found := holds()):
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come to be within {LIMIT} s")
        time.sleep(0.002)
    return found


async def until(holds, what="it"):
    end = time.monotonic() + LIMIT
    while not (found := holds()):
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come to be within {LIMIT} s")
        await asyncio.sleep(0.002)
    return found


def is_gone(pid):
    """Whether a process has ended (a zombie has)."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _descriptors():
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[name] = os.readlink(f"/proc/self/fd/{name}")
    return found


@contextlib.contextmanager
def nothing_left(but=()):
    """Afterwards there is no child process, thread or descriptor that was not there before. ``but``: targets of those."""
    gc.collect()
    descriptors, threads = _descriptors(), set(threading.enumerate())
    children = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    gc.collect()
    wait_until(lambda: {c.pid for c in psutil.Process().children(recursive=True)} <= children, "no child process")
    wait_until(lambda: set(threading.enumerate()) <= threads, "no thread")

    def left():
        gc.collect()  # what other threads held until now may be in cycles
        found = {name: target for name, target in _descriptors().items() if descriptors.get(name) != target}
        return {name: target for name, target in found.items() if target not in but}

    wait_until(lambda: not left(), "no descriptor")


def fork(environment):
    """Have its workers come from a template, as where a heavy import was seen."""
    environment._pool.templates.note(["json"])
    return environment


def start(environment):
    """Have its workers started one by one, whatever they import."""
    environment._pool.templates.give_up("the test is of those that are started")
    return environment


@contextlib.asynccontextmanager
async def workers(capacity=2, **options):
    """A worker environment that is stopped at the end."""
    environment = WorkerEnvironment(capacity, **{"resources": RESOURCES, **options})
    try:
        yield environment
    finally:
        await environment.stop(2.0)


async def call(environment, function, *args, **options):
    """What a function returns in a worker; its error is raised."""
    outcome = await environment.run(make_call(as_process(function), *args, **options))
    if outcome.error is not None:
        raise outcome.error
    return outcome.value


async def begin(environment, body, folder):
    """Start a call that has a timeout and whose body writes a file when it begins; gives its task and that file.

    On a busy machine a short timeout may end before: then it is tried again with a longer one.
    """
    for timeout in (0.3, 3.0, LIMIT):
        file = folder / f"began {timeout}"
        task = asyncio.ensure_future(environment.run(make_call(Process(body, timeout=timeout), str(file))))
        await until(lambda file=file, task=task: file.exists() or task.done())
        if file.exists():
            return task, file
        assert isinstance(task.exception(), CallTimeout)
    raise AssertionError(f"the body did not begin within {timeout} s")


HEAD = """
from __future__ import annotations
import asyncio, os, signal, sys, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup hands on that it is ignored
from theus.environments.worker import WorkerEnvironment
from theus.processes import process, as_process
from theus.testing.environments import make_call, EngineStub
from theus.state.head import Head

async def call(environment, function, *args, **options):
    outcome = await environment.run(make_call(as_process(function), *args, **options))
    if outcome.error is not None:
        raise outcome.error
    return outcome.value

"""


def start_program(folder, text, **options):
    """Start a Python program of its own; its text goes on after HEAD."""
    file = Path(folder) / "program.py"
    file.write_text(HEAD + text)
    return subprocess.Popen(
        [sys.executable, str(file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder, **options
    )


def run_program(folder, text):
    """Run a program to its end; gives what it printed. It must leave no error, and no noise on stderr."""
    program = start_program(folder, text)
    out, err = program.communicate(timeout=LIMIT)
    assert (program.returncode, err) == (0, ""), out + err
    return out
