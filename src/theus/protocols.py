"""The seams of Theus and the records that cross them. Read this first.

State lives behind ``Store``, execution behind ``Environment``, time behind ``Clock``.
Environments never touch stores: a ``Call`` carries its snapshot in, an ``Outcome`` carries
reads and writes out, and the commit happens in one place (``attempt.py``). So every environment means
the same, and dropping an outcome is always safe.

The records of the hot path (`Call`, `Outcome`, `Commit`) are slotted but not frozen: a frozen dataclass sets each
field through ``object.__setattr__``, which made one call 3 us dearer. Nobody changes them after they were made.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from theus.errors import ContractError
    from theus.processes import Process
    from theus.state.access import Ops, Reads
    from theus.state.history import History
    from theus.state.snapshot import Snapshot
    from theus.state.transaction import Transaction

Version = int  #: counts commits; 0 is the state that the engine was made with


# --- state -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Record:
    """A named piece of data that is kept beside the state and changed by commits: a run, a step of it, a signal."""

    kind: str  #: ``"run"``, ``"step"``, ``"signal"``, ...
    key: str  #: unique within the kind
    value: bytes | None  #: None: there is none (any more)


@dataclass(slots=True)
class Commit:
    """One request to change the state and the records beside it, all or nothing."""

    base: Version  #: the version that ``reads`` were made on
    reads: Reads
    ops: Ops
    author: str  #: the process's name, for reports of conflicts
    #: Called inside the commit with a transaction on the newest state that already holds ``ops``; what it
    #: writes there belongs to the same commit, and if it raises, nothing is committed and that error comes out.
    #: Messages to state and invariants run here. It may fill ``records``, so they are looked at only afterwards.
    complete: Callable[[Transaction], None] | None = None
    records: Sequence[Record] = ()  #: what they are to be
    expected: Sequence[Record] = ()  #: what records must be at that moment; else the answer is ``Refused``


@dataclass(slots=True)
class Committed:
    """The commit was made. ``ops``: all that it wrote, messages included (empty: nothing changed)."""

    version: Version
    ops: Ops
    records: Sequence[Record] = ()


@dataclass(frozen=True, slots=True)
class Conflict:
    """Something that the call had read was changed since; nothing was committed."""

    path: tuple[Any, ...]  #: where
    author: str  #: the process that changed it, if known


@dataclass(frozen=True, slots=True)
class Refused:
    """A record was not what the commit expected; nothing was committed."""

    record: Record  #: as it is


class Store(Protocol):
    """Where the one state lives. Safe to use from any thread and any loop.

    ``open``, ``records`` and ``close`` may block; the engine calls them off the loop.
    """

    @property
    def snapshot(self) -> Snapshot:
        """The newest committed state."""

    @property
    def history(self) -> History:
        """The last commits, as far as they are kept."""

    def open(self) -> Snapshot:
        """Get ready for use, once; gives the state as it is stored. ``snapshot`` does it if nobody did."""

    async def commit(self, commit: Commit, *, blocking: bool) -> Committed | Conflict | Refused:
        """Make the commit or change nothing. What ``commit.complete`` raises is raised.

        ``blocking``: wait in this thread, not on the running loop. A store that has to wait makes the commits that
        came meanwhile together (group commit).
        """

    def tail(self, listener: Callable[[Committed], None]) -> Callable[[], None]:
        """Call ``listener``, from any thread, with each commit from now on, other engines' too; gives how to end that."""

    def records(self, kind: str, prefix: str = "") -> list[Record]:
        """The records of a kind whose key begins with ``prefix``, by key."""

    def close(self) -> None:
        """Let go of files and connections. What was committed stays."""


# --- execution -------------------------------------------------------------------------------------------------------


class Host(Protocol):
    """What a running call may ask of the engine that runs it; in a worker process the wire answers."""

    def report(self, call: Call, value: Any) -> None:
        """Hand a live value to whoever listens, at once."""

    def resource(self, name: str) -> Any:
        """The shared instance of a resource for this loop or worker process."""

    async def off_loop(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a blocking function beside the running loop."""

    async def compute(self, call: Call, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Run a plain function on another core."""

    def keep(self, call: Call, key: str, value: Any) -> Awaitable[object] | None:
        """Record what ``ctx.once`` keeps, if the run is durable; in an ``async def`` that may have to be awaited."""

    async def sleep_until(self, call: Call, label: str, when: float) -> None:
        """Wait until ``when``, in seconds since 1970; ``label`` names this wait within the call."""

    async def wait_for(self, call: Call, label: str, name: str, timeout: float | None) -> Any:
        """Wait for a signal; gives its value."""

    def block(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Wait in this thread, for a ``def``."""


class Meter(Protocol):
    """Measures an attempt in this operating-system process."""

    def measure(self, call: Call) -> Outcome:
        """Run a ``def`` call and note what it cost."""


class NotYet:
    """Stands for the pipe value of an attempt that is made before its turn: nobody knows it yet.

    The class itself is the mark; so it is the same one in every process.
    """


@dataclass(slots=True)
class Call:
    """One attempt to run a process: everything an environment needs."""

    process: Process[Any, Any]
    args: tuple[Any, ...]  #: positional arguments after ``ctx``
    kwargs: dict[str, Any]
    snapshot: Snapshot | None  #: None: the engine has no domain
    config: Any  #: a read-only view
    pipe: Any  #: what the previous step returned; ``NotYet`` if it has not
    attempt: int  #: counts executions of this call from 1
    key: object  #: ``str(key)`` is run, step, item and round; equal across attempts
    deadline: float | None  #: when this attempt has to end, in the clock's seconds
    host: Host
    strict: bool = True  #: False: what breaks the contract is let through and reported
    kept: dict[str, Any] | None = None  #: results of ``ctx.once``, from attempt to attempt
    holds_ticket: bool = False  #: others may be waiting for this call to end
    meter: Meter | None = None  #: measures this attempt; clocks cost more than a short call, so only some are


@dataclass(slots=True)
class Outcome:
    """What became of one attempt. Nothing of it has happened until it is committed."""

    value: Any = None
    error: BaseException | None = None
    base: Version = 0  #: the version that ``reads`` were made on (the snapshot may have moved forward)
    reads: Reads = ()
    ops: Ops = ()
    messages: Sequence[tuple[Process[Any, Any], dict[str, Any]]] = ()  #: messages to state, in order
    emits: Sequence[tuple[str, Any, bool]] = ()  #: (topic, value, whether it is durable), delivered after the commit
    wall: float = 0.0  #: seconds
    cpu: float | None = None  #: seconds of the thread's CPU; None: not measured this time
    place: str = ""  #: where exactly it ran: a thread's name, a worker's process id
    violations: Sequence[ContractError] = ()  #: what broke the contract, if that is let through
    kept: dict[str, Any] | None = None  #: results of ``ctx.once``
    held: float | None = None  #: seconds of the CPU that kept the interpreter's lock from others; None: not known
    moved: int = 0  #: bytes that were sent and received for it
    moving: float | None = None  #: seconds that this took; None: nothing was moved


class Environment(Protocol):
    """A place where calls run."""

    name: str
    capacity: int  #: calls at the same time

    async def start(self) -> None: ...

    async def run(self, call: Call) -> Outcome:
        """Run one attempt to its end. What the body raises is in the outcome; cancelling this stops the body.

        Raises ``CallTimeout`` when ``call.process.timeout`` is over, ``EnvironmentBroken`` if the worker
        process died, ``NotTransferable`` if a value cannot cross.
        """

    async def stop(self, grace: float) -> None:
        """End all that runs here; by force after ``grace`` seconds."""


class Clock(Protocol):
    """Time; tests own it."""

    def now(self) -> float:
        """Seconds, monotonic."""

    def time(self) -> float:
        """Seconds since 1970: what outlives this program is dated with it."""

    async def sleep(self, seconds: float) -> None:
        """Wait on the running loop."""

    def block(self, seconds: float) -> None:
        """Wait in this thread."""


# --- events ----------------------------------------------------------------------------------------------------------


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
