"""After a measured call: does the process belong somewhere else now, and what would it cost to send it there?

The decision itself is pure and stands in ``placement.py``; here it is carried out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from theus.errors import NotTransferable
from theus.placement import IMMUTABLE, PARALLEL, Placement, is_free, is_worth_asking, next_place, place
from theus.state.values import LEAF, kind_of

if TYPE_CHECKING:
    from theus.attempt import Attempts
    from theus.nature import Profile
    from theus.processes import Process
    from theus.protocols import Call, Outcome

STALL = 0.05  #: seconds for which nothing may keep a loop from going on


async def look_again(attempts: Attempts, call: Call, outcome: Outcome, profile: Profile, placement: Placement) -> None:
    """Take in a call that was measured, or that took long where it should be short; place its process anew."""
    process = call.process
    if call.meter is not None:
        profile.measure(outcome)
    if attempts.run.blocking or attempts.engine.debug or not is_free(process):
        return
    profile.shares = profile.shares or any(map(_may_be_shared, (*call.args, *call.kwargs.values())))
    if placement.environment == "inline" and outcome.wall > STALL:
        profile.stalls += 1
    if is_worth_asking(process, profile.known()):
        await _ask(attempts, call, outcome, profile)
    settle_anew(attempts, process, profile)


async def _ask(attempts: Attempts, call: Call, outcome: Outcome, profile: Profile) -> None:
    """Find out what it takes to send a call and its result, by packing them once, off the loop."""
    engine = attempts.engine
    snapshot = call.snapshot
    changes = snapshot is not None and engine.snapshot is not snapshot
    environment: Any = engine.environment(PARALLEL)
    limit = profile.known().cpu  # what takes longer than this is not worth it, however long
    try:
        profile.moved, profile.moving = await engine.threads.call(
            environment.rehearse, call, outcome.value, limit, changes
        )
    except NotTransferable as failure:
        profile.refused[PARALLEL] = f"{failure.what} cannot be sent"


def bring_back(attempts: Attempts, process: Process[Any, Any], profile: Profile, failure: BaseException) -> bool:
    """Whether a call failed only because its process was moved without being asked; then it stays here from now on."""
    if not isinstance(failure, NotTransferable) or not is_free(process):
        return False
    profile.refused[PARALLEL] = f"{failure.what} cannot be sent"
    settle_anew(attempts, process, profile)
    return True


def settle_anew(attempts: Attempts, process: Process[Any, Any], profile: Profile) -> None:
    """Move the process if what is known of it says so, and it did not move too often lately."""
    engine = attempts.engine
    now = profile.homes[False][0]
    wanted = place(process, blocking=False, debug=False, known=profile.known(), now=now.environment)
    target = next_place(now.environment, wanted.environment, profile.calls - profile.moved_at)
    if target != wanted.environment:
        if target == now.environment:
            return
        wanted = Placement(target, f"changed its place lately, so not yet: {wanted.reason}")
    engine.settle(profile, process, False, wanted)
    if target != now.environment:
        profile.moved_at = profile.calls
        if attempts.listening:
            attempts.tell_moved(process, now, wanted)


def _may_be_shared(value: Any) -> bool:
    """Whether an argument may be a lock, a queue, a connection: anything that somebody else has to let go of."""
    return kind_of(type(value)) == LEAF and not isinstance(value, (*IMMUTABLE, bytearray, memoryview, frozenset))
