"""A loop of its own, in a thread: for an ``async def`` that kept the loop of others waiting."""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from theus.environments.loop import within
from theus.environments.runner import execute_async

if TYPE_CHECKING:
    from theus.protocols import Call, Clock, Outcome

Spawn = Callable[[Coroutine[Any, Any, "Outcome"]], tuple[concurrent.futures.Future["Outcome"], Callable[[], object]]]


class OwnLoopEnvironment:
    """Runs calls on the loop that ``spawn`` starts them on, many at once.

    ``may_go``: asked for each call; one whose arguments belong to its caller's loop stays there.
    """

    name = "own loop"
    capacity = sys.maxsize

    def __init__(self, spawn: Spawn, clock: Clock, may_go: Callable[[Call], bool]) -> None:
        self._spawn = spawn
        self._clock = clock
        self._may_go = may_go

    async def start(self) -> None:
        """Nothing to do: the loop starts with its first call."""

    def run(self, call: Call) -> Coroutine[Any, Any, Outcome]:
        work = self._there if self._may_go(call) else execute_async
        return work(call) if call.process.timeout is None else within(self._clock, call, work, "was stopped")

    async def _there(self, call: Call) -> Outcome:
        answer, cancel = self._spawn(execute_async(call))
        del call
        ended = asyncio.wrap_future(answer)
        try:
            return await asyncio.shield(ended)
        except asyncio.CancelledError:
            cancel()
            await asyncio.wait([ended])  # its scopes are closed by then
            if not ended.cancelled():
                ended.exception()  # seen
            raise
        finally:
            del answer, ended

    async def stop(self, grace: float) -> None:
        """Nothing to do: the calls are cancelled by their engine, which ends the loop as well."""
