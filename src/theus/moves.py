"""After a measured call: does the process belong somewhere else now, and what would it cost to send it there?

The decision itself is pure and stands in ``placement.py``; here it is carried out.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

from theus.environments.in_turn import PATIENCE
from theus.errors import EnvironmentBroken, NotTransferable
from theus.events import Stalled
from theus.placement import CORES, OWN_LOOP, Placement, is_free, is_worth_asking, next_place, place
from theus.state.values import LEAF, kind_of
from theus.surroundings import IMMUTABLE, bound_to_loop, is_mutable
from theus.watchdog import BOUND

if TYPE_CHECKING:
    from theus.attempt import Attempts
    from theus.engine import Engine
    from theus.nature import Profile
    from theus.placement import Known
    from theus.processes import Process
    from theus.protocols import Call, Outcome
    from theus.watchdog import Stall

log = logging.getLogger("theus")

MOST_SEEN = 32  #: measured calls whose writes are noted, to say what a process changes
MOST_PLACES = 1000  #: that are told of
LOOK = 0.02  #: seconds after which a first call is seen to wait


class Trial:
    """The first call of a ``def``, on a running loop. Others that come meanwhile wait until it has ended, or is seen to wait.

    If many began at once and turned out to compute, an event loop beside them would get the interpreter's lock back after
    seconds; and if they may travel, that has to be known before they begin.
    """

    def __init__(self, engine: Engine[Any], profile: Profile) -> None:
        self._engine = engine
        self._profile = profile
        self._over: concurrent.futures.Future[None] = concurrent.futures.Future()
        profile.trial = self._over  # and not self, which would be a cycle
        self._began, self._computed = perf_counter(), process_time()
        self._timer = asyncio.get_running_loop().call_later(LOOK, self._look)

    def _look(self) -> None:
        """Does anybody compute?"""
        before, self._computed = self._computed, process_time()
        if self._computed - before < LOOK / 4:  # no more than what others leave it on a busy machine
            self.end()
        elif perf_counter() - self._began < PATIENCE:
            self._timer = asyncio.get_running_loop().call_later(LOOK, self._look)
        else:
            reason = f"def that has computed for {PATIENCE:g} s, as it seems: in a thread"
            self._engine.settle(self._profile, self._profile.process, False, Placement("thread", reason, in_turn=True))
            self.end()

    def end(self) -> None:
        """The others need not wait any more."""
        self._timer.cancel()
        if not self._over.done():
            self._over.set_result(None)


async def look_again(attempts: Attempts, call: Call, outcome: Outcome, profile: Profile, placement: Placement) -> None:
    """Take in a call that was measured, or that took long where it should be short; place its process anew."""
    process = call.process
    if call.meter is not None:
        profile.measure(outcome)
    if outcome.ops and attempts.engine.strict and profile.touched.calls < MOST_SEEN:  # else all of them are noted
        profile.touched.add(call, outcome)
    if attempts.run.blocking or attempts.engine.debug or not is_free(process):
        return
    profile.shares = profile.shares or any(map(_may_be_shared, _given(call)))
    if placement.environment == "inline" and outcome.wall > BOUND:
        profile.stalls += 1
    known = profile.known()
    if is_worth_asking(process, known):
        await _ask(attempts, call, outcome, profile, known.cpu)
        known = profile.known()
    settle_anew(attempts, process, profile, known)


async def _ask(attempts: Attempts, call: Call, outcome: Outcome, profile: Profile, limit: float) -> None:
    """Find out what it takes to send a call and its result, by packing them, off the loop.

    If it was given what can be changed, one call is watched before any is sent: the next one.

    Args:
        limit: seconds; what takes longer is not worth it, however long.
    """
    if not profile.witnessed and any(map(is_mutable, (*_given(call), call.pipe))):
        profile.witnessed, profile.measure_at = False, profile.calls
        return
    engine = attempts.engine
    snapshot = call.snapshot
    changes = snapshot is not None and engine.snapshot is not snapshot
    environment: Any = engine.environment("worker")
    try:
        profile.moved, profile.moving = await engine.threads.call(environment.rehearse, call, outcome, limit, changes)
    except NotTransferable as failure:
        profile.refused["worker"] = f"{failure.what} cannot be sent"


def bring_back(
    attempts: Attempts, process: Process[Any, Any], profile: Profile, used: Placement, failure: BaseException
) -> bool:
    """Whether a call failed only because of where its process was sent without being asked; then it is placed anew.

    Args:
        attempts: of the run.
        process: what was to run.
        profile: of the same.
        used: where it was sent.
        failure: what the call gave.
    """
    if used.environment not in CORES:
        return False
    if leave_interpreters(attempts.engine, process, profile, used, failure):
        return True
    if not isinstance(failure, NotTransferable) or not is_free(process):
        return False
    profile.refused["worker"] = f"{failure.what} cannot be sent"
    settle_anew(attempts, process, profile, profile.known())
    return True


def leave_interpreters(
    engine: Engine[Any], process: Process[Any, Any], profile: Profile, used: Placement, failure: BaseException
) -> bool:
    """Whether a call failed because the engine chose a sub-interpreter; then its process goes to worker processes from now on.

    One that was lost there may run again: it was seen to do nothing but compute.
    """
    if used.environment != "interpreter" or process.environment is not None or engine.is_closed:
        return False
    if isinstance(failure, NotTransferable) and not failure.ran:
        why = f"{failure.what}: {failure.reason}"
    elif isinstance(failure, EnvironmentBroken):
        why = "a call was lost there"
    else:
        return False
    if "interpreter" not in profile.refused:
        profile.refused["interpreter"] = why
        for blocking in list(profile.homes):
            engine.settle(profile, process, blocking)
    return True


def settle_anew(attempts: Attempts, process: Process[Any, Any], profile: Profile, known: Known) -> None:
    """Move the process if what is known of it says so, and it did not move too often lately."""
    engine = attempts.engine
    now = profile.homes[False][0]
    wanted = place(process, blocking=False, debug=False, known=known, now=now.environment)
    target = next_place(now.environment, wanted.environment, profile.calls - profile.moved_at)
    if target != wanted.environment:
        if target == now.environment:
            return
        wanted = Placement(target, f"changed its place lately, so not yet: {wanted.reason}")
    engine.settle(profile, process, False, wanted)
    if target != now.environment:
        profile.moved_at = profile.calls
        engine.learned.write_soon()
        if attempts.listening:
            attempts.tell_moved(process, now, wanted)


def note_stall(engine: Engine[Any], stall: Stall) -> None:
    """An event loop does not go on: count it against the process that holds it up, and say so once for each place."""
    call = stall.call
    name, run = "", None
    if call is not None:
        name = call.process.name
        profile = engine.profile(call.process)
        profile.stalls += 1
        if call.process.is_async:
            profile.homes.pop(False, None)  # decided anew with the next call
        run = getattr(call.host, "run", None)
    place = (name, stall.code)
    if place in engine.stalled_at or len(engine.stalled_at) >= MOST_PLACES:
        return
    engine.stalled_at.add(place)
    event = Stalled(
        at=engine.clock.now(),
        run_id="" if run is None else run.id,
        key="" if call is None else str(call.key),
        process=name,
        file=stall.code.co_filename,
        line=stall.line,
        function=stall.code.co_qualname,
        seconds=stall.seconds,
        advice=_advice(call, stall),
        stack=stall.stack,
    )
    who = f"process {name!r}" if name else "something that is no process"
    what = (
        "kept the interpreter's lock in a call of C, and so the event loop waiting,"
        if stall.elsewhere
        else "keeps the event loop waiting,"
    )
    log.warning(
        "%s %s for %.0f ms now: %s:%d in %s. %s",
        who,
        what,
        stall.seconds * 1e3,
        event.file,
        event.line,
        event.function,
        event.advice,
    )
    engine.tell(run, event)


def _advice(call: Call | None, stall: Stall) -> str:
    if call is None:
        return "If it computes, run it in a thread or as a process; if it waits, use what can be awaited."
    if stall.elsewhere:
        return "If it computes, nature='cpu' sends it to another core."
    if call.process.is_async:
        return (
            "If it computes there: await ctx.compute(function, ...). If it waits: use an async client, "
            "or await asyncio.to_thread(function, ...)."
        )
    return "It runs inline, on the loop: leave environment= and nature= out, and it goes to a thread or another core."


def may_change_loop(profile: Profile, call: Call) -> bool:
    """Whether nothing that a call was given belongs to its caller's loop; if so, its process stays there from now on."""
    for value in (*_given(call), call.pipe):
        if bound := bound_to_loop(value):
            profile.refused[OWN_LOOP] = f"it was given a {bound}, which belongs to its event loop"
            profile.homes.pop(False, None)
            return False
    return True


def _given(call: Call) -> tuple[Any, ...]:
    return *call.args, *call.kwargs.values()


def _may_be_shared(value: Any) -> bool:
    """Whether an argument may be a lock, a queue, a connection: anything that somebody else has to let go of."""
    return kind_of(type(value)) == LEAF and not isinstance(value, (*IMMUTABLE, bytearray, memoryview, frozenset))
