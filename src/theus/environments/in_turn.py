"""In turn: ``def`` calls that compute and hold the interpreter's lock, in a thread, one after the other.

Side by side they would not be done any sooner, and an event loop that wants the lock between them would have to win it
from all of them. It is not fair: beside 8 such threads a loop waits for 0.2 s at times, beside 32 for seconds.

Nobody waits for ever. A call may wait for another one that stands in line behind it; so if it takes long, the next one
begins beside it, and the line goes on without it. A call from inside a call does not stand in line at all.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING

from theus.context import running_attempt
from theus.environments.thread import measured

if TYPE_CHECKING:
    from theus.environments.thread import ThreadEnvironment
    from theus.protocols import Call, Outcome

PATIENCE = 1.0  #: seconds after which the next call begins beside one; twice as long for each that takes longer


class InTurnEnvironment:
    """A line of calls before the threads of ``threads``. Safe to use from any number of loops."""

    name = "thread"

    def __init__(self, threads: ThreadEnvironment) -> None:
        self.capacity = threads.capacity
        self._threads = threads
        self._lock = threading.Lock()
        self._line: deque[Callable[[], None]] = deque()
        self._turn: object = None  #: of the thread that takes one call after the other now; None: the line is empty
        self._since = 0.0  #: when that began its call
        self._patience = PATIENCE

    async def start(self) -> None:
        """Nothing to do."""

    async def run(self, call: Call) -> Outcome:
        if running_attempt() is not None:  # whoever called it waits for it
            return await self._threads.run(call)
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle

        def look() -> None:
            nonlocal timer
            self._look()
            timer = loop.call_later(PATIENCE, look)

        timer = loop.call_later(PATIENCE, look)
        try:
            return await self._threads.send(self._join, measured, call)
        finally:
            timer.cancel()
            del call

    def _join(self, job: Callable[[], None]) -> None:
        with self._lock:
            if self._turn is None:
                self._patience = PATIENCE
                self._hand_over()
            self._line.append(job)

    def _hand_over(self) -> None:
        """A thread takes one call after the other from now on; the lock is held."""
        turn = object()
        self._threads.submit(functools.partial(self._work, turn))
        self._turn, self._since = turn, perf_counter()

    def _work(self, turn: object) -> None:
        while (job := self._next(turn)) is not None:
            job()
            del job
            if self._turn is turn:
                self._patience = PATIENCE

    def _next(self, turn: object) -> Callable[[], None] | None:
        with self._lock:
            if self._turn is not turn:  # what it did took so long that another one was put in its place
                return None
            self._since = perf_counter()
            if self._line:
                return self._line.popleft()
            self._turn = None
            return None

    def _look(self) -> None:
        """Has the line stood still for too long?"""
        with self._lock:
            if self._line and perf_counter() - self._since >= self._patience:
                self._patience *= 2
                self._hand_over()

    async def stop(self, grace: float) -> None:
        """Nothing to do: the threads end with their environment."""
