"""The outbox: what ``ctx.emit(..., durable=True)`` hands over is recorded in the commit, and delivered until a handler has it.

::

    commit with its record ──> every handler of the topic ──> all returned: the record goes
                                    ▲            │ one raised
                                    └── delay ───┘  (those that returned are not called again)

At least once: between a handler's return and the commit that removes the record the program may die, and then the next
engine that has a handler of the topic delivers it again, under the same id. What nobody handles stays where it is.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from theus.clock import backoff
from theus.protocols import Commit, Record
from theus.records import pack, unpack

if TYPE_CHECKING:
    from theus.environments.thread import ThreadEnvironment
    from theus.portal import Portal
    from theus.protocols import Call, Clock, Outcome, Store
    from theus.records import Values
    from theus.topics import Handler, Topics

log = logging.getLogger("theus")


class Outbox:
    """The durable emits of one engine that are on their way."""

    def __init__(
        self,
        store: Store | None,
        codec: Values,
        topics: Topics,
        threads: ThreadEnvironment,
        clock: Clock,
        portal: Portal,
    ) -> None:
        self._store = store
        self._codec = codec
        self._topics = topics
        self._threads = threads
        self._clock = clock
        self._portal = portal
        self._lock = threading.Lock()
        self._in_hand: dict[str, tuple[concurrent.futures.Future[None], Callable[[], object]]] = {}
        self._pausing: set[asyncio.Task[None]] = set()
        self._closing = False

    def records(self, call: Call, outcome: Outcome) -> list[Record]:
        """What goes with the commit of a call."""
        found = []
        for number, (topic, value, durable) in enumerate(outcome.emits):
            if durable:
                where = f"what was emitted for {topic!r}"
                data = self._codec.encode(value, process=call.process.name, where=where)
                found.append(Record("outbox", f"{call.key}#{number}", pack({"topic": topic}, data)))
        return found

    def look(self, topic: str) -> None:
        """Deliver what was left undelivered of a topic, now that it has a handler."""
        assert self._store is not None, "only an engine with a store looks"
        for record in self._store.records("outbox"):
            assert record.value is not None
            fields, (data,) = unpack(record.value)
            if fields["topic"] == topic:
                self.deliver(record.key, topic, self._codec.decode(data))

    def deliver(self, emit_id: str, topic: str, value: Any) -> None:
        """Begin to deliver, on the engine's loop, unless nobody handles the topic or it has begun."""
        handlers = self._topics.handlers(topic)
        with self._lock:
            if handlers and emit_id not in self._in_hand and not self._closing:
                self._in_hand[emit_id] = self._portal.spawn(self._deliver(emit_id, topic, value, handlers))

    async def _deliver(self, emit_id: str, topic: str, value: Any, handlers: list[Handler]) -> None:
        failures = 0
        try:
            while True:
                handlers = [handler for handler in handlers if not await self._handle(handler, topic, value, emit_id)]
                if not handlers:
                    break
                if not await self._pause(backoff(failures)):
                    return
                failures += 1
            assert self._store is not None, "what is delivered was committed"
            done = Commit(0, (), (), "theus outbox", records=[Record("outbox", emit_id, None)])
            await self._store.commit(done, blocking=False)
        finally:
            with self._lock:
                del self._in_hand[emit_id]

    async def _handle(self, handler: Handler, topic: str, value: Any, emit_id: str) -> bool:
        """Whether it has taken the value."""
        try:
            answer = await self._threads.call(handler, value, emit_id)
            if inspect.isawaitable(answer):
                await answer
        except Exception:
            log.exception("a handler of %r failed on %s; it will be called again", topic, emit_id)
            return False
        return True

    async def _pause(self, seconds: float) -> bool:
        """Wait before the next try; False: the engine ends, and there is none."""
        if self._closing:
            return False
        task = asyncio.ensure_future(self._clock.sleep(seconds))
        self._pausing.add(task)
        await asyncio.wait((task,))
        self._pausing.discard(task)
        return not task.cancelled() and not self._closing

    def close(self, grace: float) -> None:
        """Let handlers that have begun come to their end, at most ``grace`` seconds; begin no other."""
        with self._lock:
            self._closing = True
            in_hand = list(self._in_hand.values())
        if not in_hand:
            return
        for task in list(self._pausing):
            task.get_loop().call_soon_threadsafe(task.cancel)
        deadline = time.monotonic() + grace
        answers = [answer for answer, _ in in_hand]
        concurrent.futures.wait(answers, max(0.0, deadline - time.monotonic()))
        for answer, cancel in in_hand:
            if not answer.done():
                cancel()
