"""Histories of list appends made through an engine: random calls from many threads and loops, in every environment.

::

    plan (random) ──> doors: run in threads · blocks · arun and submit on a loop · submit from outside, some cancelled
                          │ every read and append is told at once by ctx.report
                          ▼
                      journal ──> one ``Observed`` for each attempt of each call ──> theus.testing.anomalies

An attempt appends numbers of its own, so an attempt that was rolled back is a transaction that nobody may ever see.
What it read must be consistent all the same (opacity: a body never sees a state that never was), so its reads are added
to the history as a transaction that only reads. What runs inside a commit (state processes, messages) may run there more
than once, so each time it begins with ``("starts", place)``; place 0 is the first of its commit.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from theus import ConflictError, Context, Engine, plain, process
from theus.events import CallConflicted, Event, Reported
from theus.processes import Process
from theus.run import Run
from theus.testing.anomalies import Observed

LIMIT = 60.0  # seconds that any call may take
ATTEMPTS = 1000  # more than any call makes
SPACE = 10**9  # between the numbers of two appends of a plan: each attempt, and each turn in a commit, appends its own


@dataclass
class Lists:
    """The whole state. A list that nobody appended to need not be there."""

    lists: dict[str, list[int]] = field(default_factory=dict)


class OnPurpose(Exception):
    """What a script raises that is to be rolled back."""


Action = tuple[str, Any, int]  # what to do, with which list (or: which script to send), and a number
Script = tuple[Action, ...]

READS = ("list", "copy", "slice", "by index", "backwards", "plain", "all", "items", "in")
APPENDS = ("append", "extend", "iadd", "insert", "assign", "new list")


def act(domain: Lists, action: Action, attempt: int) -> Iterator[tuple[str, str, Any]]:
    """Do one action; gives what was read and appended. An append is told before it is made: it may not come back."""
    how, key, number = action
    lists = domain.lists
    if how in APPENDS:
        number += attempt
        yield "append", key, number
        if how == "assign":
            lists[key] = [*lists.get(key, ()), number]
        elif how == "new list":
            lists[key] = [*plain(lists).get(key, ()), number]
        elif how == "append":
            lists.setdefault(key, []).append(number)
        elif how == "extend":
            lists.setdefault(key, []).extend((number,))
        elif how == "insert":
            there = lists.setdefault(key, [])
            there.insert(len(there), number)
        else:
            lists.setdefault(key, [])
            lists[key] += [number]
    elif how == "all":
        everything = plain(lists)
        for other in _family(key):
            yield "read", other, everything.get(other, [])
    elif how == "items":
        found = {other: list(values) for other, values in lists.items()}
        for other in _family(key):
            yield "read", other, found.get(other, [])
    else:
        yield "read", key, _read(lists.get(key), how)


def _read(values: Any, how: str) -> list[int]:
    if values is None:
        return []
    if how == "copy":
        return plain(values.copy())
    if how == "slice":
        return [*values[:1], *values[1:]]
    if how == "by index":
        return [values[index] for index in range(len(values))]
    if how == "backwards":
        return list(reversed(list(reversed(values))))
    if how == "plain":
        return plain(values)
    if how == "in":  # every presence asked for one by one, and the order by index()
        return sorted((number for number in plain(values) if number in values), key=values.index)
    return list(values)


def _family(key: str) -> list[str]:
    """All lists of the same history."""
    return [key[:-1] + letter for letter in "xyz"]


# --- bodies ---

_turns = itertools.count(ATTEMPTS)  # of all that ran inside commits


def _steps(ctx: Context[Lists], script: Script, turn: int | None = None) -> Iterator[None]:
    """Do a script action by action; between two of them others may run."""
    for action in script:
        how, what, number = action
        if how == "send":
            ctx.send(in_commit, script=what, place=number)
        elif how == "fail":
            raise OnPurpose
        elif how != "wait":
            for seen in act(ctx.domain, action, turn or ctx.attempt):
                ctx.report(seen)
        for _ in range(1 if how != "wait" else number):
            yield


@process
async def on_loop(ctx: Context[Lists], script: Script) -> int:
    for _ in _steps(ctx, script):
        await asyncio.sleep(0)
    return ctx.attempt


@process(environment="thread")
def in_thread(ctx: Context[Lists], script: Script) -> int:
    for _ in _steps(ctx, script):
        time.sleep(0)  # lets go of the GIL
    return ctx.attempt


@process(environment="inline")
def inline(ctx: Context[Lists], script: Script) -> int:
    for _ in _steps(ctx, script):
        pass
    return ctx.attempt


@process(environment="worker")
def in_worker(ctx: Context[Lists], script: Script) -> int:
    for _ in _steps(ctx, script):
        pass
    return ctx.attempt


@process(environment="worker")
async def on_worker_loop(ctx: Context[Lists], script: Script) -> int:
    for _ in _steps(ctx, script):
        await asyncio.sleep(0)
    return ctx.attempt


@process(exclusive=["lists"])
async def in_turn(ctx: Context[Lists], script: Script) -> int:
    for _ in _steps(ctx, script):
        await asyncio.sleep(0)
    return ctx.attempt


@process(nature="state")
def in_commit(ctx: Context[Lists], script: Script, place: int = 0) -> int:
    ctx.report(("starts", place, None))
    for _ in _steps(ctx, script, next(_turns)):
        pass
    return ctx.attempt


PLACES: dict[str, Process[Any, Any]] = {
    "loop": on_loop,
    "thread": in_thread,
    "inline": inline,
    "worker": in_worker,
    "worker loop": on_worker_loop,
    "turn": in_turn,
    "commit": in_commit,
}
MIXED = ("loop", "loop", "thread", "thread", "inline", "commit", "turn")

# --- a plan ---


@dataclass
class Plan:
    """One call that is to be made. ``stop_at``: cancel it at its so manyeth report, 0 at once; "conflict"; None: never."""

    id: str
    place: str
    script: Script
    door: str
    stop_at: int | str | None = None


class Planner:
    """Makes random calls over three lists whose names begin with ``name``."""

    def __init__(self, rng: random.Random, name: str) -> None:
        self.rng = rng
        self.name = name
        self.numbers = itertools.count(SPACE, SPACE)

    def plans(self, places: tuple[str, ...], count: int) -> list[Plan]:
        return [self.plan(f"{self.name}.{number}", self.rng.choice(places)) for number in range(count)]

    def plan(self, name: str, place: str) -> Plan:
        rng = self.rng
        script = self.actions(6)
        messages = itertools.count(1 if place == "commit" else 0)
        if rng.random() < 0.25:
            for _ in range(rng.randrange(1, 3)):
                self.put(script, self.message(messages))
            if rng.random() < 0.5 and place != "commit":  # a sender that only reads
                script = [action for action in script if action[0] not in APPENDS]
        if rng.random() < 0.15:
            self.put(script, ("fail", None, 0))
        if rng.random() < 0.5:
            self.put(script, ("wait", None, rng.randrange(1, 12)))
        door = rng.choice(["run", "run", "block", "arun", "arun", "here", "here", "there", "there"])
        stops = door in ("here", "there") and rng.random() < 0.3
        return Plan(name, place, tuple(script), door, rng.choice(["conflict", 0, 1, 2, 3, 4]) if stops else None)

    def message(self, places: Iterator[int]) -> Action:
        """A message, which may send another; ``places`` counts those of one commit."""
        rng, place = self.rng, next(places)
        script = self.actions(4)
        if rng.random() < 0.2:
            self.put(script, self.message(places))
        if rng.random() < 0.1:
            self.put(script, ("fail", None, 0))
        return "send", tuple(script), place

    def actions(self, most: int) -> list[Action]:
        rng = self.rng
        return [
            (rng.choice(APPENDS if rng.random() < 0.5 else READS), f"{self.name}.{rng.choice('xxyz')}", number)
            for _, number in zip(range(rng.randrange(1, most)), self.numbers, strict=False)
        ]

    def put(self, script: list[Action], action: Action) -> None:
        """Somewhere into the script; messages keep their order."""
        sent = [index for index, other in enumerate(script) if other[0] == "send"]
        least = sent[-1] + 1 if sent and action[0] == "send" else 0
        script.insert(self.rng.randrange(least, len(script) + 1), action)


# --- what happened ---


class Journal:
    """An observer: notes what every attempt told, and cancels the runs that are to be cancelled."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told: dict[str, dict[int, list[tuple[bool, Any]]]] = {}  # run -> attempt -> in a commit?, operation
        self.conflicts = 0
        self.stops: dict[str, int | str] = {}
        self._runs: dict[str, Run[Any]] = {}
        self._due: set[str] = set()

    def tell(self, name: str, attempt: int, op: Any, *, in_a_commit: bool = False) -> None:
        """Note what an attempt of a run did."""
        self._told.setdefault(name, {}).setdefault(attempt, []).append((in_a_commit, op))

    def __call__(self, event: Event) -> None:
        with self._lock:
            if isinstance(event, Reported):
                self.tell(event.run_id, event.attempt, event.value, in_a_commit=event.process == in_commit.name)
                stop = self.stops.get(event.run_id)
                if isinstance(stop, int):
                    self.stops[event.run_id] = stop - 1
                    if stop <= 1:
                        self._stop(event.run_id)
            elif isinstance(event, CallConflicted):
                self.conflicts += 1
                if self.stops.get(event.run_id) == "conflict":
                    self._stop(event.run_id)

    def follow(self, run: Run[Any]) -> None:
        """Know the handle of a run; it may have told something already."""
        with self._lock:
            self._runs[run.id] = run
            if run.id in self._due or self.stops.get(run.id) == 0:
                run.cancel()

    def _stop(self, name: str) -> None:
        run = self._runs.get(name)
        if run is not None:
            if not run.done():  # a thread that was let go of goes on telling
                run.cancel()
        else:
            self._due.add(name)

    def attempts(self, name: str) -> dict[int, list[tuple[bool, Any]]]:
        """What each attempt of a run told, in order, and whether from inside its commit."""
        with self._lock:  # a thread that was let go of may still be telling
            return {attempt: list(told) for attempt, told in sorted(self._told.get(name, {}).items())}


def _parts(told: list[tuple[bool, Any]]) -> tuple[list[Any], list[list[Any]]]:
    """What an attempt did by itself, and what ran inside its commit, each time that it was tried."""
    alone: list[Any] = []
    turns: list[list[Any]] = []
    for in_a_commit, op in told:
        if op[0] != "starts":
            (turns[-1] if in_a_commit else alone).append(op)
        elif op[1] == 0:
            turns.append([])
    return alone, turns


@dataclass
class Ended:
    """A call from its client's side. ``attempt``: the one that was committed; None: it was rolled back, by ``error``."""

    plan: Plan
    began: float
    ended: float
    attempt: int | None
    error: BaseException | None = None

    @property
    def how(self) -> str:
        if self.error is None:
            return "committed"
        if isinstance(self.error, asyncio.CancelledError):
            return "cancelled"
        return "failed" if isinstance(self.error, OnPurpose) else "failed by mistake"


def execute(
    engine: Engine[Lists], journal: Journal, plans: list[Plan], name: str
) -> tuple[list[Ended], list[Observed]]:
    """Make all calls at once, each through its door; gives how they ended, and a look at the state after each."""
    journal.stops.update({plan.id: plan.stop_at for plan in plans if plan.stop_at is not None})
    ended: list[Ended] = []
    looks: list[Observed] = []
    failures: list[BaseException] = []
    go = threading.Event()

    def note(plan: Plan, began: float, answer: Callable[[], int]) -> None:
        attempt = error = None
        try:
            attempt = answer()
        except (Exception, asyncio.CancelledError) as raised:
            error = raised
        ended.append(Ended(plan, began, time.perf_counter(), attempt, error))
        looks.append(look(engine, name, f"a look after {plan.id}"))

    def in_a_thread(mine: list[Plan]) -> None:
        go.wait(LIMIT)
        for plan in mine:
            begin = partial(engine.run, PLACES[plan.place], plan.script, run_id=plan.id)
            note(plan, time.perf_counter(), begin if plan.door == "run" else partial(in_a_block, engine, journal, plan))

    async def call(plan: Plan) -> None:
        began, work = time.perf_counter(), None
        if plan.door == "here":
            work = engine.submit(PLACES[plan.place], plan.script, run_id=plan.id)
            journal.follow(work)
        else:
            work = asyncio.ensure_future(engine.arun(PLACES[plan.place], plan.script, run_id=plan.id))
        (answer,) = await asyncio.gather(work, return_exceptions=True)

        def give() -> int:
            if isinstance(answer, BaseException):
                raise answer
            return answer

        note(plan, began, give)

    async def on_a_loop(mine: list[Plan]) -> None:
        await asyncio.wait_for(asyncio.gather(*[call(plan) for plan in mine]), LIMIT)

    def guarded(work: Callable[..., Any], *args: Any) -> threading.Thread:
        def body() -> None:
            try:
                work(*args)
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=body)
        thread.start()
        return thread

    blocking = [plan for plan in plans if plan.door in ("run", "block")]
    looping = [plan for plan in plans if plan.door in ("arun", "here")]
    threads = [guarded(in_a_thread, blocking[part::2]) for part in range(2)]
    threads.append(guarded(lambda: asyncio.run(on_a_loop(looping))))
    go.set()
    submitted = []
    for plan in plans:
        if plan.door == "there":
            began = time.perf_counter()
            run = engine.submit(PLACES[plan.place], plan.script, run_id=plan.id)
            journal.follow(run)
            submitted.append((plan, began, run))
    for plan, began, run in submitted:
        note(plan, began, partial(run.result, LIMIT))
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return ended, [*looks, look(engine, name, "the end")]


def in_a_block(engine: Engine[Lists], journal: Journal, plan: Plan) -> int:
    """A script without messages and without a process."""
    try:
        with engine.transaction() as domain:
            for action in plan.script:
                if action[0] == "fail":
                    raise OnPurpose
                if action[0] in READS or action[0] in APPENDS:
                    for op in act(domain, action, 1):
                        journal.tell(plan.id, 1, op)
                time.sleep(0)
    except ConflictError:
        raise OnPurpose from None  # a block is not run again
    return 1


def look(engine: Engine[Lists], name: str, who: str) -> Observed:
    """All lists as ``engine.state`` shows them."""
    began = time.perf_counter()
    state = plain(engine.state.lists)
    reads = [("read", key, state.get(key, [])) for key in _family(f"{name}.x")]
    return Observed(who, reads, True, began, time.perf_counter())


def observe(journal: Journal, calls: list[Ended]) -> list[Observed]:
    """What the calls did, attempt by attempt."""
    history = []

    def add(who: str, ops: list[Any], call: Ended | None, own: set[int]) -> None:
        if call is not None and ops:
            history.append(Observed(who, ops, True, call.began, call.ended))
        elif ops:
            history.append(Observed(who, ops, False))
            reads = [("read", key, [n for n in value if n not in own]) for kind, key, value in ops if kind == "read"]
            history.append(Observed(f"{who}, its reads", reads))

    for call in calls:
        for attempt, told in journal.attempts(call.plan.id).items():
            alone, turns = _parts(told)
            who = f"{call.plan.id} ({call.plan.place}, attempt {attempt})"
            own = {op[2] for ops in (alone, *turns) for op in ops if op[0] == "append"}
            made = call if attempt == call.attempt else None
            last: list[Any] = turns.pop() if made and turns else []
            for turn, ops in enumerate(turns, 1):
                add(f"{who} in the commit, turn {turn}", ops, None, own)
            if made and any(op[0] == "append" for op in alone):
                alone += last  # one commit: nothing comes between, nobody sees one without the other
            elif last:
                add(f"{who} in the commit", last, made, own)
            add(who, alone, made, own)
    return history
