"""How the pool's threads and the loops that wait for them get along without waiting for each other."""

from __future__ import annotations

import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger("theus.environments")


class Mailbox:
    """What is to be done on one loop. While the loop is busy things gather here, and one call takes them all there."""

    __slots__ = ("_items", "_loop", "_posted")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._items: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._posted = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits here to be done before what comes now."""
        return not self._items

    def put(self, function: Callable[..., object], *args: Any) -> None:
        """Have a function called on the loop. From any thread, one at a time."""
        self._items.append((function, args))
        if not self._posted:
            self._posted = True
            loop = self._loop()
            try:
                if loop is not None:
                    loop.call_soon_threadsafe(self._run)
            except RuntimeError:  # the loop was closed: nobody waits there any more
                self._items.clear()

    def _run(self) -> None:
        self._posted = False  # first: what comes from now on may not be seen below
        items = self._items
        while items:
            function, args = items.popleft()
            guarded(function, *args)


def guarded(function: Callable[..., object], *args: Any) -> None:
    """Call what a user gave us; its error is logged."""
    try:
        function(*args)
    except Exception:
        log.exception("a listener of worker processes failed")


class CombiningLock:
    """A lock that nobody has to wait for only to hand something in: its holder takes in what arrived meanwhile.

    ``arrived``: where it is handed in. ``take_in``: takes all of it, under the lock.
    """

    __slots__ = ("_arrived", "_lock", "_take_in")

    def __init__(self, arrived: deque[Any], take_in: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._arrived = arrived
        self._take_in = take_in

    def __enter__(self) -> None:
        self._lock.acquire()
        if self._arrived:
            self._take_in()

    def __exit__(self, *exception: object) -> None:
        lock = self._lock
        while True:
            try:
                if self._arrived:
                    self._take_in()
            finally:
                lock.release()
            # What came between these two lines and found the lock taken is ours.
            if not self._arrived or not lock.acquire(blocking=False):
                return

    def hand_in(self, item: Any) -> None:
        """Hand something in; it is taken in now, or by whoever holds the lock."""
        self._arrived.append(item)
        if self._lock.acquire(blocking=False):
            self.__exit__()

    def is_free_within(self, seconds: float) -> bool:
        """Whether the lock can be had at all: a signal handler that raises can leave it locked."""
        if not self._lock.acquire(timeout=seconds):
            return False
        self.__exit__()
        return True
