"""What a call costs: its CPU, and for how long it kept the interpreter's lock (the GIL) from everybody else.

The CPU clock of its thread says how much a call computes. Not the ratio to the wall clock: among four threads that
compute, each has a quarter. What it cannot say is whether the call held the lock meanwhile: numpy or zlib release it,
and then a thread is as parallel as a process. So a *ticker*, a thread that wakes every now and then, sees how late it
wakes while the call runs: a thread that wants the lock waits for a switch interval, or as long as the C call of the
holder takes. What the system let it wait for a processor is not counted, where the system tells that.

A thread that wants the lock takes part in the contest for it, and an event loop in the same contest may lose a switch
interval to it. So the ticker wakes every millisecond only at first and then ever more seldom, it makes one system call a
tick (each gives the lock away, and it has to win it again), and from when it saw that the lock is held, until it watches
no more, the switch interval is shorter: a loop that loses one more waits no longer than it would have without a ticker.

The ticker runs only while a call is watched; it ends when nothing was watched for a while.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from time import perf_counter, process_time
from typing import TYPE_CHECKING, NamedTuple

from theus.environments.runner import execute
from theus.environments.witness import Witness
from theus.protocols import Measured

if sys.platform == "linux":
    from resource import RUSAGE_THREAD, getrusage

if TYPE_CHECKING:
    from theus.protocols import Call, Outcome

EARLY, LATER = 0.001, 0.05  #: seconds between two ticks: at first, and at most
GROWTH = 0.25  #: the part of the time watched so far after which it ticks again
ALONE = 0.8  #: the part of a call's time that it computes, if it waits neither for the lock nor for anything else
PATIENCE = 0.001  #: seconds for which a call that has ended waits for a tick that is due
WITNESS_SECONDS = 0.1  #: of CPU that a checksum of an argument may take: what takes longer is too dear to send
IDLE_SECONDS = 10.0  #: a ticker with nothing to watch for so long ends
INTERVAL = 0.003  #: seconds of the interpreter's switch interval while who holds the lock is watched; by itself 0.005
LATE = 0.3  #: of a switch interval: who asks for the lock while Python code runs gets it after one; nothing else takes so long


class Meter:
    """Measures calls of ``def`` processes in this process's threads. ``witness``: and sees whether they change arguments."""

    def __init__(self, ticker: Ticker | None = None, *, witness: bool = False) -> None:
        self._ticker = ticker
        self._witness = witness

    def measure(self, call: Call) -> Outcome:
        """Run a call and note its CPU and, with a ticker, how long it held the lock and how long it surely waited."""
        ticker = self._ticker
        if ticker is None:
            return execute(call, measure_cpu=True)
        witness = Witness(call, WITNESS_SECONDS) if self._witness else None
        delay = RunDelay(threading.get_native_id())
        waited, switches = delay.seconds(), _switches()
        started, everybody = perf_counter(), process_time()
        before = ticker.watch(started)
        try:
            outcome = execute(call, measure_cpu=True)
        finally:
            now, all_cpu = perf_counter(), process_time() - everybody
            switches = _switches() - switches
            seen = ticker.leave(now, before)
            waited = delay.seconds() - waited
            delay.close()
        outcome.measured = measured = Measured(
            _held(seen, outcome.cpu or 0.0, all_cpu, now - started, switches),
            # While anybody computed, it may have waited for the lock or a processor, which it would not do elsewhere.
            max(0.0, outcome.wall - all_cpu - waited),
        )
        if witness is not None:
            changed = witness.changed()
            measured.changed = "" if changed is None else f"{changed[0]} ({changed[1].__qualname__})"
        try:
            return outcome
        finally:
            del outcome, call, witness


def _switches() -> int:
    """How often this thread had to let go of its processor; 0 where nobody tells."""
    if sys.platform != "linux":
        return 0
    usage = getrusage(RUSAGE_THREAD)
    return usage.ru_nvcsw + usage.ru_nivcsw


def _held(seen: Seen | None, cpu: float, all_cpu: float, wall: float, switches: int) -> float | None:
    """The part of its CPU time that a call held the lock. If others computed meanwhile, the lock may have been theirs."""
    if seen is None:
        return None
    if not seen.held:  # nobody held it
        return 0.0
    if all_cpu - cpu <= 0.25 * cpu or all_cpu <= 1.2 * wall:  # on one core: in turns with the others, if at all
        return cpu * seen.held / seen.computed  # the others' part is theirs
    # Native threads, as those of BLAS, may compute or only spin beside it; they never have the lock. Whoever computes
    # from end to end, and has the lock at both, did not wait for it; and if it had to stop as often as somebody else was
    # given it, it was the one that gave it away.
    return cpu if seen.ticks <= switches and cpu >= ALONE * wall else None


class SwitchInterval:
    """The interpreter's switch interval, which is a shorter one while any ticker of this process wants that."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted = 0  #: by so many tickers
        self._usual = 0.0  #: what to go back to

    def shorten(self) -> None:
        """Make it a short one, until ``restore`` was called as often."""
        with self._lock:
            self._wanted += 1
            if self._wanted == 1:
                self._usual = sys.getswitchinterval()
                if self._usual > INTERVAL:
                    sys.setswitchinterval(INTERVAL)

    def restore(self) -> None:
        """Make it what it was, if nobody else changed it meanwhile."""
        with self._lock:
            self._wanted -= 1
            if not self._wanted and self._usual > INTERVAL and sys.getswitchinterval() == INTERVAL:
                sys.setswitchinterval(self._usual)


_switch_interval = SwitchInterval()


class Seen(NamedTuple):
    """What a ticker saw: since ever, or during one call."""

    ticks: int = 0  #: how often it had the lock
    judged: int = 0  #: how often it could tell whether somebody else had had it
    computed: float = 0.0  #: seconds of CPU of the process that were judged
    held: float = 0.0  #: those of them in which the lock could not be had


class Ticker:
    """A thread that notices for how long the interpreter's lock could not be had. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watching = 0
        self._hurries = False  #: the switch interval is shorter
        self._thread: threading.Thread | None = None
        self._wanted = threading.Event()  #: set while something is watched
        self._over = threading.Event()  #: set while nothing is
        self._noted = threading.Event()  #: a tick was, since somebody cleared this
        self._seen = Seen()
        self._began = 0.0  #: when the newest watch did
        self._due = 0.0  #: when the next tick should be
        self._last = 0.0  #: when the last one was
        self._computed = 0.0  #: the CPU time of the process then
        self._ended = False

    def watch(self, now: float) -> Seen:
        """Begin to watch; gives what ``leave`` compares with."""
        with self._lock:
            self._watching += 1
            self._began = now
            if self._watching == 1:
                self._last, self._computed = now, process_time()
                self._due = now  # it should be awake at once
                self._over.clear()
                self._wanted.set()
                if self._thread is None and not self._ended:
                    self._thread = threading.Thread(target=self._run, name="theus-ticker", daemon=True)
                    self._thread.start()
            return self._seen

    def leave(self, now: float, before: Seen) -> Seen | None:
        """End it; gives what was seen since, with the tick that is due at this moment; None: nobody can tell.

        Its ``ticks`` are those before the end: what computes in C gives the lock away as soon as it is done.
        """
        with self._lock:
            ticks, wants_the_lock = self._seen.ticks, now - self._due >= EARLY
            ended_with_one = ticks > before.ticks and now - self._last < EARLY
            self._noted.clear()
            self._watching -= 1
            if not self._watching:
                self._hurry(False)
                self._wanted.clear()
                self._over.set()
        if (
            wants_the_lock and self._seen.ticks == ticks and not self._noted.wait(PATIENCE)
        ):  # for the lock or a processor
            return None
        seen = self._seen
        if seen.judged == before.judged:
            return None
        judged, computed = seen.judged - before.judged, seen.computed - before.computed
        return Seen(ticks - before.ticks - ended_with_one, judged, computed, seen.held - before.held)

    def end(self) -> None:
        """Watch no longer."""
        self._ended = True
        self._wanted.set()
        self._over.set()

    def _run(self) -> None:
        delay = RunDelay(threading.get_native_id())
        try:
            while self._rest(delay):
                while self._wanted.is_set() and not self._ended:
                    now = perf_counter()
                    period = min(max(EARLY, GROWTH * (now - self._began)), LATER)
                    self._due = now + period
                    self._over.wait(period)
                    self._note(delay)
        finally:
            delay.close()

    def _rest(self, delay: RunDelay) -> bool:
        """Wait until it is wanted; False: it was not for a long time, and the thread ends."""
        delay.new()
        was_wanted = self._wanted.wait(IDLE_SECONDS)  # the call may have ended since
        with self._lock:
            if self._ended or not (was_wanted or self._wanted.is_set()):
                self._thread = None
                return False
        self._note(delay)
        return True

    def _note(self, delay: RunDelay) -> None:
        """It has the lock: was that late, though a processor was free? If none was, the next tick judges for this one.

        Counted is what the process computed meanwhile: who has the lock may itself have waited for a processor.
        """
        waited = delay.new()  # a system call: it may have to wait for the lock again, which counts
        now, computed = perf_counter(), process_time()
        ticks, judged, known, held = self._seen
        late, much = now - self._due, LATE * sys.getswitchinterval()
        is_held = late - waited >= much
        if is_held or late < much:
            new = max(0.0, min(now - self._last, computed - self._computed))
            judged, known, held = judged + 1, known + new, held + new * is_held
            self._last, self._computed = now, computed
        if is_held and not self._hurries:
            with self._lock:
                self._hurry(self._watching > 0)
        self._seen = Seen(ticks + 1, judged, known, held)
        self._noted.set()

    def _hurry(self, whether: bool) -> None:
        """Make the switch interval shorter, or what it was; the lock is held."""
        if whether != self._hurries:
            self._hurries = whether
            (_switch_interval.shorten if whether else _switch_interval.restore)()


class RunDelay:
    """How long a thread ran, and was ready to run and waited for a processor, where the system tells it (Linux)."""

    def __init__(self, native_id: int) -> None:
        self._path = f"/proc/self/task/{native_id}"
        try:
            self._file = os.open(f"{self._path}/schedstat", os.O_RDONLY)
        except OSError:
            self._file = -1
        self._known = 0.0

    def seconds(self) -> float:
        """How long it waited so far, this time excluded; 0 where it is not known."""
        return self._read(1)

    def new(self) -> float:
        """How long it waited since this was asked last."""
        before, self._known = self._known, self.seconds()
        return self._known - before

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
