"""What the demo measures: how late a loop is, how busy the cores are, how much memory is in use."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

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


class Sampler:
    """Calls ``look`` a few times a second in a thread of its own, and keeps what it gave."""

    def __init__(self, look: Callable[[], Sequence[float]], seconds: float = 0.2) -> None:
        self.seen: list[Sequence[float]] = []
        self._look = look
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            self.seen.append(self._look())

    def __enter__(self) -> Sampler:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()
        if not self.seen:
            self.seen.append(self._look())

    @property
    def last(self) -> Sequence[float]:
        """The newest."""
        return self.seen[-1] if self.seen else ()

    def mean(self) -> list[float]:
        """The mean of each number."""
        return [sum(column) / len(column) for column in zip(*self.seen, strict=True)]


class Cores:
    """How busy each usable core was since the last look, 0 to 1: ``cores()``."""

    def __init__(self) -> None:
        self.numbers = sorted(usable_cores())
        self._before = _core_times()

    def __call__(self) -> list[float]:
        before, now = self._before, _core_times()
        self._before = now
        found = []
        for number in self.numbers:
            if number not in now or number not in before:
                continue
            busy, total = (new - old for new, old in zip(now[number], before[number], strict=True))
            found.append(min(1.0, max(0.0, busy / total)) if total > 0 else 0.0)
        return found


def usable_cores() -> set[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _core_times() -> dict[int, tuple[float, float]]:
    """Core -> busy and total time since the machine's start."""
    import psutil

    found = {}
    for number, times in enumerate(psutil.cpu_times(percpu=True)):
        total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        found[number] = (total - times.idle - getattr(times, "iowait", 0.0), total)
    return found


def memory() -> int:
    """Bytes of memory that this process has in use (its resident set)."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def sparkline(values: Sequence[float], low: float, high: float) -> str:
    """A character for each value, as high as it is between ``low`` and ``high``."""
    span = high - low or 1.0
    return "".join(BARS[min(len(BARS) - 1, max(0, int((value - low) / span * len(BARS))))] for value in values)
