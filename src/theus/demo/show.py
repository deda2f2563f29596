"""The demo from its beginning to its end."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.rule import Rule

from theus import Engine, __version__
from theus.demo import crawl, waits
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


FULL = Size(pages=100, fast=0.2, slow=1.0, effort=1.0, steps=20_000)
QUICK = Size(pages=20, fast=0.02, slow=0.1, effort=0.1, steps=2_000)


def main(parts: Sequence[str] = PARTS, *, quick: bool = False, console: Console | None = None) -> int:
    """Run the parts; gives the exit code: 0 if every claim was true."""
    screen = Screen(console)
    size = QUICK if quick else FULL
    began = time.perf_counter()
    cores = len(usable_cores())
    screen.console.print(
        Rule(f"[bold]Theus {__version__}[/] on Python {platform.python_version()}, {platform.system()}, "
        f"{cores} core{'s' * (cores != 1)}", align="left", style="dim")
    )
    late: dict[str, float] = {}
    watched = waits.Watched()
    with Engine(Library(), resources={"http": crawl.make_client}, observers=[watched]) as engine:
        fast, slow = (size.fast, size.slow) if "waits" in parts else (0.0, 0.0)
        with Server(size.pages, fast, slow) as server:
            if "waits" in parts:
                screen.heading(1, "It waits", "A crawl over real HTTP: one page that links to the others, then all of them at once.")
                site = waits.open_site(screen, server)
                pages, late["waits"] = waits.prove(screen, engine, watched, site)
    screen.console.print(f"{time.perf_counter() - began:.1f}", late, screen.failures)
    return 1 if screen.failures else 0


if __name__ == "__main__":
    import sys
    sys.exit(main(["waits"], quick="--quick" in sys.argv))
