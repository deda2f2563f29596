"""What the demo measures: how late a loop is, how busy the cores are, how much memory is in use."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Sequence

TICK = 0.001  #: seconds between two looks at a loop
BUCKET = 0.05  #: seconds that one character of a sparkline stands for
BARS = "▁▂▃▄▅▆▇█"


class Lag:
    """A ticker on a loop: wakes every millisecond and notes how late it was."""

    def __init__(self) -> None:
        self.worst = 0.0  #: seconds
        self.ticks = 0
        self.recent: deque[float] = deque(maxlen=60)  #: the worst of each twentieth of a second
        self._until = 0.0
        self._stopped = False

    async def tick(self) -> None:
        """Look at the running loop until ``stop``."""
        clock = time.perf_counter
        while not self._stopped:
            due = clock() + TICK
            await asyncio.sleep(TICK)
            self._note(max(0.0, clock() - due), clock())

    def _note(self, late: float, now: float) -> None:
        self.ticks += 1
        if late > self.worst:
            self.worst = late
        if now > self._until:
            self._until = now + BUCKET
            self.recent.append(late)
        elif late > self.recent[-1]:
            self.recent[-1] = late

    def stop(self) -> None:
        """End ``tick``."""
        self._stopped = True


class Load:
    """How busy the cores are while its block runs: now, on the whole, and with what is not ours."""

    def __init__(self, seconds: float = 0.2) -> None:
        self.now: list[float] = []  #: how busy each usable core was of late, 0 to 1
        self.cores: list[float] = []  #: how busy each was over the whole block
        self.others = 0.0  #: how many cores other programs kept busy meanwhile
        self._numbers = sorted(_usable_cores())
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Load:
        self._began, self._times, self._own = time.perf_counter(), _core_times(), _own_time()
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()
        times = _core_times()
        self.cores = self._between(self._times, times)
        seconds = time.perf_counter() - self._began
        self.others = max(0.0, sum(self.cores) - (_own_time() - self._own) / seconds)

    def _watch(self) -> None:
        before = self._times
        while not self._stop.wait(self._seconds):
            times = _core_times()
            self.now = self._between(before, times)
            before = times

    def _between(self, before: CoreTimes, now: CoreTimes) -> list[float]:
        found = []
        for number in self._numbers:
            (busy_then, total_then), (busy, total) = before.get(number, (0.0, 0.0)), now.get(number, (0.0, 0.0))
            part = (busy - busy_then) / (total - total_then) if total > total_then else 0.0
            found.append(min(1.0, max(0.0, part)))
        return found


CoreTimes = dict[int, tuple[float, float]]  # core -> busy and total seconds since the machine's start


def _usable_cores() -> set[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _core_times() -> CoreTimes:
    import psutil

    found = {}
    for number, times in enumerate(psutil.cpu_times(percpu=True)):
        total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        found[number] = (total - times.idle - getattr(times, "iowait", 0.0), total)
    return found


def _own_time() -> float:
    """CPU seconds of this process and of all that it started."""
    import psutil

    here = psutil.Process()
    found = 0.0
    for process in (here, *here.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        found += times.user + times.system
    return found


def memory() -> int:
    """Bytes of memory that this process has in use (its resident set)."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def sparkline(values: Sequence[float], low: float, high: float) -> str:
    """A character for each value, as high as it is between ``low`` and ``high``."""
    span = high - low or 1.0
    return "".join(BARS[min(len(BARS) - 1, max(0, int((value - low) / span * len(BARS))))] for value in values)
