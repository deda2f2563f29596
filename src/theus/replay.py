"""Replay: one recorded call again, on the snapshot and with the value that it had. Nothing is committed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from theus.attempt import Attempts
from theus.environments.runner import execute, execute_async
from theus.errors import DefinitionError, WorkflowChanged
from theus.journal import Journal, arguments_of, entry_of
from theus.run import Run
from theus.schedule import NOTHING, Position, walk
from theus.workflow import as_step, leaves

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine

    from theus.engine import Engine
    from theus.processes import Process
    from theus.protocols import Call, Outcome


class Replayed:
    """What a call did this time."""

    def __init__(self, outcome: Outcome, version: int, recorded: Any) -> None:
        self.outcome = outcome
        self.version = version  #: of the snapshot that it ran on
        self.recorded = recorded  #: what it gave then; NOTHING: it is not recorded


def replay(engine: Engine[Any], run_id: str, step: str, target: Any) -> Replayed:
    """Run the call of that key (with or without the run's id before it) again, inline and in this thread.

    The workflow is walked as when a run goes on: what comes before the call is answered from its records. What
    ``ctx.once`` and waits kept is there, too. A call that is not recorded, because it failed, runs on the newest state.

    Raises:
        DefinitionError: there is no such run or call, the run is done, or the version it ran on is not kept any more.
    """
    store = engine.store
    assert store is not None, "only an engine with a store keeps runs"
    entry = entry_of(store, run_id)
    args, kwargs = arguments_of(engine, run_id, target)
    assert entry is not None, "or it would have no arguments"
    if entry.status == "done":
        raise DefinitionError(
            f"run {run_id!r} is done: its result is kept, what its calls were made with is not. Calls of a run that failed, "
            "waits or goes on can be replayed."
        )
    run: Run[Any] = Run(as_step(target), "", 0, run_id)
    run.blocking = True
    wanted = step if step.startswith(f"{run_id}/") else f"{run_id}/{step}"

    async def go() -> Replayed:
        journal = await Journal.read(engine, run, entry)
        attempts = _Again(engine, run, journal, wanted)
        process = next(leaves(run.step))
        try:
            if run.step is process:
                await attempts.call(process, NOTHING, Position(run, process.name), (args, kwargs))
            else:
                attempts.start = kwargs
                await walk(run.step, args[0] if args else NOTHING, Position(None, run), attempts)
        except _Reached as reached:
            return reached.found
        except WorkflowChanged as unknown:
            raise DefinitionError(f"the way to {wanted} is not recorded: {unknown}") from None
        raise DefinitionError(f"run {run_id!r} has no call {step!r}; `theus show {run_id}` lists what is recorded.")

    return asyncio.run(go())


class _Reached(BaseException):
    """Ends the walk: no node may take it for a failure."""

    def __init__(self, found: Replayed) -> None:
        super().__init__()
        self.found = found


class _Again(Attempts):
    """Answers every call from its record, and makes the one that is wanted."""

    __slots__ = ("wanted",)

    def __init__(self, engine: Engine[Any], run: Run[Any], journal: Journal, wanted: str) -> None:
        super().__init__(engine, run, {}, journal)
        self.wanted = wanted

    @property
    def in_order(self) -> bool:
        return True

    def overlap(self, node: Any) -> None:
        """One step after the other."""

    async def call(
        self, process: Process[Any, Any], value: Any, position: Position, given: Any = None, early: Any = None
    ) -> Any:
        journal, store = self.journal, self.engine.store
        assert journal is not None
        assert store is not None
        args, kwargs = given or self._arguments(process, value)
        if str(position) != self.wanted:
            return journal.result(process, position)
        version = journal.base_of(self.wanted)
        recorded = NOTHING if version is None else journal.result(process, position)
        call = self._call(process, args, kwargs, None if value is NOTHING else value, 1, position)
        if version is not None:
            call.snapshot = store.history.snapshot_at(version, store.snapshot)
        call.kept = journal.kept(position)
        outcome = await execute_async(call) if process.is_async else execute(call)
        assert call.snapshot is not None
        raise _Reached(Replayed(outcome, call.snapshot.version, recorded))

    def keep(self, call: Call, key: str, value: Any) -> Awaitable[object] | None:
        return None

    def sleep_until(self, call: Call, label: str, when: float) -> Coroutine[Any, Any, None]:
        return self.engine.waits.sleep_until(None, call, label, when)

    def wait_for(self, call: Call, label: str, name: str, timeout: float | None) -> Coroutine[Any, Any, Any]:
        return self.engine.waits.wait_for(self.run.id, None, call, label, name, timeout)
