"""What ran where and why, as a table that fits its terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from theus.nature import Explained

RAISED = "¹²³⁴⁵⁶⁷⁸⁹"


class PlacesTable:
    """Rows of ``engine.explain`` or ``engine.profiles``; with little room, the reasons stand below the table.

    Args:
        rows: what to show.
        measured: whether there are figures of calls, or only what is planned.
    """

    def __init__(self, rows: Sequence[Explained], *, measured: bool) -> None:
        self.rows = rows
        self.measured = measured

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = self._table({})
        if console.measure(wide, options=options.update(width=10_000)).maximum <= options.max_width:
            yield wide
            return
        reasons = {reason: number for number, reason in enumerate(dict.fromkeys(row.reason for row in self.rows))}
        yield self._table(reasons)
        notes = Table.grid(padding=(0, 1))
        for reason, number in reasons.items():
            notes.add_row(Text(_raised(number), "cyan"), Text(reason, "dim"))
        yield ""
        yield notes

    def _table(self, notes: dict[str, int]) -> Table:
        table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold", padding=(0, 1, 0, 0))
        columns = ["process", "nature", "runs in", *([] if notes else ["why"])]
        for column in columns:
            table.add_column(column, no_wrap=not notes or column != "nature")
        if self.measured:
            for column in ("calls", "failed", "wall s", "CPU s"):
                if column != "failed" or self._failures:
                    table.add_column(column, justify="right", no_wrap=True)
        for row in self.rows:
            place = Text(row.environment)
            if notes:
                place.append(" " + _raised(notes[row.reason]), "cyan")
            nature = row.nature.partition(", waits")[0] if notes else row.nature
            cells = [Text(row.process), Text(nature), place, *([] if notes else [Text(row.reason, "dim")])]
            if self.measured:
                cells.append(Text(f"{row.calls:,}"))
                if self._failures:
                    cells.append(Text(f"{row.failures:,}", "red" if row.failures else "dim"))
                cells += [Text(f"{row.wall:,.2f}"), Text("–" if row.cpu is None else f"{row.cpu:,.2f}")]
            table.add_row(*cells)
        return table

    @property
    def _failures(self) -> bool:
        return any(row.failures for row in self.rows)


class FiguresTable:
    """What was measured of each process, and what there is to say about it."""

    def __init__(self, rows: Sequence[Explained]) -> None:
        self.rows = [row for row in rows if row.calls]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold", padding=(0, 1, 0, 0))
        table.add_column("process", no_wrap=True)
        for column in ("wall p50", "p99", "CPU p50", "p99", "holds the lock", "measured"):
            table.add_column(column, justify="right", no_wrap=True)
        for row in self.rows:
            times = [_time(seconds) for seconds in (row.wall_p50, row.wall_p99, row.cpu_p50, row.cpu_p99)]
            table.add_row(row.process, *times, "–" if row.holds is None else f"{row.holds:.0%}", f"{row.measured:,}")
        yield ""
        yield table
        notes = Table.grid(padding=(0, 2))
        for row in self.rows:
            for number, note in enumerate(row.notes()):
                notes.add_row(Text("" if number else row.process), Text(note, "dim"))
        if notes.row_count:
            yield ""
            yield notes


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} us"
    return f"{seconds * 1e3:,.3g} ms" if seconds < 1.0 else f"{seconds:,.2f} s"


def _raised(number: int) -> str:
    return "".join(RAISED[int(digit) - 1] if digit != "0" else "⁰" for digit in str(number + 1))
