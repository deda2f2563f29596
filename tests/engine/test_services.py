"""In a service and in a notebook: many agents on one loop, any asyncio loop, the cell that calls engine.run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import nbclient
import nbformat
import pytest
import rloop
import uvloop
from aiohttp import web

from theus import Context, Engine, each, flow, process
from theus.events import Reported

AGENTS = 100


@dataclass
class Chat:
    answers: dict[int, str] = field(default_factory=dict)


class SlowModel:
    """A real HTTP server that streams tokens; after the first one it waits until the test lets it go on."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.asked = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        response = web.StreamResponse()
        await response.prepare(request)
        name = request.match_info["name"]
        await response.write(f"agent-{name} ".encode())
        await self.go_on.wait()
        for token in ("says ", "hello"):
            await response.write(token.encode())
        await response.write_eof()
        return response


@contextmanager
def serving(model: SlowModel) -> Iterator[tuple[str, asyncio.AbstractEventLoop]]:
    started, stop = threading.Event(), asyncio.Event()
    found: dict = {}

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/{name}", model.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        found["port"] = runner.addresses[0][1]
        found["loop"] = asyncio.get_running_loop()
        started.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert started.wait(30)
    try:
        yield f"http://127.0.0.1:{found['port']}", found["loop"]
    finally:
        found["loop"].call_soon_threadsafe(model.go_on.set)
        found["loop"].call_soon_threadsafe(stop.set)
        thread.join()


@process
async def talk(ctx: Context[Chat], number: int) -> str:
    heard = ""
    async with ctx.resource("http").stream("GET", f"{ctx.config}/{number}") as response:
        async for token in response.aiter_text():
            ctx.report(token)
            heard += token
    ctx.domain.answers[number] = heard
    return heard


def client() -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=None))


@pytest.mark.parametrize("door", ["run", "arun"])
def test_a_hundred_agents_stream_and_some_are_cancelled_midway(door):
    model = SlowModel()
    first: dict[int, str] = {}
    all_have_begun = threading.Event()

    def listen(event):
        if isinstance(event, Reported):
            number = int(event.value.split("-")[1]) if event.value.startswith("agent-") else None
            if number is not None:
                first.setdefault(number, event.value)
                if len(first) == AGENTS:
                    all_have_begun.set()

    with serving(model) as (url, server_loop):
        engine = Engine(Chat(), config=url, resources={"http": client}, observers=[listen])

        async def chat():
            runs = [engine.submit(talk, number) for number in range(AGENTS)]
            await asyncio.to_thread(all_have_begun.wait, 60)
            # Every first token is here while not one answer is complete: nobody waited for anybody.
            assert len(first) == AGENTS
            assert engine.state.answers == {}
            for run in runs[::4]:
                run.cancel()
            results = await asyncio.gather(*runs[::4], return_exceptions=True)
            assert all(isinstance(result, asyncio.CancelledError) for result in results)
            server_loop.call_soon_threadsafe(model.go_on.set)
            rest = [run for number, run in enumerate(runs) if number % 4]
            await asyncio.gather(*rest)
            await engine.aclose()

        def chat_blocking():
            runs = [engine.submit(talk, number) for number in range(AGENTS)]
            assert all_have_begun.wait(60)
            assert engine.state.answers == {}
            for run in runs[::4]:
                run.cancel()
            for run in runs[::4]:
                with pytest.raises(asyncio.CancelledError):
                    run.result(60)
            server_loop.call_soon_threadsafe(model.go_on.set)
            for number, run in enumerate(runs):
                if number % 4:
                    run.result(60)
            engine.close()

        asyncio.run(chat()) if door == "arun" else chat_blocking()
        assert model.asked == AGENTS
        expected = {number: f"agent-{number} says hello" for number in range(AGENTS) if number % 4}
        assert dict(engine.state.answers) == expected


# rloop leaves the sockets with which it wakes itself to the garbage collector.
RLOOP = pytest.param(
    rloop.new_event_loop, marks=pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
)


@pytest.mark.parametrize(
    "factory", [asyncio.new_event_loop, uvloop.new_event_loop, RLOOP], ids=["asyncio", "uvloop", "rloop"]
)
def test_any_asyncio_loop(factory):
    loops = set()

    @process
    async def waits(ctx, n):
        loops.add(type(asyncio.get_running_loop()).__module__.split(".")[0])
        await asyncio.sleep(0.001)
        return n

    @process
    def blocks(ctx, n):
        return -n

    with Engine(loop_factory=factory) as engine:
        assert engine.run(flow(each(waits), each(blocks)), range(20)) == [-n for n in range(20)]
    assert len(loops) == 1


def test_one_resource_for_each_loop_closed_on_it():
    made, closed = [], []

    class Pool:
        def __init__(self):
            self.loop = asyncio.get_running_loop()
            made.append(self)

        async def aclose(self):
            closed.append(asyncio.get_running_loop() is self.loop)

    @process
    async def uses(ctx):
        return ctx.resource("pool") is ctx.resource("pool")

    engine = Engine(resources={"pool": Pool})

    async def service():
        assert await engine.arun(each(uses), [1, 2]) == [True, True]
        await engine.aclose()

    assert engine.run(each(uses), [1, 2, 3]) == [True] * 3
    asyncio.run(service())
    assert len(made) == 2
    assert closed == [True, True]


def test_a_missing_resource_says_what_there_is():
    from theus import DefinitionError

    @process
    def uses(ctx):
        ctx.resource("htpp")

    with Engine(resources={"http": dict}) as engine, pytest.raises(DefinitionError, match="Did you mean 'http'"):
        engine.run(uses)


NOTEBOOK = [
    "from dataclasses import dataclass\nfrom theus import Engine, process, each, flow",
    "@dataclass\nclass Shop:\n    sold: int = 0\n\nengine = Engine(Shop())",
    "@process\nasync def fetch(ctx, n):\n    import asyncio\n    await asyncio.sleep(0)\n    ctx.domain.sold += 1\n    return n",
    "engine.run(flow(each(fetch), sum), range(5))",
    "@process(nature='cpu')\ndef square(ctx, n):\n    ctx.domain.sold += 1\n    return Shop(n * n)",
    "isinstance(engine.run(square, 4), Shop), engine.run(square, 4).sold",
    "await engine.arun(each(fetch), range(3))",
    "engine.state.sold",
    "flow(fetch, square)",
]


def test_a_notebook_runs_as_it_is():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in NOTEBOOK])
    nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    outputs = [cell.outputs for cell in notebook.cells]

    def shown(number: int) -> str:
        return outputs[number][0]["data"]["text/plain"]

    assert shown(3) == "10"
    assert shown(5) == "(True, 16)"
    assert shown(6) == "[0, 1, 2]"
    assert shown(7) == "10"
    assert "image/svg+xml" in outputs[8][0]["data"]
    assert not [output for cell in outputs for output in cell if output.get("name") == "stderr"]
