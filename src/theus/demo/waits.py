"""The first proof: it waits. A hundred pages at once, by both doors, and a loop that stays alive."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Group

from theus import Engine, process
from theus.demo import clean, crawl
from theus.demo.alike import alike, alike_apart, alike_beside
from theus.demo.crawl import Page
from theus.demo.learn import Library
from theus.demo.measure import Lag
from theus.demo.screen import Counted, Screen, lag_line, milliseconds, progress
from theus.demo.server import Server, Site
from theus.events import Event, Observer, RunStarted
from theus.observe.progress import RunProgress, bars_of

Late = dict[str, float]  # when -> how late the loop was at most, in seconds


class Watched:
    """An observer that keeps how far the newest run is, for the display, and hands events to who looks closer."""

    def __init__(self) -> None:
        self.runs: tuple[RunProgress, ...] = ()
        self.closer: Observer | None = None

    def __call__(self, event: Event, /) -> None:
        if isinstance(event, RunStarted):
            self.runs = (RunProgress(event.run_id, event.target, event.at),)
        for run in self.runs:
            if run.run_id == event.run_id:
                run.take(event)
        if self.closer is not None:
            self.closer(event)


@contextmanager
def looking_at(engine: Engine[Any]) -> Iterator[Lag]:
    """A ticker on the engine's own loop, while the block runs."""
    lag = Lag()
    ticker = engine.submit(process(lag.tick))
    try:
        yield lag
    finally:
        lag.stop()
        ticker.result()


def open_site(screen: Screen, server: Server) -> Site:
    """Wait for the server, and show what it does."""
    made = Counted("pydoc writes", server.count)
    with screen.live(lambda: bars_of(made.run)):
        site = server.wait(lambda name: made.add(1))
    screen.claim(
        len(site.waits) == server.count + 1,
        f"{server.count} modules of the standard library, as pydoc writes them: {site.size / 1e6:.1f} MB of HTML",
        f"served by process {server.pid}",
    )
    return site


def prove(screen: Screen, engine: Engine[Library], watched: Watched, site: Site) -> tuple[Sequence[Page], Late]:
    """Crawl by both doors, look at the loop, clean; gives the pages and the longest that the loop was late."""
    screen.code(crawl.fetch, crawl.links, "crawl = flow(fetch, links, each(fetch, limit=100))")
    late: Late = {}
    by_run, late["while the HTTP client starts 100 requests at once"] = _crawl(screen, engine, watched, site)
    late["while a def computes in a thread or on another core"] = _loop(screen, engine, by_run)
    _clean(screen, by_run)
    return by_run, late


# --- the crawl -------------------------------------------------------------------------------------------------------


def _crawl(screen: Screen, engine: Engine[Library], watched: Watched, site: Site) -> tuple[list[Page], float]:
    start = f"{site.url}/index.html"
    slowest, total = max(site.waits.values()), sum(site.waits.values())
    engine.run(crawl.fetch, start)  # it is there; and what the HTTP client loads once, is loaded
    with looking_at(engine) as lag, screen.live(lambda: Group(progress(watched.runs), lag_line(lag))):
        began = time.perf_counter()
        by_run = engine.run(crawl.crawl, start)
        run_seconds = time.perf_counter() - began

    lag_there = Lag()

    async def door() -> tuple[list[Page], float]:
        ticking = asyncio.create_task(lag_there.tick())
        began = time.perf_counter()
        pages = await engine.arun(crawl.crawl, start)
        seconds = time.perf_counter() - began
        lag_there.stop()
        await ticking
        return pages, seconds

    with screen.live(lambda: Group(progress(watched.runs), lag_line(lag_there))):
        by_arun, arun_seconds = asyncio.run(door())

    count, worst = len(site.waits), max(lag.worst, lag_there.worst)
    least = site.waits["index"] + slowest  # the index comes first, then all the others at once
    screen.table(
        (f"{count} pages", ">seconds", ""),
        (
            ("one after the other", f"{total:.2f}", "[dim]the sum of the server's waits[/]"),
            (
                "engine.run(crawl, …)",
                f"[bold green]{run_seconds:.2f}[/]",
                f"[dim]index {site.waits['index']:.2f}, then slowest page {slowest:.2f}[/]",
            ),
            ("await engine.arun(crawl, …)", f"[bold green]{arun_seconds:.2f}[/]", ""),
        ),
    )
    screen.claim(
        run_seconds < total / 2,
        f"{count} pages in about the time of the slowest: {total / run_seconds:.0f} times as fast",
        doubt="" if total > 10 else "too little waiting to tell",
    )
    screen.claim(len(by_run) == count - 1 and run_seconds >= least, "none is missing, and the server made each wait")
    screen.claim(by_arun == by_run, "both doors gave the same pages, character by character")
    screen.say(
        f"[dim]To start 100 requests at once and to unpack {site.size / 1e6:.1f} MB is work for the HTTP client: "
        f"meanwhile the loop was late by {milliseconds(worst)} at most.[/]"
    )
    return by_run, worst


# --- the loop --------------------------------------------------------------------------------------------------------


def _loop(screen: Screen, engine: Engine[Library], pages: Sequence[Page]) -> float:
    screen.part("A def that computes does not stop the loop")
    screen.code('alike_beside = process(alike)\nalike_apart  = process(nature="cpu")(alike)')
    texts = {page.name: _beginning(page) for page in pages}
    engine.run(alike_apart, {})  # a worker starts once, not at each call

    async def ticking(lag: Lag, work: Any) -> tuple[dict[str, str], float]:
        ticker = asyncio.create_task(lag.tick())
        await asyncio.sleep(0.1)
        began = time.perf_counter()
        result = await work()
        seconds = time.perf_counter() - began
        await asyncio.sleep(0.1)
        lag.stop()
        await ticker
        return result, seconds

    async def bare() -> dict[str, str]:
        return alike(texts)

    ways = (
        ("bare asyncio: a coroutine calls it", bare),
        ("engine.arun(alike_beside): in a thread", lambda: engine.arun(alike_beside, texts)),
        ("engine.arun(alike_apart): on another core", lambda: engine.arun(alike_apart, texts)),
    )
    lags = [Lag() for _ in ways]
    results: list[dict[str, str]] = []
    rows = []
    for (name, work), lag in zip(ways, lags, strict=True):
        with screen.live(lambda name=name, lag=lag: Group(name, lag_line(lag))):  # type: ignore[misc]  # mypy infers no lambda with defaults
            result, seconds = asyncio.run(ticking(lag, work))
        results.append(result)
        style = "red" if lag.worst > 0.1 else "green"
        rows.append((name, f"{seconds:.2f}", f"[{style}]{milliseconds(lag.worst)}[/]"))
    screen.table(("which pages begin alike?", ">seconds", ">loop late"), rows)
    screen.claim(
        max(lags[1].worst, lags[2].worst) < lags[0].worst,
        f"bare asyncio stood still for {milliseconds(lags[0].worst)}; with Theus the loop went on",
        doubt="" if lags[0].worst > 0.2 else "too little work to tell",
    )
    sample = ", ".join(f"{page} → {results[0][page]}" for page in ("bz2", "cmath") if results[0].get(page))
    screen.claim(results[0] == results[1] == results[2], "all three found the same", sample)
    return max(lags[1].worst, lags[2].worst)


def _beginning(page: Page) -> str:
    """The first words of what a page says about its module."""
    text = " ".join(re.sub(r"<[^>]*>|&nbsp;", " ", page.html).split())
    return text.partition("Module Reference")[2][:60]


# --- the script ------------------------------------------------------------------------------------------------------


def _clean(screen: Screen, pages: Sequence[Page]) -> None:
    screen.part("A cleaning script: no asyncio, no domain")
    screen.code(
        clean.load,
        clean.clean,
        clean.count,
        "Engine().run([load, clean, count], page)",
    )
    page = max(pages, key=lambda page: len(page.html))
    with Engine[Any]() as engine:
        words = engine.run([clean.load, clean.clean, clean.count], page.html)
    common = ", ".join(f"{word} {count:,}" for word, count in words.most_common(4))
    screen.claim(
        words == clean.count(clean.clean(clean.load(page.html))),
        f"{words.total():,} words of {page.name!r}: {common}, …",
        "as the functions called by hand",
    )
