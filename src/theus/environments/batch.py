"""Calls of one process that go to a worker together: sent in frames, answered one by one.

::

    run_many ── items of an each ────┐
                                     ├──> series: calls in a row, one job ──> queue ──> worker: as many as it has room for
    run ── single calls of one turn ─┘           ^                                           │ the rest waits in the queue
                                                 └────────── what had not begun comes back ──┘

Each call has its own number in its worker. So what holds for a call holds for each of them: it is called back and stopped
by itself, and a worker that dies takes down only the one that ran. As long as all goes well they are a job together.

How many a worker is given shrinks with what is left, so that all workers end at about the same time (guided
self-scheduling: Polychronopoulos and Kuck 1987).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from theus.environments import wire
from theus.environments.job import Job
from theus.errors import NotTransferable
from theus.protocols import Outcome

if TYPE_CHECKING:
    import asyncio
    from contextvars import Context

    from theus.environments.book import Definition
    from theus.environments.job import Told
    from theus.protocols import Call, Calls

#: What calls in a row gave, if that is simple: the place of the first one, of each its value and the seconds that it took,
#: the number of their worker.
Row = tuple[int, list[tuple[Any, float]], int]
#: What a call is given: its arguments if they are simple, else its packed payload.
Entry = tuple[Any, ...] | bytes


BESIDE = 5e-6  #: seconds that a worker takes for a call beside its body


class Batch(ABC):
    """Calls that wait for their answers."""

    gives_way: ClassVar[bool]  #: what is left of it has its turn when all others have had theirs

    def __init__(self) -> None:
        self.jobs: set[Job] = set()  #: all that may be on their way; the pool's, once it has them
        self.rows: deque[Row] = deque()  #: arrived, and not yet taken

    @abstractmethod
    def call(self, place: int) -> Call:
        """The call at a place."""

    @abstractmethod
    def future(self, place: int) -> asyncio.Future[Any] | Answer:
        """What gets the answer to it, if that is not a value."""

    @abstractmethod
    def context(self, place: int) -> Context:
        """The one in which it was made."""

    @abstractmethod
    def take_rows(self) -> None:
        """On the loop: take the values that have arrived."""


class Singles(Batch):
    """Calls that were made one by one in one turn of a loop, each by somebody who waits for it."""

    gives_way = False  # each has its turn

    def __init__(self, like: Job) -> None:
        super().__init__()
        self.series: Series | None = Series(like, self, 0, [])  #: all of them, until they are handed in
        self._calls: list[Call] = []
        self._futures: list[asyncio.Future[Any]] = []
        self._contexts: list[Context] = []
        self._definition = like.definition
        self._needs = like.needs

    def takes(self, definition: Definition, needs: Told) -> bool:
        """Whether a call of this process, as it is now, can join."""
        return definition is self._definition and (needs is self._needs or needs == self._needs)

    def add(self, call: Call, entry: Entry, context: Context, future: asyncio.Future[Any]) -> int:
        """One more; gives its place."""
        assert self.series is not None
        self.series.add(entry)
        self._calls.append(call)
        self._contexts.append(context)
        self._futures.append(future)
        return len(self._calls) - 1

    def call(self, place: int) -> Call:
        """The call at a place."""
        return self._calls[place]

    def future(self, place: int) -> asyncio.Future[Any]:
        """That of whoever waits for it."""
        return self._futures[place]

    def context(self, place: int) -> Context:
        """The caller's."""
        return self._contexts[place]

    def take_rows(self) -> None:
        """On the loop: hand the values that have arrived to those who wait for them."""
        rows, futures = self.rows, self._futures
        while rows:
            first, values, number = rows.popleft()
            for place, value in enumerate(values, first):
                future = futures[place]
                if not future.done():
                    future.set_result((wire.VALUE, value, number))


class Items(Batch):
    """Calls that one caller made at once.

    ``over``: done when all are answered, or nobody wants the rest. ``take``: is given the place and the outcome of each,
    and gives whether to go on. ``open_answer``, ``open_row``: make outcomes of what a worker said.
    """

    gives_way = True

    def __init__(
        self,
        calls: Calls,
        context: Context,
        over: asyncio.Future[None],
        take: Callable[[int, Outcome], bool],
        open_answer: Callable[[Call, Any], Outcome],
        open_row: Callable[[list[tuple[Any, float]], int], list[Outcome]],
    ) -> None:
        super().__init__()
        self.calls = calls
        self.over = over
        self.left = len(calls.arguments)  #: those that have not ended
        self._context = context
        self._take = take
        self._open_answer = open_answer
        self._open_row = open_row

    def call(self, place: int) -> Call:
        """The call at a place, made anew."""
        return self.calls[place]

    def future(self, place: int) -> Answer:
        """What takes it to ``answered``."""
        return Answer(self, place)

    def context(self, place: int) -> Context:
        """The same for all."""
        return self._context

    def answered(self, place: int, answer: Any) -> None:
        """On the loop: a call has ended, with an error or with what has to be opened."""
        if isinstance(answer, BaseException):
            outcome = Outcome(error=answer)
        else:
            try:
                outcome = self._open_answer(self.calls[place], answer)
            except NotTransferable as failure:
                outcome = Outcome(error=failure)
        self._end(place, outcome)

    def take_rows(self) -> None:
        """On the loop: take the values that have arrived."""
        rows, end = self.rows, self._end
        while rows:
            first, values, number = rows.popleft()
            for place, outcome in enumerate(self._open_row(values, number), first):
                end(place, outcome)

    def _end(self, place: int, outcome: Outcome) -> None:
        over = self.over
        if not over.done():  # else nobody wants it any more
            self.left -= 1
            if not (self._take(place, outcome) and self.left):
                over.set_result(None)


class Answer:
    """Where the answer to one of the items goes: what a future is to a single call."""

    __slots__ = ("_batch", "_is_done", "_place")

    def __init__(self, batch: Items, place: int) -> None:
        self._batch = batch
        self._place = place
        self._is_done = False

    def done(self) -> bool:
        """Whether it has come."""
        return self._is_done

    def set_result(self, answer: Any) -> None:
        """It has come."""
        self._is_done = True
        self._batch.answered(self._place, answer)

    set_exception = set_result  #: an error is an answer like others


class Series(Job):
    """Calls of a batch in a row: a job that is answered call by call, and can be parted before each of them.

    ``entries``: of each its arguments if they are simple, else its packed payload.
    """

    batch: Batch

    def __init__(self, like: Job, batch: Batch, place: int, entries: list[Entry]) -> None:
        self.__dict__.update(like.__dict__)
        self.batch = batch
        self.place = place  #: of the first one that is not answered
        self.entries = entries
        self.left = len(entries)
        batch.jobs.add(self)

    @property
    def pace(self) -> float:
        """Seconds that a worker takes for each, as far as is known."""
        return (self.definition.seconds or 0.0) + BESIDE

    def add(self, entry: Entry) -> None:
        """One more at its end, while it is made."""
        self.entries.append(entry)
        self.left += 1

    def waiting(self) -> list[Entry]:
        """Of those that are not answered."""
        return self.entries[len(self.entries) - self.left :]

    def where(self) -> Context:
        """The context of the call that runs or comes next."""
        return self.batch.context(self.place)

    def one(self) -> Job:
        """The first of its calls, by itself; the others are left."""
        batch, place = self.batch, self.place
        one = self.for_call(batch.call(place))
        one.left = 1
        one.context = batch.context(place)
        one.future = batch.future(place)
        if self.left > 1:
            one.ended = None  # that is when the last one has
        self.went_on(1)
        return one

    def went_on(self, count: int) -> None:
        """The first of its calls have ended."""
        self.place += count
        self.seq += count
        self.left -= count
        if not self.left:
            self.batch.jobs.discard(self)

    def apart(self) -> list[Job]:
        """Its calls, each by itself."""
        return [self.one() for _ in range(self.left)]

    def around(self, place: int) -> tuple[list[Job], Job]:
        """Itself in pieces: those before the call at a place, that one, and those behind it. Gives the one as well."""
        pieces: list[Job] = []
        if place > self.place:
            pieces.append(self.take_head(place - self.place))
        one = self.one()
        pieces.append(one)
        if self.left:
            pieces.append(self)
        return pieces, one

    def take_head(self, count: int) -> Series:
        """Take so many calls off, for one frame."""
        entries = self.waiting()
        head = Series(self, self.batch, self.place, entries[:count])
        self.entries = entries[count:]
        self.place += count
        self.seq += count
        self.left -= count
        return head

    def take_tail(self, count: int) -> Series:
        """Take all but so many calls off."""
        entries = self.waiting()
        rest = Series(self, self.batch, self.place + count, entries[count:])
        rest.ended = None
        self.entries = entries[:count]
        self.left = count
        return rest
