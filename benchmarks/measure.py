"""What the benchmarks have in common: medians of interleaved rounds, and a table of ratios.

Machines are noisy: every figure stands beside its baseline, measured in turns with it in one run, and only the ratio is
worth quoting.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def in_turns(cases: Mapping[str, Callable[[], float]], rounds: int = 5) -> dict[str, float]:
    """Run every case once per round, in turns, after one warm-up; gives the median of what each returned."""
    for case in cases.values():
        case()
    seen: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            seen[name].append(case())
    return {name: statistics.median(values) for name, values in seen.items()}


def timed(work: Callable[[], object], count: int) -> Callable[[], float]:
    """A case: microseconds for each of ``count`` things that ``work`` does."""

    def case() -> float:
        started = time.perf_counter()
        work()
        return (time.perf_counter() - started) / count * 1e6

    return case


def table(title: str, figures: Mapping[str, float], baseline: str, unit: str = "us", note: str = "") -> None:
    """Print figures beside one of them."""
    print(f"\n{title}")
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"  {name:<{width}}  {value:>12,.2f} {unit}  {value / figures[baseline]:>8.2f} x")
    if note:
        print(f"  {note}")
