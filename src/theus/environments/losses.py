"""The words for what can happen to a call in a worker process."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from theus.errors import CallTimeout, EnvironmentBroken

if TYPE_CHECKING:
    from theus.environments.job import Job
    from theus.environments.worker_process import WorkerProcess

_LIKELY = {
    "SIGKILL": "the system ran out of memory and killed it, or somebody did",
    "SIGSEGV": "a crash in compiled code",
    "SIGBUS": "a crash in compiled code, or a mapped file that was cut",
    "SIGABRT": "compiled code gave up",
    "SIGFPE": "a crash in compiled code",
    "SIGILL": "a crash in compiled code, perhaps made for another processor",
    "SIGTERM": "somebody ended it",
    "SIGXCPU": "a limit of CPU time",
}


def timed_out(job: Job) -> CallTimeout:
    """The call took longer than it may."""
    assert job.timeout is not None
    return CallTimeout(
        f"process {job.name!r} took longer than its timeout of {job.timeout:g} s and was stopped; "
        "nothing of it was committed. Raise timeout=, or add retries= if another attempt may be quicker.",
        process=job.name,
        timeout=job.timeout,
    )


def closed(job: Job) -> EnvironmentBroken:
    """The engine was closed before the call had ended."""
    return EnvironmentBroken(
        f"process {job.name!r} did not come to its end in a worker process: the engine was closed. "
        "Nothing of it was committed.",
        environment="worker",
        process=job.name,
    )


def not_started(job: Job, error: Exception) -> EnvironmentBroken:
    """There is no worker for the call."""
    return EnvironmentBroken(
        f"process {job.name!r} did not run: a worker process could not be started ({error}). "
        "A limit of processes, threads, open files or memory may be reached.",
        environment="worker",
        process=job.name,
    )


def broken(job: Job, worker: WorkerProcess) -> EnvironmentBroken:
    """The worker died while it ran the call."""
    code = worker.process.returncode
    end = f"died ({_how(code)})" if worker.ready else f"ended before it was ready ({_how(code)}); see what it printed"
    return EnvironmentBroken(
        f"process {job.name!r} was lost: its worker process {worker.pid} {end}. Nothing of it was committed, but it may have "
        "run in part: it is tried again only with idempotent=True and retries=.",
        environment="worker",
        process=job.name,
        exit_code=code,
    )


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}: something in it called os._exit, or a library did"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    likely = _LIKELY.get(name)
    return f"{name}: {likely}" if likely else name
