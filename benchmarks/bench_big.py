"""Big arrays between cores: one array to 4 tasks, results back, one output filled in place; beside the standard pools.

What it should cost at least is to write the array once into memory that is new (a fresh memfd). Everything else is
compared with that, in one run.
"""

from __future__ import annotations

import asyncio
import gc
import mmap
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import joblib
import numpy as np
import psutil

from benchmarks.arrays import ends, give, hold, square, total
from benchmarks.bench_worker import Ours, Pool, Standard
from benchmarks.measure import in_turns, table
from theus.environments.shared import share
from theus.environments.worker import WorkerEnvironment
from theus.processes import Process

ROUNDS = 5
TASKS = 4
WORKERS = 2
MEGABYTES = (1, 64, 1024)
SQUARES = 20_000_000
ROOM = 5  # times the array that must be free


class Theus(Ours):
    def __init__(self) -> None:
        self.environment = WorkerEnvironment(WORKERS)
        self.processes = {function: Process(function) for function in (ends, total, hold, give, square)}


class Joblib(Pool):
    """``joblib.Parallel``, which writes big arrays to a file that its workers map."""

    def __init__(self) -> None:
        self.parallel = joblib.Parallel(n_jobs=WORKERS)
        self.delayed = joblib.delayed

    async def fan_out(self, function: Any, array: Any) -> list[Any]:
        found: list[Any] = self.parallel(self.delayed(function)(array) for _ in range(TASKS))
        return found

    async def close(self) -> None:
        """Its workers are everybody's; they end with the program."""


async def fan_out(pool: Any, function: Any, array: Any) -> list[Any]:
    """One array to all tasks at once."""
    if isinstance(pool, Joblib):
        return await pool.fan_out(function, array)
    return await asyncio.gather(*(pool.ask(function, array) for _ in range(TASKS)))


def write_new(array: Any) -> None:
    """The least that there is to do: write it once into new memory."""
    descriptor = os.memfd_create("bench")
    view = memoryview(array).cast("B")
    at = 0
    while at < view.nbytes:
        at += os.write(descriptor, view[at : at + (1 << 30)])
    os.close(descriptor)


def mapped_floor(megabytes: int) -> None:
    """Summing up what is mapped, beside the same on the heap: the system gives the heap's arrays bigger pages."""
    heap = np.ones(megabytes << 17)
    descriptor = os.memfd_create("bench")
    write = memoryview(heap).cast("B")
    os.truncate(descriptor, write.nbytes)
    mapping = mmap.mmap(descriptor, write.nbytes)
    mapping[:] = write
    mapped = np.frombuffer(mapping)
    figures = in_turns(
        {"on the heap": lambda: timed_here(heap.sum), "mapped": lambda: timed_here(mapped.sum)}, rounds=5 * ROUNDS
    )
    table(f"{megabytes} MB summed up in this thread", figures, "on the heap", unit="ms")
    os.close(descriptor)


def fresh(size: int, *, fixed: bool) -> Any:
    array = np.ones(size)
    array.setflags(write=not fixed)
    return array


async def timed(work: Callable[[], Any]) -> float:
    """Milliseconds."""
    started = time.perf_counter()
    await work()
    return (time.perf_counter() - started) * 1e3


def timed_here(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1e3


def pools_for(megabytes: int) -> dict[str, Any]:
    pools: dict[str, Any] = {"theus": Theus(), "threads": Standard(ThreadPoolExecutor(WORKERS))}
    if megabytes <= 64:  # a gigabyte takes ProcessPoolExecutor 15 s
        pools["ProcessPoolExecutor"] = Standard(
            ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("forkserver"))
        )
    return {**pools, "joblib": Joblib()}


def rounds_for(megabytes: int) -> int:
    return 3 if megabytes > 64 else ROUNDS if megabytes > 1 else 4 * ROUNDS


async def sending(megabytes: int, pools: dict[str, Any]) -> None:
    size = megabytes << 17
    first: dict[str, list[float]] = {}
    again: dict[str, list[float]] = {}
    summed: dict[str, list[float]] = {}

    def note(where: dict[str, list[float]], name: str, value: float) -> None:
        where.setdefault(name, []).append(value)

    for _ in range(rounds_for(megabytes)):
        array = fresh(size, fixed=True)
        note(first, "written once into new memory", timed_here(lambda array=array: write_new(array)))
        changing = fresh(size, fixed=False)
        for name, pool in pools.items():
            for kind, values in (("", array), (", writable", changing)):
                if kind and name != "theus":
                    continue
                note(first, name + kind, await timed(lambda pool=pool, a=values: fan_out(pool, ends, a)))
                note(again, name + kind, await timed(lambda pool=pool, a=values: fan_out(pool, ends, a)))
                await fan_out(pool, total, values)
                note(summed, name + kind, await timed(lambda pool=pool, a=values: fan_out(pool, total, a)))
        del array, changing, values
        gc.collect()

    def medians(found: dict[str, list[float]]) -> dict[str, float]:
        return {name: statistics.median(seen) for name, seen in found.items()}

    baseline = "written once into new memory"
    table(f"{megabytes} MB to {TASKS} tasks, {WORKERS} workers: first time", medians(first), baseline, unit="ms")
    table(f"{megabytes} MB to {TASKS} tasks: second time", medians(again), "threads", unit="ms")
    table(f"{megabytes} MB to {TASKS} tasks that sum it up: third time", medians(summed), "threads", unit="ms")


async def giving(megabytes: int, pools: dict[str, Any]) -> None:
    size = megabytes << 17
    seen: dict[str, list[float]] = {}
    askable = {name: pool for name, pool in pools.items() if name not in ("joblib", "threads")}
    for pool in askable.values():
        await asyncio.gather(*(pool.ask(hold, size) for _ in range(4 * WORKERS)))
    array = np.ones(size)
    for _ in range(rounds_for(megabytes)):
        seen.setdefault("written once into new memory", []).append(timed_here(lambda: write_new(array)))
        for name, pool in askable.items():
            try:
                seen.setdefault(name, []).append(await timed(lambda pool=pool: pool.ask(give, size)))
            except KeyError:  # that worker was busy when the others were told to hold it
                continue
    figures = {name: statistics.median(found) for name, found in seen.items() if found}
    table(f"{megabytes} MB back from a worker that has it", figures, "written once into new memory", unit="ms")


async def memory(megabytes: int) -> None:
    """How much more memory it takes to have an array in two workers, as a part of the array."""
    pool = Theus()
    array = fresh(megabytes << 17, fixed=True)
    await fan_out(pool, total, fresh(1 << 17, fixed=True))

    def private() -> int:
        processes = [psutil.Process(), *(psutil.Process(worker.pid) for worker in pool.environment.workers())]
        return sum(process.memory_full_info().uss for process in processes)

    before, shared_before = private(), blocks_in_use()
    await fan_out(pool, total, array)
    extra = private() - before + blocks_in_use() - shared_before
    await pool.close()
    print(f"\n{megabytes} MB in {WORKERS} workers: extra memory {extra / array.nbytes:.2f} x the array")


def blocks_in_use() -> int:
    """Bytes in memory without a name."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            status = os.stat(f"/proc/self/fd/{name}")
            if "memfd:theus" in os.readlink(f"/proc/self/fd/{name}"):
                found[status.st_ino] = status.st_blocks * 512
        except OSError:
            continue
    return sum(found.values())


async def squares() -> None:
    pool = Theus()
    source = share(np.arange(SQUARES, dtype=float))
    out = share(np.zeros(SQUARES))
    part = SQUARES // TASKS
    slices = [slice(n * part, (n + 1) * part) for n in range(TASKS)]

    async def fill() -> None:
        await asyncio.gather(*(pool.ask(square, out[part], source[part]) for part in slices))

    plain, plain_out = source.copy(), np.zeros(SQUARES)
    await fill()
    assert (out == plain * plain).all()
    seen: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        seen.setdefault("numpy, this thread", []).append(timed_here(lambda: square(plain_out, plain)))
        seen.setdefault("theus, shared, 4 parts", []).append(await timed(fill))
    await pool.close()
    figures = {name: statistics.median(found) for name, found in seen.items()}
    table(f"{SQUARES:,} floats squared in place, checked", figures, "numpy, this thread", unit="ms")


async def measure() -> None:
    for megabytes in MEGABYTES:
        if psutil.virtual_memory().available < ROOM * megabytes << 20:
            print(f"\n{megabytes} MB: not enough memory is free")
            continue
        pools = pools_for(megabytes)
        for pool in pools.values():
            await fan_out(pool, ends, np.ones(10))
        await sending(megabytes, pools)
        mapped_floor(megabytes)
        await giving(megabytes, pools)
        for pool in pools.values():
            await pool.close()
        await memory(megabytes)
    await squares()


def main() -> None:
    asyncio.run(measure())


if __name__ == "__main__":
    main()
