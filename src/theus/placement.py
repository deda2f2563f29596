"""Where a process runs, and why, in words. Pure: decides from what is known, does nothing.

The user's word wins; then what was measured; then what the signature says. For a ``def`` that nobody said anything
about, run with work beside it::

    not measured                            thread: it may wait
    takes some microseconds, every time     inline: shorter than the way to a thread
    computes, and holds the lock            parallel, if it may travel and moving it costs less than it computes,
                                            unless it waits for so long that it would take up a worker for nothing
    computes, and releases the lock         thread: numpy and the like are as parallel there
    waits                                   thread

The thresholds to come and to stay differ, and a process changes its place at most twice in a thousand calls, so one
that is now this and now that does not go to and fro.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from theus.processes import Process
from theus.surroundings import cannot_be_inline, cannot_change_loop, cannot_travel, needs_a_process

Kind = Literal["unknown", "short", "waits", "computes", "releases"]

CORES = ("interpreter", "worker")  #: the environments on other cores of this machine
HAS_INTERPRETERS = sys.version_info >= (3, 14)
OWN_LOOP = "own loop"
ENOUGH = 3  #: measured calls after which a process may be called short
SHORT = 50e-6  #: seconds; the way to a thread and back is longer
SLOW = 0.005  #: seconds of an inline call that a loop bears now and then
COMPUTES = 0.005  #: seconds of CPU in a call that matter, whatever it does with the interpreter's lock
HINDERS = 0.001  #: seconds with the lock that are worth another core: the way there and back takes a tenth of that
LITTLE = 0.1  #: of its CPU that a call may wait to run in turn with others: so much longer it takes them
STAYS = 0.4  #: the part of a threshold that is enough to stay
HOLDS = 0.5  #: the part of its CPU during which it holds the interpreter's lock, from which a thread is no help
SETTLED = 1000  #: calls in one place before a process may leave the threads (again)


@dataclass(frozen=True, slots=True)
class Placement:
    """An environment's name and the reason for it."""

    environment: str
    reason: str
    in_turn: bool = False  #: one call after the other


@dataclass(frozen=True, slots=True)
class Known:
    """What was measured of a process. Times in seconds, of one call."""

    measured: int = 0  #: calls that were
    wall: float = 0.0  #: the median of those measured lately
    cpu: float = 0.0  #: their mean
    typical_cpu: float = 0.0  #: their median
    holds: float | None = None  #: the part of its CPU during which it held the interpreter's lock; None: not seen
    waits: float = 0.0  #: what it surely waits, for neither the lock nor a processor
    workers: int = 2  #: that there would be
    slow: float = 0.0  #: the part of all calls, but the first, that took longer than ``SLOW``
    stalls: int = 0  #: how often it kept an event loop from going on
    moving: float | None = None  #: what it takes to send a call and its result; None: not known
    refused: Mapping[str, str] = field(default_factory=dict)  #: environment -> why it cannot go there
    processes_only: str = ""  #: why no sub-interpreter comes into question
    shares: bool = False  #: it was given objects that others may use at the same time
    parallel_threads: bool = False  #: threads of this Python compute at the same time

    def kind(self, now: str = "") -> Kind:
        """What the process is. ``now``: where it runs; who is there stays on less evidence than it took to come."""
        if not self.measured:
            return "unknown"
        part = STAYS if now in CORES else 1.0
        if self.cpu >= HINDERS * part and self.holds is not None and self.holds >= HOLDS:
            return "computes"
        if self.cpu >= COMPUTES * part:
            return "unknown" if self.holds is None else "releases"
        room = 2.0 if now == "inline" else 1.0
        if max(self.wall, self.typical_cpu) < SHORT * room and self.slow <= 0.01 * room and self.measured >= ENOUGH:
            return "short"
        return "waits"


def threads_are_parallel() -> bool:
    """Whether threads compute at the same time: a free-threaded build whose lock no imported module has turned on again."""
    is_gil_enabled = getattr(sys, "_is_gil_enabled", None)  # new in Python 3.13
    return is_gil_enabled is not None and not is_gil_enabled()


def next_place(now: str, wanted: str, since: int) -> str:
    """Where a process that runs in ``now`` goes, if its evidence says ``wanted``.

    Who leaves the threads can come back at any time, but must have been in one place for a thousand calls before: so
    nobody changes its place more than twice in a thousand.

    Args:
        now: an environment.
        wanted: an environment.
        since: how many calls ago it last changed its place.
    """
    if wanted in (now, "thread") or since >= SETTLED or {now, wanted} <= {*CORES}:
        return wanted
    return "thread"


def place(
    process: Process[Any, Any], *, blocking: bool, debug: bool, known: Known | None = None, now: str = ""
) -> Placement:
    """Choose the environment of a process.

    Args:
        process: what is to run.
        blocking: the whole run is driven in the thread of a caller who waits for it, one step after the other.
        debug: the engine runs everything in order, in the caller's thread.
        known: what was measured.
        now: where it runs.
    """
    if debug:
        return (
            Placement("loop", "debug: in order") if process.is_async else Placement("inline", "debug: inline, in order")
        )
    known = known or Known()
    if process.environment is not None:
        return Placement(process.environment, f"environment={process.environment!r} was asked for")
    if process.nature == "state":
        return Placement("inline", "nature='state': runs in the commit, on the newest state")
    if process.nature == "cpu":
        if known.parallel_threads and process.timeout is None:
            return Placement("thread", "nature='cpu': computes, and threads of this Python compute at the same time")
        return on_another_core(process, known, "nature='cpu': computes, so on another core")
    if process.is_async:
        return _asynchronous(process, known)
    if process.timeout is not None:
        if process.nature == "io":
            return Placement(
                "thread", "nature='io' with timeout=: waits, so in a thread, which is let go of when it is over"
            )
        hindrance = cannot_travel(process.fn)
        if hindrance is None:
            return Placement("worker", "def with timeout=: only a worker process can be stopped whatever it does")
        return Placement("thread", f"def with timeout=, but it cannot go to a worker process: {hindrance}")
    if blocking:
        return Placement("inline", "def, and its caller waits for it: runs in the caller's thread")
    if process.nature == "io":
        return Placement("thread", "nature='io': waits, so off the loop, in a thread")
    return _measured(process, known, now)


def _asynchronous(process: Process[Any, Any], known: Known) -> Placement:
    if not known.stalls:
        return Placement("loop", "async def: waits, so on the event loop")
    hindrance = known.refused.get(OWN_LOOP) or cannot_change_loop(process.fn)
    if hindrance is None:
        return Placement(OWN_LOOP, "async def that kept its event loop waiting: on a loop of its own, in a thread")
    return Placement("loop", f"async def that keeps its event loop waiting, but cannot leave it: {hindrance}")


def is_free(process: Process[Any, Any]) -> bool:
    """Whether the engine may choose for itself: nothing was said, and nothing but the call's own end has to stop it."""
    return process.environment is None and process.nature is None and process.timeout is None


def _measured(process: Process[Any, Any], known: Known, now: str) -> Placement:
    kind = known.kind(now)
    if kind == "computes":
        return _computing(process, known, now)
    if kind == "releases":
        return Placement(
            "thread",
            f"computes {milliseconds(known.cpu)} a call without the interpreter's lock, so in a thread nobody waits for it",
        )
    if kind == "short":
        if known.stalls:
            return Placement("thread", "def that is mostly short, but it kept the event loop waiting: in a thread")
        hindrance = cannot_be_inline(process.fn)
        if hindrance is None and not known.shares:
            return Placement("inline", f"def that is short ({known.wall * 1e6:.0f} us): the way to a thread is longer")
        return Placement("thread", f"def that is short, but may wait for others: {hindrance or 'so may its arguments'}")
    if kind == "waits":
        does = (
            f"mostly waits: computes {milliseconds(known.cpu)} of {milliseconds(known.wall)}, so"
            if known.typical_cpu < 0.5 * known.wall
            else f"computes {milliseconds(known.cpu)} a call, too little for another core:"
        )
        return Placement("thread", f"def that {does} in a thread")
    if known.measured:  # alone it can be told
        does = f"computes {milliseconds(known.cpu)} a call, and perhaps holds the interpreter's lock"
        return Placement("thread", f"def that {does}: in a thread", in_turn=True)
    return Placement("thread", "def that may wait: off the loop, in a thread")


def _computing(process: Process[Any, Any], known: Known, now: str) -> Placement:
    if known.parallel_threads:
        return Placement("thread", "computes, and threads of this Python compute at the same time")
    does = f"computes {milliseconds(known.cpu)} a call and holds the interpreter's lock"
    # Side by side they would only keep others from the lock; but one that also waits lets others compute meanwhile.
    in_turn = known.waits <= LITTLE * known.cpu
    hindrance = known.refused.get("worker") or cannot_travel(process.fn)
    if hindrance is not None:
        return Placement("thread", f"{does}, but cannot go to another core: {hindrance}", in_turn)
    if known.moving is None:
        return Placement("thread", f"{does}; what it takes to send it to another core is not known yet", in_turn)
    if known.moving * (1.0 if now in CORES else 1.5) > known.cpu:
        moves = f"moves {milliseconds(known.moving)} to compute {milliseconds(known.cpu)}"
        return Placement("thread", f"another core is not worth it: {moves}", in_turn)
    # Many calls at once take (cpu + waits) / workers each there, but max(cpu, waits / calls) in threads, which are many.
    # A single one takes as long here as there. The half more is for few calls at once, which do not fill the threads.
    if known.waits > 1.5 * (known.workers - 1) * known.cpu * (1 / STAYS if now in CORES else 1.0):
        return Placement(
            "thread",
            f"{does}, but waits {milliseconds(known.waits)}, for which it would take up one of {known.workers} workers",
        )
    return on_another_core(process, known, f"{does}: on another core")


def on_another_core(process: Process[Any, Any], known: Known, why: str) -> Placement:
    """Where on another core: in a sub-interpreter if that is as good as a worker process, which can do and survive more.

    Args:
        process: what is to run.
        known: what was measured.
        why: what it is there for, in words.
    """
    if not HAS_INTERPRETERS:
        return Placement("worker", why)
    if process.timeout is not None:
        hindrance: str | None = "only a process can be stopped by its timeout= whatever it does"
    elif process.is_async:
        hindrance = "it is an async def, and what that waits for may be anything"
    else:
        hindrance = known.processes_only or known.refused.get("interpreter") or needs_a_process(process.fn)
    if hindrance is None:
        return Placement("interpreter", f"{why} (a sub-interpreter: it only computes, as far as can be seen)")
    return Placement("worker", f"{why} (a worker process: {hindrance})")


def is_worth_asking(process: Process[Any, Any], known: Known) -> bool:
    """Whether only the price of moving it is missing to send it to another core."""
    return (
        known.moving is None
        and not known.parallel_threads
        and "worker" not in known.refused
        and known.kind() == "computes"
        and cannot_travel(process.fn) is None
    )


def gain(known: Known, used: Placement) -> str:
    """What a process that is not where it would be best would gain there, in words; nothing if it is."""
    if known.stalls and used.environment == "loop":
        return (
            "on a loop of its own it would keep nobody waiting; await ctx.compute(...) for what it computes helps, too"
        )
    if known.parallel_threads or known.kind() != "computes" or used.environment != "thread":
        return ""
    price = "" if known.moving is None else f", for {milliseconds(known.moving)} of sending"
    here = "; here its calls go one after the other" if used.in_turn else ""
    return f"on another core it would take {milliseconds(known.cpu)} a call off this one{price}{here}"


def milliseconds(seconds: float) -> str:
    """For a reader."""
    return f"{seconds * 1e3:.2g} ms" if seconds < 0.0095 else f"{seconds * 1e3:.0f} ms"
