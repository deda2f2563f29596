"""Time as the system keeps it. Tests put their own clock in its place (``FakeClock``)."""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    """The monotonic clock of the machine."""

    def now(self) -> float:
        """Seconds, monotonic."""
        return time.monotonic()

    def time(self) -> float:
        """Seconds since 1970."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Wait on the running loop."""
        await asyncio.sleep(seconds)

    def block(self, seconds: float) -> None:
        """Wait in this thread."""
        time.sleep(seconds)
