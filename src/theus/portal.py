"""The engine's own event loop, in a thread of its own, for callers who have none."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import itertools
import threading
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any, TypeVar

T = TypeVar("T")
MOST_LOOPS = 8


class Exiting(Exception):
    """Carries ``SystemExit`` or ``KeyboardInterrupt`` out of tasks to the door: raised on a loop they would end it."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


class Portal:
    """A loop thread that starts at its first use. Safe to use from any thread."""

    def __init__(self, loop_factory: Callable[[], asyncio.AbstractEventLoop] | None, name: str = "theus-loop") -> None:
        self._factory = loop_factory or asyncio.new_event_loop
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def is_open(self) -> bool:
        return self._loop is not None

    def is_here(self) -> bool:
        """Whether the calling thread is the loop's own."""
        return self._thread is threading.current_thread()

    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop; starts it."""
        with self._lock:
            if self._loop is None:
                started = threading.Event()
                loop = self._factory()
                self._thread = threading.Thread(target=self._serve, args=(loop, started), name=self._name, daemon=True)
                self._thread.start()
                started.wait()
                self._loop = loop
            return self._loop

    def _serve(self, loop: asyncio.AbstractEventLoop, started: threading.Event) -> None:
        asyncio.set_event_loop(loop)
        loop.call_soon(started.set)
        try:
            loop.run_forever()
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    def spawn(self, work: Coroutine[Any, Any, T]) -> tuple[concurrent.futures.Future[T], Callable[[], object]]:
        """Start a coroutine on the loop, with the caller's context variables; gives its future and how to cancel it.

        Unlike ``run_coroutine_threadsafe``'s, the future ends only when the task has: a cancelled run has closed
        its scopes by then.
        """
        loop = self.loop()
        answer: concurrent.futures.Future[T] = concurrent.futures.Future()
        tasks: list[asyncio.Task[T]] = []

        def start() -> None:
            tasks.append(loop.create_task(work))
            tasks[0].add_done_callback(functools.partial(settle, answer))

        def cancel() -> None:
            loop.call_soon_threadsafe(lambda: tasks[0].cancel())  # noqa: PLW0108 - the task is made later, on the loop

        loop.call_soon_threadsafe(start, context=copy_context())
        return answer, cancel

    def close(self, grace: float) -> None:
        """Stop the loop and wait for its thread, at most ``grace`` seconds: what keeps it may never end."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            if thread is not threading.current_thread():
                thread.join(grace)


class Portals:
    """A few more loops, each in a thread of its own, for what would keep others waiting."""

    def __init__(self, loop_factory: Callable[[], asyncio.AbstractEventLoop] | None) -> None:
        self._factory = loop_factory
        self._all: list[Portal] = []
        self._numbers = itertools.count()

    def next(self) -> Portal:
        """One more; with many there are, one of them."""
        number = next(self._numbers)
        if number < MOST_LOOPS:
            self._all.append(Portal(self._factory, f"theus-own-loop-{number + 1}"))
        return self._all[number % MOST_LOOPS]

    def close(self, grace: float) -> None:
        """Stop all of them."""
        for portal in self._all:
            portal.close(grace)


def settle(answer: concurrent.futures.Future[T], task: asyncio.Task[T]) -> None:
    """Hand a task's end to a future that threads can wait for."""
    if task.cancelled():
        answer.set_exception(asyncio.CancelledError())
    elif (error := task.exception()) is not None:
        answer.set_exception(error)
    else:
        answer.set_result(task.result())
