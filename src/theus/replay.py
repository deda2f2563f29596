"""Replay: one recorded call again, on the snapshot and with the value that it had. Nothing is committed."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any, NoReturn

from theus.attempt import Attempts
from theus.environments.runner import execute, execute_async
from theus.errors import DefinitionError, NotStorable
from theus.journal import CALLS, Journal, arguments_of, entry_of, logged
from theus.protocols import Record
from theus.records import unpack
from theus.run import Run
from theus.schedule import NOTHING, Position, walk
from theus.stores.replica import Replica
from theus.workflow import as_step, leaves

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from theus.engine import Engine
    from theus.processes import Process
    from theus.protocols import Call, Outcome, Version
    from theus.stores.past import Past
    from theus.workflow import Branch, Repeat


class Replayed:
    """What a call did this time."""

    def __init__(self, outcome: Outcome, version: int, recorded: Any, same: bool) -> None:
        self.outcome = outcome
        self.version = version  #: of the snapshot that it ran on
        self.recorded = recorded  #: what it gave then; NOTHING: it is not recorded
        self.same = same  #: whether it gave the same now


def replay(
    engine: Engine[Any],
    run_id: str,
    step: str,
    target: Any,
    at_fault: Callable[[Exception], None] | None = None,
) -> Replayed:
    """Run the call of that key (with or without the run's id before it) again, inline and in this thread.

    The workflow is walked as when a run goes on: what comes before the call is answered from its records, sources are
    pulled again. What ``ctx.once`` and waits kept is there, too. Of a run that is done, the log of the store still tells,
    as far as it is kept. A call that is not recorded, because it failed, runs on the newest state.

    ``at_fault`` is called with what the body raised while the call still stands: ``ctx.domain`` and ``ctx.local`` can be looked at.

    Raises:
        DefinitionError: there is no such run or call, or what it ran with is not kept any more.
    """
    store = engine.store
    if not isinstance(store, Replica):
        raise DefinitionError("calls can be replayed from SQLite, Redis and PostgreSQL only: other stores keep no log.")
    args, kwargs = arguments_of(engine, run_id, target)
    past = store.past()
    known: dict[tuple[str, str], tuple[Version | None, Record]] = {**logged(past, run_id)}
    for kind in CALLS:
        for record in store.records(kind, f"{run_id}/"):
            version, _ = known.get((kind, record.key), (None, None))
            known[kind, record.key] = version, record
    run: Run[Any] = Run(as_step(target), "", 0, run_id)
    run.blocking = True
    wanted = step if step.startswith(f"{run_id}/") else f"{run_id}/{step}"
    journal = Journal.read(engine, run, (record for _, record in known.values()))
    entry = entry_of(store, run_id)
    is_done = entry is not None and entry.status == "done"
    attempts = _Again(engine, run, journal, past, wanted, known.get(("step", wanted)), at_fault, is_done=is_done)

    async def go() -> None:
        process = next(leaves(run.step))
        if run.step is process:
            await attempts.call(process, NOTHING, Position(run, process.name), (args, kwargs))
        else:
            attempts.start = kwargs
            await walk(run.step, args[0] if args else NOTHING, Position(None, run), attempts)

    try:
        asyncio.run(go())
    except _Reached as reached:
        return reached.found
    raise DefinitionError(
        f"run {run_id!r} has no call {step!r} that is kept: {past}. `theus show {run_id}` lists those that are."
    )


class _Reached(BaseException):
    """Ends the walk: no node may take it for a failure."""

    def __init__(self, found: Replayed) -> None:
        super().__init__()
        self.found = found


class _Unknown:
    """Stands for what a call gave of which nothing is recorded (any more). The walk goes on: who needs it says so."""

    def __init__(self, position: Position, past: Past) -> None:
        self._position = position
        self._past = past

    def refuse(self) -> NoReturn:
        raise DefinitionError(f"it ran with what {self._position} gave, which is not kept: {self._past}.")

    def __iter__(self) -> NoReturn:
        self.refuse()


class _Again(Attempts):
    """Answers every call from its record, and makes the one that is wanted."""

    __slots__ = ("at_fault", "knows_all", "past", "recorded", "wanted")

    def __init__(
        self,
        engine: Engine[Any],
        run: Run[Any],
        journal: Journal,
        past: Past,
        wanted: str,
        recorded: tuple[Version | None, Record] | None,
        at_fault: Callable[[Exception], None] | None,
        *,
        is_done: bool,
    ) -> None:
        super().__init__(engine, run, {}, journal)
        self.past = past
        self.wanted = wanted
        self.at_fault = at_fault
        self.recorded = recorded  #: the record of the wanted call, and the version that it came with
        begun = Record("owner", run.id, b"1")
        #: nothing that was recorded of the run is gone
        self.knows_all = not is_done or any(begun in entry.records for entry in past.entries)

    @property
    def in_order(self) -> bool:
        return True

    def overlap(self, node: Any) -> None:
        """One step after the other."""

    def test(self, node: Branch[Any, Any] | Repeat[Any, Any], value: Any, position: Position) -> bool:
        assert self.journal is not None
        answer = self.journal.answer_of(position)
        if answer is None:  # an answer comes with the next commit of its run, so nothing behind it is recorded
            if self.knows_all and self.recorded is not None:
                return False
            raise DefinitionError(
                f"the way to {self.wanted} is not known: what decides {position} is not kept: {self.past}."
            )
        return answer

    async def call(
        self, process: Process[Any, Any], value: Any, position: Position, given: Any = None, early: Any = None
    ) -> Any:
        journal = self.journal
        assert journal is not None
        args, kwargs = given or self._arguments(process, value)
        recorded = journal.result(process, position)
        if str(position) != self.wanted:
            return _Unknown(position, self.past) if recorded is NOTHING else recorded
        _refuse_unknown(value)
        call = self.make_call(process, args, kwargs, None if value is NOTHING else value, 1, position)
        then = b""
        if self.recorded is not None:
            version, record = self.recorded
            fields, (then,) = unpack(record.value or b"")
            # A state process runs in its commit: on what came just before it.
            call.snapshot = self.past.at(version - 1 if version and process.nature == "state" else fields["base"])
        call.kept = journal.kept(position)
        if self.at_fault is not None:
            call.process = _told_of(process, self.at_fault)
        outcome = await execute_async(call) if process.is_async else execute(call)
        assert call.snapshot is not None
        same = outcome.error is None and then == self._stored(process, outcome.value)
        raise _Reached(Replayed(outcome, call.snapshot.version, recorded, same))

    def _stored(self, process: Process[Any, Any], value: Any) -> bytes | None:
        try:
            return self.engine.codec.encode(value, process.hint("return"))
        except NotStorable:  # then it is another one than was recorded
            return None

    def keep(self, call: Call, key: str, value: Any) -> Awaitable[object] | None:
        return None

    def sleep_until(self, call: Call, label: str, when: float) -> Coroutine[Any, Any, None]:
        return self.engine.waits.sleep_until(None, call, label, when)

    def wait_for(self, call: Call, label: str, name: str, timeout: float | None) -> Coroutine[Any, Any, Any]:
        return self.engine.waits.wait_for(self.run.id, None, call, label, name, timeout)


def _told_of(process: Process[Any, Any], at_fault: Callable[[Exception], None]) -> Process[Any, Any]:
    """The process, but ``at_fault`` hears of what its body raises, inside of the call."""
    fn = process.fn

    @functools.wraps(fn)
    def told(*args: Any, **kwargs: Any) -> Any:
        try:
            return fn(*args, **kwargs)
        except Exception as error:
            at_fault(error)
            raise

    @functools.wraps(fn)
    async def told_async(*args: Any, **kwargs: Any) -> Any:
        try:
            return await fn(*args, **kwargs)
        except Exception as error:
            at_fault(error)
            raise

    copy = process.bind()
    copy.fn = told_async if process.is_async else told
    return copy


def _refuse_unknown(value: Any) -> None:
    """``parallel`` and ``each`` put together what their calls gave."""
    if isinstance(value, _Unknown):
        value.refuse()
    if type(value) in (list, tuple):
        for part in value:
            _refuse_unknown(part)
