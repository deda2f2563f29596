"""Four trainings on all cores, beside other pools: how much quicker than one after the other in this thread.

The least of some rounds, in turns: differences between pools are less than what a shared machine adds.

And how long it takes to go on after a process has died: an executor is broken then, and another takes its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from typing import Any

from benchmarks.bench_worker import BASELINE, Joblib, Pool, Standard, makers
from benchmarks.measure import table
from benchmarks.trainings import die, loaded_numpy, loaded_sklearn, plain, with_numpy, with_sklearn
from theus.environments.worker import usable_cpus
from theus.errors import EnvironmentBroken

ROUNDS = 6
TRAININGS = 4


async def train(pool: Pool, training: Callable[[int], float]) -> float:
    """Seconds for all of them."""
    started = time.perf_counter()
    if isinstance(pool, Joblib):
        await pool.many(TRAININGS, training, 1)
    else:
        await asyncio.gather(*(pool.ask(training, 1) for _ in range(TRAININGS)))
    return time.perf_counter() - started


def train_here(training: Callable[[int], float]) -> float:
    """The same, one after the other."""
    started = time.perf_counter()
    for _ in range(TRAININGS):
        training(1)
    return time.perf_counter() - started


async def go_on(make: Callable[[], Pool], function: Callable[[], str]) -> float:
    """Milliseconds from the death of a process to the next result of a function, the median after the first time."""
    pool = make()
    seen = []
    for _ in range(ROUNDS + 1):
        await pool.ask(function)
        with contextlib.suppress(BrokenExecutor, EnvironmentBroken):
            await pool.ask(die)
        started = time.perf_counter()
        old = pool
        if isinstance(pool, Standard):
            pool = make()
        await pool.ask(function)
        seen.append(time.perf_counter() - started)
        if pool is not old:
            await old.close()
    await pool.close()
    return statistics.median(seen[1:]) * 1e3


async def measure() -> None:
    capacity = usable_cpus()
    pools: dict[str, Any] = {  # numpy does not load in sub-interpreters
        name: make() for name, make in makers(capacity).items() if "nterpreter" not in name and "spawn" not in name
    }
    trainings = plain, with_numpy, with_sklearn
    # They load what they need, Dask last: from then on the environment of this process says how workers use memory and threads.
    for pool in pools.values():
        for training in trainings:
            await train(pool, training)
    for training in trainings:
        alone: list[float] = [train_here(training)]
        seen: dict[str, list[float]] = {name: [] for name in pools}
        for _ in range(ROUNDS):
            alone.append(train_here(training))
            for name, pool in pools.items():
                seen[name].append(await train(pool, training))
        here = min(alone)  # whoever is disturbed on a shared machine takes longer, and never less
        figures = {name: here / min(values) for name, values in seen.items()}
        name = training.__name__.removeprefix("with_")
        table(
            f"speed-up of {TRAININGS} trainings ({name}, {here / TRAININGS * 1e3:,.0f} ms each, {capacity} workers)",
            figures,
            BASELINE,
            unit="x ",
        )
    for pool in pools.values():
        await pool.close()
    some = {name: make for name, make in makers(1).items() if name in ("theus worker", BASELINE, "loky")}
    for function in (loaded_numpy, loaded_sklearn):
        name = function.__name__.removeprefix("loaded_")
        figures = {pool: await go_on(make, function) for pool, make in some.items()}
        table(f"from the death of a process to the next result, with {name} loaded", figures, BASELINE, unit="ms")


def main() -> None:
    asyncio.run(measure())


if __name__ == "__main__":
    main()
