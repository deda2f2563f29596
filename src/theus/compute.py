"""``ctx.compute``: a plain function on another core, from inside an ``async def``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from theus.errors import DefinitionError, EnvironmentBroken, NotTransferable
from theus.moves import leave_interpreters
from theus.placement import on_another_core, place
from theus.processes import Process
from theus.protocols import Call
from theus.schedule import Position

if TYPE_CHECKING:
    from theus.attempt import Attempts
    from theus.engine import Engine
    from theus.identity import Remembered
    from theus.nature import Profile
    from theus.protocols import Outcome


async def compute(attempts: Attempts, call: Call, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Run ``function(*args)`` for ``call``; gives what it returned, or raises what it raised.

    It is a call without a state: it reads nothing and commits nothing. In an engine with ``debug=True`` it runs in place.
    """
    engine = attempts.engine
    process = _process(function, engine.computed, call)
    process.check_arguments(args, {})
    profile = engine.profile(process)
    position = Position(call.key, process.name)
    inner = Call(process, args, {}, None, None, None, call.attempt, position, call.deadline, attempts)
    outcome = await _run(engine, process, profile, inner)
    profile.add(outcome)
    try:
        if outcome.error is not None:
            raise outcome.error
        return outcome.value
    finally:
        del outcome, inner, args  # the traceback keeps this frame, not what it saw


async def _run(engine: Engine[Any], process: Process[Any, Any], profile: Profile, call: Call) -> Outcome:
    while True:
        if engine.debug or process.nature == "cpu":  # it says where it computes, and explain says the same
            placement = place(process, blocking=False, debug=engine.debug, known=profile.known())
        else:
            placement = on_another_core(process, profile.known(), "ctx.compute: on another core")
        try:
            return await engine.environment(placement.environment).run(call)
        except (EnvironmentBroken, NotTransferable) as failure:
            if not leave_interpreters(engine, process, profile, placement, failure):
                raise


def _process(function: Callable[..., Any], known: Remembered[int, Process[Any, Any]], call: Call) -> Process[Any, Any]:
    """The function as a process, the same each time: workers know it then."""
    process = known.get(id(function))
    if process is None or function not in (process, process.fn):
        process = function if isinstance(function, Process) else Process(function, nature="cpu")
        if process.is_async or process.is_source or process.takes_context:
            kind = "async def" if process.is_async else "a generator" if process.is_source else "a function with ctx"
            raise DefinitionError(
                f"ctx.compute in process {call.process.name!r} takes a plain function, which another core can run by itself; "
                f"{process.name!r} is {kind}. Give a def that takes what it needs as arguments."
            )
        known.keep(id(function), process)
    return process
