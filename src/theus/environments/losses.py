"""The words for what can happen to a call in a worker."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, NamedTuple

from theus.errors import CallTimeout, EnvironmentBroken

if TYPE_CHECKING:
    from theus.environments.job import Job
    from theus.environments.peer import Peer

_LIKELY = {
    "SIGKILL": "likely out of memory: the system kills a process that takes too much; or somebody killed it",
    "SIGSEGV": "a crash in compiled code",
    "SIGBUS": "a crash in compiled code, or a mapped file that was cut",
    "SIGABRT": "compiled code gave up",
    "SIGFPE": "a crash in compiled code",
    "SIGILL": "a crash in compiled code, perhaps made for another processor",
    "SIGTERM": "somebody ended it",
    "SIGXCPU": "a limit of CPU time",
}


class Kind(NamedTuple):
    """What the workers of an environment are."""

    environment: str
    noun: str


def timed_out(job: Job) -> CallTimeout:
    """The call took longer than it may."""
    assert job.timeout is not None
    return CallTimeout(
        f"process {job.name!r} took longer than its timeout of {job.timeout:g} s and was stopped; "
        "nothing of it was committed. Raise timeout=, or add retries= if another attempt may be quicker.",
        process=job.name,
        timeout=job.timeout,
    )


def closed(job: Job, kind: Kind) -> EnvironmentBroken:
    """The engine was closed before the call had ended."""
    return EnvironmentBroken(
        f"process {job.name!r} did not come to its end in a {kind.noun}: the engine was closed. "
        "Nothing of it was committed.",
        environment=kind.environment,
        process=job.name,
    )


def not_started(job: Job, error: Exception, kind: Kind) -> EnvironmentBroken:
    """There is no worker for the call."""
    return EnvironmentBroken(
        f"process {job.name!r} did not run: a {kind.noun} could not be started ({error}). "
        "A limit of processes, threads, open files or memory may be reached.",
        environment=kind.environment,
        process=job.name,
    )


def broken(job: Job, worker: Peer, kind: Kind) -> EnvironmentBroken:
    """The worker died while it ran the call."""
    how = worker.carrier.end_in_words()
    end = f"died ({how})" if worker.ready else f"ended before it was ready ({how}); see what it printed"
    return EnvironmentBroken(
        f"process {job.name!r} was lost: its {kind.noun} {worker.number} {end}. Nothing of it was committed, but it may have "
        "run in part: it is tried again only with idempotent=True and retries=.",
        environment=kind.environment,
        process=job.name,
        exit_code=worker.carrier.exit_code,
    )


def exit_in_words(code: int) -> str:
    """What an exit code of a process means."""
    if code >= 0:
        return f"exit code {code}: something in it called os._exit, or a library did"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    likely = _LIKELY.get(name)
    return f"{name}: {likely}" if likely else name
