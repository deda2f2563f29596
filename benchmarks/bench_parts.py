"""A domain of 100 MB, of which a process in a worker needs little: what a call costs at each new version."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

from benchmarks.measure import table
from theus.environments.worker import WorkerEnvironment
from theus.processes import Process
from theus.protocols import Commit
from theus.state.head import Head
from theus.testing.environments import make_call

ROUNDS = 40
ROWS = 100_000
ROW = 1_000  # characters


@dataclass
class Archive:
    hits: int = 0
    settings: dict[str, int] = field(default_factory=lambda: dict.fromkeys(map(str, range(500)), 1))
    rows: dict[int, str] = field(default_factory=lambda: {number: f"{number:0{ROW}}" for number in range(ROWS)})


def small(ctx: Any) -> int:
    return int(ctx.domain.hits)


def middle(ctx: Any) -> int:
    return int(ctx.domain.settings["7"])


def big(ctx: Any) -> int:
    return len(ctx.domain.rows[7])


async def measure() -> None:
    environment = WorkerEnvironment(1)
    head = Head(Archive())
    cases = {
        "declared, one small field": Process(small, reads=["hits"]),
        "undeclared, one small field": Process(small),
        "undeclared, one key of a field of 500": Process(middle),
        "undeclared, one key of the 100 MB": Process(big),
        "declared, one key of the 100 MB": Process(big, reads=["rows"]),
    }

    async def once(process: Process[Any, Any], number: int) -> float:
        change = [
            ("set", ("hits",), number),
            ("set", ("settings", "7"), number),
            ("set", ("rows", number), f"{-number:0{ROW}}"),
        ]
        head.commit(Commit(head.version, (), change, "bench"))
        started = time.perf_counter()
        outcome = await environment.run(make_call(process, snapshot=head.snapshot))
        assert outcome.error is None
        return (time.perf_counter() - started) * 1e3

    seen: dict[str, list[float]] = {name: [] for name in cases}
    first = {f"{name}: first time": await once(process, 0) for name, process in cases.items()}
    for number in range(ROUNDS):
        for name, process in cases.items():
            seen[name].append(await once(process, number))
    await environment.stop(1.0)
    table(
        "a call at each new version of a domain of 100 MB, of which three fields changed, the big one by a key",
        {**{name: statistics.median(values) for name, values in seen.items()}, **first},
        "declared, one small field",
        unit="ms",
    )


def main() -> None:
    asyncio.run(measure())


if __name__ == "__main__":
    main()
