"""Progress: how far each ``each`` of a run is, what runs now, and how fast it goes.

``engine.run(..., progress=True)`` shows it on stderr; ``Engine(observers=[ProgressBars()])`` shows every run.
On a terminal there is one bar for each fan-out, with done and total, rate and time left, and a line of what
runs now; when the run ends, a line for each bar stays. Elsewhere (a file, CI) a sober line is written now
and then. Nothing is ever written on stdout.

An event only counts, at most a few microseconds under a lock; drawing is done ten times a second in a thread
of its own.
"""

from __future__ import annotations

import atexit
import sys
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from theus.errors import DefinitionError
from theus.events import CallEnded, CallRetried, CallStarted, EachStarted, Event, RunEnded, RunStarted

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

REDRAW = 10.0  #: times a second
QUIET = 5.0  #: seconds between two lines of a run that nobody watches on a terminal
WINDOW = 10.0  #: seconds that the rate is measured over
SETTLED = 4096  #: items remembered between their steps
MOST_RUNS = 8  #: runs shown at a time
MOST_SHOWN = 6  #: processes on the line of what runs now


# --- what is known of a run ------------------------------------------------------------------------------------------


class Bar:
    """One ``each``, or all those that one ``each`` inside another started."""

    def __init__(self, name: str, depth: int, at: float) -> None:
        self.name = name
        self.depth = depth  #: how many fan-outs it is in
        self.total: int | None = 0
        self.done = 0
        self.failed = 0
        self.started = at
        self.last = at  #: when an item was last done
        self._in_hand: Counter[str] = Counter()  # item -> calls of it that run now
        self._settled: OrderedDict[str, None] = OrderedDict()  # items of which nothing runs now, the last ones
        self._samples: deque[tuple[float, int]] = deque([(at, 0)])

    def grow(self, total: int | None) -> None:
        """A fan-out of so many items begins."""
        self.total = None if total is None or self.total is None else self.total + total

    def begin(self, item: str) -> None:
        """A call of this item begins."""
        if item in self._settled:  # it was only between two of its steps
            del self._settled[item]
            self.done -= 1
        self._in_hand[item] += 1

    def end(self, item: str, at: float, *, failed: bool) -> None:
        """A call of this item ended; an item of which nothing runs is done (until its next call)."""
        left = self._in_hand.pop(item, 1) - 1
        self.failed += failed
        if left > 0:
            self._in_hand[item] = left
            return
        self.done += 1
        self.last = at
        self._settled[item] = None
        if len(self._settled) > SETTLED:
            self._settled.popitem(last=False)

    def again(self, item: str) -> None:
        """What failed is tried again after a pause, so the item goes on."""
        self.failed -= 1
        self.begin(item)
        self._in_hand[item] -= 1  # the next attempt counts itself

    def rate(self, now: float) -> float:
        """Items per second, of late."""
        samples = self._samples
        if now > samples[-1][0]:
            samples.append((now, self.done))
            while len(samples) > 2 and now - samples[1][0] > WINDOW:
                samples.popleft()
        at, done = samples[0]
        return max(0.0, self.done - done) / (now - at) if now > at else 0.0

    def left(self, now: float) -> float | None:
        """Seconds to the end, as it looks; None if that cannot be said."""
        rate = self.rate(now)
        return None if self.total is None or not rate else (self.total - self.done) / rate

    @property
    def counted(self) -> str:
        """``63/100``."""
        return f"{self.done:,}" if self.total is None else f"{self.done:,}/{self.total:,}"

    def summary(self, state: str) -> str:
        """The bar after its end, in words."""
        seconds = self.last - self.started
        speed = f", {per_second(self.done / seconds)}" if seconds > 0 and self.done else ""
        failures = f", {self.failed:,} failed" if self.failed else ""
        return f"{self.name} {self.counted} in {duration(seconds)}{speed}{failures}" + (f", {state}" if state else "")


class RunProgress:
    """One run as its events tell it. Filled from any thread, drawn from another."""

    def __init__(self, run_id: str, target: str, at: float) -> None:
        self.run_id = run_id
        self.target = target
        self.started = self.at = at
        self.state = ""  #: how it ended
        self.bars: dict[str, Bar] = {}
        self.lock = threading.Lock()
        self.said = at  #: when a line was last written
        self._seen = time.monotonic()
        self._running: dict[str, tuple[str, str]] = {}  # call -> process and environment

    def take(self, event: Event) -> None:
        """Count an event."""
        with self.lock:
            self.at, self._seen = event.at, time.monotonic()
            key = event.key[len(self.run_id) :]
            if isinstance(event, CallStarted):
                if event.attempt == 1 or key not in self._running:
                    for bar, item in self._bars_of(key):
                        bar.begin(item)
                self._running[key] = (event.process, event.environment)
            elif isinstance(event, CallEnded):
                self._running.pop(key, None)
                for bar, item in self._bars_of(key):
                    bar.end(item, event.at, failed=event.error is not None)
            elif isinstance(event, CallRetried):
                for bar, item in self._bars_of(key):
                    bar.again(item)
            elif isinstance(event, EachStarted):
                place, depth = _place(key)
                if place not in self.bars:
                    self.bars[place] = Bar(event.step, depth, event.at)
                self.bars[place].grow(event.total)
            elif isinstance(event, RunEnded):
                self.state = event.state
                self._running.clear()

    def _bars_of(self, key: str) -> Iterator[tuple[Bar, str]]:
        """The bars that a call counts in, each with the item it belongs to there."""
        if not self.bars:
            return
        place = ""
        end = 0
        for part in key.split("/")[1:]:
            end += 1 + len(part)
            if part.isdigit():
                bar = self.bars.get(place)
                if bar is not None:
                    yield bar, key[:end]
                place += "/*"
            else:
                place += "/" + part.partition("#")[0]

    def now(self) -> float:
        """The time of the engine's clock, as far as it can be known between two events."""
        return self.at if self.state else self.at + time.monotonic() - self._seen

    def running(self) -> str:
        """What runs now: ``index ×3 (worker), train ×2 (worker)``."""
        with self.lock:
            counts = Counter(self._running.values())
        shown = [
            f"{process} ×{count:,} ({environment})" if count > 1 else f"{process} ({environment})"
            for (process, environment), count in counts.most_common(MOST_SHOWN)
        ]
        return ", ".join(shown) + (", …" if len(counts) > MOST_SHOWN else "")

    def lines(self) -> list[str]:
        """One line for each bar that is not full, for where there are no bars."""
        now = self.at
        found = []
        with self.lock:
            for bar in self.bars.values():
                if bar.done == bar.total:
                    continue
                left = bar.left(now)
                ahead = "" if left is None else f", {duration(left)} left"
                found.append(f"{bar.name} {bar.counted}, {per_second(bar.rate(now))}{ahead}")
        return found

    def summary(self) -> list[str]:
        """What stays of each bar."""
        state = "" if self.state == "done" else self.state
        return [bar.summary(state) for bar in self.bars.values()]

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        running = self.running()
        head = Text(no_wrap=True, overflow="ellipsis")
        head.append(self.target, "bold")
        head.append(f"  {duration(self.now() - self.started)}", "dim")
        if running:
            head.append("  running " + running, "cyan")
        return Group(head, *([bars_of(self)] if self.bars else []))


def _place(key: str) -> tuple[str, int]:
    """The same for every item and round: ``/1.each(a)/17/0.each(b)`` -> ``/1.each(a)/*/0.each(b)``; and the depth."""
    parts = ["*" if part.isdigit() else part.partition("#")[0] for part in key.split("/")]
    return "/".join(parts), parts.count("*")


def bars_of(run: RunProgress) -> RenderableType:
    """The bars of a run as a table: name, bar, done, rate, time left."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(no_wrap=True, max_width=24, overflow="ellipsis")
    table.add_column(ratio=1)
    for _ in range(3):
        table.add_column(justify="right", no_wrap=True)
    now = run.now()
    with run.lock:
        bars = list(run.bars.values())
        for bar in bars:
            left = bar.left(now)
            table.add_row(
                Text("  " * (bar.depth + 1) + bar.name),
                ProgressBar(bar.total, bar.done, pulse=bar.total is None),
                f"{bar.counted} [red]{bar.failed:,} failed[/]" if bar.failed else bar.counted,
                f"[dim]{per_second(bar.rate(now))}[/]",
                "[dim]–[/]" if left is None else f"[dim]{duration(left)}[/]",
            )
    return table


def duration(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``2:05 min``, ``1:02:05 h``."""
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600:,}:{whole // 60 % 60:02}:{whole % 60:02} h"


def per_second(rate: float) -> str:
    """``1,234/s``, ``52.1/s``; below one a second ``12.5/min``."""
    if rate >= 99.95:
        return f"{rate:,.0f}/s"
    return f"{rate:.1f}/s" if rate >= 1 or not rate else f"{rate * 60:.1f}/min"


# --- where it is shown -----------------------------------------------------------------------------------------------


class ProgressBars:
    """An observer that shows the progress of every run it hears of.

    Args:
        console: where to draw; None: stderr, shared with all other bars of this program.
        every: seconds between two lines where there is no terminal.

    Raises:
        DefinitionError: rich is not installed.
    """

    def __init__(self, *, console: Console | None = None, every: float = QUIET) -> None:
        try:
            import rich.live as _  # noqa: F401 - only whether it is there
        except ImportError:
            raise DefinitionError(
                "progress=True draws with rich, which is not installed. "
                'Install it: pip install "theus[cli]"; or leave progress= out.'
            ) from None
        self._console = console
        self._every = every
        self._runs: dict[str, RunProgress] = {}

    def __call__(self, event: Event, /) -> None:
        if isinstance(event, RunStarted):
            run = self._runs[event.run_id] = RunProgress(event.run_id, event.target, event.at)
            boards.show(self._console, run)
        elif (known := self._runs.get(event.run_id)) is not None:  # else it began before anybody looked
            known.take(event)
            if isinstance(event, RunEnded):
                del self._runs[event.run_id]
                boards.finish(self._console, known)
            elif event.at - known.said >= self._every:
                known.said = event.at
                boards.tell(self._console, known)


class Board:
    """One console and the runs that are shown on it: a live region at its end, or lines."""

    def __init__(self, console: Console) -> None:
        self.console = console
        # In a notebook rich would need widgets, and output from other threads lands in the wrong cell.
        self.is_live = console.is_terminal and not console.is_dumb_terminal and not console.is_jupyter
        self.runs: tuple[RunProgress, ...] = ()  # replaced, never changed: the drawing thread takes no lock
        self._live: Live | None = None

    def add(self, run: RunProgress) -> None:
        """Show this run as well."""
        self.runs = (*self.runs, run)
        if self.is_live and self._live is None:
            from rich.live import Live

            self._live = Live(
                get_renderable=self._draw,
                console=self.console,
                refresh_per_second=REDRAW,
                transient=True,
                redirect_stdout=sys.stdout is not None
                and sys.stdout.isatty(),  # what goes to a file or a pipe stays on its way
            )
            self._live.start()
            atexit.register(self.stop)  # the cursor comes back whatever happens

    def remove(self, run: RunProgress) -> None:
        """This run ended: what stays of it are lines above the region."""
        self.runs = tuple(other for other in self.runs if other is not run)
        if self.is_live:
            from rich.text import Text

            mark = Text("✓ ", "green") if run.state == "done" else Text("✗ ", "red")
            if not _can_write("✓✗", self.console):
                mark = Text("")
            for line in run.summary():
                self.console.print(mark + Text(line), highlight=False)
            if not self.runs:
                self.stop()
        else:
            self.write(run.summary())

    def stop(self) -> None:
        """Take the live region away."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()
            atexit.unregister(self.stop)

    def write(self, lines: Iterable[str]) -> None:
        """Sober lines, for a file."""
        for line in lines:
            self.console.print(f"theus: {line}", markup=False, highlight=False, soft_wrap=True)

    def _draw(self) -> RenderableType:
        from rich.console import Group

        more = len(self.runs) - MOST_RUNS
        rest = f"… and {more:,} more run{'s' * (more > 1)}" if more > 0 else ""
        return Group(
            *self.runs[:MOST_RUNS], rest
        )  # the cursor rests on an empty line: an echoed ^C must not break a full one


class _Boards:
    """The open boards, one for each console. A program has one stderr, and rich one live region on it: all engines share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[Console | None, Board] = {}

    def show(self, console: Console | None, run: RunProgress) -> None:
        """Show a run on this console; None: stderr."""
        with self._lock:
            board = self._open.get(console)
            if board is None:
                board = self._open[console] = Board(console or _stderr())
            board.add(run)

    def tell(self, console: Console | None, run: RunProgress) -> None:
        """Write how far a run is, if its console shows no bars."""
        with self._lock:
            board = self._open.get(console)
            if board is not None and not board.is_live:
                board.write(run.lines())

    def finish(self, console: Console | None, run: RunProgress) -> None:
        """The run ended."""
        with self._lock:
            board = self._open[console]
            board.remove(run)
            if not board.runs:
                del self._open[console]  # the next one looks anew at what stderr is


def _stderr() -> Console:
    from rich.console import Console

    return Console(stderr=True, force_jupyter=False)  # in a notebook lines on stderr, not pieces of HTML


boards = _Boards()


def _can_write(text: str, console: Console) -> bool:
    """Whether the console's encoding has these characters."""
    try:
        text.encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
