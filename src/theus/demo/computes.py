"""The second proof: it computes. Several cores at once, and one state that all of them change."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from theus import Engine, flow, parallel
from theus.demo import learn
from theus.demo.crawl import Page
from theus.demo.learn import MODELS, Library, typical, words_of
from theus.demo.measure import Load
from theus.demo.screen import Screen, lag_line, meter, progress
from theus.demo.waits import Late, Watched, looking_at
from theus.events import CallEnded, Event, Reported

MOST_METERS = 8  #: cores that are shown one by one
ENOUGH = 3.0  #: seconds a plain loop takes, from which on a gain that is missing is a fault and not chance


def prove(
    screen: Screen, engine: Engine[Library], watched: Watched, pages: Sequence[Page], size: float, workers: int
) -> Late:
    """Index the pages, train the models, count; gives the longest that the loop was late."""
    with screen.live(lambda: Text(f"{workers} worker processes load scikit-learn …", "dim")):
        images = engine.run(parallel(*[learn.open_data] * workers))
    screen.claim(images == (1797,) * workers, f"{workers} worker processes have scikit-learn and {images[0]:,} images")
    late = {
        "while all cores read pages": _read(screen, engine, watched, pages, workers),
        "while all cores train models": _learn(screen, engine, watched, size, workers),
    }
    _count(screen, engine, pages)
    return late


# --- the index -------------------------------------------------------------------------------------------------------


def _read(screen: Screen, engine: Engine[Library], watched: Watched, pages: Sequence[Page], workers: int) -> float:
    screen.part("Read and index the pages")
    screen.code(learn.index, learn.enter, "read_all = each(index)")
    with Load() as alone, screen.live(lambda: Group("one page after the other", _meters(alone))):
        began = time.perf_counter()
        for page in pages:
            words_of(page.html)
        one = time.perf_counter() - began
    with (
        looking_at(engine) as lag,
        Load() as together,
        screen.live(lambda: Group(progress(watched.runs), _meters(together), lag_line(lag))),
    ):
        began = time.perf_counter()
        engine.run(learn.read_all, pages)
        all_at_once = time.perf_counter() - began
    _compare(
        screen,
        f"{len(pages)} pages",
        ("a plain loop, here", one, alone),
        ("engine.run(read_all, pages)", all_at_once, together),
        workers,
    )
    return lag.worst


def _meters(load: Load) -> RenderableType:
    if len(load.now) > MOST_METERS:
        return meter(f"{len(load.now)} cores", sum(load.now) / len(load.now))
    return Group(*[meter(f"core {number}", part) for number, part in enumerate(load.now)])


Measured = tuple[str, float, Load]  # what ran, for how many seconds, and how busy the cores were


def _compare(screen: Screen, what: str, before: Measured, after: Measured, workers: int) -> None:
    rows: list[list[RenderableType]] = []
    for style, (name, seconds, load) in (("", before), ("bold green", after)):
        each = "  ".join(f"{part:4.0%}" for part in load.cores) if len(load.cores) <= MOST_METERS else ""
        rows.append([name, Text(f"{seconds:.2f}", style), f"{sum(load.cores):.2f}", Text(each, "dim")])
    screen.table((what, ">seconds", ">cores busy", "each"), rows)
    times = before[1] / after[1]
    if workers == 1:
        screen.say("[dim]One core only: nothing to gain.[/]")
        return
    others = max(before[2].others, after[2].others)
    doubt = f"other programs kept {others:.1f} cores busy" if others > 0.25 else ""
    if before[1] < ENOUGH:
        doubt = "too little work to tell"
    screen.claim(times > 1.2, f"{times:.1f} times as fast on {workers} cores", doubt=doubt)


# --- the models ------------------------------------------------------------------------------------------------------


class Trainings:
    """An observer that keeps which model learns where, and how long it took."""

    def __init__(self) -> None:
        self.models: dict[str, str] = {}  # the call's key -> model
        self.where: dict[str, str] = {}  # model -> where it learns
        self.seconds: dict[str, float] = {}  # model -> how long it took

    def __call__(self, event: Event, /) -> None:
        if isinstance(event, Reported) and event.process == learn.train.name:
            model, _, where = str(event.value).partition(" in ")
            self.models[event.key] = model
            self.where[model] = where
        elif isinstance(event, CallEnded) and event.key in self.models:
            self.seconds[self.models[event.key]] = event.wall

    def __rich__(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for model in MODELS:
            seconds = self.seconds.get(model)
            done = (
                "waits" if model not in self.where else "learns …" if seconds is None else f"[green]{seconds:.2f} s[/]"
            )
            table.add_row(model, self.where.get(model, ""), done)
        return table


def _learn(screen: Screen, engine: Engine[Library], watched: Watched, size: float, workers: int) -> float:
    screen.part("Train four models")
    screen.code(
        learn.train,
        "trainings  = [train.bind(model=model) for model in MODELS]\n"
        "one_by_one = flow(trainings)\n"
        "at_once    = parallel(*trainings)",
    )
    trainings = [step.bind(size=size) for step in learn.trainings]
    seconds, samplers, seen = [], [], []
    with looking_at(engine) as lag:
        for workflow in (flow(trainings), parallel(*trainings)):
            watched.closer = look = Trainings()
            with Load() as busy, screen.live(lambda: Group(look, _meters(busy), lag_line(lag))):  # noqa: B023 - called in this very block
                began = time.perf_counter()
                engine.run(workflow)
                seconds.append(time.perf_counter() - began)
            samplers.append(busy)
            seen.append(look)
            watched.closer = None
    scores = engine.state.scores
    screen.table(
        ("model", ">alone s", ">at once s", "where", ">right"),
        [
            (
                model,
                f"{seen[0].seconds.get(model, 0.0):.2f}",
                f"{seen[1].seconds.get(model, 0.0):.2f}",
                seen[1].where.get(model, "?"),
                f"{scores[model]:.1%}",
            )
            for model in MODELS
        ],
    )
    places = set(seen[1].where.values())
    _compare(
        screen,
        f"{len(MODELS)} trainings",
        ("engine.run(one_by_one)", seconds[0], samplers[0]),
        ("engine.run(at_once)", seconds[1], samplers[1]),
        workers,
    )
    expected = min(len(MODELS), workers)
    screen.claim(len(places) == expected, f"the models learnt in {len(places)} processes, not in this one")
    return lag.worst


# --- the state -------------------------------------------------------------------------------------------------------


def _count(screen: Screen, engine: Engine[Library], pages: Sequence[Page]) -> None:
    screen.part("One state, changed from all cores")
    words: Counter[str] = Counter()
    index: dict[str, set[str]] = defaultdict(set)
    for page in pages:
        found = words_of(page.html)
        words += found
        for word in typical(found):
            index[word].add(page.name)
    state = engine.state
    units = len(pages) + 2 * len(MODELS)
    screen.claim(
        state.done == units,
        f"domain.done   = {state.done:,}: {len(pages)} pages and 2 × {len(MODELS)} trainings, each counted once",
    )
    screen.claim(state.words == words.total(), f"domain.words  = {state.words:,}: to the word what a plain loop counts")
    entries = sum(len(names) for names in state.index.values())
    screen.claim(
        {word: set(names) for word, names in state.index.items()} == index and entries == sum(map(len, index.values())),
        f"domain.index  = {len(state.index):,} words, {entries:,} entries: none lost, none twice",
    )
    word = max((word for word in index if 3 <= len(index[word]) <= 6), key=len, default=next(iter(index)))
    screen.say(f"[dim]domain.index[{word!r}] = {', '.join(sorted(state.index[word]))}[/]")
