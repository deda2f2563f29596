"""A call on another core, beside other pools: latency, throughput, the first result, speed-up by task length.

With ``ray`` and ``dask[distributed]`` installed they stand beside the others. *The bare wire* is the floor: frames that are
answered as they come, without a function, an error, a timeout or a worker that may die.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import multiprocessing
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from typing import Any

import joblib
import loky

from benchmarks import steps
from benchmarks.bodies import Shop, again, count, nothing, spin
from benchmarks.echo import Bare
from benchmarks.measure import table
from theus import Engine, each
from theus.environments.worker import WorkerEnvironment, usable_cpus
from theus.processes import Process
from theus.protocols import Call
from theus.state.head import Head
from theus.testing.environments import EngineStub

ROUNDS = 5
IN_FLIGHT = 16
BASELINE = "ProcessPoolExecutor, forkserver"


def call(process: Process[Any, Any], *args: Any, snapshot: Any = None) -> Call:
    return Call(process, args, {}, snapshot, None, None, 1, "run/step", None, EngineStub())


class Pool:
    """Something that runs functions on other cores."""

    async def ask(self, function: Any, *args: Any) -> Any:
        """Have one function run, and wait for it."""
        raise NotImplementedError

    async def many(self, number: int, function: Any, *args: Any) -> None:
        """Have it run so many times, 16 in flight."""

        async def some() -> None:
            for _ in range(number // IN_FLIGHT):
                await self.ask(function, *args)

        await asyncio.gather(*(some() for _ in range(IN_FLIGHT)))

    async def close(self) -> None:
        """End it."""


class Ours(Pool):
    """An environment of theus, without the engine around it."""

    def __init__(self, environment: WorkerEnvironment) -> None:
        self.environment = environment
        self.processes: dict[Any, Any] = {}

    async def ask(self, function: Any, *args: Any) -> Any:
        known = self.processes.get(function) or self.processes.setdefault(function, Process(function))
        return (await self.environment.run(call(known, *args))).value

    async def close(self) -> None:
        await self.environment.stop(1.0)


class Standard(Pool):
    """An executor and ``run_in_executor``."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor

    async def ask(self, function: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.executor, function, *args)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self.executor.shutdown)


class Shares(Standard):
    """Each process has its share at once, as one task: what there is to gain on this machine."""

    def __init__(self, executor: Executor, capacity: int) -> None:
        super().__init__(executor)
        self.capacity = capacity

    async def many(self, number: int, function: Any, *args: Any) -> None:
        share = number // self.capacity
        await asyncio.gather(*(self.ask(again, share, function, *args) for _ in range(self.capacity)))


class Joblib(Pool):
    """``joblib.Parallel``, kept open, called in a thread; many calls go in one call of it, which is what it is made for."""

    def __init__(self, capacity: int) -> None:
        self.parallel = joblib.Parallel(capacity, pre_dispatch="all").__enter__()

    async def ask(self, function: Any, *args: Any) -> Any:
        return (await asyncio.to_thread(self.parallel, [joblib.delayed(function)(*args)]))[0]

    async def many(self, number: int, function: Any, *args: Any) -> None:
        await asyncio.to_thread(self.parallel, [joblib.delayed(function)(*args) for _ in range(number)])

    async def close(self) -> None:
        await asyncio.to_thread(self.parallel.__exit__, None, None, None)
        await asyncio.to_thread(joblib.externals.loky.get_reusable_executor().shutdown, kill_workers=True)


class Whole(Pool):
    """A whole call: engine, run, profile, and the worker; many of them are an ``each``."""

    def __init__(self, capacity: int) -> None:
        self.engine = Engine(workers=capacity)
        self.processes: dict[Any, Any] = {nothing: steps.nothing, spin: steps.spin}

    async def ask(self, function: Any, *args: Any) -> Any:
        known = self.processes.get(function) or self.processes.setdefault(function, Process(function, nature="cpu"))
        return await self.engine.arun(known, *args)

    async def close(self) -> None:
        await self.engine.aclose()


class Eached(Whole):
    """The same, many of them as the items of an ``each``."""

    async def many(self, number: int, function: Any, *args: Any) -> None:
        await self.engine.arun(each(self.processes[function], limit=IN_FLIGHT), [*args] * number or range(number))


class Wire(Pool):
    """The least that a call can be."""

    def __init__(self, capacity: int) -> None:
        self.bare = Bare(capacity)

    async def ask(self, function: Any, *args: Any) -> Any:
        return await self.bare.ask()

    async def close(self) -> None:
        self.bare.close()


class Ray(Pool):
    """Its tasks, awaited."""

    def __init__(self, capacity: int) -> None:
        import ray

        ray.init(num_cpus=capacity, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        self.ray = ray
        self.remote: dict[Any, Any] = {}

    async def ask(self, function: Any, *args: Any) -> Any:
        if function not in self.remote:
            self.remote[function] = self.ray.remote(function)
        return await self.remote[function].remote(*args)

    async def close(self) -> None:
        self.ray.shutdown()


class Dask(Pool):
    """Its client on this loop, its workers in processes."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.starting = asyncio.Lock()
        self.client: Any = None

    async def ask(self, function: Any, *args: Any) -> Any:
        async with self.starting:
            if self.client is None:
                await self.start()
        return await self.client.submit(function, *args, pure=False)

    async def start(self) -> None:
        from distributed import Client, LocalCluster

        self.cluster = await LocalCluster(
            n_workers=self.capacity, threads_per_worker=1, dashboard_address=None, asynchronous=True
        )
        self.client = await Client(self.cluster, asynchronous=True)

    async def close(self) -> None:
        await self.client.close()
        await self.cluster.close()


async def latency(pool: Pool, number: int = 200) -> float:
    """Microseconds of one awaited call that does nothing, the median."""
    seen = []
    for _ in range(number):
        started = time.perf_counter()
        await pool.ask(nothing)
        seen.append(time.perf_counter() - started)
    return statistics.median(seen) * 1e6


async def throughput(pool: Pool, number: int = 1600) -> float:
    """Microseconds for each call that does nothing, with 16 in flight."""
    started = time.perf_counter()
    await pool.many(number, nothing)
    return (time.perf_counter() - started) / number * 1e6


async def own_cpu(pool: Pool, number: int = 1600) -> float:
    """Microseconds of CPU that this process takes for each such call: what is left of the figure on a busy machine."""
    started = time.process_time()
    await pool.many(number, nothing)
    return (time.process_time() - started) / number * 1e6


async def speed_up(pool: Pool, loops: int, number: int) -> float:
    """How much quicker the pool does tasks than this thread, 16 in flight."""
    started = time.perf_counter()
    for _ in range(number):
        spin(loops)
    alone = time.perf_counter() - started
    started = time.perf_counter()
    await pool.many(number, spin, loops)
    return alone / (time.perf_counter() - started)


def loop_seconds() -> float:
    """What one round of ``spin`` takes here."""
    seen = []
    for _ in range(20):
        started = time.perf_counter()
        spin(20_000)
        seen.append(time.perf_counter() - started)
    return statistics.median(seen) / 20_000


async def first_result(make: Callable[[], Pool]) -> float:
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
        for one in calls:
            started = time.perf_counter()
            await environment.run(one)
            seen.append(time.perf_counter() - started)
        return statistics.median(seen) * 1e6

    return {
        "no domain": await median([call(Process(nothing))] * 200),
        "the same snapshot": await median([call(whole, snapshot=snapshot)] * 200),
        "a new snapshot each time, declared": await median([call(declared, snapshot=each) for each in heads]),
        "a new snapshot each time, undeclared": await median([call(whole, snapshot=each) for each in heads]),
    }


def makers(capacity: int) -> dict[str, Callable[[], Pool]]:
    """All pools that this Python has."""

    def executor(method: str) -> Executor:
        return ProcessPoolExecutor(capacity, mp_context=multiprocessing.get_context(method))

    found: dict[str, Callable[[], Pool]] = {
        "theus worker": lambda: Ours(WorkerEnvironment(capacity)),
        "theus engine": lambda: Whole(capacity),
        BASELINE: lambda: Standard(executor("forkserver")),
        "ProcessPoolExecutor, spawn": lambda: Standard(executor("spawn")),
        "loky": lambda: Standard(loky.ProcessPoolExecutor(capacity)),
        "joblib": lambda: Joblib(capacity),
    }
    if sys.version_info >= (3, 14):
        from concurrent.futures import InterpreterPoolExecutor

        from theus.environments.interpreter import InterpreterEnvironment

        found["theus interpreter"] = lambda: Ours(InterpreterEnvironment(capacity))
        found["InterpreterPoolExecutor"] = lambda: Standard(InterpreterPoolExecutor(capacity))
    for name, module, make in (("Ray", "ray", Ray), ("Dask", "distributed", Dask)):
        if importlib.util.find_spec(module) is not None:
            found[name] = lambda make=make: make(capacity)
    return found


async def measure() -> None:
    capacity = usable_cpus()
    pools = {name: make() for name, make in makers(capacity).items()}
    wire = Wire(capacity)
    for pool in pools.values():
        await throughput(pool, 800)

    async def compare(figure: Callable[[Pool], Awaitable[float]], **others: Pool) -> dict[str, float]:
        compared = {**pools, **{name.replace("_", " "): pool for name, pool in others.items()}}
        seen: dict[str, list[float]] = {name: [] for name in compared}
        for _ in range(ROUNDS):
            for name, pool in compared.items():
                seen[name].append(await figure(pool))
        return {name: statistics.median(values) for name, values in seen.items()}

    table(
        f"one awaited call that does nothing ({capacity} workers)", await compare(latency, the_bare_wire=wire), BASELINE
    )
    eached = Eached(capacity)
    await throughput(eached, 800)
    table(
        "a call that does nothing, 16 in flight (joblib: all at once)",
        await compare(throughput, the_bare_wire=wire, theus_each=eached),
        BASELINE,
    )
    table(
        "the same: CPU of the calling process",
        await compare(own_cpu, the_bare_wire=wire, theus_each=eached),
        BASELINE,
    )
    per_loop = loop_seconds()
    shares = Shares(ProcessPoolExecutor(capacity, mp_context=multiprocessing.get_context("forkserver")), capacity)
    await throughput(shares, 800)
    for micros, number in ((10, 1600), (50, 4800), (200, 1600), (1000, 480)):  # the start of a run is a part of it
        loops = round(micros * 1e-6 / per_loop)
        figures = await compare(
            lambda pool, loops=loops, number=number: speed_up(pool, loops, number),
            theus_each=eached,
            all_there_is=shares,
        )
        table(f"speed-up over one thread, tasks of {micros:,} us, 16 in flight", figures, BASELINE, unit="x ")
    ours = pools["theus worker"]
    assert isinstance(ours, Ours)
    table("a call that changes one field of the domain", await domain_prices(ours.environment), "no domain")
    for pool in (*pools.values(), wire, eached, shares):
        await pool.close()
    seen: dict[str, list[float]] = {name: [] for name in pools}
    for _ in range(ROUNDS):
        for name, make in makers(capacity).items():
            seen[name].append(await first_result(make))
    table(
        "from a new pool to its first result", {n: statistics.median(v) for n, v in seen.items()}, BASELINE, unit="ms"
    )


def main() -> None:
    asyncio.run(measure())


if __name__ == "__main__":
    main()
