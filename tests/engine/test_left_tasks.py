"""A task that a body left behind cannot touch the state any more."""

from __future__ import annotations

import asyncio

import pytest

from theus import Context, Engine, process
from theus.errors import ScopeError


def test_what_a_left_task_does_afterwards_is_refused():
    left = []

    @process
    async def leaves(ctx: Context[dict[str, int]]) -> None:
        ended = asyncio.Event()
        domain = ctx.domain

        async def by_context():
            await ended.wait()
            ctx.domain["n"] = 1

        async def by_draft():
            await ended.wait()
            domain["n"] = 1

        left.append((ended, asyncio.create_task(by_context()), asyncio.create_task(by_draft())))

    async def main():
        engine = Engine({"n": 0})
        await engine.arun(leaves)
        ended, *tasks = left[0]
        ended.set()
        for task in tasks:
            with pytest.raises(ScopeError, match="ended"):
                await task
        assert engine.state == {"n": 0}
        await engine.aclose()

    asyncio.run(main())


def test_a_task_group_ends_with_its_tasks():
    @process
    async def groups(ctx: Context[dict[str, int]]) -> None:
        async def add():
            await asyncio.sleep(0)
            ctx.domain["n"] += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(add())

    with Engine({"n": 0}) as engine:
        engine.run(groups)
        assert engine.state == {"n": 3}
