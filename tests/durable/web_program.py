"""One web worker of several: an HTTP server with an engine of its own on the store that all share.

web_program.py STORE
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field

from aiohttp import web

from theus import Context, Engine, RunFenced, Tally, flow, process


@dataclass
class Shop:
    hits: Tally = 0
    number: int = 0
    orders: dict[str, int] = field(default_factory=dict)


@process
async def add(ctx: Context[Shop]) -> int:
    ctx.domain.hits += 1
    ctx.domain.number += 1  # a read and a write: without an arbiter some would be lost
    return ctx.domain.number


@process
async def take(ctx: Context[Shop], name: str) -> str:
    ctx.domain.orders[name] = ctx.domain.orders.get(name, 0) + 1
    return name


@process
async def pack(ctx: Context[Shop], name: str) -> int:
    ctx.domain.orders[name] += 100
    return ctx.domain.orders[name]


ORDER = flow(take, pack)


async def main(store: str) -> None:
    engine = Engine(Shop(), store=store)

    async def on_add(request: web.Request) -> web.Response:
        return web.json_response(await engine.arun(add))

    async def on_order(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        try:
            return web.json_response(await engine.arun(ORDER, name, run_id=name))
        except RunFenced:  # another worker was asked for the same order and goes on with it
            return web.json_response(None, status=409)

    async def on_state(request: web.Request) -> web.Response:
        state = engine.state
        return web.json_response([state.hits, state.number, dict(state.orders)])

    app = web.Application()
    app.add_routes([web.post("/add", on_add), web.post("/order/{name}", on_order), web.get("/state", on_state)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.to_thread(sys.stdin.read)  # until who started it lets go
    await runner.cleanup()
    await engine.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
