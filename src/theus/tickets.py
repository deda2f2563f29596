"""Tickets: after a conflict a call queues for its paths, first come first served, and then succeeds.

Optimistic transactions starve: eight tasks on one counter let one of them commit 1,636 times and the others
never, and backing off does not cure it. So a call that met a conflict takes a ticket for every path that its
last attempt read or wrote, before it starts again. A ticket joins the queues of all its paths in one step,
under one lock; so any two tickets stand in the same order wherever they meet, and there can be no deadlock.
It is *ready* when it is first in all of them.

::

    asked ──(first in every queue)──> ready ──> released
                                        │
        the call runs and commits; whoever writes one of its paths meanwhile waits in the queue

No ticket is taken inside a body, and there is no store-wide lane. With no conflict there is no ticket, and
the price is one truth test per commit.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING

from theus.errors import Path

if TYPE_CHECKING:
    from theus.state.access import Ops, Reads


class Ticket:
    """A place in the queues of some paths."""

    __slots__ = ("_desk", "_wake", "owner", "paths", "ready")

    def __init__(self, desk: Tickets, paths: frozenset[Path], owner: str) -> None:
        self._desk = desk
        self._wake: Callable[[], object] | None = None
        self.paths = paths
        self.owner = owner  #: the process that holds it
        self.ready = False

    async def turn(self, *, blocking: bool) -> None:
        """Wait until this ticket is first in all its queues: in this thread, or on the running loop."""
        if blocking:
            gate = threading.Lock()  # not an Event, which takes many more steps to wake somebody
            gate.acquire()
            if self._desk.call_when_ready(self, gate.release):
                gate.acquire()
        else:
            loop = asyncio.get_running_loop()
            waiter: asyncio.Future[None] = loop.create_future()

            def wake() -> None:
                if not waiter.done():
                    waiter.set_result(None)

            def wake_from_anywhere() -> None:
                if asyncio._get_running_loop() is loop:
                    wake()
                else:
                    loop.call_soon_threadsafe(wake)

            if self._desk.call_when_ready(self, wake_from_anywhere):
                await waiter

    def release(self) -> bool:
        """Leave the queues; whoever is first then is woken. Gives whether anybody stood behind it."""
        return self._desk.release(self)


class Tickets:
    """The queues of one engine. Safe to use from any thread and loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.queues: dict[Path, deque[Ticket]] = {}  #: empty if nobody queues, which every commit looks at
        self._above: Counter[Path] = Counter()  #: every path above a queued one, to find what a whole subtree covers

    def request(self, paths: Collection[Path], owner: str) -> Ticket:
        """Queue for all of ``paths`` at once."""
        ticket = Ticket(self, frozenset(paths), owner)
        with self._lock:
            first = True
            for path in ticket.paths:
                queue = self.queues.get(path)
                if queue is None:
                    queue = self.queues[path] = deque()
                    self._above.update(path[:length] for length in range(len(path)))
                queue.append(ticket)
                first = first and queue[0] is ticket
            ticket.ready = first
        return ticket

    def call_when_ready(self, ticket: Ticket, wake: Callable[[], object]) -> bool:
        """Arrange for ``wake`` to be called once; False if the ticket is ready already."""
        with self._lock:
            if ticket.ready:
                return False
            ticket._wake = wake
            return True

    def release(self, ticket: Ticket) -> bool:
        wakers = []
        contended = False
        with self._lock:
            for path in ticket.paths:
                queue = self.queues[path]
                was_first = queue[0] is ticket
                queue.remove(ticket)
                contended = contended or bool(queue)
                if not queue:
                    del self.queues[path]
                    self._above.subtract(path[:length] for length in range(len(path)))
                elif was_first and self._is_first(queue[0]):
                    queue[0].ready = True
                    if queue[0]._wake is not None:
                        wakers.append(queue[0]._wake)
            if not self.queues:
                self._above.clear()
        for wake in wakers:
            wake()
        return contended

    def _is_first(self, ticket: Ticket) -> bool:
        return all(self.queues[path][0] is ticket for path in ticket.paths)

    def in_the_way(self, written: Collection[Path], own: Ticket | None) -> Path | None:
        """A path for which somebody else queues and that a write of ``written`` would touch; None if there is none."""
        with self._lock:
            for path in written:
                for length in range(len(path) + 1):
                    queue = self.queues.get(path[:length])
                    if queue is not None and queue[0] is not own:
                        return path[:length]
                if self._above[path] > 0:
                    for other, queue in self.queues.items():
                        if other[: len(path)] == path and queue[0] is not own:
                            return other
        return None


def touched(reads: Reads, ops: Ops) -> Iterator[Path]:
    """The paths that a transaction read or wrote: what its next attempt queues for."""
    for path, keys, shape, deep in reads:
        for key in keys:
            yield (*path, key)
        if shape or deep:
            yield path
    for op in ops:
        yield op[1]
