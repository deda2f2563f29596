"""What a call costs: its CPU, and for how long it kept the interpreter's lock (the GIL) from everybody else.

The CPU clock of its thread says how much a call computes. Not the ratio to the wall clock: among four threads that
compute, each has a quarter. What it cannot say is whether the call held the lock meanwhile: numpy or zlib release it,
and then a thread is as parallel as a process. So a *ticker*, a thread that wakes every millisecond, sees how late it
wakes while the call runs: a thread that wants the lock waits for a switch interval, or as long as the C call of the
holder takes. What the system let it wait for a processor is not counted, where the system tells that.

The ticker runs only while a call is watched; it ends when nothing was watched for a while.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from time import perf_counter, process_time, sleep
from typing import TYPE_CHECKING

from theus.environments.runner import execute

if TYPE_CHECKING:
    from theus.protocols import Call, Outcome

EARLY, LATER = 0.001, 0.01  #: seconds between two ticks: at first, and when it has watched for a while
MANY = 20  #: ticks after which it ticks less often
TINY = 1e-9  #: seconds, where a clock has not moved
IDLE_SECONDS = 10.0  #: a ticker with nothing to watch for so long ends


class Meter:
    """Measures calls of ``def`` processes in this process's threads."""

    def __init__(self, ticker: Ticker | None = None) -> None:
        self._ticker = ticker

    def measure(self, call: Call) -> Outcome:
        """Run a call and note its CPU and, with a ticker, how long it held the lock."""
        ticker = self._ticker
        if ticker is None:
            return execute(call, measure_cpu=True)
        started, everybody = perf_counter(), process_time()
        before = ticker.watch(started)
        try:
            outcome = execute(call, measure_cpu=True)
        finally:
            now = perf_counter()
            held = ticker.leave(now)
        cpu = outcome.cpu or 0.0
        everybody = process_time() - everybody
        # If others computed at the same time, on another core, the lock may have been theirs: nothing is known then.
        if held is not None and (everybody - cpu <= 0.25 * cpu or everybody <= 1.2 * (now - started)):
            outcome.held = cpu * min(1.0, (held - before) / max(everybody, TINY))  # the others' part is theirs
        try:
            return outcome
        finally:
            del outcome, call


class Ticker:
    """A thread that notices for how long the interpreter's lock could not be had. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watching = 0
        self._resting = True
        self._thread: threading.Thread | None = None
        self._wanted = threading.Event()
        self._held = 0.0  #: seconds in all
        self._due = 0.0  #: when the next tick should be
        self._last = 0.0  #: when the last one was
        self._computed = 0.0  #: the CPU time of the process then
        self._delay: RunDelay | None = None  #: of the thread
        self._ended = False

    def watch(self, now: float) -> float:
        """Begin to watch; gives what ``leave`` is compared with."""
        with self._lock:
            self._watching += 1
            if self._watching == 1:
                self._last, self._computed = now, process_time()
                if self._resting:
                    self._due = now  # it should be awake at once
                self._wanted.set()
                if self._thread is None and not self._ended:
                    self._thread = threading.Thread(target=self._run, name="theus-ticker", daemon=True)
                    self._thread.start()
            return self._held

    def leave(self, now: float) -> float | None:
        """End it; gives for how long the lock was held, with what it waits for at this moment; None: nobody can tell."""
        computed = process_time()
        with self._lock:
            self._watching -= 1
            if not self._watching:
                self._wanted.clear()
            held, due, delay = self._held, self._due, self._delay
            since = max(0.0, min(now - self._last, computed - self._computed))
        if now - due < _late():
            return held
        return None if delay is not None and delay.is_waiting() else held + since

    def end(self) -> None:
        """Watch no longer."""
        self._ended = True
        self._wanted.set()

    def _run(self) -> None:
        delay = self._delay = RunDelay(threading.get_native_id())
        try:
            while self._rest(delay):
                ticks = 0
                while self._wanted.is_set() and not self._ended:
                    waited = delay.seconds()
                    period = EARLY if ticks < MANY else LATER
                    self._due = perf_counter() + period
                    sleep(period)
                    self._note(delay.seconds() - waited)
                    ticks += 1
        finally:
            delay.close()

    def _rest(self, delay: RunDelay) -> bool:
        """Wait until it is wanted; False: it was not for a long time, and the thread ends."""
        with self._lock:
            self._resting = not self._watching
        waited = delay.seconds()
        was_wanted = self._wanted.wait(IDLE_SECONDS)  # the call may have ended since
        with self._lock:
            self._resting = False
            if self._ended or not (was_wanted or self._wanted.is_set()):
                self._resting, self._thread = True, None
                return False
        self._note(delay.seconds() - waited)
        return True

    def _note(self, delayed: float) -> None:
        """It has the lock: was that late, though a processor was free?

        Counted is what the process computed meanwhile: who has the lock may itself have waited for a processor.
        """
        now, computed = perf_counter(), process_time()
        if now - self._due - delayed >= _late():
            self._held += min(now - self._last, computed - self._computed)
        self._last, self._computed = now, computed


def _late() -> float:
    """Who asks for the lock while Python code runs gets it after a switch interval; nothing else takes so long."""
    return 0.8 * sys.getswitchinterval()


class RunDelay:
    """How long a thread ran, and was ready to run and waited for a processor, where the system tells it (Linux)."""

    def __init__(self, native_id: int) -> None:
        self._path = f"/proc/self/task/{native_id}"
        try:
            self._file = os.open(f"{self._path}/schedstat", os.O_RDONLY)
        except OSError:
            self._file = -1

    def seconds(self) -> float:
        """How long it waited so far, this time excluded; 0 where it is not known."""
        return self._read(1)

    def cpu(self) -> float:
        """How long it ran; 0 where it is not known."""
        return self._read(0)

    def _read(self, field: int) -> float:
        if self._file < 0:
            return 0.0
        try:
            return int(os.pread(self._file, 64, 0).split()[field]) * 1e-9
        except (OSError, IndexError):  # the thread has ended
            return 0.0

    def is_waiting(self) -> bool:
        """Whether it runs or waits for a processor now, and for nothing else."""
        if self._file < 0:
            return False
        try:
            stat = Path(self._path, "stat").read_text(encoding="utf-8")
        except OSError:
            return False
        return stat.rpartition(")")[2].split()[0] == "R"

    def close(self) -> None:
        """Let go of the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
