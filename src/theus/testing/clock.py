"""A clock that tests own: time moves when they say so."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading

EPOCH = 1_893_456_000.0  #: the first of January 2030, UTC


class FakeClock:
    """Stands still until ``advance``; with ``autojump=True`` every wait ends at once and moves the time by its length.

    Usable from any thread and loop.
    """

    def __init__(self, *, autojump: bool = False) -> None:
        self.autojump = autojump
        self.slept: list[float] = []  #: the seconds of each wait, in order
        self._now = 0.0
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._waiting: list[tuple[float, int, asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def now(self) -> float:
        """Seconds since this clock was made, as far as it was advanced."""
        return self._now

    def time(self) -> float:
        """Seconds since 1970: this clock was made at the beginning of 2030."""
        return EPOCH + self._now

    def advance(self, seconds: float) -> None:
        """Move the time; who waited for less wakes."""
        with self._lock:
            self._now += seconds
            while self._waiting and self._waiting[0][0] <= self._now:
                _, _, loop, waiter = heapq.heappop(self._waiting)
                if not waiter.done():  # else it was cancelled, and its loop may be closed
                    loop.call_soon_threadsafe(_wake, waiter)

    @property
    def sleepers(self) -> int:
        """How many wait now."""
        return sum(not entry[3].done() for entry in self._waiting)

    async def sleep(self, seconds: float) -> None:
        """Wait until the time was moved so far."""
        self.slept.append(seconds)
        if self.autojump or seconds <= 0:
            self._now += seconds
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        with self._lock:
            heapq.heappush(self._waiting, (self._now + seconds, next(self._numbers), loop, waiter))
        await waiter

    def block(self, seconds: float) -> None:
        """A blocking wait: it ends at once, and the time moves."""
        self.slept.append(seconds)
        self._now += seconds


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
