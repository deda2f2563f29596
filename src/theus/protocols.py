"""The seams of Theus and the records that cross them. Read this first.

State lives behind ``Store``, execution behind ``Environment``, time behind ``Clock``.
Environments never touch stores: a ``Call`` carries its snapshot in, an ``Outcome`` carries
reads and writes out, and the commit happens in one place (``attempt.py``). So every environment means
the same, and dropping an outcome is always safe.

The records of the hot path (`Call` and `Outcome`, from ``calls.py``, and `Commit`) are slotted but not frozen: a frozen
dataclass sets each field through ``object.__setattr__``, which made one call 3 us dearer. Nobody changes them after they
were made.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from theus.calls import Call as Call, NotYet as NotYet, Outcome as Outcome  # noqa: PLC0414 - read here, used everywhere

if TYPE_CHECKING:
    from theus.processes import Process
    from theus.state.access import Ops, Reads
    from theus.state.history import History
    from theus.state.snapshot import Snapshot
    from theus.state.transaction import Transaction

Version = int  #: counts commits; 0 is the state that the engine was made with


# --- state -----------------------------------------------------------------------------------------------------------


class Record(NamedTuple):
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


@dataclass(slots=True)
class Measured:
    """What was measured of one attempt beside its CPU, now and then. Times in seconds."""

    held: float | None = None  #: of the CPU that kept the interpreter's lock from others; None: not known
    waited: float | None = None  #: that it surely waited, and for neither the lock nor a processor
    #: The argument that it changed in place; "": none, or nobody can tell; None: nobody looked.
    changed: str | None = None
    moved: int = 0  #: bytes that were sent and received for it
    moving: float | None = None  #: that this took; None: nothing was moved


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


class Calls:
    """Calls of one process, alike but for their positional arguments. Each is made when somebody asks for it.

    ``make``: makes the one at a place, with these arguments.
    """

    __slots__ = ("_make", "arguments", "kwargs")

    def __init__(
        self,
        make: Callable[[int, tuple[Any, ...]], Call],
        arguments: list[tuple[Any, ...]],
        kwargs: dict[str, Any],
    ) -> None:
        self._make = make
        self.arguments = arguments
        self.kwargs = kwargs

    def __getitem__(self, place: int) -> Call:
        return self._make(place, self.arguments[place] if self.arguments else ())

    def forget(self) -> None:
        """Let go of the arguments: nobody waits any more, though some may still be on their way."""
        self.arguments = []


class Batching(Protocol):
    """An environment that can be given many short calls at once."""

    capacity: int

    def at_once(self, process: Process[Any, Any]) -> int:
        """How many calls of a process should be made at once; 1: one by one."""

    async def run_many(self, calls: Calls, take: Callable[[int, Outcome], bool]) -> None:
        """Run calls of one process that takes no context and has no timeout.

        ``take``: is called with the place of each and its outcome as soon as it has ended; if it gives False the others
        are stopped.
        """


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


def __getattr__(name: str) -> Any:
    """The events, which have a module of their own, can be imported from here as well."""
    if name.startswith("__"):
        raise AttributeError(name)
    from theus import events

    return getattr(events, name)
