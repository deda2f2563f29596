"""Thread: ``def`` calls that wait, off the loop, hundreds at once.

Not a ``ThreadPoolExecutor``, for three reasons: its threads are joined at the interpreter's exit, so one
call that never ends keeps a program from ending; a call made from inside a call must get a thread even
when all are taken, or both wait for ever; and context variables do not cross into it.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from theus.context import running_attempt
from theus.environments.loop import within
from theus.environments.runner import execute

if TYPE_CHECKING:
    from theus.protocols import Call, Clock, Outcome

T = TypeVar("T")
log = logging.getLogger("theus.environments")
LET_GO = "was let go of (its thread runs on: a thread cannot be killed)"
IDLE_SECONDS = 30.0  #: a thread with nothing to do for so long ends


class ThreadEnvironment:
    """Threads are started when none is idle, up to ``capacity``, and more where a call may wait for another call.

    A call from inside a call gets one; and there may be one more for each thread that waits for what the engine does, as
    it may be a helper of a call, for which that call waits.
    """

    name = "thread"

    def __init__(self, clock: Clock, capacity: int = 512) -> None:
        self.capacity = capacity
        self.abandoned = 0  #: calls that timed out or were cancelled and whose thread still runs
        self._clock = clock
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._idle = 0  #: threads to which no job was promised
        self._unserved = 0  #: jobs that no thread was promised to
        self._waited_for = 0  #: by so many threads
        self._threads: set[threading.Thread] = set()
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._stopped = False
        self._is_dry = False  #: all threads are taken, and it was told of

    async def start(self) -> None:
        """Nothing to do: threads start when they are needed."""

    async def run(self, call: Call) -> Outcome:
        if call.process.timeout is None:
            return await self.call(measured, call)
        return await within(self._clock, call, functools.partial(self.call, measured), LET_GO)

    def call(self, function: Callable[..., T], *args: Any) -> Coroutine[Any, Any, T]:
        """Run any function in a thread, with the caller's context variables. Cancelling lets go of it; it runs on."""
        return self.send(self.submit, function, *args)

    async def send(self, submit: Callable[[Callable[[], None]], None], function: Callable[..., T], *args: Any) -> T:
        """The same, where ``submit`` sees to it that what it is given is run in a thread."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        # The thread takes everything out of the box and puts the answer in. What a failed call's traceback keeps of
        # these frames is then an empty box: no cycle, and whoever goes on may count on the call's values being gone.
        box: list[Any] = [answer, copy_context(), function, args]
        del function, args

        def job() -> None:
            _run(box)
            try:
                loop.call_soon_threadsafe(self._answer, box)
            except RuntimeError:  # the loop was closed meanwhile: nobody waits for the answer
                self.abandoned -= 1

        submit(job)
        try:
            return await answer
        except asyncio.CancelledError:
            self.abandoned += 1
            raise

    def _answer(self, box: list[Any]) -> None:
        answer, value, error = box
        box.clear()
        if answer.cancelled():
            self.abandoned -= 1
        elif error is None:
            answer.set_result(value)
        elif isinstance(error, (Exception, asyncio.CancelledError)):
            answer.set_exception(error)
        else:  # raised on the loop, a source's KeyboardInterrupt or SystemExit would end it
            answer.set_exception(RuntimeError(f"{type(error).__name__} was raised in a thread: {error}"))

    def submit(self, job: Callable[[], None]) -> None:
        """Have it run in a thread, soon."""
        if self._stopped:
            raise RuntimeError("the thread environment was stopped")
        with self._lock:
            self._jobs.put(job)
            if self._idle:
                self._idle -= 1
            elif self._has_room or running_attempt() is not None:
                self._begin()
            else:
                self._unserved += 1
                if not self._is_dry:
                    self._is_dry = True
                    log.warning(
                        "all %d threads are taken, so calls wait for one. What waits and is an async def needs none; "
                        "each(..., limit=) bounds how many are under way.",
                        self.capacity,
                    )

    @contextmanager
    def waited_for(self) -> Iterator[None]:
        """While a thread waits for what the engine does, there may be one more."""
        with self._lock:
            self._waited_for += 1
            if self._unserved and self._has_room:
                self._unserved -= 1
                self._begin()
        try:
            yield
        finally:
            with self._lock:
                self._waited_for -= 1

    @property
    def _has_room(self) -> bool:
        return len(self._threads) < self.capacity + self._waited_for

    def _begin(self) -> None:
        """One more thread; the lock is held."""
        thread = threading.Thread(target=self._work, name=f"theus-{next(self._numbers)}", daemon=True)
        self._threads.add(thread)
        thread.start()

    def _work(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=IDLE_SECONDS)
            except Empty:
                with self._lock:
                    if self._idle:  # nobody counts on this thread any more
                        self._idle -= 1
                        break
                continue  # a job was promised to it just now
            if job is None:
                break
            job()
            del job
            with self._lock:
                if self._unserved:
                    self._unserved -= 1
                else:
                    self._idle += 1
                    self._is_dry = False  # the next time is told of again
        with self._lock:
            self._threads.discard(threading.current_thread())

    async def stop(self, grace: float) -> None:
        """End the idle threads. A thread cannot be killed: one that still computes ends with its call or the program."""
        self._stopped = True
        with self._lock:
            count = len(self._threads)
        for _ in range(count):
            self._jobs.put(None)


def measured(call: Call) -> Outcome:
    """Run a call in this thread, as its meter says."""
    outcome = execute(call) if call.meter is None else call.meter.measure(call)
    outcome.place = threading.current_thread().name
    try:
        return outcome
    finally:
        del outcome, call


def _run(box: list[Any]) -> None:
    answer, context, function, args = box
    box.clear()
    value = error = None
    try:
        if not answer.cancelled():  # given up while it stood in line: then it never begins
            value = context.run(function, *args)
    except BaseException as failure:
        error = failure
    box += (answer, value, error)
    del answer, value, error, context, function, args
