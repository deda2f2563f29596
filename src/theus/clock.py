"""Time as the system keeps it. Tests put their own clock in its place (``FakeClock``)."""

from __future__ import annotations

import asyncio
import random
import time

FIRST_DELAY = 0.1  #: seconds before the first retry; doubles each time, with full jitter
LONGEST_DELAY = 30.0  #: seconds


def backoff(failures: int) -> float:
    """Seconds to wait before another try, after so many that failed before the last one."""
    return random.uniform(0, min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(failures, 30)))


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
