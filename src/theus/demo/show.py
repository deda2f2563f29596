"""The demo from its beginning to its end."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.rule import Rule

from theus import Engine, __version__
from theus.cli.codes import FAILED, OK
from theus.cli.failure import show_failure
from theus.cli.tables import PlacesTable
from theus.demo import cleans, computes, crawl, waits
from theus.demo.learn import Library
from theus.demo.screen import Screen, milliseconds
from theus.demo.server import Server
from theus.environments.cpus import usable_cpus

PARTS = ("waits", "computes", "cleans")
MOST_WORKERS = 8  #: there are four models; each worker process loads scikit-learn


@dataclass(frozen=True)
class Size:
    """How much the demo does."""

    pages: int
    fast: float  #: seconds that the server waits for the fastest page
    slow: float
    training: float  #: of a model; 1 is about a second
    steps: int  #: with a temporary and a pipe value of 100 KB each


FULL = Size(pages=100, fast=0.2, slow=1.0, training=1.0, steps=50_000)
QUICK = Size(pages=20, fast=0.02, slow=0.1, training=0.1, steps=2_000)


def main(parts: Sequence[str] = PARTS, *, quick: bool = False, console: Console | None = None) -> int:
    """Run the parts; gives the exit code: 0 if every claim was true."""
    screen = Screen(console)
    began = time.perf_counter()
    _title(screen)
    try:
        engines, late = _prove(screen, parts, QUICK if quick else FULL)
    except Exception as error:
        screen.gap()
        show_failure(screen.console, error, whole=True)
        screen.say("[bold red]The demo failed.[/]")
        return FAILED
    _summary(screen, engines, late)
    screen.gap()
    if screen.failures:
        screen.say(f"[bold red]{len(screen.failures)} of the claims did not hold:[/]")
        for failure in screen.failures:
            screen.say(f"[red]✗[/] {failure}")
        return FAILED
    screen.say(f"[bold green]Every claim held.[/] [dim]{time.perf_counter() - began:.0f} s[/]")
    return OK


def _title(screen: Screen) -> None:
    cores = usable_cpus()
    machine = f"Python {platform.python_version()}, {platform.system()}, {cores} core{'s' * (cores != 1)}"
    screen.console.print(Rule(f"[bold]Theus {__version__}[/] on {machine}", align="left", style="dim"))
    screen.say("Three proofs on real input. Every figure is measured here and now.")


def _prove(screen: Screen, parts: Sequence[str], size: Size) -> tuple[list[Engine[Any]], waits.Late]:
    """The parts that were asked for; gives their engines, and how late the loop was."""
    late: waits.Late = {}
    engines: list[Engine[Any]] = []
    if "waits" in parts or "computes" in parts:
        watched = waits.Watched()
        workers = min(usable_cpus(), MOST_WORKERS)
        engine = Engine(Library(), resources={"http": crawl.make_client}, workers=workers, observers=[watched])
        engines.append(engine)
        fast, slow = (size.fast, size.slow) if "waits" in parts else (0.0, 0.0)
        with engine, Server(size.pages, fast, slow) as server:
            if "waits" in parts:
                screen.heading(
                    1, "It waits", "One page that links to a hundred others, then all of them, over real HTTP."
                )
                pages, late = waits.prove(screen, engine, watched, waits.open_site(screen, server))
            else:
                with screen.live(lambda: "the pages are made and fetched …"):
                    site = server.wait(lambda name: None)
                    pages = engine.run(crawl.crawl, f"{site.url}/index.html")
            if "computes" in parts:
                screen.heading(2, "It computes", "The pages are read and indexed, four models trained, on all cores.")
                late |= computes.prove(screen, engine, watched, pages, size.training, workers)
    if "cleans" in parts:
        screen.heading(
            3, "It cleans up", "What a process keeps goes at its end; what it hands on, after the next step."
        )
        engines += cleans.prove(screen, size.steps)
    return engines, late


def _summary(screen: Screen, engines: Sequence[Engine[Any]], late: waits.Late) -> None:
    screen.heading(4, "What ran where, and why", "As engine.profiles() has it, all runs added up.")
    rows = [row for engine in engines for row in engine.profiles().rows if row.calls and row.process != "tick"]
    screen.gap()
    screen.show(PlacesTable(rows, measured=True))
    if late:
        screen.table((">loop late", "at most, …"), [(milliseconds(worst), when) for when, worst in late.items()])
