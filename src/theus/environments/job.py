"""A call on its way through the pool."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from theus.environments.parcel import Parcel

if TYPE_CHECKING:
    import asyncio
    from contextvars import Context

    from theus.environments.batch import Answer
    from theus.environments.book import Definition
    from theus.environments.peer import Peer
    from theus.errors import NotTransferable
    from theus.protocols import Call

NOTHING: Mapping[str, int] = MappingProxyType({})
SHORT = 0.0005  #: seconds; calls that lately took no longer are sent ahead of their turn


SMALL = 4096  #: bytes

Told = list[tuple[int, int, bytes]]  #: token, version and body of definitions


class Packed(NamedTuple):
    """A parcel, and what the far side has to know before it can open it."""

    parcel: Parcel
    needs: Told

    @property
    def is_small(self) -> bool:
        """Whether it may share a frame with others."""
        data, buffers, plain = self.parcel
        return plain and not (buffers or self.needs) and isinstance(data, bytes) and len(data) <= SMALL


class Job:
    """One call, packed."""

    name: str  #: the process's
    timeout: float | None = None
    call: Call
    definition: Definition  #: of the process
    needs: Told  #: the process and what it refers to
    payload: Packed | None  #: arguments, pipe value, what ctx.once kept, and context variables
    numbers: tuple[Any, ...]  #: attempt, key, deadline and strict, for the call's context
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any] | Answer  #: gets the frame that answers and the worker's process id, or an error
    context: Context

    snapshot: Callable[[], Packed] | None = None
    version: int = 0  #: of the snapshot, as this environment counts them
    parts: Mapping[str, int] = NOTHING  #: fields that the snapshot was sent without, with their numbers
    ahead: Sequence[str] = ()  #: those of them that it will probably need
    #: packs one of them, for a worker that has it under another number (0: not at all); gives the number that this builds
    #: on, and raises NotTransferable
    part: Callable[[str, int], tuple[int, Packed]]
    refusal: NotTransferable | None = None  #: one could not be sent
    config: Packed | None = None
    config_number: int = 0
    short: bool = False  #: expected to be
    left: int = 1  #: calls of it that are not answered
    measured: bool = False  #: its CPU is to be, for which a clock is read that costs more than a short call
    worker: Peer | None = None  #: the one that it was sent to
    seq: int = 0  #: its number there; of several calls that of the first one
    since: float = 0.0  #: when it came to be the first in line there
    deadline: float | None = None  #: when it is to be stopped; once it was told to stop, when it is killed
    announced: bool = False  #: its time begins when the worker says STARTED
    reason: str = ""  #: "timeout" or "cancel" once it is to be stopped
    ended: asyncio.Future[None] | None = None  #: who abandoned it waits here until its body has ended

    @property
    def last(self) -> int:
        """The number of its last call in the worker."""
        return self.seq + self.left - 1

    def one(self) -> Job:
        """The call that runs or comes next, by itself."""
        return self

    def where(self) -> Context:
        """The context of the call that runs or comes next."""
        return self.context

    def apart(self) -> list[Job]:
        """Its calls, each by itself."""
        return [self]

    def for_call(self, call: Call) -> Job:
        """The same for another call, without its arguments."""
        job = Job()
        job.__dict__.update(self.__dict__)
        job.call = call
        return job
