"""Inline: the call runs right where it was asked for, in the caller's thread."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from theus.environments.runner import execute

if TYPE_CHECKING:
    from theus.protocols import Call, Outcome


class InlineEnvironment:
    """For a ``def`` that is short, or that nobody waits beside. ``run`` never suspends."""

    name = "inline"
    capacity = sys.maxsize

    async def start(self) -> None:
        """Nothing to do."""

    async def run(self, call: Call) -> Outcome:
        return execute(call, measure_cpu=call.measure_cpu)

    async def stop(self, grace: float) -> None:
        """Nothing to do: what runs here has ended when its caller goes on."""
