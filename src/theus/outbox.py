"""The outbox: what ``ctx.emit(..., durable=True)`` hands over is recorded in the commit, and delivered until a handler has it.

::

    commit with its record ──> every handler of the topic ──> all returned: the record goes
                                    ▲            │ one raised
                                    └── delay ───┘  (those that returned are not called again)

At least once: between a handler's return and the commit that removes the record the program may die, and then another
engine that has a handler of the topic delivers it again, under the same id. What nobody handles stays where it is.

**Who delivers.** A record names the engine that holds it: the one that emitted it, if it handles the topic; else nobody.
Engines that handle the topic hear of it with the commit. What nobody holds they claim at once, by a commit that expects
the record as it was, so one of them gets it. What another holds they claim when that engine has given no sign of life for
``LEASE`` seconds, by their own clock: clocks of two machines are never compared. An engine gives such signs as long as it
has something in hand; one is a commit that takes away a record which is not there, so it leaves nothing in the store.
An engine that begins to handle a topic claims all of it: it cannot know since when nothing was heard of who holds it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import logging
import os
import secrets
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from theus.clock import backoff
from theus.errors import CommitUnknown, StoreError
from theus.protocols import Commit, Committed, Record, Refused
from theus.records import pack, unpack

if TYPE_CHECKING:
    from theus.environments.thread import ThreadEnvironment
    from theus.portal import Portal
    from theus.protocols import Call, Clock, Conflict, Outcome, Store
    from theus.records import Values
    from theus.topics import Handler, Topics

    _Task = tuple[concurrent.futures.Future[None], Callable[[], object]]  #: how it ends, and how to cancel it

log = logging.getLogger("theus")

LEASE = 20.0  #: seconds without a sign of life, after which what an engine holds is taken over
BEAT = 5.0  #: seconds from one sign of life to the next
_AUTHOR = "theus outbox"


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
        self._name = secrets.token_hex(8)
        self._lock = threading.Lock()
        self._in_hand: dict[str, _Task] = {}
        self._beating: _Task | None = None
        self._watching: _Task | None = None
        #: other engines that hold something, and when they last gave a sign of life
        self._heard_of: dict[str, float] = {}
        self._pausing: set[asyncio.Task[None]] = set()
        self._end_tail: Callable[[], None] | None = None  #: once the store is listened to
        self._closing = False

    @property
    def _token(self) -> str:
        """The name of this engine in what it holds; a forked child is another."""
        return f"{self._name}-{os.getpid()}"

    def records(self, call: Call, outcome: Outcome) -> list[Record]:
        """What goes with the commit of a call."""
        found = []
        for number, (topic, value, durable) in enumerate(outcome.emits):
            if durable:
                where = f"what was emitted for {topic!r}"
                data = self._codec.encode(value, process=call.process.name, where=where)
                holder = self._token if self._topics.handlers(topic) else ""
                found.append(Record("outbox", f"{call.key}#{number}", _packed(topic, holder, data)))
        return found

    def look(self, topic: str) -> None:
        """Deliver what was left undelivered of a topic, now that it has a handler, and what others emit and leave."""
        assert self._store is not None, "only an engine with a store looks"
        if self._end_tail is None:
            self._end_tail = self._store.tail(_listener(weakref.ref(self)))
        for record in self._store.records("outbox"):
            if _unpacked(record)[0] == topic:
                self._claim(record)

    def deliver(self, emit_id: str, topic: str, value: Any) -> None:
        """Begin to deliver what was emitted here, on the engine's loop, unless nobody handles the topic or it has begun."""
        handlers = self._topics.handlers(topic)
        if handlers:
            self._begin(emit_id, lambda: self._deliver(emit_id, topic, value, handlers))

    def _claim(self, record: Record) -> None:
        """Begin to make a record ours and to deliver it, unless it has begun."""
        self._begin(record.key, lambda: self._take_over(record))

    def _begin(self, emit_id: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        with self._lock:
            if emit_id in self._in_hand or self._closing:
                return
            self._in_hand[emit_id] = self._portal.spawn(self._to_its_end(emit_id, work()))
            if self._beating is None:
                self._beating = self._portal.spawn(self._beat())

    async def _to_its_end(self, emit_id: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        finally:
            with self._lock:
                del self._in_hand[emit_id]

    async def _take_over(self, record: Record) -> None:
        topic, _, data = _unpacked(record)
        handlers = self._topics.handlers(topic)
        ours = Record("outbox", record.key, _packed(topic, self._token, data))
        answer = await self._committed(Commit(0, (), (), _AUTHOR, records=[ours], expected=[record]))
        # Refused: another engine was faster, or it is delivered; or it is ours, and the answer that says so was lost.
        if isinstance(answer, Committed) or (isinstance(answer, Refused) and answer.record == ours):
            await self._deliver(record.key, topic, self._codec.decode(data), handlers)

    async def _deliver(self, emit_id: str, topic: str, value: Any, handlers: list[Handler]) -> None:
        failures = 0
        while True:
            handlers = [handler for handler in handlers if not await self._handle(handler, topic, value, emit_id)]
            if not handlers:
                break
            if not await self._pause(backoff(failures)):
                return
            failures += 1
        await self._committed(Commit(0, (), (), _AUTHOR, records=[Record("outbox", emit_id, None)]))

    async def _committed(self, commit: Commit) -> Committed | Conflict | Refused | None:
        """The store's answer, also of one that is away for a while; None: the engine ends before."""
        assert self._store is not None, "what is delivered was committed"
        failures = 0
        while True:
            try:
                return await self._store.commit(commit, blocking=False)
            except (StoreError, CommitUnknown) as failure:
                log.warning("the outbox could not be changed, it will be tried again: %s", failure)
            if not await self._pause(backoff(failures)):
                return None
            failures += 1

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

    # --- signs of life

    async def _beat(self) -> None:
        """Give them while something is in hand. By the machine's time: a clock that stands still is no death."""
        assert self._store is not None, "what is in hand was committed"
        while True:
            await asyncio.sleep(BEAT)
            with self._lock:
                if not self._in_hand:
                    self._beating = None
                    return
            try:
                await self._store.commit(
                    Commit(0, (), (), _AUTHOR, records=[Record("alive", self._token, None)]), blocking=False
                )
            except (StoreError, CommitUnknown) as failure:
                log.warning("no sign of life could be given to those who share the store: %s", failure)

    def heard(self, committed: Committed) -> None:
        """Take note of a commit of this engine or another. Its store waits, so what takes longer is begun on the loop."""
        for record in committed.records:
            if record.kind == "alive":
                if record.key in self._heard_of:
                    self._lives(record.key)
            elif record.kind == "outbox" and record.value is not None:
                topic, holder, _ = _unpacked(record)
                if holder != self._token and self._topics.handlers(topic):
                    if holder:
                        self._lives(holder)
                    else:
                        self._claim(record)

    def _lives(self, holder: str) -> None:
        with self._lock:
            self._heard_of[holder] = self._clock.now()
            if self._watching is None and not self._closing:
                self._watching = self._portal.spawn(self._watch())

    async def _watch(self) -> None:
        """Claim what is held by those who have given no sign of life for too long."""
        assert self._store is not None, "who holds something was heard of from it"
        while True:
            with self._lock:
                if not self._heard_of:
                    self._watching = None
                    return
                holder, last = min(self._heard_of.items(), key=lambda item: item[1])
                left = last + LEASE - self._clock.now()
                if left <= 0:
                    del self._heard_of[holder]
            if left > 0:
                await self._clock.sleep(left)
                continue
            try:
                records = await self._threads.call(self._store.records, "outbox")
            except StoreError as failure:
                log.warning("what engine %s left in the outbox could not be read: %s", holder, failure)
                self._lives(holder)  # look again
                continue
            for record in records:
                topic, by, _ = _unpacked(record)
                if by == holder and self._topics.handlers(topic):
                    log.info("%s was left by an engine that gives no sign of life; it is delivered here", record.key)
                    self._claim(record)

    # --- the end

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
        if self._end_tail is not None:
            self._end_tail()
        for task in list(self._pausing):
            task.get_loop().call_soon_threadsafe(task.cancel)
        concurrent.futures.wait([answer for answer, _ in in_hand], grace)
        rest = [task for task in (*in_hand, self._beating, self._watching) if task is not None and not task[0].done()]
        for _, cancel in rest:
            cancel()
        concurrent.futures.wait([answer for answer, _ in rest], grace)


def _listener(outbox: weakref.ref[Outbox]) -> Callable[[Committed], None]:
    """What the store calls with each commit. A store may outlive an engine that nobody closed."""

    def listen(committed: Committed) -> None:
        if committed.records and (found := outbox()) is not None:
            found.heard(committed)

    return listen


def _packed(topic: str, holder: str, data: bytes) -> bytes:
    return pack({"topic": topic, "by": holder}, data)


def _unpacked(record: Record) -> tuple[str, str, bytes]:
    """Topic, holder (an older version named none) and value."""
    assert record.value is not None, "what is taken away is not looked at"
    fields, (data,) = unpack(record.value)
    return fields["topic"], fields.get("by", ""), data
