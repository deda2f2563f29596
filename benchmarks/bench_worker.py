"""A call in a worker process, beside the standard pools: latency, throughput, the first result, speed-up by task length."""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from benchmarks.measure import table
from theus.environments.worker import WorkerEnvironment, usable_cpus
from theus.processes import Process
from theus.protocols import Call
from theus.state.head import Head
from theus.testing.environments import EngineStub

ROUNDS = 5
IN_FLIGHT = 16

Ask = Callable[..., Awaitable[Any]]


@dataclass
class Shop:
    stock: dict[str, int] = field(default_factory=dict)
    hits: int = 0


def nothing() -> None:
    pass


def spin(loops: int) -> int:
    total = 0
    for n in range(loops):
        total += n * n
    return total


def count(ctx: Any) -> None:
    ctx.domain.hits += 1


def call(process: Process[Any, Any], *args: Any, snapshot: Any = None) -> Call:
    return Call(process, args, {}, snapshot, None, None, 1, "run/step", None, EngineStub())


class Ours:
    """Worker processes of theus, without the engine around them."""

    def __init__(self, capacity: int) -> None:
        self.environment = WorkerEnvironment(capacity)
        self.processes = {function: Process(function) for function in (nothing, spin, count)}

    async def ask(self, function: Any, *args: Any) -> Any:
        return (await self.environment.run(call(self.processes[function], *args))).value

    async def close(self) -> None:
        await self.environment.stop(1.0)


class Standard:
    """``ProcessPoolExecutor`` and ``run_in_executor``."""

    def __init__(self, capacity: int, method: str) -> None:
        self.pool = ProcessPoolExecutor(capacity, mp_context=multiprocessing.get_context(method))

    async def ask(self, function: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.pool, function, *args)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self.pool.shutdown)


async def latency(ask: Ask, number: int = 600) -> float:
    """Microseconds of one awaited call that does nothing, the median."""
    seen = []
    for _ in range(number):
        started = time.perf_counter()
        await ask(nothing)
        seen.append(time.perf_counter() - started)
    return statistics.median(seen) * 1e6


async def throughput(ask: Ask, number: int = 4000) -> float:
    """Microseconds for each call that does nothing, with 16 in flight."""

    async def some() -> None:
        for _ in range(number // IN_FLIGHT):
            await ask(nothing)

    started = time.perf_counter()
    await asyncio.gather(*(some() for _ in range(IN_FLIGHT)))
    return (time.perf_counter() - started) / number * 1e6


async def speed_up(ask: Ask, loops: int, number: int) -> float:
    """How much quicker the pool does tasks than this thread, 16 in flight."""
    started = time.perf_counter()
    for _ in range(number):
        spin(loops)
    alone = time.perf_counter() - started

    async def some() -> None:
        for _ in range(number // IN_FLIGHT):
            await ask(spin, loops)

    started = time.perf_counter()
    await asyncio.gather(*(some() for _ in range(IN_FLIGHT)))
    return alone / (time.perf_counter() - started)


async def first_result(make: Callable[[], Any]) -> float:
    """Milliseconds from making a pool to its first result."""
    started = time.perf_counter()
    pool = make()
    await pool.ask(nothing)
    seconds = time.perf_counter() - started
    await pool.close()
    return seconds * 1e3


async def domain_prices(environment: WorkerEnvironment) -> dict[str, float]:
    """Microseconds of an awaited call that changes one field of a domain with 1,000 keys."""
    snapshot = Head(Shop(stock=dict.fromkeys(map(str, range(1000)), 1))).snapshot
    heads = [Head(Shop(stock=dict.fromkeys(map(str, range(1000)), 1))).snapshot for _ in range(200)]
    whole, declared = Process(count), Process(count, reads=["hits"], writes=["hits"])

    async def median(calls: list[Call]) -> float:
        seen = []
        for each in calls:
            started = time.perf_counter()
            await environment.run(each)
            seen.append(time.perf_counter() - started)
        return statistics.median(seen) * 1e6

    return {
        "no domain": await median([call(Process(nothing))] * 200),
        "the same snapshot": await median([call(whole, snapshot=snapshot)] * 200),
        "a new snapshot each time, declared": await median([call(declared, snapshot=each) for each in heads]),
        "a new snapshot each time, undeclared": await median([call(whole, snapshot=each) for each in heads]),
    }


async def measure() -> None:
    capacity = usable_cpus()
    makers: dict[str, Callable[[], Any]] = {
        "theus worker": lambda: Ours(capacity),
        "ProcessPoolExecutor, forkserver": lambda: Standard(capacity, "forkserver"),
        "ProcessPoolExecutor, spawn": lambda: Standard(capacity, "spawn"),
    }
    pools = {name: make() for name, make in makers.items()}
    for pool in pools.values():
        await throughput(pool.ask, 800)

    async def compare(figure: Callable[[Ask], Awaitable[float]]) -> dict[str, float]:
        seen: dict[str, list[float]] = {name: [] for name in pools}
        for _ in range(ROUNDS):
            for name, pool in pools.items():
                seen[name].append(await figure(pool.ask))
        return {name: statistics.median(values) for name, values in seen.items()}

    baseline = "ProcessPoolExecutor, forkserver"
    table(f"one awaited call that does nothing ({capacity} workers)", await compare(latency), baseline)
    table("a call that does nothing, 16 in flight", await compare(throughput), baseline)
    for loops, number in ((10, 1600), (500, 1600), (6_000, 800), (60_000, 96)):
        started = time.perf_counter()
        spin(loops)
        micros = (time.perf_counter() - started) * 1e6
        figures = await compare(lambda ask, loops=loops, number=number: speed_up(ask, loops, number))
        table(f"speed-up over one thread, tasks of {micros:,.0f} us, 16 in flight", figures, baseline, unit="x ")
    table(
        "a call that changes one field of the domain",
        await domain_prices(pools["theus worker"].environment),
        "no domain",
    )
    for pool in pools.values():
        await pool.close()
    table(
        "from a new pool to its first result",
        {name: statistics.median([await first_result(make) for _ in range(ROUNDS)]) for name, make in makers.items()},
        baseline,
        unit="ms",
    )


def main() -> None:
    asyncio.run(measure())


if __name__ == "__main__":
    main()
