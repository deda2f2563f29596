"""How one value goes through a workflow: which step comes next, with what.

The tree is walked recursively; a node's rules are its function here. What has to be *done* for a step
(run a process, look at the domain) is asked of ``Hands``, so the walk itself knows no store, no
environment and no engine. A branch of ``parallel`` or an item of ``each`` goes on by itself: nothing waits
for its siblings before the end of the node.

Each function lets go of a value as soon as it handed it on: the pipe holds one value.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence, Sized
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from theus.errors import LimitExceeded
from theus.processes import Process
from theus.tracebacks import forget_frames
from theus.workflow import Branch, Each, Flow, Parallel, Repeat, Step

if TYPE_CHECKING:
    from theus.overlap import Early, Outlook, Overlap

SOURCE_LIMIT = 128  #: items in hand at a time when each(limit=None) pulls from a source of unknown length


class Nothing:
    """No value was given; the first step's defaults hold."""

    def __repr__(self) -> str:
        return "nothing"


NOTHING = Nothing()


class Position:
    """Where in a run: step, item and round, from the run's id down. ``str(position)`` is the call's key."""

    __slots__ = ("_text", "label", "parent")

    def __init__(self, parent: object, label: object) -> None:
        self.parent = parent
        self.label = label
        self._text: str | None = None

    def __str__(self) -> str:
        text = self._text
        if text is None:  # a durable run asks again and again
            label = self.label
            text = f"{label}" if not isinstance(label, tuple) else f"{label[0]}.{label[1]}"
            self._text = text = text if self.parent is None else f"{self.parent}/{text}"
        return text

    def __reduce__(self) -> tuple[Any, ...]:
        return Position, (None, str(self))


class Hands(Protocol):
    """What the walk needs done."""

    @property
    def in_order(self) -> bool:
        """Whether one thing goes after the other, for debugging."""

    async def call(
        self, process: Process[Any, Any], value: Any, position: Position, *, early: Early | None = None
    ) -> Any:
        """Run a process on the pipe value to its commit; gives what it returned. ``early``: what was done before."""

    def at_once(self, process: Process[Any, Any], left: int, limit: int | None) -> int:
        """How many of the items that are left should be taken through a process together.

        ``limit``: how many may run at the same time.
        """

    async def call_many(
        self,
        process: Process[Any, Any],
        values: Sequence[Any],
        position: Position,
        first: int,
        settle: Callable[[int, Any, Exception | None], bool],
    ) -> None:
        """Run a process on items together, as ``at_once`` said.

        ``settle``: is told of each that has ended its place, counted from ``first``, and its value or error. If it
        gives False the others are stopped, and that error is raised.
        """

    def overlap(self, node: Flow[Any, Any]) -> Overlap | None:
        """How the steps of a flow overlap; None if they run one after the other."""

    def outlook(self, process: Process[Any, Any], position: Position) -> Outlook:
        """Where a call would run, and what is to be expected of it."""

    def begin(
        self, process: Process[Any, Any], early: Early, outlook: Outlook, ended: Callable[[], None] | None
    ) -> None:
        """Make a call's first attempt before its turn. ``ended``: called when it has ended."""

    def source(self, process: Process[Any, Any], value: Any, position: Position) -> AsyncIterator[Any]:
        """Start a generator process; what it yields comes one by one, as it is asked for."""

    def test(self, node: Branch[Any, Any] | Repeat[Any, Any], value: Any, position: Position) -> bool:
        """Ask a predicate, on a read-only view of the newest state."""

    def fan_out(self, node: Each[Any, Any], total: int | None, position: Position) -> None:
        """Told when an ``each`` begins."""

    async def rest(self) -> None:
        """Between two calls: let the loop have its turn, if it had none for a while.

        Calls that wait for nothing would keep it, one after the other: nobody else would go on, and what stops the run
        would not be heard of.
        """

    async def pace(self, interval: float, last: float | None, position: Position) -> float | None:
        """Wait until an item is due to start: so many seconds after the ``last`` one was. Gives when it was due."""

    def in_stable_order(self, items: set[Any] | frozenset[Any]) -> Iterable[Any]:
        """The items of a set, in an order that is the same when the run goes on elsewhere."""

    def failed_before(self, position: Position) -> Exception | None:
        """The error that was collected for an item before the run was resumed."""

    def collected(self, error: Exception, position: Position) -> None:
        """Told of an error that is put into the list of results."""


async def walk(step: Step[Any, Any], value: Any, position: Position, hands: Hands) -> Any:
    """Take ``value`` through ``step``; gives its result."""
    if isinstance(step, Process):
        if step.is_source:
            return [item async for item in hands.source(step, value, position)]
        return await hands.call(step, value, position)
    return await _WALKS[type(step)](step, value, position, hands)


async def _flow(node: Flow[Any, Any], value: Any, position: Position, hands: Hands) -> Any:
    if node.may_overlap and (overlap := hands.overlap(node)) is not None:
        return await overlap.walk(value, position, hands)
    for index, step in enumerate(node.steps):
        if index:
            await hands.rest()
        here = Position(position, (index, step.name))
        if isinstance(step, Process):
            if step.is_source and index + 1 < len(node.steps):
                value = hands.source(step, value, here)  # checked when the flow was built: an each comes next
            elif step.is_source:
                value = await walk(step, value, here, hands)
            else:
                value = await hands.call(step, value, here)
        else:
            value = await _WALKS[type(step)](step, value, here, hands)
    return value


async def _parallel(node: Parallel[Any, Any], value: Any, position: Position, hands: Hands) -> Any:
    branches = [
        walk(step, value, Position(position, (index, step.name)), hands) for index, step in enumerate(node.steps)
    ]
    del value
    return tuple(await together(branches, in_order=hands.in_order))


async def _branch(node: Branch[Any, Any], value: Any, position: Position, hands: Hands) -> Any:
    chosen = node.then if hands.test(node, _given(value), position) else node.otherwise
    if chosen is None:
        return _given(value)
    return await walk(chosen, value, Position(position, chosen.name), hands)


async def _repeat(node: Repeat[Any, Any], value: Any, position: Position, hands: Hands) -> Any:
    step = node.steps[0]
    rounds = 0
    while hands.test(node, _given(value), here := Position(position, f"{step.name}#{rounds}")):
        if rounds == node.limit:
            raise LimitExceeded(
                f"repeat({step.name}) was still not done after its limit of {node.limit} rounds. "
                "Raise limit=, or look at its while_=.",
                limit=node.limit,
            )
        value = await walk(step, value, here, hands)
        rounds += 1
        await hands.rest()
    return _given(value)


async def _each(node: Each[Any, Any], value: Any, position: Position, hands: Hands) -> Any:
    items: AsyncIterator[Any] | Iterator[Any]
    total: int | None = None
    if hasattr(value, "__aiter__"):
        items = value.__aiter__()
    else:
        items, total = _items(node, hands.in_stable_order(value) if isinstance(value, (set, frozenset)) else value)
    del value
    hands.fan_out(node, total, position)
    workers = SOURCE_LIMIT if total is None else total
    if node.limit is not None:
        workers = min(node.limit, workers)
    fan = _FanOut(node, items, total, position, hands)
    try:
        await together([fan.work() for _ in range(1 if hands.in_order else workers)], in_order=hands.in_order)
    finally:
        if isinstance(items, AsyncIterator) and hasattr(items, "aclose"):
            await items.aclose()
    return fan.listed()


def _items(node: Each[Any, Any], value: Any) -> tuple[Iterator[Any], int | None]:
    if isinstance(value, (str, bytes, bytearray)) or not isinstance(value, Iterable):
        shown = repr(value) if len(repr(value)) < 60 else repr(value)[:57] + "..."
        raise TypeError(
            f"each({node.steps[0].name}) takes the items of a list, tuple, set or generator, "
            f"but it was given {type(value).__name__} {shown}."
        )
    return iter(value), len(value) if isinstance(value, Sized) else None


class _FanOut:
    """The items of one ``each`` and the fixed set of workers that take them, one after the other.

    A fixed set of coroutines is 7-14 times cheaper than a task for each item behind a semaphore.
    """

    def __init__(
        self,
        node: Each[Any, Any],
        items: AsyncIterator[Any] | Iterator[Any],
        total: int | None,
        position: Position,
        hands: Hands,
    ) -> None:
        self.step = node.steps[0]
        self.collect = node.on_error == "collect"
        self.interval = node.interval
        self.limit = node.limit
        self.items = items
        self.total = total
        self.position = position
        self.hands = hands
        self.results: dict[int, Any] = {}  #: by place, but for None: a source without end may yield for ever
        self.taken = 0
        self.due: float | None = None  #: when the last item was due to start
        self.pulling = asyncio.Lock() if isinstance(items, AsyncIterator) or node.interval else None

    async def work(self) -> None:
        hands, step, parent, results = self.hands, self.step, self.position, self.results
        single = isinstance(step, Process) and not step.is_source
        is_first = True
        while True:
            if self.pulling is None:
                if single and self.total is not None:
                    left = self.total - self.taken
                    number = hands.at_once(step, left, self.limit)  # type: ignore[arg-type]  # single: a process
                    if number > 1:
                        await self.work_at_once(number)
                        continue
                try:
                    item = next(self.items)  # type: ignore[arg-type]  # not asynchronous, or there would be a lock
                except StopIteration:
                    return
                index = self.taken
                self.taken += 1
                if not is_first:
                    await hands.rest()
                is_first = False
            else:
                try:
                    index, item = await self.pull()
                except StopAsyncIteration:
                    return
            here = Position(parent, index)
            if self.collect and (failure := hands.failed_before(here)) is not None:
                results[index] = failure
                continue
            try:
                if single:
                    value = await hands.call(step, item, here)  # type: ignore[arg-type]  # single: a process
                else:
                    value = await walk(step, item, here, hands)
                if value is not None:
                    results[index] = value
                del value
            except Exception as error:
                if not self.settle(index, None, error):
                    raise
            finally:
                del item

    async def work_at_once(self, number: int) -> None:
        """Take so many items together."""
        items = list(islice(self.items, number))  # type: ignore[arg-type]  # not asynchronous
        first = self.taken
        self.taken += len(items)
        await self.hands.call_many(self.step, items, self.position, first, self.settle)  # type: ignore[arg-type]  # at_once was above 1: a process

    def settle(self, index: int, value: Any, error: Exception | None) -> bool:
        """An item has ended. Gives whether the others go on."""
        if error is not None:
            if not self.collect:
                return False
            if not self.hands.in_order:  # while debugging, the frames are what one wants to see
                forget_frames(error)
            self.hands.collected(error, Position(self.position, index))
            value = error
        if value is not None:
            self.results[index] = value
        return True

    async def pull(self) -> tuple[int, Any]:
        """The next item of an asynchronous source, or of a plain one at its pace; one worker at a time."""
        assert self.pulling is not None
        async with self.pulling:
            if isinstance(self.items, AsyncIterator):
                item = await anext(self.items)
            else:
                try:
                    item = next(self.items)
                except StopIteration:
                    raise StopAsyncIteration from None
            index = self.taken
            self.taken += 1
            await self.hands.rest()
            if self.interval:
                self.due = await self.hands.pace(self.interval, self.due, Position(self.position, index))
            return index, item

    def listed(self) -> list[Any]:
        """The results in the order of the input."""
        return list(map(self.results.get, range(self.taken)))


async def together(work: Iterable[Coroutine[Any, Any, Any]], *, in_order: bool = False) -> list[Any]:
    """Run all at once; gives the results in order. On the first failure the others are cancelled, and it is raised as it is."""
    coroutines = list(work)
    if in_order or len(coroutines) == 1:
        return await _one_by_one(coroutines)
    failure: BaseException | None = None
    tasks: list[asyncio.Task[Any]] = []
    try:
        async with asyncio.TaskGroup() as group:
            tasks.extend(map(group.create_task, coroutines))
    except BaseExceptionGroup as errors:
        failure = errors.exceptions[0]  # the first to fail: the others were cancelled because of it
    if failure is not None:
        try:
            raise failure  # outside of except, so that its own cause and context stay as they are
        finally:
            del failure, tasks, coroutines
    return [task.result() for task in tasks]


async def _one_by_one(coroutines: list[Coroutine[Any, Any, Any]]) -> list[Any]:
    try:
        return [await coroutine for coroutine in coroutines]
    finally:
        for coroutine in coroutines:
            coroutine.close()  # what did not begin because one before it failed


def _given(value: Any) -> Any:
    return None if value is NOTHING else value


_WALKS: dict[type[Any], Callable[[Any, Any, Position, Hands], Coroutine[Any, Any, Any]]] = {
    Flow: _flow,
    Parallel: _parallel,
    Each: _each,
    Branch: _branch,
    Repeat: _repeat,
}
