"""A call on its way through the pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from theus.environments.parcel import Parcel

if TYPE_CHECKING:
    import asyncio
    from contextvars import Context

    from theus.environments.book import Definition
    from theus.environments.worker_process import WorkerProcess

SHORT = 0.0005  #: seconds; calls that lately took no longer are sent ahead of their turn


class Packed(NamedTuple):
    """A parcel, and what the far side has to know before it can open it: token, version and body of definitions."""

    parcel: Parcel
    needs: list[tuple[int, int, bytes]]


class Job:
    """One call, packed."""

    __slots__ = (
        *("announced", "config", "config_number", "context", "deadline", "definition", "ended", "fields", "future"),
        *("loop", "name", "needs", "numbers", "on_report", "payload", "reason", "seq", "short", "since", "snapshot"),
        *("timeout", "version", "worker"),
    )

    name: str  #: the process's
    timeout: float | None
    definition: Definition  #: of the process
    needs: list[tuple[int, int, bytes]]  #: the process and what it refers to
    payload: Packed | None  #: arguments, pipe value and context variables
    numbers: tuple[Any, ...]  #: attempt, key, deadline and strict, for the call's context
    snapshot: Callable[[], Packed] | None
    version: int  #: of the snapshot, as this environment counts them
    fields: tuple[str, ...]  #: of the domain that the snapshot was cut down to; none: all
    config: Packed | None
    config_number: int
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]  #: gets the frame that answers, or the error
    context: Context
    on_report: Callable[[Parcel], None]

    def __init__(self) -> None:
        self.short = False  #: expected to be
        self.worker: WorkerProcess | None = None  #: the one that it was sent to
        self.seq = 0  #: its number there
        self.since = 0.0  #: when it came to be the first in line there
        self.deadline: float | None = None  #: when it is to be stopped; once it was told to stop, when it is killed
        self.announced = False  #: its time begins when the worker says STARTED
        self.reason = ""  #: "timeout" or "cancel" once it is to be stopped
        self.ended: asyncio.Future[None] | None = None  #: who abandoned it waits here until its body has ended
