"""A language model as it looks from outside: a real HTTP server on this machine, slow, that streams token after token."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

SPEECH = "a process waits computes or changes state and each of them gets the place that fits it"
PAUSE = 0.02  # seconds between two tokens


async def generate(request: web.Request) -> web.StreamResponse:
    prompt = (await request.json())["prompt"]
    answer = web.StreamResponse(headers={"Content-Type": "application/jsonl"})
    await answer.prepare(request)
    try:
        for word in (*prompt.split(), *SPEECH.split()):
            await asyncio.sleep(PAUSE)
            await answer.write(json.dumps({"token": word}).encode() + b"\n")
        await answer.write_eof()
    except ConnectionResetError:
        pass  # who asked has hung up
    return answer


@asynccontextmanager
async def slow_model() -> AsyncIterator[str]:
    """The server, for as long as the block lasts; gives its URL."""
    app = web.Application()
    app.router.add_post("/generate", generate)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=512).start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()
