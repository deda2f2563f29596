"""Waiting inside a call: until a moment has come, or for a signal.

Everything that a wait has to know the next time is *kept* like a result of ``ctx.once``: until when, and the signal that was
taken. So a call that runs again, after a conflict or a crash, does not wait twice. In a durable run it is recorded, and
signals are records of the store: they come through its ``tail``, whoever sent them. Otherwise both are in memory.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from theus.errors import DefinitionError

if TYPE_CHECKING:
    from theus.journal import Journal
    from theus.portal import Portal
    from theus.protocols import Call, Clock, Committed, Store
    from theus.run import Run

LONGEST = 60.0  #: seconds: clocks are set and machines sleep, so a long wait looks at the time now and then


class Waits:
    """Who waits in one engine, and the signals to its runs that are not durable."""

    def __init__(self, clock: Clock, portal: Portal, store: Store | None) -> None:
        self._clock = clock
        self._portal = portal
        self._store = store
        self._lock = threading.Lock()
        self._tails: list[Callable[[], None]] = []  #: how to end listening to the store, once it is listened to
        self._sent: dict[tuple[str, str], deque[Any]] = {}
        self._waiting: dict[tuple[str, str], list[tuple[asyncio.AbstractEventLoop, asyncio.Event]]] = {}

    # --- until when

    async def sleep_until(self, journal: Journal | None, call: Call, label: str, when: float) -> None:
        """Wait until ``when``, or the moment that was kept before."""
        kept = _kept_by(call)
        if label not in kept:
            if journal is not None:
                await journal.keep(call, label, when, blocking=False)
            kept[label] = when
        await self._until(kept[label])

    async def _until(self, when: float) -> None:
        while (left := when - self._clock.time()) > 0:
            await self._clock.sleep(min(left, LONGEST))

    # --- for what

    async def wait_for(
        self, run_id: str, journal: Journal | None, call: Call, label: str, name: str, timeout: float | None
    ) -> Any:
        """Take the next signal of that name; TimeoutError if none comes in time."""
        kept = _kept_by(call)
        if label not in kept:
            state = {"until": None if timeout is None else self._clock.time() + timeout}
            if journal is not None:
                await journal.keep(call, label, state, blocking=False)
            kept[label] = state
        state = kept[label]
        if "until" in state:

            async def take() -> list[Any]:
                return self._take(run_id, name) if journal is None else await journal.take(call, label, name)

            found = await self._signalled(run_id, name, take, state["until"])
            state = {"value": found[0]} if found else {}
            if journal is not None and not found:
                await journal.keep(call, label, state, blocking=False)
            kept[label] = state
        if "value" not in state:
            recorded = (
                f" Run {run_id!r} has recorded that, and finds the same when it goes on: catch TimeoutError where it waits, and "
                "say there what then is to be done, or begin another run."
            )
            raise TimeoutError(
                f"process {call.process.name!r}: the signal {name!r} did not come in time."
                + ("" if journal is None else recorded)
            )
        return state["value"]

    async def _signalled(
        self, run_id: str, name: str, take: Callable[[], Awaitable[list[Any]]], until: float | None
    ) -> list[Any]:
        self._follow()
        woken = asyncio.Event()
        waiter = (asyncio.get_running_loop(), woken)
        with self._lock:
            self._waiting.setdefault((run_id, name), []).append(waiter)
        timer = None if until is None else asyncio.ensure_future(self._until(until))
        if timer is not None:
            timer.add_done_callback(lambda _: woken.set())
        try:
            while True:
                woken.clear()
                if found := await take():
                    return found
                if timer is not None and timer.done():
                    return []
                await woken.wait()
        finally:
            if timer is not None:
                timer.cancel()
            with self._lock:
                self._waiting[run_id, name].remove(waiter)
                if not self._waiting[run_id, name]:
                    del self._waiting[run_id, name]

    def send(self, run: Run[Any], name: str, value: Any) -> None:
        """A signal to a run that is not durable."""
        with self._lock:
            if run.waiting is None:
                run.waiting = set()  # so that its end is told
            self._sent.setdefault((run.id, name), deque()).append(value)
        self._wake(run.id, name)

    def _take(self, run_id: str, name: str) -> list[Any]:
        with self._lock:
            sent = self._sent.get((run_id, name))
            return [sent.popleft()] if sent else []

    def _follow(self) -> None:
        """Hear of the signals that are recorded, from the first wait on."""
        if self._store is not None and not self._tails:
            self._tails.append(self._store.tail(self._heard))  # two at once may both do it: then each is heard twice

    def close(self) -> None:
        """Hear no more of the store."""
        while self._tails:
            self._tails.pop()()

    def _heard(self, committed: Committed) -> None:
        for record in committed.records:
            if record.kind == "signal" and record.value is not None:
                run_id, name, _ = record.key.split("/")
                self._wake(run_id, name)

    def _wake(self, run_id: str, name: str) -> None:
        with self._lock:
            waiting = list(self._waiting.get((run_id, name), ()))
        for loop, woken in waiting:
            try:
                loop.call_soon_threadsafe(woken.set)
            except RuntimeError:  # that loop was closed: nobody waits there any more
                pass

    # --- in a thread

    def block(self, run: Run[Any], work: Coroutine[Any, Any, Any], *, debug: bool) -> Any:
        """Wait for the end of ``work`` on the engine's loop; it ends with the run, if that is cancelled."""
        if run.loop is not None and asyncio._get_running_loop() is run.loop and not debug:
            work.close()
            raise DefinitionError(
                "a def that was always short waits now, on the event loop, which it would stop. Say that it waits: "
                "@process(nature='io'), or make it async def."
            )
        answer, cancel = self._portal.spawn(work)
        with self._lock:
            if run.waiting is None:
                run.waiting = set()
            run.waiting.add(cancel)
            waiting = run.waiting
        if run.done():  # its end did not see this wait
            cancel()
        try:
            return answer.result()
        except KeyboardInterrupt:
            cancel()
            raise
        finally:
            waiting.discard(cancel)

    def end(self, run: Run[Any]) -> None:
        """Nothing waits in the run any more, and what was sent to it is forgotten."""
        with self._lock:
            waiting = list(run.waiting or ())
            for key in [key for key in self._sent if key[0] == run.id]:
                del self._sent[key]
        for cancel in waiting:
            cancel()


def _kept_by(call: Call) -> dict[str, Any]:
    if call.kept is None:
        call.kept = {}
    return call.kept
