"""One execution of a workflow: what ``engine.submit`` and ``engine.stream`` hand out."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from theus.errors import DefinitionError
from theus.portal import Exiting, settle

if TYPE_CHECKING:
    from theus.events import Event
    from theus.processes import Step

T = TypeVar("T")


class Run(Generic[T]):
    """One execution of a workflow or process.

    ``await run`` or ``run.result(timeout)`` gives what it returned or raises what it raised;
    ``run.events()`` yields what happens in it, in a ``for`` or an ``async for``; ``run.cancel()`` stops it.
    ``run.state`` is ``"running"``, ``"done"``, ``"failed"`` or ``"cancelled"``.
    """

    __slots__ = (
        "__weakref__",
        "_answer",
        "_cancel",
        "_given",
        "_number",
        "_token",
        "_waited_for",
        "blocking",
        "durable",
        "listeners",
        "state",
        "step",
        "task",
        "value",
        "waiting",
    )

    def __init__(
        self,
        step: Step[Any, Any],
        token: str,
        number: int,
        run_id: str | None = None,
        listeners: tuple[Callable[[Event], None], ...] = (),
        blocking: bool = False,
    ) -> None:
        self.step = step
        self.state = "running"
        self.value: Any = None  #: what it returned, once it is done
        self.blocking = blocking  #: driven in its caller's thread: what waits in it may block
        self.durable = False  #: recorded in the store, so that it can go on elsewhere
        self.task: asyncio.Task[Any] | None = None  #: the task it runs in, while it does
        self.waiting: set[Callable[[], object]] | None = None  #: how to end the waits of its calls that block a thread
        self.listeners = listeners  #: the engine's observers, and who else wants to hear of this run
        self._token = token
        self._number = number
        self._given = run_id
        self._answer: concurrent.futures.Future[T] | None = None
        self._cancel: Callable[[], object] | None = None
        self._waited_for: Callable[[], AbstractContextManager[None]] = nullcontext

    @property
    def id(self) -> str:
        """Unique in the world: the engine's random token and a number, or the ``run_id`` that was given."""
        return f"{self._token}-{self._number}" if self._given is None else self._given

    def result(self, timeout: float | None = None) -> T:
        """Wait for the end (at most ``timeout`` seconds, then TimeoutError); gives what the run returned.

        Raises:
            DefinitionError: called on the event loop that the run needs to go on.
        """
        answer = self._followed()
        here = asyncio._get_running_loop()
        if not answer.done() and here is not None and self.loop in (here, None):
            raise DefinitionError(
                f"run {self.id} goes on on this very event loop, so waiting for it here would last for ever; write: await run."
            )
        try:
            with self._waited_for():
                return answer.result(timeout)
        except Exiting as carried:
            raise carried.error from None
        finally:
            del answer

    def __await__(self) -> Generator[Any, None, T]:
        try:
            return (yield from asyncio.shield(asyncio.wrap_future(self._followed())))
        except Exiting as carried:
            raise carried.error from None

    def cancel(self) -> None:
        """Stop the run: nothing more of it is committed. Returns at once; ``result`` then raises CancelledError."""
        task = self.task
        if self.done():
            return
        for end_wait in list(self.waiting or ()):
            end_wait()
        if self._cancel is not None:
            self._cancel()
        elif task is not None:
            task.get_loop().call_soon_threadsafe(task.cancel)

    def done(self) -> bool:
        """Whether it has ended."""
        return self.state != "running"

    def events(self) -> EventStream:
        """What happens in this run from now on, until it ends."""
        stream = EventStream()
        self.listen(stream.put)
        self.end_with(stream)
        return stream

    # --- for the engine ---

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop it runs on; None if it has not begun or needs none."""
        task = self.task
        return None if task is None else task.get_loop()

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call ``listener`` with every event of this run from now on."""
        self.listeners = (*self.listeners, listener)

    def end_with(self, stream: EventStream) -> None:
        """End ``stream`` when this run has ended, however it does."""
        self._followed().add_done_callback(lambda _: stream.end())

    def follow(
        self,
        answer: concurrent.futures.Future[T],
        cancel: Callable[[], object],
        waited_for: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """Know where the answer will be, how to stop, and in what a thread waits for it."""
        self._answer, self._cancel, self._waited_for = answer, cancel, waited_for

    def _followed(self) -> concurrent.futures.Future[T]:
        assert self._answer is not None, "only a run that was submitted has a handle"
        return self._answer

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<run {self.id} of {self.step.name}: {self.state}>"


def spawn_here(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]
) -> tuple[concurrent.futures.Future[T], Callable[[], object]]:
    """Start a coroutine on the running loop; gives a future that any thread can wait for, and how to cancel it."""
    answer: concurrent.futures.Future[T] = concurrent.futures.Future()
    task = loop.create_task(work)
    task.add_done_callback(functools.partial(settle, answer))
    return answer, lambda: loop.call_soon_threadsafe(task.cancel)


class EventStream:
    """Events of one run in order: iterate with ``for`` or ``async for``. Filled from any thread."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._ended = False
        self._changed = threading.Condition()
        self._wakers: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def put(self, event: Event) -> None:
        with self._changed:
            self._events.append(event)
            self._wake()

    def end(self) -> None:
        with self._changed:
            self._ended = True
            self._wake()

    def _wake(self) -> None:
        self._changed.notify_all()
        for loop, waker in self._wakers:
            try:
                loop.call_soon_threadsafe(_wake, waker)
            except RuntimeError:  # that loop was closed: nobody reads there any more
                pass
        self._wakers.clear()

    def __iter__(self) -> Iterator[Event]:
        while True:
            with self._changed:
                while not self._events and not self._ended:
                    self._changed.wait()
                if not self._events:
                    return
                event = self._events.popleft()
            yield event

    async def __aiter__(self) -> AsyncIterator[Event]:
        loop = asyncio.get_running_loop()
        while True:
            waker: asyncio.Future[None] = loop.create_future()
            with self._changed:
                event = self._events.popleft() if self._events else None
                if event is None:
                    if self._ended:
                        return
                    self._wakers.append((loop, waker))
            if event is None:
                await waker
            else:
                yield event


def _wake(waker: asyncio.Future[None]) -> None:
    if not waker.done():
        waker.set_result(None)


class Stream:
    """The events of a run that was started for them; raises at the end what the run raised.

    ``stream.run`` is the run's handle. Closing the stream, leaving its ``with``, or letting go of it cancels a
    run that still goes on.
    """

    def __init__(self, run: Run[Any], events: EventStream) -> None:
        self.run = run
        self._events = events
        run.end_with(events)

    def __iter__(self) -> Iterator[Event]:
        yield from self._events
        self.run.result()

    async def __aiter__(self) -> AsyncIterator[Event]:
        async for event in self._events:
            yield event
        await self.run

    def close(self) -> None:
        """Cancel the run if it still goes on."""
        self.run.cancel()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
