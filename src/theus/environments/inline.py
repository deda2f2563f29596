"""Inline: the call runs right where it was asked for, in the caller's thread."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from theus.environments.runner import execute

if TYPE_CHECKING:
    from theus.protocols import Call, Outcome

TURN = 0.001  #: seconds
AROUND = 20e-6  #: seconds that the engine takes for a call


class InlineEnvironment:
    """For a ``def`` that is short, or that nobody waits beside. ``run`` never suspends."""

    name = "inline"
    capacity = sys.maxsize

    async def start(self) -> None:
        """Nothing to do."""

    async def run(self, call: Call) -> Outcome:
        return execute(call) if call.meter is None else call.meter.measure(call)

    async def stop(self, grace: float) -> None:
        """Nothing to do: what runs here has ended when its caller goes on."""


class BriefEnvironment(InlineEnvironment):
    """The same on a running loop, which has a turn after every millisecond of calls one after the other."""

    def __init__(self) -> None:
        self._since = 0.0  #: seconds of calls since the loop had its turn

    async def run(self, call: Call) -> Outcome:
        # Not super().run(call): one coroutine more would count beside a short call.
        outcome = execute(call) if call.meter is None else call.meter.measure(call)
        self._since += outcome.wall + AROUND
        if self._since > TURN:
            self._since = 0.0
            await asyncio.sleep(0)
        try:
            return outcome
        finally:
            del outcome, call
