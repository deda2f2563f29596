"""The price of one call through the engine, beside bare Python and asyncio's own ways to start something."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from benchmarks.measure import in_turns, table, timed
from theus import Context, Engine, process

COUNT = 5_000


@dataclass
class Shop:
    hits: int = 0


@process
def count(ctx: Context[Shop]) -> None:
    ctx.domain.hits += 1


@process
async def acount(ctx: Context[Shop]) -> None:
    ctx.domain.hits += 1


@process(reads=["hits"], writes=["hits"])
def count_declared(ctx: Context[Shop]) -> None:
    ctx.domain.hits += 1


@process
def nothing() -> None:
    pass


def main() -> None:
    shop = Shop()
    engine = Engine(Shop())

    def bare() -> None:
        for _ in range(COUNT):
            _bare(shop)

    def run(target: Any) -> Any:
        def work() -> None:
            for _ in range(COUNT):
                engine.run(target)

        return work

    async def arun() -> None:
        for _ in range(COUNT):
            await engine.arun(acount)

    async def tasks() -> None:
        for _ in range(COUNT):
            await asyncio.create_task(_abare(shop))

    async def executor() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(COUNT // 5):
            await loop.run_in_executor(None, _bare, shop)

    figures = in_turns(
        {
            "a bare call": timed(bare, COUNT),
            "asyncio: create_task + await": timed(lambda: asyncio.run(tasks()), COUNT),
            "asyncio: run_in_executor": timed(lambda: asyncio.run(executor()), COUNT // 5),
            "engine.run(def), no state": timed(run(nothing), COUNT),
            "engine.run(def), counter += 1": timed(run(count), COUNT),
            "engine.run(def), counter += 1, with a contract": timed(run(count_declared), COUNT),
            "await engine.arun(async def), counter += 1": timed(lambda: asyncio.run(arun()), COUNT),
        }
    )
    table("One call (x: times create_task + await)", figures, "asyncio: create_task + await")
    engine.close()


def _bare(shop: Shop) -> None:
    shop.hits += 1


async def _abare(shop: Shop) -> None:
    shop.hits += 1


if __name__ == "__main__":
    main()
