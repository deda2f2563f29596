"""One call to its end: snapshot, body, commit; conflict, retry, failure.

::

              ┌──────────── conflict: at once ────────────┐
              ▼                                           │
    snapshot ──> environment runs the body ──> commit ────┤
              ▲            │ raised               │ made  │ raised (a message, an invariant)
              │            ▼                      ▼       │
              └─ delay ── worth another attempt? <─────────┘
                              │ no             emits, then the value goes on
                              ▼
                          raised as it is

What can fail: the body, the closing of ``local``, the handing over of a value, a message, an invariant, the
environment. In every case nothing was committed. Handing the commit to the store is the point of no return.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from theus.clock import backoff
from theus.completion import Behind, Completion
from theus.compute import compute
from theus.context import running_attempt
from theus.doors import drive
from theus.environments.inline import TURN
from theus.environments.runner import open_source
from theus.errors import (
    CallTimeout,
    CommitUnknown,
    ConflictError,
    EnvironmentBroken,
    NotTransferable,
    Path,
    RunFenced,
)
from theus.events import (
    CallConflicted,
    CallEnded,
    CallRetried,
    CallStarted,
    ContractBroken,
    EachStarted,
    Emitted,
    Event,
    ProcessMoved,
    Reported,
    StateCommitted,
    WorkerLost,
)
from theus.moves import Trial, bring_back, look_again
from theus.overlap import Outlook
from theus.placement import SLOW, is_free
from theus.portal import Exiting
from theus.processes import Process
from theus.protocols import Call, Calls, Commit, Committed, Conflict, NotYet, Outcome, Record, Refused
from theus.schedule import NOTHING, Position
from theus.state.access import show
from theus.tickets import Ticket, touched
from theus.workflow import Branch, Each, Flow, Repeat

if TYPE_CHECKING:
    from theus.engine import Engine
    from theus.journal import Journal
    from theus.nature import Profile
    from theus.overlap import Early, Overlap
    from theus.placement import Placement
    from theus.protocols import Environment
    from theus.run import Run

log = logging.getLogger("theus")

_UNSENT = Outcome()  # of what runs in its commit, before that
NOTE = "in process "
HOT = 0.3  #: a process hotter than this queues for its contended paths at once
COOLING = 0.9  #: for each call behind which nobody queued
MOST_FOREIGN = 50  #: conflicts of one call with other engines on the same store, where no ticket helps
LONGEST_STEP_BACK = 0.05  #: seconds between them


class Attempts:
    """The hands of one run: makes its calls, one attempt after the other."""

    __slots__ = ("_turn", "engine", "journal", "run", "start")

    def __init__(
        self,
        engine: Engine[Any],
        run: Run[Any],
        start: Mapping[str, Any] = {},
        journal: Journal | None = None,
    ) -> None:
        self.engine = engine
        self.run = run
        self.start = start  #: keywords for the first process of the workflow
        self.journal = journal  #: of a durable run
        self._turn = 0.0  #: when the loop had its turn, as far as the run saw to it; counted from the first ``rest``

    @property
    def in_order(self) -> bool:
        return self.engine.debug

    # --- what the schedule asks for ---

    def source(self, process: Process[Any, Any], value: Any, position: Position) -> AsyncIterator[Any]:
        args, kwargs = self._arguments(process, value)
        call = self.make_call(process, args, kwargs, None if value is NOTHING else value, 1, position)
        source = open_source(call, self.engine.threads)
        return source if self.journal is None else self.journal.source(source, position)

    def test(self, node: Branch[Any, Any] | Repeat[Any, Any], value: Any, position: Position) -> bool:
        engine, journal = self.engine, self.journal
        answer = None if journal is None else journal.answer_of(position)
        if answer is None:
            try:
                answer = node.test(None if engine.store is None else engine.state, value)
            except Exception as error:
                given = "(domain)" if node.arity == 1 else "(domain, value)"
                error.add_note(f"in the predicate of {node.kind}, which takes {given}")
                raise
            if journal is not None:
                journal.note_answer(position, answer)
        return answer

    def fan_out(self, node: Each[Any, Any], total: int | None, position: Position) -> None:
        if self.listening:
            self.tell(EachStarted(**self._where(position), step=node.steps[0].name, total=total))

    def in_stable_order(self, items: set[Any] | frozenset[Any]) -> Iterable[Any]:
        return items if self.journal is None else self.journal.in_stable_order(items)

    def failed_before(self, position: Position) -> Exception | None:
        return None if self.journal is None else self.journal.failed_before(position)

    def collected(self, error: Exception, position: Position) -> None:
        if self.journal is not None:
            self.journal.note_failure(error, position)

    async def rest(self) -> None:
        if self.run.blocking:
            return
        now, turn = time.perf_counter(), self._turn
        if not turn:
            self._turn = now
        elif now - turn > TURN:
            await asyncio.sleep(0)
            if self._turn == turn:  # of those that rested together the first begins anew; the others rest again soon
                self._turn = time.perf_counter()

    async def pace(self, interval: float, last: float | None, position: Position) -> float | None:
        if self.journal is not None and self.journal.knows(position):
            return last
        now = self.engine.clock.now()
        # From when it was due, not from when it woke: or each item would be later than the one before by what a wait
        # takes longer than it should.
        due = now if last is None else max(now, last + interval)
        if due > now:
            await self._sleep(due - now)
        return due

    async def _sleep(self, seconds: float) -> None:
        if self.run.blocking:
            self.engine.clock.block(seconds)
        else:
            await self.engine.clock.sleep(seconds)

    # --- items that go at once ---

    def at_once(self, process: Process[Any, Any], left: int, limit: int | None) -> int:
        engine = self.engine
        if process.takes_context or process.timeout is not None or process.retries or process.contract.exclusive:
            return 1
        if self.in_order or self.journal is not None or self.start or not engine.strict:
            return 1
        profile = engine.profiled.get(process.root.definition) or engine.profile(process)
        if profile.calls >= profile.measure_at:
            return 1
        environment: Any = (profile.homes.get(False) or engine.settle(profile, process, False))[1]
        at_once = getattr(environment, "at_once", None)  # only where calls are sent away
        if at_once is None or (limit is not None and limit < environment.capacity):  # those of a batch may part
            return 1
        number: int = min(at_once(process), left)
        return max(1, number)

    async def call_many(
        self,
        process: Process[Any, Any],
        values: Sequence[Any],
        position: Position,
        first: int,
        settle: Callable[[int, Any, Exception | None], bool],
    ) -> None:
        profile = self.engine.profile(process)
        environment: Any  #: a ``Batching`` one, or ``at_once`` had said 1
        placement, environment = profile.homes[False]
        kwargs = process.bound
        is_given = process.pipe_parameter is not None and process.pipe_parameter not in kwargs

        def make(place: int, args: tuple[Any, ...]) -> Call:
            return self.make_call(process, args, kwargs, None, 1, Position(position, first + place))

        calls = Calls(make, [(value,) for value in values] if is_given else [()] * len(values), kwargs)
        listeners = self.run.listeners
        again: list[int] = []  #: their process moves back here
        failure: Exception | None = None

        def take(place: int, outcome: Outcome) -> bool:
            nonlocal failure
            error = outcome.error
            if error is None and not listeners:
                profile.add(outcome)
                return settle(first + place, outcome.value, None)
            call = calls[place]
            if error is not None and bring_back(self, process, profile, placement, error):
                again.append(place)
                return True
            profile.add(outcome)
            if listeners:
                self._tell_end(call, placement, outcome)
            if error is None:
                return settle(first + place, outcome.value, None)
            _note(error, call, placement)
            carried = error if isinstance(error, Exception) else Exiting(error)
            if settle(first + place, None, carried):
                return True
            failure = carried
            return False

        if listeners:
            for place in range(len(values)):
                self._tell_start(calls[place], placement)
        try:
            await environment.run_many(calls, take)
            if failure is not None:
                raise failure
            for place in again:
                try:
                    value = await self.call(process, values[place], Position(position, first + place))
                except Exception as error:
                    if not settle(first + place, None, error):
                        raise
                else:
                    settle(first + place, value, None)
        finally:
            # The traceback keeps this frame: it must not keep the failed step's values.
            del failure, values
            calls.forget()

    # --- steps that start before their turn ---

    def overlap(self, node: Flow[Any, Any]) -> Overlap | None:
        if self.in_order or self.run.blocking:
            return None
        overlap = self.engine.overlap(node)
        return overlap if overlap.is_possible else None

    def outlook(self, process: Process[Any, Any], position: Position) -> Outlook:
        engine = self.engine
        profile = engine.profiled.get(process.root.definition) or engine.profile(process)
        placement, environment = profile.homes.get(False) or engine.settle(profile, process, False)
        # Inline it would hold up all others; hot, it would probably be in vain.
        may_begin = placement.environment != "inline" and profile.heat <= HOT
        if self.journal is not None and self.journal.knows(position):
            may_begin = False  # it was made before the run was resumed: its record is the answer
        return Outlook(placement, environment, profile, may_begin)

    def begin(
        self, process: Process[Any, Any], early: Early, outlook: Outlook, ended: Callable[[], None] | None
    ) -> None:
        profile = outlook.profile
        call = self.make_call(process, (), process.bound, NotYet, 1, early.position)
        if self.journal is not None:
            call.kept = self.journal.kept(early.position)
        if profile.calls >= profile.measure_at:
            call.meter = profile.meter(self.engine.meters)
        if self.listening:
            self._tell_start(call, outlook.placement)
        early.begin(call, outlook.environment, ended)

    async def _take_up(self, early: Early, profile: Profile) -> int:
        """The turn of a call that was begun early: whether that attempt counts. Gives how many were made in vain."""
        failure = await early.settle()
        if failure is None:
            return 0
        assert early.call is not None
        if isinstance(failure, Conflict):
            self._tell_conflict(early.call, failure, profile)
        elif self.listening:
            self._tell_retry(early.call, 0.0, failure)
        return 1

    def _arguments(self, process: Process[Any, Any], value: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        kwargs = process.bound
        if self.start:
            kwargs, self.start = {**kwargs, **self.start}, {}
        if value is NOTHING or process.pipe_parameter is None or process.pipe_parameter in kwargs:
            return (), kwargs
        return (value,), kwargs

    # --- one call ---

    async def call(
        self,
        process: Process[Any, Any],
        value: Any,
        position: Position,
        given: tuple[tuple[Any, ...], dict[str, Any]] | None = None,
        early: Early | None = None,
    ) -> Any:
        """Run a process until it is committed; gives what it returned, or raises what the last attempt raised.

        One coroutine and not several: ten thousand calls that wait keep ten thousand of each.
        """
        engine, run, journal = self.engine, self.run, self.journal
        store = engine.store
        args, kwargs = given or self._arguments(process, value)
        if journal is not None and (recorded := journal.result(process, position)) is not NOTHING:
            return recorded
        if value is NOTHING:
            value = None
        profile = engine.profiled.get(process.root.definition) or engine.profile(process)
        environment: Environment | Early
        placement, environment = profile.homes.get(run.blocking) or engine.settle(profile, process, run.blocking)
        is_new = not profile.recent and environment is engine.threads and is_free(process) and running_attempt() is None
        if is_new and profile.trial is not None and not profile.trial.done():
            await asyncio.wait([asyncio.wrap_future(profile.trial)])
            placement, environment = profile.homes[False]
        attempt = failures = foreign = 0
        kept = None if journal is None else journal.kept(position)
        if early is not None:
            early.environment, environment = environment, early
            if early.begun:
                attempt = await self._take_up(early, profile)
                kept = early.kept or kept
        ticket = None
        if (profile.heat > HOT or process.contract.exclusive) and (early is None or early.held is None):
            ticket = self._first_ticket(process, args, kwargs, profile)
        in_commit = process.nature == "state" and store is not None
        trial = Trial(engine, profile) if is_new and profile.trial is None else None
        try:
            while True:
                attempt += 1
                if ticket is not None and not ticket.ready:
                    await self._wait_for(ticket, profile)
                if early is not None and early.held is not None:  # this attempt was made before its turn
                    assert early.call is not None
                    call = early.call
                else:
                    call = self.make_call(process, args, kwargs, value, attempt, position)
                    if kept is not None:
                        call.kept = kept
                    if ticket is not None:
                        call.holds_ticket = True
                    if profile.calls >= profile.measure_at:
                        call.meter = profile.meter(engine.meters)
                    if run.listeners:
                        self._tell_start(call, placement)
                if in_commit:
                    outcome = _UNSENT  # a message without a sender: it runs in the commit, and there only
                else:
                    try:
                        outcome = await environment.run(call)
                    except (CallTimeout, EnvironmentBroken, NotTransferable) as failure:
                        outcome = Outcome(error=failure)
                    if outcome.kept:
                        kept = outcome.kept
                    if journal is not None and kept:
                        await journal.keep_rest(call, kept)
                    if outcome.error is not None and bring_back(self, process, profile, placement, outcome.error):
                        placement, environment = profile.homes[run.blocking]
                        continue
                if outcome.error is None and (
                    outcome.ops
                    or outcome.messages
                    or in_commit
                    or journal is not None
                    or (outcome.emits and _keeps(outcome))
                ):
                    assert store is not None, "only a call with a domain has something to commit"
                    if engine.tickets.queues:
                        again, ticket = await self._give_way(process, outcome, ticket, profile)
                        if again:
                            continue
                    result: Committed | Conflict | Refused | None = None
                    completion = None
                    started = 0.0
                    while result is None and outcome.error is None:
                        if run.listeners:
                            started = time.perf_counter()
                        try:
                            if in_commit or outcome.messages or engine.invariants:
                                completion = Completion(self, call, None if in_commit else outcome, ticket)
                            commit = self._commit(call, outcome, completion)
                            result = await store.commit(commit, blocking=run.blocking)
                            if journal is not None:
                                journal.made(commit.records, result)
                            if completion is not None and type(result) is Committed:
                                assert completion.outcome is not None, "what is committed was completed"
                                outcome = completion.outcome
                        except Behind as behind:  # what the messages write is known only now
                            ticket = self._queue(process, behind.paths, ticket)
                            await self._wait_for(ticket, profile)
                        # A new outcome: the frames of the error keep the old one.
                        except Exiting as carried:
                            outcome = replace(outcome, error=carried.error)
                        except Exception as failure:
                            outcome = replace(outcome, error=failure)
                    if type(result) is Conflict:
                        foreign += ticket is not None and result.path in ticket.paths  # nobody here may write it now
                        if foreign < MOST_FOREIGN:
                            ticket = self._queue_up(call, outcome, ticket, result, profile)
                            if foreign:
                                await self._sleep(random.uniform(0, min(LONGEST_STEP_BACK, 0.001 * 2**foreign)))
                            continue
                        outcome = replace(outcome, error=_outrun(call, result))
                    if run.listeners and type(result) is Committed and result.ops:
                        self._tell_commit(call, result, time.perf_counter() - started)
                profile.add(outcome)
                if not engine.strict:
                    self._observe(call, outcome, profile)
                if run.listeners:
                    self._tell_end(call, placement, outcome)
                if outcome.error is None:
                    if outcome.emits:
                        self._deliver(call, outcome)
                    if call.meter is not None or (outcome.wall > SLOW and placement.environment == "inline"):
                        await look_again(self, call, outcome, profile, placement)
                    return outcome.value
                if failures < process.retries and _worth_another(process, outcome.error):
                    if ticket is not None:  # nobody waits behind a call that waits itself
                        ticket.release()
                        ticket = None
                    await self._pause(call, failures, outcome.error)
                    failures += 1
                    continue
                error = outcome.error
                _note(error, call, placement)
                try:
                    raise error if isinstance(error, Exception) else Exiting(error)
                finally:
                    # The traceback keeps this frame: it must not keep the failed step's values.
                    del outcome, error, call, args, kwargs, value
        finally:
            if trial is not None:
                trial.end()
            if ticket is not None and not ticket.release():
                profile.heat *= COOLING

    async def _pause(self, call: Call, failures: int, error: BaseException) -> None:
        delay = backoff(failures)
        if self.listening:
            self._tell_retry(call, delay, error)
        await self._sleep(delay)

    def _observe(self, call: Call, outcome: Outcome, profile: Profile) -> None:
        """With ``strict=False``: note what the call touched, and report what broke its contract instead of raising it."""
        if outcome.error is None and call.process.nature != "state":  # what runs in the commit is noted there
            profile.touched.add(call, outcome)
        for violation in outcome.violations:
            if profile.touched.first_time(violation.path):
                log.warning("%s", violation)
            if self.listening:
                self.tell(
                    ContractBroken(
                        **self._where(call.key), process=violation.process, path=violation.path, message=str(violation)
                    )
                )

    # --- tickets ---

    def _first_ticket(
        self, process: Process[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any], profile: Profile
    ) -> Ticket | None:
        """What a call queues for before its first attempt: its ``exclusive`` paths, and paths known to be contended."""
        paths: set[Path] = set()
        if process.contract.exclusive:
            paths = _before_star(process.contract.tickets(process.arguments(args, kwargs)))
        if profile.heat > HOT:
            paths |= profile.hot
        return self.engine.tickets.request(paths, process.name) if paths else None

    async def _wait_for(self, ticket: Ticket, profile: Profile) -> None:
        started = time.perf_counter()
        try:
            await ticket.turn(blocking=self.run.blocking)
        finally:
            profile.waited += time.perf_counter() - started

    async def _give_way(
        self, process: Process[Any, Any], outcome: Outcome, ticket: Ticket | None, profile: Profile
    ) -> tuple[bool, Ticket | None]:
        """Before a commit: wait behind those who queue for what it writes. Gives whether the body has to run again."""
        blocked = self.engine.tickets.in_the_way([op[1] for op in outcome.ops], ticket)
        if blocked is None:
            return False, ticket
        again = ticket is not None  # whoever holds some lets go of all, and starts anew with the larger set
        ticket = self._queue(process, {*touched(outcome.reads, outcome.ops), blocked}, ticket)
        if not again:
            try:
                await self._wait_for(ticket, profile)
            except BaseException:  # cancelled while it waited: nobody else knows of this ticket yet
                ticket.release()
                raise
        return again, ticket

    def _queue_up(
        self, call: Call, outcome: Outcome, ticket: Ticket | None, conflict: Conflict, profile: Profile
    ) -> Ticket:
        """After a conflict: the ticket with which the next attempt begins."""
        paths = {*touched(outcome.reads, outcome.ops), conflict.path}
        profile.heat = 1.0
        profile.hot = frozenset(paths)
        self._tell_conflict(call, conflict, profile)
        return self._queue(call.process, paths, ticket)

    def _tell_conflict(self, call: Call, conflict: Conflict, profile: Profile) -> None:
        profile.conflict(show(conflict.path), conflict.author)
        if self.listening:
            self.tell(
                CallConflicted(
                    **self._where(call.key),
                    process=call.process.name,
                    attempt=call.attempt,
                    path=show(conflict.path),
                    author=conflict.author,
                )
            )

    def _queue(self, process: Process[Any, Any], paths: set[Path], ticket: Ticket | None) -> Ticket:
        """A ticket for these paths too; the set only grows."""
        if ticket is not None:
            if paths <= ticket.paths:
                return ticket
            paths |= ticket.paths
            ticket.release()
        return self.engine.tickets.request(paths, process.name)

    # --- one attempt ---

    def make_call(
        self,
        process: Process[Any, Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        pipe: Any,
        attempt: int,
        position: Position,
    ) -> Call:
        engine = self.engine
        store = engine.store
        snapshot = None if store is None else store.snapshot
        deadline = None if process.timeout is None else engine.clock.now() + process.timeout
        return Call(
            process, args, kwargs, snapshot, engine.config, pipe, attempt, position, deadline, self, engine.strict
        )

    # --- the commit ---

    def _commit(self, call: Call, outcome: Outcome, completion: Completion | None) -> Commit:
        """What is asked of the store for an outcome."""
        ops, journal = outcome.ops, self.journal
        # A sender that wrote nothing itself is serialized at its snapshot, whatever it read.
        commit = Commit(outcome.base, outcome.reads if ops else (), ops, call.process.name)
        if completion is not None:
            commit.complete, commit.records = completion, completion.records
        elif outcome.emits or journal is not None:
            commit.records = self.records(call, outcome)
        if journal is not None:
            commit.expected = journal.expected
        return commit

    def records(self, call: Call, outcome: Outcome) -> Sequence[Record]:
        """What is recorded with a call, beside the state."""
        records = [] if self.journal is None else self.journal.records(call, outcome)
        return [*records, *self.engine.outbox.records(call, outcome)] if outcome.emits else records

    def _deliver(self, call: Call, outcome: Outcome) -> None:
        for number, (topic, value, durable) in enumerate(outcome.emits):
            deliver = self.engine.outbox.deliver if durable else self.engine.topics.deliver
            deliver(f"{call.key}#{number}", topic, value)
            if self.listening:
                self.tell(Emitted(**self._where(call.key), process=call.process.name, topic=topic, value=value))

    # --- what a running call asks for (Host) ---

    def report(self, call: Call, value: Any) -> None:
        if self.listening:
            self.tell(Reported(**self._where(call.key), process=call.process.name, attempt=call.attempt, value=value))

    def resource(self, name: str) -> Any:
        return self.engine.resource(name)

    async def off_loop(self, function: Callable[..., Any], *args: Any) -> Any:
        return await self.engine.threads.call(function, *args)

    async def compute(self, call: Call, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        return await compute(self, call, function, args)

    def keep(self, call: Call, key: str, value: Any) -> Awaitable[object] | None:
        if self.journal is None or call.process.nature == "state":
            return None
        if call.process.is_async:
            return self.journal.keep(call, key, value, blocking=False)
        drive(self.journal.keep(call, key, value, blocking=True))
        return None

    def sleep_until(self, call: Call, label: str, when: float) -> Coroutine[Any, Any, None]:
        return self.engine.waits.sleep_until(self.journal, call, label, when)

    def wait_for(self, call: Call, label: str, name: str, timeout: float | None) -> Coroutine[Any, Any, Any]:
        return self.engine.waits.wait_for(self.run.id, self.journal, call, label, name, timeout)

    def block(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.engine.waits.block(self.run, work, debug=self.engine.debug)

    # --- events ---

    @property
    def listening(self) -> bool:
        """Whether anybody wants events; if not, none is made."""
        return bool(self.run.listeners)

    def tell(self, event: Event) -> None:
        self.engine.tell(self.run, event)

    def _where(self, position: object) -> dict[str, Any]:
        return {"at": self.engine.clock.now(), "run_id": self.run.id, "key": str(position)}

    def _tell_start(self, call: Call, placement: Placement) -> None:
        self.tell(
            CallStarted(
                **self._where(call.key),
                process=call.process.name,
                attempt=call.attempt,
                environment=placement.environment,
                reason=placement.reason,
            )
        )

    def tell_moved(self, process: Process[Any, Any], before: Placement, after: Placement) -> None:
        """Say where a process runs from now on."""
        self.tell(
            ProcessMoved(
                **self._where(self.run.id),
                process=process.name,
                before=before.environment,
                after=after.environment,
                reason=after.reason,
            )
        )

    def _tell_retry(self, call: Call, delay: float, error: BaseException) -> None:
        self.tell(
            CallRetried(
                **self._where(call.key), process=call.process.name, attempt=call.attempt, delay=delay, error=repr(error)
            )
        )

    def _tell_commit(self, call: Call, committed: Committed, seconds: float) -> None:
        paths = tuple(dict.fromkeys(show(op[1]) for op in committed.ops))
        self.tell(
            StateCommitted(
                **self._where(call.key),
                process=call.process.name,
                version=committed.version,
                paths=paths,
                seconds=seconds,
            )
        )

    def _tell_end(self, call: Call, placement: Placement, outcome: Outcome) -> None:
        self.tell(
            CallEnded(
                **self._where(call.key),
                process=call.process.name,
                attempt=call.attempt,
                environment=placement.environment,
                place=outcome.place,
                wall=outcome.wall,
                cpu=outcome.cpu,
                error=None if outcome.error is None else repr(outcome.error),
            )
        )


def _before_star(paths: Iterable[Path]) -> set[Path]:
    """Where a pattern says ``*``, the whole container is queued for."""
    return {path[: path.index("*")] if "*" in path else path for path in paths}


def _keeps(outcome: Outcome) -> bool:
    """Whether something was emitted that is to be recorded."""
    return any(durable for _, _, durable in outcome.emits)


def _worth_another(process: Process[Any, Any], error: BaseException) -> bool:
    if isinstance(error, RunFenced):
        return False  # the run is somebody else's now
    if isinstance(error, (EnvironmentBroken, CommitUnknown)) and not process.idempotent:
        return False  # it may have run to its end, or be committed: only what may run twice runs again
    return isinstance(error, Exception) and isinstance(error, process.retry_on)


def _outrun(call: Call, conflict: Conflict) -> ConflictError:
    path = show(conflict.path)
    return ConflictError(
        f"process {call.process.name!r}: other engines on the same store changed {path} during each of its last "
        f"{MOST_FOREIGN} attempts (most recently {conflict.author!r}); nothing was committed. Make the part that reads and "
        "writes it shorter, change it by ctx.send to a state process, or let one engine do it.",
        paths=(path,),
        attempts=call.attempt,
    )


def _note(error: BaseException, call: Call, placement: Placement) -> None:
    """Say on the error where it happened; an error object that is raised again gets one note, not many."""
    notes = getattr(error, "__notes__", [])
    notes[:] = [note for note in notes if not note.startswith(NOTE)]
    again = f", attempt {call.attempt}" if call.attempt > 1 else ""
    error.add_note(f"{NOTE}{call.process.name!r}, call {call.key}{again}, run {placement.environment}")


def tell_of_lost_worker(call: Call, environment: str, exit_code: int | None) -> None:
    """Tell those who listen to a run that a worker was lost under one of its calls."""
    attempts = call.host
    if isinstance(attempts, Attempts) and attempts.listening:
        name = call.process.name
        where = attempts._where(call.key)
        attempts.tell(WorkerLost(**where, process=name, environment=environment, exit_code=exit_code))
