"""Loop: ``async def`` calls on the running event loop, thousands at once."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from theus.environments.runner import execute_async
from theus.errors import CallTimeout

if TYPE_CHECKING:
    from theus.protocols import Call, Clock, Outcome

T = TypeVar("T")


class LoopEnvironment:
    """For an ``async def``: it runs on whichever loop awaits it, the service's own or the engine's."""

    name = "loop"
    capacity = sys.maxsize

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def start(self) -> None:
        """Nothing to do."""

    def run(self, call: Call) -> Coroutine[Any, Any, Outcome]:
        if call.process.timeout is None:
            return execute_async(call)
        return within(self._clock, call, execute_async, "was stopped")

    async def stop(self, grace: float) -> None:
        """Nothing to do: the runs that wait here are cancelled by their engine."""


async def within(clock: Clock, call: Call, work: Callable[[Call], Awaitable[T]], end: str) -> T:
    """Await ``work(call)`` for at most the process's timeout of the clock's time; ``end`` says what then becomes of it.

    ``asyncio.timeout`` brings the rules of cancelling (an outside cancel is never mistaken for ours); the
    engine's clock, not the loop's, says when it is over.
    """
    seconds = call.process.timeout
    assert seconds is not None
    timer = asyncio.ensure_future(_until(clock, clock.now() + seconds))
    limit = asyncio.timeout(None)
    try:
        async with limit:

            def expire(timer: asyncio.Future[None]) -> None:
                if not timer.cancelled():
                    limit.reschedule(0)

            timer.add_done_callback(expire)
            return await work(call)
    except TimeoutError:
        if not limit.expired():
            raise
        raise CallTimeout(
            f"process {call.process.name!r} took longer than its timeout of {seconds:g} s and {end}; "
            "nothing of it was committed. Raise timeout=, or add retries= if another attempt may be quicker.",
            process=call.process.name,
            timeout=seconds,
        ) from None
    finally:
        timer.cancel()


async def _until(clock: Clock, deadline: float) -> None:
    await clock.sleep(max(0.0, deadline - clock.now()))  # the work may have begun before this timer could
