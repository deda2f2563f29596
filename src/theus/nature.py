"""What each process was seen to do: how often it ran, how long, on which CPU time, where and why."""

from __future__ import annotations

import sys
from bisect import bisect
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import repeat
from math import ceil
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from theus.placement import SETTLED, SHORT, SLOW, Known, gain, is_free, milliseconds, threads_are_parallel
from theus.proposal import Touched

if TYPE_CHECKING:
    from concurrent.futures import Future

    from theus.errors import Path
    from theus.placement import Placement
    from theus.processes import Process
    from theus.protocols import Environment, Meter, Outcome

MOST_RIVALS = 64  #: different (path, process) that are counted
SAMPLE = 16  #: every so manyeth call is measured, after the first ones
RARELY = 128  #: the same when there were many calls, or short ones: measuring one costs as much as some of those
FIRST = 3  #: calls that are measured one by one
RECENT = 8  #: measured calls that placement goes by
WORTH_A_TICKER = SHORTEST = 0.001  #: seconds, of a call on average and of its CPU, in which a ticker can see something
EVIDENCE = ("holds", "waits", "stalls", "shares", "moved", "moving")  #: with the recent calls, what placement goes by
SURPRISE = 4.0  #: a call that takes so many times as long as usual has the next one measured


#: How times are spread: counts of buckets that grow by 19 %, as DDSketch does it (Masson, Rim and Lee, VLDB 2019).
Spread: TypeAlias = Counter[int]
FINE, OFFSET = 4, 200  #: buckets to double, the number of the bucket that begins at 1 s
EDGES = tuple(2.0 ** ((number - OFFSET) / FINE) for number in range(1, 400))  #: where each bucket begins, but the first


def buckets(times: Iterable[float]) -> Iterator[int]:
    """To which buckets times belong, in seconds. In steps of C, because this is done for every call."""
    return map(bisect, repeat(EDGES), times)


def quantile(spread: Spread, part: float) -> float | None:
    """The time that ``part`` of all calls did not exceed, to about 10 %; None if there were none."""
    left = ceil(part * sum(spread.values()))
    for bucket, count in sorted(spread.items()):
        left -= count
        if left <= 0:
            return float(2.0 ** ((bucket + 0.5 - OFFSET) / FINE))
    return None


class Sample(NamedTuple):
    """One measured call, in seconds."""

    wall: float
    cpu: float


@dataclass(slots=True)
class Profile:
    """Running statistics of one process. Times in seconds.

    Counters are added to without a lock: two threads at once may lose a count, which changes no decision.
    """

    process: Process[Any, Any]
    workers: int = 2  #: that its engine would have
    processes_only: str = ""  #: why its engine chooses no sub-interpreter for it
    calls: int = 0
    failures: int = 0
    conflicts: int = 0
    rivals: Counter[tuple[str, str]] = field(default_factory=Counter)  #: (path, process that changed it) -> conflicts
    waited: float = 0.0  #: seconds in queues for contended paths
    summed: float = 0.0  #: of the wall times, but for the fresh ones
    fresh: list[float] = field(default_factory=list)  #: wall times that are not summed up yet
    cpu: float = 0.0
    cpu_calls: int = 0  #: how many calls the CPU time was measured for
    cpu_wall: float = 0.0  #: the wall time of those
    spread: Spread = field(default_factory=Counter)  #: of the same
    cpus: Spread = field(default_factory=Counter)
    holds: float | None = None  #: the part of its CPU during which it held the interpreter's lock
    waits: float = 0.0  #: what it surely waits in a call, for neither the lock nor a processor
    recent: tuple[Sample, ...] = ()  #: measured calls; replaced and not changed, as other threads may go through them
    measure_at: int = 0  #: the next call to measure
    slow: int = 0  #: calls but the first that took longer than ``SLOW``
    stalls: int = 0  #: how often it kept an event loop from going on
    shares: bool = False  #: it was given objects that others may use at the same time
    moved: int = 0  #: bytes that a call and its result take to send
    moving: float | None = None  #: seconds that this takes
    #: whether a call was seen to leave its arguments as they were; False: the next one is to be watched; None: nobody asked
    witnessed: bool | None = None
    refused: dict[str, str] = field(default_factory=dict)  #: environment -> why it cannot go there
    trial: Future[None] | None = None  #: ends with its first call in a thread, for which the others wait
    moved_at: int = -SETTLED  #: at which of its calls it last changed its place
    touched: Touched = field(default_factory=Touched)  #: all with ``strict=False``, else what measured calls did
    heat: float = 0.0  #: 1 after a conflict; cools while nobody queues behind it
    hot: frozenset[Path] = frozenset()  #: the contended paths
    places: set[str] = field(default_factory=set)
    #: where it runs, by whether a caller waits for it in its thread
    homes: dict[bool, tuple[Placement, Environment]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.process.is_async:
            self.measure_at = sys.maxsize  # other tasks of its loop compute in the same thread

    def add(self, outcome: Outcome) -> None:
        """Count one attempt."""
        self.calls = calls = self.calls + 1
        wall = outcome.wall
        self.fresh.append(wall)
        if not calls & 63:
            self._sum_up()
        if outcome.error is not None:
            self.failures += 1
        if outcome.cpu is not None:
            self._add_cpu(outcome.cpu, wall)
        if wall > SLOW:
            self._look_at(wall)
        if outcome.place and outcome.place not in self.places and len(self.places) < 64:
            self.places.add(outcome.place)

    def _sum_up(self) -> None:
        """Take in the fresh wall times. Many at once are cheap; one by one they would be a good part of a short call."""
        fresh, self.fresh = self.fresh, []
        self.summed += sum(fresh)
        self.spread.update(buckets(fresh))

    @property
    def walls(self) -> Spread:
        """How long the calls took."""
        self._sum_up()
        return self.spread

    @property
    def wall(self) -> float:
        """Seconds of all calls together."""
        self._sum_up()
        return self.summed

    def _add_cpu(self, cpu: float, wall: float) -> None:
        self.cpu += cpu
        self.cpu_calls += 1
        self.cpu_wall += wall
        self.cpus.update(buckets((cpu,)))

    def _look_at(self, wall: float) -> None:
        if self.calls > 1:  # the first call may have loaded modules
            self.slow += 1
        if self.recent and wall > SURPRISE * sum(sample.wall for sample in self.recent) / len(self.recent):
            self.measure_at = self.calls  # this is not how it was: measure the next

    def measure(self, outcome: Outcome) -> None:
        """Take in a call that was measured."""
        cpu, found = outcome.cpu or 0.0, outcome.measured
        self.recent = (*self.recent, Sample(outcome.wall, cpu))[-RECENT:]
        if found is None:
            return
        if found.held is not None and cpu > SHORTEST:
            self.holds = found.held / cpu if self.holds is None else 0.5 * (self.holds + found.held / cpu)
        if found.waited is not None:
            self.waits = found.waited if len(self.recent) == 1 else 0.5 * (self.waits + found.waited)
        if found.moving is not None:
            # One that was dear, because garbage was collected meanwhile, must not send the process away for long.
            most = found.moving if self.moving is None else 2 * self.moving
            self.moved, self.moving = found.moved, min(found.moving, most)
        if found.changed is not None:
            self.witnessed = True
            if found.changed:
                self.refused["worker"] = f"it changes its {found.changed} in place, which would be a copy there"

    def meter(self, meters: tuple[Meter, Meter, Meter]) -> Meter:
        """What the next call is measured with: only the CPU clock, or a ticker, or a witness of its arguments, too."""
        recent = self.recent
        usual = sum(sample.wall for sample in recent) / (len(recent) or 1)
        if len(recent) < FIRST or (
            self.holds is None and sum(sample.cpu for sample in recent) > SHORTEST * len(recent)
        ):
            often = 1  # what it does with the lock could not be told yet
        else:
            often = RARELY if usual < SHORT else min(max(SAMPLE, self.calls // 4), RARELY)
        self.measure_at = self.calls + often
        if self.witnessed is False:
            return meters[2]
        return meters[is_free(self.process) and (len(recent) < FIRST or usual > WORTH_A_TICKER)]

    def known(self) -> Known:
        """What placement goes by."""
        recent = self.recent
        if not recent:
            return Known(
                stalls=self.stalls,
                refused=self.refused,
                processes_only=self.processes_only,
                parallel_threads=threads_are_parallel(),
            )
        return Known(
            measured=len(recent),
            wall=median(sample.wall for sample in recent),
            cpu=sum(sample.cpu for sample in recent) / len(recent),
            typical_cpu=median(sample.cpu for sample in recent),
            holds=self.holds,
            waits=self.waits,
            workers=self.workers,
            slow=self.slow / self.calls if self.calls else 0.0,
            stalls=self.stalls,
            moving=self.moving,
            refused=self.refused,
            processes_only=self.processes_only,
            shares=self.shares,
            parallel_threads=threads_are_parallel(),
        )

    # --- what the next start may know ---

    def verdict(self) -> str:
        """What places it elsewhere than its signature does, in a word or two; nothing if nothing does."""
        words = []
        if is_free(self.process) and not self.process.is_async:
            now = self.homes[False][0].environment if False in self.homes else ""
            kind = self.known().kind(now)
            words += [kind] if kind in ("computes", "releases", "short") else []
        return " ".join([*words, "stalls"] if self.stalls else words)

    def evidence(self) -> dict[str, Any]:
        """What placement goes by, as plain data. What was refused is not: whoever starts anew may ask again."""
        kept = {name: getattr(self, name) for name in EVIDENCE}
        return {"recent": [list(sample) for sample in self.recent], **kept}

    def remember(self, evidence: dict[str, Any]) -> None:
        """Take over the evidence of another time, before the first call. What is counted begins at 0."""
        for wall, cpu in evidence["recent"]:
            self.recent = (*self.recent, Sample(wall, cpu))[-RECENT:]
            self._add_cpu(cpu, wall)
        for name in EVIDENCE:
            setattr(self, name, evidence.get(name, getattr(self, name)))

    def conflict(self, path: str, author: str) -> None:
        """Count an attempt that has to be made again, and because of whom."""
        self.conflicts += 1
        if len(self.rivals) < MOST_RIVALS or (path, author) in self.rivals:
            self.rivals[path, author] += 1

    @property
    def computes(self) -> float | None:
        """The part of its time that it computes, 0 to 1; None if never measured."""
        return min(1.0, self.cpu / self.cpu_wall) if self.cpu_wall > 0 else None

    @property
    def nature(self) -> str:
        """Its nature, in words: as declared, or as it looks by its signature and by what was measured."""
        process = self.process
        if process.nature is not None:
            return {"io": "waits (declared)", "cpu": "computes (declared)", "state": "changes state (declared)"}[
                process.nature
            ]
        if process.is_async:
            return "blocks its loop (async def)" if self.stalls else "waits (async def)"
        computes = self.computes
        if computes is None:
            return "not measured yet"
        return f"computes {computes:.0%}, waits {1 - computes:.0%}"

    def explain(self, planned: Placement) -> Explained:
        """A row for a reader. ``planned``: where it would run if it never ran yet."""
        used = next((self.homes[door][0] for door in (False, True) if door in self.homes), planned)
        known, wall = self.known(), self.wall
        return Explained(
            self.process.name,
            self.nature,
            used.environment,
            used.reason,
            self.calls,
            self.failures,
            self.conflicts,
            "; ".join(f"{count} with {author!r} on {path}" for (path, author), count in self.rivals.most_common(3)),
            self.waited,
            wall,
            None if self.computes is None else wall * self.computes,
            tuple(sorted(self.places)),
            changes=self.process.contract.writes or self.touched.writes(),
            measured=self.cpu_calls,
            wall_p50=quantile(self.walls, 0.5),
            wall_p99=quantile(self.walls, 0.99),
            cpu_p50=quantile(self.cpus, 0.5),
            cpu_p99=quantile(self.cpus, 0.99),
            holds=self.holds,
            stalls=self.stalls,
            moved=self.moved,
            moving=self.moving,
            refused=tuple(f"{environment}: {why}" for environment, why in self.refused.items()),
            gain=gain(known, used),
        )


@dataclass(frozen=True, slots=True)
class Explained:
    """Why a process runs where it runs. Times in seconds, summed over all calls; ``cpu`` is extrapolated from the calls it was measured for."""

    process: str
    nature: str
    environment: str
    reason: str
    calls: int
    failures: int
    conflicts: int  #: attempts that were made again because of another commit
    rivals: str  #: the most frequent of them: how many, with whom, on which path
    waited: float  #: seconds in queues for contended paths
    wall: float
    cpu: float | None
    places: tuple[str, ...]  #: threads and worker processes it ran in
    changes: tuple[str, ...] = ()  #: patterns of the paths it writes: by its contract, or as measured calls did
    measured: int = 0  #: calls whose CPU was measured
    wall_p50: float | None = None  #: what half of all calls took at most; each to about 10 %
    wall_p99: float | None = None
    cpu_p50: float | None = None
    cpu_p99: float | None = None
    holds: float | None = None  #: the part of its CPU during which it held the interpreter's lock, 0 to 1
    stalls: int = 0  #: how often it kept an event loop from going on
    moved: int = 0  #: bytes that a call and its result take to send to another core
    moving: float | None = None  #: seconds that this takes; None: nobody asked
    refused: tuple[str, ...] = ()  #: environments that it cannot go to, and the value at fault
    gain: str = ""  #: what it would gain elsewhere, and why it is not there

    def notes(self) -> list[str]:
        """What there is to say beside the table: what it changes, where it cannot go, what it would gain."""
        lines = []
        if self.changes:
            lines.append(f"changes {', '.join(self.changes)}")
        if self.stalls:
            times = "once" if self.stalls == 1 else f"{self.stalls} times"
            lines.append(f"kept an event loop waiting {times}")
        if self.moving is not None:
            lines.append(
                f"a call and its result are {self.moved:,} bytes; sending them takes {milliseconds(self.moving)}"
            )
        lines += [f"cannot go to {where}" for where in self.refused]
        return [*lines, self.gain] if self.gain else lines


@dataclass(frozen=True, slots=True)
class Explanation:
    """Rows of ``Explained``; prints as a table."""

    rows: tuple[Explained, ...]

    def __str__(self) -> str:
        head = ("process", "nature", "runs in", "why", "calls", "wall s", "CPU s")
        lines = [
            (
                row.process,
                row.nature,
                row.environment,
                row.reason,
                str(row.calls),
                f"{row.wall:.3f}",
                "–" if row.cpu is None else f"{row.cpu:.3f}",
            )
            for row in self.rows
        ]
        widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
        shown = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in [head, *lines]]
        for row in self.rows:
            if row.conflicts:
                shown.append(
                    f"{row.process}: {row.conflicts} conflicts, {row.rivals}; waited {row.waited:.3f} s for its turn"
                )
            shown += [f"{row.process}: {line}" for line in row.notes()]
        return "\n".join(shown)
