"""Notices, while it happens, that an event loop does not go on, and sees where it is held up.

Each loop that has runs in hand gives a sign of life forty times a second, and a thread looks for it as often. As long as
it is overdue the thread looks at the stack of the loop's thread each time. Who is seen there for 50 ms is told of. What
the system let the loop wait for a processor is not counted, where the system tells that, nor what the garbage collector
took: it comes to whoever makes the next object. While C code holds the interpreter's lock the watchdog is blind; its
first look afterwards may show who just gave the lock back.

A look takes the interpreter's lock once, while all is well: a loop that wants it from a call that computes in a thread
may lose a switch interval to anybody else who does. So nothing is sent and the system is asked for nothing before a
sign is overdue.

Making a resource is excused: it happens once, whoever asks for it first. (An HTTP client reads certificates in C code,
which holds the lock for a tenth of a second.)

With no run in hand nobody looks, and the thread ends after a while.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import itertools
import sys
import threading
import traceback
from collections.abc import Callable
from time import perf_counter, thread_time
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

from theus.context import attempt_of
from theus.environments.meter import RunDelay
from theus.environments.runner import execute, execute_async
from theus.resources import Resources

if TYPE_CHECKING:
    from theus.protocols import Call

BOUND = 0.05  #: seconds for which nothing may keep a loop from going on
BEAT = 0.025  #: seconds between two looks, and between two signs of life
REFRESH = 400  #: looks after which small delays of the watchdog itself are forgotten
IDLE_SECONDS = 10.0  #: a watchdog with nothing to watch for so long ends


Frames = dict[int, FrameType]  #: by thread


class Stall(NamedTuple):
    """A loop that does not go on."""

    call: Call | None  #: what holds it up; None: no process
    code: CodeType  #: the innermost function of the user's
    line: int
    seconds: float  #: so far
    elsewhere: bool  #: not the loop's own thread holds it up, but another one that kept the interpreter's lock
    stack: str


class Collections:
    """The garbage collector's time, which nobody in particular is to blame for: tens of milliseconds in a big program."""

    def __init__(self) -> None:
        self._before = 0.0
        self._began: float | None = None  #: the one under way

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        """As one of ``gc.callbacks``."""
        if phase == "start":
            self._began = perf_counter()
        else:
            self._before, self._began = self.seconds(), None

    def seconds(self) -> float:
        """All so far. A thread that waits for the lock gets it before the end of a collection is noted."""
        began = self._began
        return self._before if began is None else self._before + perf_counter() - began


class Watchdog:
    """Watches the loops of one engine. ``report`` is called with each stall, once, in the watchdog's thread."""

    def __init__(self, report: Callable[[Stall], None], resources: Resources) -> None:
        self._report = report
        self._resources = resources
        self._collections = Collections()
        self._lock = threading.Lock()
        self._wanted = threading.Event()
        self._watched: dict[asyncio.AbstractEventLoop, _Watch] = {}
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()

    def enter(self, loop: asyncio.AbstractEventLoop) -> None:
        """A run begins on the running loop."""
        with self._lock:
            watch = self._watched.get(loop)
            if watch is None:
                watch = self._watched[loop] = _Watch(loop)
            watch.runs += 1
            if not watch.is_beating:
                watch.beat()
            if self._thread is None and not self._ended.is_set():
                self._thread = threading.Thread(target=self._guard, name="theus-watchdog", daemon=True)
                self._thread.start()
        if not self._wanted.is_set():
            self._wanted.set()

    def leave(self, loop: asyncio.AbstractEventLoop) -> None:
        """A run ends there."""
        watch = self._watched.get(loop)
        if watch is not None:
            watch.runs -= 1

    def end(self) -> None:
        """Watch no longer."""
        self._ended.set()
        self._wanted.set()

    def _guard(self) -> None:
        own = RunDelay(threading.get_native_id())
        gc.callbacks.append(self._collections)
        try:
            for number in itertools.count():
                if not self._rest():
                    break
                if number % REFRESH == 0:
                    own.new()
                before, before_garbage = perf_counter(), self._collections.seconds()
                self._ended.wait(BEAT)
                # First of all, and all of one moment: who held the lock gave it back just now.
                now, garbage, frames = perf_counter(), self._collections.seconds(), sys._current_frames()
                excused = self._resources.made_at
                late = now - before - BEAT - (garbage - before_garbage)
                blind = excused < before and late > BOUND and late - own.new() > BOUND
                for watch in list(self._watched.values()):
                    if watch.due < excused:
                        watch.excuse(min(now, excused))
                        continue
                    stall = watch.look(now, frames, garbage, blind=blind)
                    if stall is not None:
                        self._report(stall)
                del frames
        finally:
            gc.callbacks.remove(self._collections)
            own.close()

    def _rest(self) -> bool:
        """Go on while there are runs; else wait for one. False: there was none for a long time, and the thread ends."""
        with self._lock:
            for loop, watch in list(self._watched.items()):
                if not watch.runs:
                    watch.close()
                    del self._watched[loop]  # or the watchdog would keep a loop alive
            if self._watched and not self._ended.is_set():
                return True
            self._wanted.clear()
        self._wanted.wait(0.0 if self._ended.is_set() else IDLE_SECONDS)
        with self._lock:
            if self._watched and not self._ended.is_set():
                return True
            self._thread = None
            return False


class _Watch:
    """One loop. Made in its thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.runs = 0
        self.is_beating = False
        self.thread = threading.get_ident()
        self.due = 0.0  #: when the next sign of life is
        self._computed = 0.0  #: the CPU time of the thread at the last one
        self._delay = RunDelay(threading.get_native_id())
        #: what the thread could not use before somebody was seen first: without a processor, or while garbage was collected
        self._lost = 0.0
        self._suspect: object = None  #: who was seen at the last look
        self._since = 0.0  #: since when
        self._told: object = None  #: of whom

    def beat(self) -> None:
        """A sign of life, in the loop's thread, and the next one soon, as long as there are runs."""
        self.due, self._computed = perf_counter() + BEAT, thread_time()
        self._suspect = self._told = None
        self.is_beating = self.runs > 0
        if self.is_beating:
            self.loop.call_later(BEAT, self.beat)

    def excuse(self, until: float) -> None:
        """What was so far does not count."""
        self.due, self._computed, self._suspect = until, self._delay.cpu(), None

    def look(self, now: float, frames: Frames, garbage: float, *, blind: bool) -> Stall | None:
        """Who keeps the loop from going on for too long now.

        ``garbage``: the seconds that were spent on collecting it by then. ``blind``: the interpreter's lock could not be
        had.
        """
        is_overdue = now > self.due + BEAT
        if not self.runs or not (is_overdue or blind) or self.loop.is_closed():
            return None
        call, shown = _culprit(frames.get(self.thread))
        call = call or _of_task(self.loop)
        elsewhere = False
        if call is None and blind:
            others = [_culprit(frame) for thread, frame in frames.items() if thread != self.thread]
            held = [(found, at) for found, at in others if found is not None]
            if len(held) == 1:  # else it cannot be said who it was
                (call, shown), elsewhere = held[0], True
        if shown is None or (call is None and not is_overdue):
            return None
        suspect = call or shown.f_code
        if suspect is not self._suspect:  # what the loop did before may have been others' work
            self._suspect, self._since = suspect, now - BEAT if blind else now
            self._lost = self._delay.seconds() + garbage
        seconds = now - self._since
        if suspect is self._told or (seconds - (self._delay.seconds() + garbage - self._lost) < BOUND and not blind):
            return None
        if not elsewhere and self._is_idle(blind=blind):
            return None
        self._told = suspect
        stack = "".join(traceback.format_stack(shown, 6))
        return Stall(call, shown.f_code, shown.f_lineno, seconds, elsewhere, stack)

    def _is_idle(self, *, blind: bool) -> bool:
        """Whether the loop's thread is ready to go on and only waits: for a processor, or for a lock that others hold."""
        computed = self._delay.cpu()
        if not computed or computed - self._computed >= BOUND / 2:  # not known, or it did something
            return False
        return blind or self._delay.is_waiting()

    def close(self) -> None:
        """Let go of what belongs to the thread."""
        self._delay.close()


def _culprit(frame: FrameType | None) -> tuple[Call | None, FrameType | None]:
    """The call that a stack is in, if any, and the innermost frame of it that is the user's."""
    innermost: FrameType | None = None
    body: FrameType | None = None
    in_loop = False  # what comes further out has started the loop; it does not hold it up
    while frame is not None:
        if frame.f_code in _RUNNERS:
            return frame.f_locals.get("call"), innermost or body
        file = frame.f_code.co_filename
        in_loop = in_loop or file.startswith(_ASYNCIO)
        if innermost is None and not in_loop and not file.startswith(_libraries()):
            innermost = frame
        if not file.startswith(_standard()):
            body = frame  # a package of the user's own may be installed beside those of others
        frame = frame.f_back
    return None, innermost


def _of_task(loop: asyncio.AbstractEventLoop) -> Call | None:
    """The call to which a task belongs that a process started (Python 3.12 and newer can tell)."""
    task = asyncio.current_task(loop)
    get_context: Callable[[], Any] | None = getattr(task, "get_context", None)
    attempt = None if get_context is None else attempt_of(get_context())
    return None if attempt is None else attempt.call


_RUNNERS = (execute.__code__, execute_async.__code__)
_ASYNCIO = asyncio.__file__.rpartition("__init__")[0]


@functools.cache
def _standard() -> tuple[str, ...]:
    """Where the standard library lives."""
    import sysconfig  # here: whoever imports theus would pay for it

    return *{sysconfig.get_path(name) for name in ("stdlib", "platstdlib")}, "<frozen "


@functools.cache
def _libraries() -> tuple[str, ...]:
    """Where the code lives that is not the user's."""
    import sysconfig

    paths = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    return *_standard(), *paths, __file__.rpartition("watchdog")[0]
