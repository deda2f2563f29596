"""10,000 processes that each wait 0.5 s, beside asyncio.gather over the same; and the memory of one that waits."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import time

from benchmarks.measure import in_turns, table
from theus import Engine, each, process

COUNT = 10_000
SECONDS = 0.5


@process
async def wait(ctx, n):  # type: ignore[no-untyped-def]
    await asyncio.sleep(SECONDS)
    return n


async def bare(n: int) -> int:
    await asyncio.sleep(SECONDS)
    return n


async def gathered() -> None:
    await asyncio.gather(*[bare(n) for n in range(COUNT)])


def main() -> None:
    engine = Engine()
    crawl = each(wait)

    def gather() -> float:
        started = time.perf_counter()
        asyncio.run(gathered())
        return (time.perf_counter() - started) * 1e3

    def through_run() -> float:
        started = time.perf_counter()
        engine.run(crawl, range(COUNT))
        return (time.perf_counter() - started) * 1e3

    def through_arun() -> float:
        started = time.perf_counter()
        asyncio.run(engine.arun(crawl, range(COUNT)))
        return (time.perf_counter() - started) * 1e3

    figures = in_turns(
        {"asyncio.gather": gather, "await engine.arun(each)": through_arun, "engine.run(each)": through_run}
    )
    table(f"{COUNT:,} that wait {SECONDS} s each", figures, "asyncio.gather", "ms")
    engine.close()
    memory = {name: float(_in_own_process(name)) for name in ("asyncio", "theus")}
    table("Memory of one that waits", memory, "asyncio", "bytes")


def _in_own_process(name: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_waits", name], capture_output=True, text=True, check=True
    ).stdout


def _rss() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


async def _memory(name: str) -> None:
    engine = Engine()
    await engine.arun(each(wait), range(1))
    await asyncio.gather(bare(0))
    gc.collect()
    before = _rss()
    job = asyncio.ensure_future(gathered() if name == "asyncio" else engine.arun(each(wait), range(COUNT)))
    await asyncio.sleep(SECONDS * 0.8)
    print((_rss() - before) / COUNT)
    await job


if __name__ == "__main__":
    asyncio.run(_memory(sys.argv[1])) if len(sys.argv) > 1 else main()
