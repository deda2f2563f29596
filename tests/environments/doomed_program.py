"""A program whose workers compute, change the state and pass big values on; it goes on until it is killed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from theus import Context, Engine, Tally, process

BIG = 1 << 21


@dataclass
class World:
    """What it changes."""

    calls: Tally = 0


@process(environment="worker")
def work(ctx: Context[World], content: bytearray) -> bytearray:
    ctx.domain.calls += 1
    return content + content


@process(environment="worker")
def start(ctx: Context[World]) -> int:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid


async def go_on(engine: Engine[Any]) -> None:
    while True:
        await engine.arun(work, bytearray(BIG))
        print("answered", flush=True)


async def main() -> None:
    engine = Engine(World(), workers=2)
    if "child" in sys.argv:
        await engine.arun(start)
    await asyncio.gather(*(go_on(engine) for _ in range(4)))


asyncio.run(main())
