"""What each process was seen to do: how often it ran, how long, on which CPU time, where and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from theus.proposal import Touched

if TYPE_CHECKING:
    from theus.errors import Path
    from theus.placement import Placement
    from theus.processes import Process
    from theus.protocols import Environment, Outcome

MOST_RIVALS = 64  #: different (path, process) that are counted
SAMPLE = 16  #: the CPU of every so manyeth inline call is measured, and of the first


@dataclass(slots=True)
class Profile:
    """Running statistics of one process. Times in seconds.

    Counters are added to without a lock: two threads at once may lose a count, which changes no decision.
    """

    process: Process[Any, Any]
    calls: int = 0
    failures: int = 0
    conflicts: int = 0
    rivals: Counter[tuple[str, str]] = field(default_factory=Counter)  #: (path, process that changed it) -> conflicts
    waited: float = 0.0  #: seconds in queues for contended paths
    wall: float = 0.0
    cpu: float = 0.0
    cpu_calls: int = 0  #: how many calls the CPU time was measured for
    cpu_wall: float = 0.0  #: the wall time of those
    touched: Touched = field(default_factory=Touched)  #: filled only by an engine with ``strict=False``
    heat: float = 0.0  #: 1 after a conflict; cools while nobody queues behind it
    hot: frozenset[Path] = frozenset()  #: the contended paths
    places: set[str] = field(default_factory=set)
    #: where it runs, by whether a caller waits for it in its thread
    homes: dict[bool, tuple[Placement, Environment]] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        """Count one attempt."""
        self.calls += 1
        wall = outcome.wall
        self.wall += wall
        if outcome.error is not None:
            self.failures += 1
        if outcome.cpu is not None:
            self.cpu += outcome.cpu
            self.cpu_calls += 1
            self.cpu_wall += wall
        if outcome.place and outcome.place not in self.places and len(self.places) < 64:
            self.places.add(outcome.place)

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
            return "waits (async def)"
        computes = self.computes
        if computes is None:
            return "not measured yet"
        return f"computes {computes:.0%}, waits {1 - computes:.0%}"

    def explain(self, planned: Placement) -> Explained:
        """A row for a reader. ``planned``: where it would run if it never ran yet."""
        used = next((placement for placement, _ in self.homes.values()), planned)
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
            self.wall,
            None if self.computes is None else self.wall * self.computes,
            tuple(sorted(self.places)),
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
        return "\n".join(shown)
