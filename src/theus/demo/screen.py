"""How the demo looks: headings, code, live displays and claims, on a terminal, without colours, and in a log."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.rule import Rule
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from theus import Process
from theus.demo.measure import BARS, Lag, sparkline
from theus.events import EachStarted
from theus.observe.progress import RunProgress, bars_of

WIDEST = 110  #: columns; longer lines are hard to read
LATE = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)  #: seconds of lag at which a sparkline grows by one


class Screen:
    """The terminal, or a log. Remembers what failed."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._is_gap = True
        if self.console.width > WIDEST:
            self.console.width = WIDEST
        self.failures: list[str] = []
        self.is_live = self.console.is_terminal and not self.console.is_dumb_terminal

    # --- text ---

    def gap(self) -> None:
        """One empty line, never two."""
        if not self._is_gap:
            self.console.print()
        self._is_gap = True

    def show(self, what: RenderableType, indent: int = 2) -> None:
        """Anything, indented."""
        self.console.print(Padding(what, (0, 2, 0, indent), expand=False))
        self._is_gap = False

    def heading(self, number: int, title: str, text: str) -> None:
        """Begin a part."""
        self.gap()
        self.console.print(Rule(f"[bold]{number}  {title}[/]", align="left", style="cyan", characters="━"))
        self.say(text)

    def say(self, text: str, indent: int = 2) -> None:
        """A sentence or two."""
        self.show(Text.from_markup(text), indent)

    def part(self, title: str) -> None:
        """Begin a section of a part."""
        self.gap()
        self.show(Text(title, "bold cyan"))

    def code(self, *pieces: Any) -> None:
        """Source code: of functions and processes, or as it is given."""
        text = "\n\n".join(_source(piece) for piece in pieces)
        self.gap()
        self.show(Syntax(text, "python", theme="ansi_dark", background_color="default", word_wrap=True), 4)
        self.gap()

    def claim(self, is_true: bool, text: str, detail: str = "", *, doubt: str = "") -> None:
        """Something that was checked just now.

        Args:
            is_true: whether it holds.
            text: the claim.
            detail: figures to it.
            doubt: why it says nothing if it does not hold: the machine had other work to do.
        """
        mark = "[green]✓[/]"
        if not is_true and doubt:
            mark, detail = "[yellow]–[/]", f"not judged: {doubt}"
        elif not is_true:
            mark = "[bold red]✗[/]"
            self.failures.append(Text.from_markup(text).plain)
        row = Table.grid(padding=(0, 1))
        row.add_column(width=1)
        row.add_column()
        row.add_row(mark, f"{text}  [dim]{detail}[/]" if detail else text)
        self.show(row)

    def table(self, columns: Iterable[str], rows: Iterable[Iterable[RenderableType]]) -> None:
        """Figures; a column whose name begins with ``>`` holds numbers."""
        table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False)
        for column in columns:
            is_number = column.startswith(">")
            table.add_column(column.lstrip(">"), justify="right" if is_number else "left", no_wrap=is_number)
        for row in rows:
            table.add_row(*row)
        self.gap()
        self.show(table)
        self.gap()

    # --- what moves ---

    @contextmanager
    def live(self, draw: Callable[[], RenderableType]) -> Iterator[None]:
        """Show what ``draw`` gives, ten times a second, while the block runs; nothing in a log."""
        if not self.is_live:
            yield
            return
        with Live(
            # The cursor rests on an empty line: an echoed ^C must not break a full one.
            get_renderable=lambda: Group(Padding(draw(), (0, 2)), ""),
            console=self.console,
            refresh_per_second=10,
            transient=True,
        ):
            yield


def _source(piece: Any) -> str:
    if isinstance(piece, str):
        return textwrap.dedent(piece).strip()
    function = piece.fn if isinstance(piece, Process) else piece
    text = textwrap.dedent(inspect.getsource(function)).strip()
    (definition,) = ast.parse(text).body
    assert isinstance(definition, ast.FunctionDef | ast.AsyncFunctionDef)
    first = definition.body[0]
    lines = text.splitlines()
    if isinstance(first, ast.Expr) and len(definition.body) > 1:  # the docstring: what it says is said beside it
        del lines[first.lineno - 1 : first.end_lineno]
    return re.sub(r"  # (type: ignore|noqa).*", "", "\n".join(lines))  # words to a checker, not to a reader


# --- pieces of a live display ----------------------------------------------------------------------------------------


class Counted:
    """A bar for something that is no run of an engine."""

    def __init__(self, name: str, total: int) -> None:
        now = time.monotonic()
        self.run = RunProgress("", name, now)
        self.run.take(EachStarted(at=now, run_id="", step=name, total=total))
        (self.bar,) = self.run.bars.values()

    def add(self, count: int) -> None:
        """So many more are done."""
        with self.run.lock:
            self.bar.done += count


def progress(runs: Iterable[RunProgress]) -> RenderableType:
    """The bars of what runs."""
    return Group(*[bars_of(run) for run in runs if run.bars])


def meter(name: str, part: float, width: int = 24) -> Text:
    """``core 0 ███████▌    78 %``."""
    full = round(part * width)
    return Text.assemble(f"{name} ", ("█" * full, "green"), ("░" * (width - full), "dim"), f" {part:4.0%}")


def lag_line(lag: Lag) -> Text:
    """The loop's lag of the last seconds, as it grows from 2 ms to half a second."""
    text = Text("loop late  ")
    for late in list(lag.recent):
        level = sum(late >= limit for limit in LATE)
        text.append(BARS[level], "green" if late < 0.01 else "yellow" if late < 0.05 else "red")
    return text.append(f"  at most {milliseconds(lag.worst)}")


def memory_line(samples: list[int], width: int = 60) -> Text:
    """Bytes in use over time, from nothing to half as much again as at the beginning."""
    picked = samples[:: max(1, -(-len(samples) // width))]
    return Text(sparkline(picked, 0, 1.5 * samples[0]), "green")


def milliseconds(seconds: float) -> str:
    """``1.3 ms``, ``618 ms``."""
    return f"{seconds * 1000:.1f} ms" if seconds < 0.01 else f"{seconds * 1000:,.0f} ms"
