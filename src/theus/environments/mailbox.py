"""How the pool's threads and the loops that wait for them get along without waiting for each other."""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from theus.environments.losses import timed_out

if TYPE_CHECKING:
    from theus.environments.batch import Answer
    from theus.environments.job import Job
    from theus.environments.parcel import Parcel

log = logging.getLogger("theus.environments")

_running_loop = asyncio._get_running_loop  # None where there is none

Todo = tuple[Callable[..., object], tuple[Any, ...]]


class Mailbox:
    """What is to be done on one loop. While the loop is busy things gather here, and one call takes them all there."""

    __slots__ = ("_items", "_loop", "_posted", "will_flush")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.will_flush = False  #: it will send what was gathered for the workers
        self._loop = weakref.ref(loop)
        self._items: deque[Todo] = deque()
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
                if loop is not None and loop is _running_loop():
                    loop.call_soon(self._run)  # nobody has to be woken, which would take two system calls
                elif loop is not None:
                    loop.call_soon_threadsafe(self._run)
            except RuntimeError:  # the loop was closed: nobody waits there any more
                self._items.clear()

    def _run(self) -> None:
        self._posted = False  # first: what comes from now on may not be seen below
        items = self._items
        while items:
            function, args = items.popleft()
            guarded(function, *args)


class Post:
    """Brings what workers say to the loops it is for. Used under the pool's lock; delivered once that is released."""

    def __init__(self, on_log: Callable[[Parcel], None]) -> None:
        self._on_log = on_log
        self._mailboxes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Mailbox] = weakref.WeakKeyDictionary()
        self._reader: asyncio.AbstractEventLoop | None = None
        self._reading: Mailbox | None = None  #: of that loop
        self._to_do: list[Todo] = []
        self._loose: list[Todo] = []

    def mailbox(self, loop: asyncio.AbstractEventLoop) -> Mailbox:
        """The mailbox of a loop."""
        found = self._mailboxes.get(loop)
        if found is None:
            found = self._mailboxes[loop] = Mailbox(loop)
        return found

    def begin_reading(self, loop: asyncio.AbstractEventLoop) -> None:
        """This loop reads now: what is for itself need not be posted."""
        self._reader, self._reading = loop, self.mailbox(loop)

    def end_reading(self) -> list[Todo]:
        """What the loop that read has to do, after it has released the lock."""
        self._reader = self._reading = None
        to_do, self._to_do = self._to_do, []  # what lies in it may be big, so it is not kept until the next time
        return to_do

    def deliver(self, loop: asyncio.AbstractEventLoop, function: Callable[..., object], *args: Any) -> None:
        """Have a function called on a loop."""
        reading = self._reading
        if reading is not None and loop is self._reader and reading.is_empty:
            self._to_do.append((function, args))
        else:
            self.mailbox(loop).put(function, *args)

    def settle(self, job: Job, answer: Any) -> None:
        """Hand a frame or an error to whoever waits for a job. One that was stopped ends so, whatever it answered."""
        job.worker = None
        if job.ended is not None:
            self.deliver(job.loop, _finish, job.ended, None)
        elif job.reason == "timeout":
            self.deliver(job.loop, _finish, job.future, timed_out(job))
        elif not job.reason:
            self.deliver(job.loop, _finish, job.future, answer)

    def log(self, job: Job | None, parcel: Parcel) -> None:
        """Have a log record handled, in the context of its call if it has one."""
        if job is not None:
            self.deliver(job.loop, job.where().run, self._on_log, parcel)
        else:
            self.do_loose(self._on_log, parcel)  # a thread that a body left behind wrote it

    def do_loose(self, function: Callable[..., object], *args: Any) -> None:
        """Have a function called by whoever reads, once that has released the lock."""
        self._loose.append((function, args))

    def take_loose(self) -> list[Todo]:
        """What whoever reads has to do then."""
        loose = self._loose
        if loose:
            self._loose = []
        return loose


def do_all(to_do: list[Todo]) -> None:
    """Do it, without the lock."""
    for function, args in to_do:
        guarded(function, *args)


def guarded(function: Callable[..., object], *args: Any) -> None:
    """Call what a user gave us; its error is logged."""
    try:
        function(*args)
    except Exception:
        log.exception("a listener of workers failed")


def _finish(future: asyncio.Future[Any] | Answer, answer: Any) -> None:
    if future.done():
        return
    if isinstance(answer, BaseException):
        future.set_exception(answer)
    else:
        future.set_result(answer)


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

    def hand_in(self, items: Iterable[Any]) -> None:
        """Hand something in; it is taken in now, or by whoever holds the lock."""
        self._arrived.extend(items)
        if self._lock.acquire(blocking=False):
            self.__exit__()

    def is_free_within(self, seconds: float) -> bool:
        """Whether the lock can be had at all: a signal handler that raises can leave it locked."""
        if not self._lock.acquire(timeout=seconds):
            return False
        self.__exit__()
        return True
