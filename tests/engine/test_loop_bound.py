"""An ``async def`` with a client that was made on its caller's loop is never moved to another, and ``explain`` says why."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from types import SimpleNamespace

import aiohttp
import httpx
import pytest
from aiohttp import web

from theus import Engine, process
from theus.events import Stalled
from theus.surroundings import bound_to_loop


async def serve():
    """A server on the running loop, and its address."""

    async def answer(_):
        return web.Response(text="here")

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}/"


async def by_aiohttp(client, url):
    async with client.get(url) as response:
        return await response.text()


async def by_httpx(client, url):
    return (await client.get(url)).text


CLIENTS = {"aiohttp": (aiohttp.ClientSession, by_aiohttp), "httpx": (httpx.AsyncClient, by_httpx)}


@dataclass(slots=True)
class Slotted:
    client: object


WAYS = {
    "argument": lambda client: client,
    "in a dict": lambda client: {"client": client},
    "in an object": lambda client: SimpleNamespace(client=client),
    "in slots": Slotted,
}


def taken_out(given):
    if isinstance(given, dict):
        return given["client"]
    return getattr(given, "client", given)


@pytest.mark.parametrize("way", [*WAYS, "closure"])
@pytest.mark.parametrize("kind", CLIENTS)
def test_a_client_of_the_callers_loop_keeps_its_process_there(kind, way):
    made, ask = CLIENTS[kind]
    told = threading.Event()
    threads = []

    async def main(engine):
        runner, url = await serve()
        async with made() as client:

            async def fetches():
                told.wait(60)  # holds up its loop until that is told of
                threads.append(threading.get_ident())
                return await ask(client, url)

            async def asks(given, told):
                told.wait(60)
                return threading.get_ident(), await ask(taken_out(given), url)

            for _ in range(3):
                if way == "closure":
                    target = process(fetches)
                    assert await engine.arun(target) == "here"
                else:
                    target = process(asks)
                    thread, text = await engine.arun(target, WAYS[way](client), told)
                    threads.append(thread)
                    assert text == "here"
        await runner.cleanup()
        return engine.explain(target).rows[0]

    with Engine(observers=[lambda event: told.set() if isinstance(event, Stalled) else None]) as engine:
        row = asyncio.run(main(engine))
    assert set(threads) == {threading.get_ident()}
    assert row.environment == "loop"
    assert row.reason.startswith("async def that keeps its event loop waiting, but cannot leave it: ")
    if way == "closure":
        assert "'client' it closes over" in row.reason
    assert made.__name__ in row.reason or way in ("in an object", "in slots")
    assert "belongs to its event loop" in row.reason


def test_an_event_loop_itself_is_found_wherever_it_is():
    loop = asyncio.new_event_loop()
    assert bound_to_loop(Slotted(loop)) == "Slotted"
    assert bound_to_loop([{"a": Slotted(loop)}]) == "Slotted"
    assert bound_to_loop(Slotted(client=1)) is None
    loop.close()
