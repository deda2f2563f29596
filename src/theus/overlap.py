"""Steps of a flow that start before their turn: which, after which, and how they are committed in list order.

The algorithm, its states and what can fail: docs/overlap.md. In short::

    for each step, in order:   start what may start by now ──> take the step's turn ──> commit

A step's turn is a call as any other (``Hands.call``). If the step was started early, its first attempt is there
already; it counts if all that it read is still so, and else it is made again. So contracts and guesses decide only
*when* a step starts; what comes out is what a sequence gives.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from theus.processes import Process
from theus.protocols import Conflict
from theus.schedule import Position, walk
from theus.state.access import ANY, Reach, reach_of
from theus.workflow import Flow, Step, can_start_early

if TYPE_CHECKING:
    from theus.errors import Path
    from theus.nature import Profile
    from theus.placement import Placement
    from theus.protocols import Call, Environment, Outcome
    from theus.schedule import Hands
    from theus.state.access import Ops, Reads

AHEAD = 4000  #: steps of one flow that are begun and not committed, at most: their outcomes are kept
DOUBT = 0.5  #: a step whose early attempts are in vain more often than this runs at its turn
RECOVERY = 0.95  #: what is left of a doubt after each run in which the step was not tried early


class Early:
    """One step's call in a flow whose steps overlap: its first attempt if that was made early, and what it touched.

    To the call it looks like an environment: the attempt that was made early is handed over once, any other is made in
    the real one. It keeps no error: the frames of an error keep it.
    """

    __slots__ = ("begun", "call", "environment", "held", "in_vain", "kept", "position", "task", "touched")

    def __init__(self, position: Position) -> None:
        self.position = position
        self.environment: Environment | None = None  #: the real one
        self.begun = False  #: before its turn
        self.call: Call | None = None  #: the early attempt; keeps the snapshot alive that it is compared with
        self.task: asyncio.Task[Outcome] | None = None
        self.held: Outcome | None = None  #: what became of it, if it counts
        self.kept: dict[str, Any] | None = None  #: its results of ``ctx.once``
        self.in_vain = False
        self.touched: tuple[Reads, Ops] | None = None  #: by the last attempt; None: it raised, or nobody can tell

    def begin(self, call: Call, environment: Environment, ended: Callable[[], None] | None) -> None:
        """Make the first attempt now, on the running loop."""
        self.begun = True
        self.call = call
        self.task = asyncio.get_running_loop().create_task(environment.run(call))
        if ended is not None:
            self.task.add_done_callback(lambda _: ended())

    async def settle(self) -> Conflict | BaseException | None:
        """At its turn: wait for the attempt, and keep its outcome if it would be the same now; else say why not."""
        task = self.task
        assert task is not None
        if not task.done():
            await asyncio.wait((task,))
        self.task = None
        why_not = self._look_at(task)
        self.in_vain = why_not is not None
        return why_not

    def _look_at(self, task: asyncio.Task[Outcome]) -> Conflict | BaseException | None:
        if task.cancelled():  # by its own body: the run goes on
            return asyncio.CancelledError()
        failure = task.exception()
        if failure is not None:
            return failure
        outcome = task.result()
        self.kept = outcome.kept
        if outcome.error is not None:
            return outcome.error
        assert self.call is not None
        snapshot = self.call.snapshot
        if snapshot is not None and snapshot.head is not None and (outcome.reads or outcome.ops):
            newest = snapshot.head.holds(outcome.base, outcome.reads, outcome.ops)
            if isinstance(newest, Conflict):
                return newest
            outcome.base = newest  # what it read is the same there, so its commit need not look again
        self.held = outcome
        return None

    async def run(self, call: Call) -> Outcome:
        """The attempt that was made early, once; any other is made now."""
        outcome, self.held = self.held, None
        if outcome is None:
            assert self.environment is not None
            outcome = await self.environment.run(call)
        # What messages do is known to the commit alone.
        self.touched = None if outcome.error is not None or outcome.messages else (outcome.reads, outcome.ops)
        return outcome


@dataclass(slots=True)
class Outlook:
    """Where a step would run, and what is to be expected of it."""

    placement: Placement
    environment: Environment
    profile: Profile
    may_begin: bool  #: before its turn

    @property
    def seconds(self) -> float:
        """Of one attempt, as it was measured; 0: it never ran."""
        return self.profile.wall / (self.profile.calls or 1)


class _Order:
    """After which step each one may start."""

    __slots__ = ("after", "overlaps", "released")

    def __init__(self, steps: Sequence[Step[Any, Any]], reaches: Sequence[Reach | None]) -> None:
        self.after: list[int] = []  #: the last step that it waits for, -1: none
        #: those that may start, before their turn, when it is the turn of the step of that number
        self.released: list[list[int]] = [[] for _ in steps]
        self.overlaps = False  #: any of them
        writers = _Writers()
        barrier = unknown = -1  # the last workflow; the last step of which nothing is known
        for index, (step, reach) in enumerate(zip(steps, reaches, strict=True)):
            if not can_start_early(step):
                after = index - 1
            elif reach is None:
                after = barrier
            else:
                after = max([barrier, *(max(unknown, writers.last(path)) for path in reach.reads)])
            self.after.append(after)
            if after < index - 1:
                self.released[after + 1].append(index)
                self.overlaps = True
            if not isinstance(step, Process):
                barrier = index
            elif reach is None:
                unknown = index
            else:
                for path in reach.writes:
                    writers.add(path, index)


class _Writers:
    """The last writer at each place, as a tree of the written patterns."""

    __slots__ = ("below", "here", "lowest")

    def __init__(self) -> None:
        self.here = -1  #: the last that writes all of this place
        self.lowest = -1  #: the last that writes here or anywhere below
        self.below: dict[Any, _Writers] = {}

    def add(self, path: Path, index: int) -> None:
        """``index`` grows from call to call."""
        place = self
        place.lowest = index
        for segment in path:
            place = place.below.setdefault(_key(segment), _Writers())
            place.lowest = index
        place.here = index

    def last(self, path: Path) -> int:
        """The last that writes at, above or below ``path``."""
        if not path:
            return self.lowest
        segment = _key(path[0])
        places = self.below.values() if segment is ANY else map(self.below.get, (segment, ANY))
        return max([self.here, *(place.last(path[1:]) for place in places if place is not None)])


def _key(segment: Any) -> Any:
    """The segment, or any if it can be no key."""
    try:
        hash(segment)
    except TypeError:
        return ANY
    return segment


def _look_away(task: asyncio.Task[Outcome]) -> None:
    """Nobody will ask what a dropped attempt raised; asyncio need not report it."""
    if not task.cancelled():
        task.exception()


class Overlap:
    """What one engine knows of one flow: which steps may start early, after which, and how well that went.

    Runs of the flow share it, on any thread: each takes the order that it finds, and a number that is lost because two
    wrote at once changes no result. ``before``: of a flow of the same steps, perhaps bound to other arguments, which are
    a guess as good as any.
    """

    def __init__(self, node: Flow[Any, Any], before: Overlap | None = None) -> None:
        self.node = node
        self._declared = [_declared(index, step) for index, step in enumerate(node.steps)]
        self._seen = list(self._declared)  #: what is not declared, as the last run did it
        if before is not None:
            self._seen = [reach or seen for reach, seen in zip(self._declared, before._seen, strict=True)]
        #: how often an early attempt was in vain of late, 0 to 1
        self._doubts: list[float] = [0.0] * len(node.steps) if before is None else before._doubts
        self._order = _Order(node.steps, self._seen)
        self._is_outdated = False
        self.is_possible = self._order.overlaps  #: for any step, if all goes well

    @property
    def order(self) -> _Order:
        """After which step each one may start, by what is known now."""
        if self._is_outdated:
            self._is_outdated = False
            self._order = _Order(self.node.steps, self._seen)
        return self._order

    async def walk(self, value: Any, position: Position, hands: Hands) -> Any:
        """Take ``value`` through the flow."""
        steps = self.node.steps
        ahead = _Ahead(self, position, hands)
        try:
            for index, step in enumerate(steps):
                ahead.advance(index)
                if index:
                    await hands.rest()
                if not isinstance(step, Process):
                    value = await walk(step, value, Position(position, (index, step.name)), hands)
                elif step.is_source:
                    value = hands.source(step, value, Position(position, (index, step.name)))
                else:
                    early = ahead.take(index)
                    value = await hands.call(step, value, early.position, early=early)
                    self._learn(index, early)
                    del early
        finally:
            await ahead.drop()
        return value

    def try_early(self, index: int) -> bool:
        """Whether starting this step early is likely to be of use."""
        doubt = self._doubts[index]
        if doubt > DOUBT:
            self._doubts[index] = doubt * RECOVERY
            return False
        return True

    def _learn(self, index: int, early: Early) -> None:
        if early.begun:
            self._doubts[index] = (self._doubts[index] + early.in_vain) / 2
        if self._declared[index] is None and early.touched is not None:
            seen = reach_of(*early.touched)
            if seen != self._seen[index]:
                self._seen[index] = seen
                self._is_outdated = True


def _declared(index: int, step: Step[Any, Any]) -> Reach | None:
    """What a step may touch by its contract. The first may get arguments from ``run``, the others from the pipe."""
    if not isinstance(step, Process):
        return None
    known = step.bound
    if index and step.contract.is_bound:
        known = step.arguments((), step.bound)
        if step.pipe_parameter is not None:
            known.pop(step.pipe_parameter, None)
    return step.contract.reach(known)


class _Ahead:
    """The steps of one run of a flow that are begun early, or wait for room."""

    __slots__ = ("begun", "hands", "index", "order", "outlooks", "overlap", "position", "running", "waiting", "ways")

    def __init__(self, overlap: Overlap, position: Position, hands: Hands) -> None:
        self.overlap = overlap
        self.order = overlap.order
        self.position = position
        self.hands = hands
        self.index = 0  #: whose turn it is
        self.begun: dict[int, Early] = {}
        self.running: Counter[str] = Counter()  #: early attempts in each environment
        self.waiting: dict[str, list[tuple[float, int]]] = {}  #: for room there: a heap of (-way to the end, step)
        self.outlooks: dict[int, Outlook] = {}
        self.ways: list[float] | None = None

    def advance(self, index: int) -> None:
        """It is the turn of step ``index``: begin what may begin now."""
        self.index = index
        for step in self.order.released[index]:
            if self.overlap.try_early(step):
                outlook = self._outlook(step)
                if outlook.may_begin:
                    self._offer(step, outlook)
        for environment in self.waiting:
            self._fill(environment)

    def take(self, index: int) -> Early:
        """The call of the step whose turn it is."""
        early = self.begun.pop(index, None)
        if early is None:
            early = Early(self._position_of(index))
        return early

    async def drop(self) -> None:
        """End what was begun and will not have its turn; gives when all of it has ended."""
        self.waiting.clear()
        tasks = [early.task for early in self.begun.values() if early.task is not None]
        self.begun.clear()
        for task in tasks:
            task.add_done_callback(_look_away)
            task.cancel()
        while tasks := [task for task in tasks if not task.done()]:
            with contextlib.suppress(asyncio.CancelledError):  # what made us stop is on its way already
                await asyncio.wait(tasks)

    def _offer(self, index: int, outlook: Outlook) -> None:
        has_room = outlook.environment.capacity >= len(self.order.after)
        if has_room and len(self.begun) < AHEAD:
            self._begin(index, outlook, None)
        else:
            way = 0.0 if has_room else self._way(index)
            heapq.heappush(self.waiting.setdefault(outlook.environment.name, []), (-way, index))

    def _fill(self, environment: str) -> None:
        heap = self.waiting.get(environment)
        while heap and len(self.begun) < AHEAD:
            index = heap[0][1]
            if index > self.index:
                outlook = self._outlook(index)
                if self.running[environment] > outlook.environment.capacity:  # one waits at the door: none stands idle
                    return
                self.running[environment] += 1
                self._begin(index, outlook, functools.partial(self._ended, environment))
            heapq.heappop(heap)

    def _ended(self, environment: str) -> None:
        self.running[environment] -= 1
        self._fill(environment)

    def _begin(self, index: int, outlook: Outlook, ended: Callable[[], None] | None) -> None:
        early = self.begun[index] = Early(self._position_of(index))
        self.hands.begin(self._process(index), early, outlook, ended)

    def _position_of(self, index: int) -> Position:
        return Position(self.position, (index, self.overlap.node.steps[index].name))

    def _process(self, index: int) -> Process[Any, Any]:
        process = self.overlap.node.steps[index]
        assert isinstance(process, Process)
        return process

    # --- which first ---

    def _outlook(self, index: int) -> Outlook:
        outlook = self.outlooks.get(index)
        if outlook is None:
            outlook = self.outlooks[index] = self.hands.outlook(self._process(index), self._position_of(index))
        return outlook

    def _way(self, index: int) -> float:
        """How long the flow goes on after this step begins, at least: its time, and that of what waits for it."""
        if self.ways is None:
            self.ways = self._all_ways()
        return self.ways[index]

    def _all_ways(self) -> list[float]:
        steps = self.overlap.node.steps
        seconds = [
            self._outlook(index).seconds if isinstance(step, Process) else 0.0 for index, step in enumerate(steps)
        ]
        measured = [time for time in seconds if time]
        usual = sum(measured) / len(measured) if measured else 1.0
        ways = [0.0] * len(steps)
        behind = [0.0] * len(steps)  # the longest way of those that wait for exactly this one
        longest = 0.0  # of those that wait for this one or, since commits come in order, for one after it
        for index in range(len(steps) - 1, -1, -1):
            longest = max(longest, behind[index])
            ways[index] = (seconds[index] or usual) + longest
            if (after := self.order.after[index]) >= 0:
                behind[after] = max(behind[after], ways[index])
        return ways
