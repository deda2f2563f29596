"""The third proof: it cleans up. Nothing outlives its scope, however a process ends, and memory stays flat."""

from __future__ import annotations

import concurrent.futures
import gc
import time
import weakref
from asyncio import CancelledError
from typing import Any

from rich.console import Group
from rich.markup import escape

from theus import CallTimeout, Engine, ScopeError, each, flow
from theus.demo import scopes
from theus.demo.measure import memory
from theus.demo.screen import Counted, Screen, memory_line
from theus.events import CallStarted, Event, Reported
from theus.observe.progress import bars_of

SIZE = 1_000_000  #: rows of a large list, some 36 MB
BLOCK = 100  #: steps in one workflow
BYTES = 100_000  #: of a temporary, and of a value in the pipe


class Watch:
    """An observer that keeps the weak references that processes report."""

    def __init__(self) -> None:
        self.references: list[weakref.ref[Any]] = []
        self.alive_at: dict[str, bool] = {}  #: process -> whether the value was still there when it began

    def __call__(self, event: Event, /) -> None:
        if isinstance(event, Reported):
            self.references.append(event.value)
        elif isinstance(event, CallStarted):
            self.alive_at[event.process] = any(reference() is not None for reference in self.references)

    @property
    def all_gone(self) -> bool:
        """Whether there was something, and nothing is left of it."""
        return bool(self.references) and all(reference() is None for reference in self.references)


def prove(screen: Screen, steps: int) -> list[Engine[Any]]:
    """Look at local, pipe and memory; gives the engines, for the summary."""
    local = _local(screen)
    pipe = _pipe(screen)
    flat = _flat(screen, steps)
    return [local, pipe, flat]


# --- local -----------------------------------------------------------------------------------------------------------


def _local(screen: Screen) -> Engine[Any]:
    screen.part("ctx.local: gone at the end of the attempt, whatever the end")
    screen.code(scopes.keep, scopes.fails)
    screen.say(f"A weak reference watches the list of {SIZE:,} rows; the garbage collector is off:")
    watch = Watch()
    engine = Engine[Any](observers=[watch])
    gc.collect()
    gc.disable()  # what goes has to go by itself, at once
    try:
        for text, end in (
            ("after it returned", _returned),
            ("after it raised", _raised),
            ("after it was cancelled", _cancelled),
            ("after its timeout", _timed_out),
        ):
            watch.references.clear()
            kept = end(engine, watch)
            screen.claim(
                watch.all_gone,
                f"{text:<24}" + ("[bold]gone[/]" if watch.all_gone else "[bold red]still there[/]"),
                kept,
            )
    finally:
        gc.enable()
    leaked = engine.run(scopes.leaks, 10)
    try:
        leaked.temp_large_list  # noqa: B018 - it has to raise
        said = ""
    except ScopeError as error:
        said = str(error)
    screen.claim(bool(said), "who keeps ctx.local all the same, is told:")
    screen.say(f"[dim]ScopeError: {escape(said)}[/]", 4)
    engine.close()
    return engine


def _returned(engine: Engine[Any], watch: Watch) -> str:
    return f"{engine.run(scopes.ends, SIZE):,}"


def _raised(engine: Engine[Any], watch: Watch) -> str:
    try:
        engine.run(scopes.fails, SIZE)
    except ValueError as error:
        return escape(repr(error))
    return "it did not raise"


def _cancelled(engine: Engine[Any], watch: Watch) -> str:
    run = engine.submit(scopes.is_cancelled, SIZE)
    for event in run.events():
        if isinstance(event, Reported):
            run.cancel()
    try:
        run.result()
    except (CancelledError, concurrent.futures.CancelledError):
        return f"run.state == {run.state!r}"
    return "it was not cancelled"


def _timed_out(engine: Engine[Any], watch: Watch) -> str:
    try:
        engine.run(scopes.times_out, SIZE)
    except CallTimeout as error:
        return f"CallTimeout, {error.timeout:g} s"
    return "it did not time out"


# --- pipe ------------------------------------------------------------------------------------------------------------


def _pipe(screen: Screen) -> Engine[Any]:
    screen.part("ctx.pipe: for the next step, and for no other")
    screen.code(scopes.give, scopes.take, scopes.after, "pipe = flow(give, take, after)")
    watch = Watch()
    engine = Engine[Any](observers=[watch])
    gc.disable()
    try:
        result = engine.run(scopes.pipe, SIZE)
    finally:
        gc.enable()
    screen.claim(watch.alive_at.get("take") is True, "when take began, the list was there: it got it")
    screen.claim(watch.alive_at.get("after") is False, "when after began, the list was [bold]gone[/]")
    screen.claim(result == SIZE, f"the result is what take returned: {result:,}")
    engine.close()
    return engine


# --- memory ----------------------------------------------------------------------------------------------------------


def _flat(screen: Screen, steps: int) -> Engine[Any]:
    screen.part(f"{steps:,} steps, each with 100 KB to work with and 100 KB to hand on")
    screen.code(scopes.step, f"engine.run(flow(*[step] * {BLOCK}), bytes({BYTES:_}))")
    engine = Engine[Any]()
    block = flow(*[scopes.step] * BLOCK)
    value = bytes(BYTES)
    engine.run(block, value)  # what is made once, is made
    samples = [memory()]
    done = Counted("step", steps)
    began = time.perf_counter()
    with screen.live(lambda: Group(bars_of(done.run), memory_line(samples))):
        for _ in range(0, steps, BLOCK):
            value = engine.run(block, value)
            done.add(BLOCK)
            samples.append(memory())
    seconds = time.perf_counter() - began
    low, high = min(samples), max(samples)
    screen.show(memory_line(samples).append(f"  {samples[-1] / 1e6:,.0f} MB"), 4)
    screen.gap()
    screen.claim(
        high - samples[0] < 10e6,
        f"memory moved by {(high - low) / 1e6:.1f} MB; kept, it would have grown by {steps * 2 * BYTES / 1e9:,.1f} GB",
    )
    screen.claim(
        len(value) == BYTES,
        f"{steps:,} steps in {seconds:.2f} s: {seconds / steps * 1e6:.0f} µs each, temporaries included",
    )
    failing = each(scopes.failing_step, on_error="collect")
    engine.run(failing, [value] * BLOCK)  # threads and a loop are made once
    before = memory()
    errors = engine.run(failing, [value] * (steps // 10))
    grown = memory() - before
    screen.claim(
        all(isinstance(error, ValueError) for error in errors) and grown < len(errors) * BYTES / 4,
        f"{len(errors):,} steps that fail, and all their errors kept: {grown / 1e6:.1f} MB, not {len(errors) * BYTES / 1e6:,.0f}",
    )
    engine.close()
    return engine
