"""A web server for the demo, in a process of its own so that its work does not disturb what is measured.

``python -m theus.demo.server COUNT FAST SLOW`` makes COUNT pages, then serves them on a free port of the loopback,
each after its delay of FAST to SLOW seconds. It says on stdout, in lines of JSON, how far it is, then where it
serves what; it ends when its stdin does, so it cannot outlive who started it.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from theus.demo.pages import INDEX, delays, make_index, make_pages

# --- this side -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Site:
    """What the server serves. ``waits``: seconds before each page's answer, by its name."""

    url: str
    waits: Mapping[str, float]
    size: int  #: characters of HTML


class Server:
    """The server's process: ``with Server(100, 0.2, 1.0) as server: server.wait(on_page)``."""

    def __init__(self, count: int, fast: float, slow: float) -> None:
        self.count = count
        command = [sys.executable, "-m", "theus.demo.server", str(count), str(fast), str(slow)]
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the demo, which then ends this process
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def wait(self, on_page: Callable[[str], None]) -> Site:
        """Wait until it serves; ``on_page`` is called with the name of each page that was made."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            if "url" in said:
                return Site(said["url"], said["waits"], said["size"])
            on_page(said["page"])
        raise RuntimeError(f"the demo's web server ended too early, with exit code {self._process.wait()}.")

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.terminate()
        self._process.communicate()


# --- the server's side -----------------------------------------------------------------------------------------------


def main(count: int, fast: float, slow: float) -> None:
    """Make the pages and serve them."""
    pages: dict[str, str] = {}
    for name, html in make_pages(count):
        pages[name] = html
        say(page=name)
    waits = {INDEX: fast, **delays(list(pages), fast, slow)}
    pages[INDEX] = make_index(list(pages))
    asyncio.run(serve({name: html.encode() for name, html in pages.items()}, waits))


async def serve(pages: Mapping[str, bytes], waits: Mapping[str, float]) -> None:
    """Serve until stdin ends."""
    from aiohttp import web

    async def answer(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in pages:
            raise web.HTTPNotFound(text=f"no page {name!r}")
        await asyncio.sleep(waits[name])
        return web.Response(body=pages[name], content_type="text/html", charset="utf-8")

    app = web.Application()
    app.router.add_get("/{name}.html", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    host, port = runner.addresses[0][:2]
    say(url=f"http://{host}:{port}", waits=waits, size=sum(map(len, pages.values())))
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


def say(**values: Any) -> None:
    """Tell the other side."""
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
    except BrokenPipeError:  # who started this is gone
        sys.exit(1)
