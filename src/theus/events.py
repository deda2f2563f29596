"""What observers are told: something that happened, as it happens.

A module of its own, because the far side makes no events: to create these classes takes a worker as long to start as
many of its imports together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from theus.protocols import Version


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened, as it happens. ``at``: the clock's seconds. ``key``: run, step, item and round."""

    at: float
    run_id: str
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    """A run begins."""

    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded(Event):
    """A run has ended, however it did."""

    target: str
    state: str  #: "done", "failed" or "cancelled"
    seconds: float
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EachStarted(Event):
    """A fan-out begins. ``total``: how many items, None if its source does not know."""

    step: str
    total: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallStarted(Event):
    """One attempt of a call begins."""

    process: str
    attempt: int
    environment: str
    reason: str  #: why it was placed there, in words


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEnded(Event):
    """One attempt ended. ``error``: None if it was committed."""

    process: str
    attempt: int
    environment: str
    place: str
    wall: float
    cpu: float | None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessMoved(Event):
    """By what was measured, the calls of a process run somewhere else from now on."""

    process: str
    before: str  #: environment
    after: str
    reason: str  #: in words


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRetried(Event):
    """An attempt failed and another will be made."""

    process: str
    attempt: int  #: the attempt that failed
    delay: float  #: seconds until the next
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallConflicted(Event):
    """Something that the attempt had read was changed meanwhile; the body runs again."""

    process: str
    attempt: int
    path: str
    author: str  #: the process that changed the path


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractBroken(Event):
    """With ``Engine(strict=False)``: what would have been a ContractError."""

    process: str
    path: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StateCommitted(Event):
    """A call changed the state."""

    process: str
    version: Version
    paths: tuple[str, ...]
    seconds: float  #: how long the commit took


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported(Event):
    """``ctx.report(value)``: live, also from an attempt that later fails."""

    process: str
    attempt: int
    value: Any = field(repr=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Emitted(Event):
    """``ctx.emit(topic, value)``: after the commit."""

    process: str
    topic: str
    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLost(Event):
    """A worker died while it ran a call, or could not be stopped and was given up."""

    process: str  #: what it was running
    environment: str
    exit_code: int | None  #: of a worker process; negative: the signal that ended it


@dataclass(frozen=True, slots=True, kw_only=True)
class Stalled(Event):
    """Something keeps an event loop from going on, at this moment. Told once for each process and function."""

    process: str  #: empty: no process of this engine
    file: str
    line: int
    function: str
    seconds: float  #: so far
    advice: str  #: what to do, in words
    stack: str


@runtime_checkable
class Observer(Protocol):
    """Is called with every event, in the thread where it happens; what it raises is logged, not raised."""

    def __call__(self, event: Event, /) -> None: ...
