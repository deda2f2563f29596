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
from theus.cli.tables import PlacesTable
from theus.demo import cleans, computes, crawl, waits
from theus.demo.learn import Library
from theus.demo.measure import usable_cores
from theus.demo.screen import Screen, milliseconds
from theus.demo.server import Server

PARTS = ("waits", "computes", "cleans")


@dataclass(frozen=True)
class Size:
    """How much the demo does."""

    pages: int
    fast: float  #: seconds that the server waits for the fastest page
    slow: float
    effort: float  #: of training a model; 1.0 is a second
    steps: int  #: with a temporary and a pipe value of 100 KB each


FULL = Size(pages=100, fast=0.2, slow=1.0, effort=1.0, steps=50_000)
QUICK = Size(pages=20, fast=0.02, slow=0.1, effort=0.1, steps=2_000)


def main(parts: Sequence[str] = PARTS, *, quick: bool = False, console: Console | None = None) -> int:
    """Run the parts; gives the exit code: 0 if every claim was true."""
    screen = Screen(console)
    size = QUICK if quick else FULL
    began = time.perf_counter()
    cores = len(usable_cores())
    screen.console.print(
        Rule(
            f"[bold]Theus {__version__}[/] on Python {platform.python_version()}, {platform.system()}, "
            f"{cores} core{'s' * (cores != 1)}",
            align="left",
            style="dim",
        )
    )
    late: waits.Late = {}
    engines: list[Engine[Any]] = []
    watched = waits.Watched()
    if "waits" in parts or "computes" in parts:
        fast, slow = (size.fast, size.slow) if "waits" in parts else (0.0, 0.0)
        engine = Engine(Library(), resources={"http": crawl.make_client}, observers=[watched])
        engines.append(engine)
        with engine, Server(size.pages, fast, slow) as server:
            if "waits" in parts:
                screen.heading(
                    1,
                    "It waits",
                    "A crawl over real HTTP: one page that links to the others, then all of them at once.",
                )
                site = waits.open_site(screen, server)
                pages, late = waits.prove(screen, engine, watched, site)
            else:
                site = waits.open_site(screen, server)
                pages = engine.run(crawl.crawl, f"{site.url}/index.html")
            if "computes" in parts:
                screen.heading(2, "It computes", "The pages are read and indexed, four models trained, on all cores.")
                late |= computes.prove(screen, engine, watched, pages, size.effort)
    if "cleans" in parts:
        screen.heading(
            3, "It cleans up", "What a process keeps for itself goes at its end; what it hands on, after the next step."
        )
        engines += cleans.prove(screen, size.steps)
    _summary(screen, engines, late, time.perf_counter() - began)
    return 1 if screen.failures else 0


def _summary(screen: Screen, engines: Sequence[Engine[Any]], late: waits.Late, seconds: float) -> None:
    screen.heading(4, "What ran where, and why", "As engine.profiles() has it, all runs added up.")
    rows = [row for engine in engines for row in engine.profiles().rows if row.calls and row.process != "tick"]
    screen.gap()
    screen.show(PlacesTable(rows, measured=True))
    if late:
        screen.table((">loop late", "at most, …"), [(milliseconds(worst), when) for when, worst in late.items()])
    screen.gap()
    if screen.failures:
        screen.say(f"[bold red]{len(screen.failures)} of the claims did not hold:[/]")
        for failure in screen.failures:
            screen.say(f"[red]✗ {failure}[/]")
    else:
        screen.say(f"[bold green]Every claim held.[/] [dim]{seconds:.0f} s[/]")


if __name__ == "__main__":
    import sys

    sys.exit(main([a for a in sys.argv[1:] if not a.startswith("-")] or PARTS, quick="--quick" in sys.argv))
