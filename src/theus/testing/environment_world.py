"""The small world in which environments are checked: a shop, an engine's stub, and the processes that run in it.

They stand at the top of a module so that a worker process can import them. Each process exists as ``def`` and as ``async def``.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from theus.context import Context
from theus.errors import ScopeError
from theus.processes import Process, process
from theus.protocols import Call
from theus.state.fields import Tally

LIMIT = 30.0  #: seconds; what takes longer has failed


@dataclass
class Shop:
    """A domain."""

    stock: dict[str, int] = field(default_factory=dict)
    orders: list[str] = field(default_factory=list)
    hits: Tally = 0


@dataclass
class Settings:
    """A config."""

    name: str


class Refused(Exception):
    """An error whose ``__init__`` cannot be called with its own ``args``."""

    def __init__(self, item: str, left: int) -> None:
        super().__init__(f"only {left} of {item} left")
        self.item = item
        self.left = left


class Counter:
    """A resource."""

    def __init__(self) -> None:
        self.count = 0

    def next(self) -> int:
        """Count."""
        self.count += 1
        return self.count


RESOURCES: dict[str, Callable[[], Any]] = {"counter": Counter}
REQUEST: ContextVar[str] = ContextVar("REQUEST", default="nobody")
KEPT: list[Any] = []  #: what a body leaves behind for the next call in the same place


class EngineStub:
    """Stands for the engine that a call belongs to."""

    def __init__(self) -> None:
        self.reports: list[Any] = []
        self.on_report: Callable[[Any], None] = self.reports.append
        self._made: dict[str, Any] = {}

    def report(self, call: Call, value: Any) -> None:
        """Take a live value."""
        self.on_report(value)

    def resource(self, name: str) -> Any:
        """Make a resource once."""
        if name not in self._made:
            self._made[name] = RESOURCES[name]()
        return self._made[name]

    async def off_loop(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a blocking function in a thread."""
        return await asyncio.to_thread(function, *args)

    def keep(self, call: Call, key: str, value: Any) -> None:
        """Nothing is recorded."""


def make_call(target: Process[Any, Any], *args: Any, host: EngineStub | None = None, **options: Any) -> Call:
    """A call of a process with all else at its default. ``options``: fields of ``Call``."""
    settings: dict[str, Any] = {
        "kwargs": {},
        "snapshot": None,
        "config": None,
        "pipe": None,
        "attempt": 1,
        "key": "run/step",
        "deadline": None,
        "host": host or EngineStub(),
        **options,
    }
    return Call(process=target, args=args, **settings)


# --- what runs in the environment ------------------------------------------------------------------------------------


@process
def _add(a: int, b: int = 10, *, c: int = 100) -> int:
    return a + b + c


@process
async def _add_async(a: int, b: int = 10, *, c: int = 100) -> int:
    await asyncio.sleep(0)
    return int(_add(a, b, c=c))


@process
def _refuse(ctx: Context[Shop]) -> None:
    ctx.domain.orders.append("lost")
    _sell("tea", 2)


@process
async def _refuse_async(ctx: Context[Shop]) -> None:
    await asyncio.sleep(0)
    _refuse(ctx)


def _sell(item: str, left: int) -> None:
    try:
        raise KeyError(item)
    except KeyError as reason:
        error = Refused(item, left)
        error.add_note("ask again tomorrow")
        raise error from reason


@process(reads=["stock.{item}"], writes=["stock.{item}", "orders", "hits"])
def _order(ctx: Context[Shop], item: str) -> list[str]:
    ctx.domain.stock[item] -= 1
    ctx.domain.orders.append(item)
    ctx.domain.hits += 1
    ctx.emit("ordered", {"item": item})
    ctx.send(count_hits, n=2)
    return ["ordered", item]


@process(reads=["stock.{item}"], writes=["stock.{item}", "orders", "hits"])
async def _order_async(ctx: Context[Shop], item: str) -> list[str]:
    await asyncio.sleep(0)
    found: list[str] = _order(ctx, item)
    return found


@process(nature="state", writes=["hits"])
def count_hits(ctx: Context[Shop], n: int) -> None:
    """A message to the state."""
    ctx.domain.hits += n


@process(reads=["stock"])
def _overreach(ctx: Context[Shop]) -> None:
    ctx.domain.stock["tea"] = 99


@process(reads=["stock"])
async def _overreach_async(ctx: Context[Shop]) -> None:
    _overreach(ctx)


@process
def _draft(ctx: Context[Shop]) -> Any:
    ctx.domain.stock["milk"] = 1
    return ctx.domain.stock


@process
async def _draft_async(ctx: Context[Shop]) -> Any:
    return _draft(ctx)


@contextlib.contextmanager
def _noted(name: str) -> Iterator[str]:
    try:
        yield name
    finally:
        KEPT.append(f"{name} closed")


@process
def _leave(ctx: Context[Shop], fails: bool) -> None:
    KEPT[:] = [ctx, ctx.domain.stock, ctx.local]
    ctx.local.big = [0]
    ctx.local.enter(_noted("first"))
    ctx.local.enter(_noted("second"))
    if fails:
        raise ValueError("after entering")


@process
async def _leave_async(ctx: Context[Shop], fails: bool) -> None:
    await asyncio.sleep(0)
    _leave(ctx, fails)


@process
def _find() -> list[str]:
    """What became of the context, the draft and the local that ``_leave`` kept."""
    context, stock, local, *closed = KEPT
    KEPT.clear()

    def tried(use: Callable[[], Any]) -> str:
        try:
            return repr(use())
        except ScopeError as error:
            return f"{error.scope} of {error.process} ended"

    return [tried(lambda: context.domain), tried(lambda: stock["tea"]), tried(lambda: local.big), *closed]


@process
async def _find_async() -> list[str]:
    found: list[str] = _find()
    return found


@process
def _surroundings(ctx: Context[Any], value: Any) -> list[Any]:
    return [value, ctx.pipe, ctx.config.name, ctx.attempt, ctx.key, ctx.deadline, REQUEST.get()]


@process
async def _surroundings_async(ctx: Context[Any], value: Any) -> list[Any]:
    before = _surroundings(ctx, value)
    await asyncio.sleep(0)
    assert _surroundings(ctx, value) == before
    return list(before)


@process
def _set_variable(ctx: Context[Any]) -> None:
    REQUEST.set("leaked")


@process
async def _set_variable_async(ctx: Context[Any]) -> None:
    REQUEST.set("leaked")


@process
def _report(ctx: Context[Any], answer: str) -> str:
    ctx.report("half")
    _wait_for(Path(answer))
    ctx.report({"done": [1, 2]})
    return "reported"


@process
async def _report_async(ctx: Context[Any], answer: str) -> str:
    ctx.report("half")
    await until(Path(answer).exists)
    ctx.report({"done": [1, 2]})
    return "reported"


@process
def _use(ctx: Context[Any]) -> int:
    return int(ctx.resource("counter").next())


@process
async def _use_async(ctx: Context[Any]) -> int:
    return int(ctx.resource("counter").next())


@process
def _once(ctx: Context[Any], fails: bool) -> list[int]:
    found = [ctx.once("asked", ctx.resource("counter").next) for _ in range(2)]
    if fails:
        raise ValueError("after asking")
    return found


@process
async def _once_async(ctx: Context[Any], fails: bool) -> list[int]:
    found = [await ctx.once("asked", ctx.resource("counter").next) for _ in range(2)]
    if fails:
        raise ValueError("after asking")
    return found


@process
def _exit() -> None:
    raise SystemExit(3)


@process
async def _exit_async() -> None:
    raise SystemExit(3)


@process
def span() -> tuple[float, float]:
    """Compute for 5 ms; gives when that began and ended."""
    began = time.monotonic()
    while time.monotonic() < began + 0.005:
        pass
    return began, time.monotonic()


@process
def _hang(started: str, freed: str) -> None:
    Path(started).touch()
    _wait_for(Path(freed))


@process
async def _hang_async(started: str, freed: str) -> None:
    _touch(started)
    await asyncio.Event().wait()


@contextlib.contextmanager
def _marking(name: str) -> Iterator[None]:
    try:
        yield
    finally:
        _touch(name)


@process
def _hold(ctx: Context[Any], started: str, closed: str) -> None:
    ctx.local.enter(_marking(closed))
    _touch(started)
    while True:
        time.sleep(0.001)


@process
async def _hold_async(ctx: Context[Any], started: str, closed: str) -> None:
    ctx.local.enter(_marking(closed))
    _touch(started)
    await asyncio.Event().wait()


@process(timeout=0.2)
def _hang_limited(started: str, freed: str) -> None:
    _hang(started, freed)


@process(timeout=0.2)
async def _hang_limited_async(started: str, freed: str) -> None:
    await _hang_async(started, freed)


@process(timeout=0.2)
def spin_for_ever(ctx: Context[Any]) -> None:
    """Swallow whatever would end it."""
    while True:
        try:
            time.sleep(0)
        except BaseException:  # noqa: S112 - a body that does not want to end
            continue


def _touch(name: str) -> None:
    Path(name).touch()


def _wait_for(file: Path) -> None:
    limit = time.monotonic() + LIMIT
    while not file.exists():
        if time.monotonic() > limit:
            raise TimeoutError(f"nobody made {file}")
        time.sleep(0.001)


async def until(holds: Callable[[], bool]) -> None:
    """Wait for a fact."""
    limit = time.monotonic() + LIMIT
    while not holds():
        if time.monotonic() > limit:
            raise TimeoutError("it never came to be")
        await asyncio.sleep(0.001)


PROCESSES: dict[str, dict[str, Process[Any, Any]]] = {
    "def": {
        "add": _add,
        "refuse": _refuse,
        "order": _order,
        "overreach": _overreach,
        "draft": _draft,
        "leave": _leave,
        "find": _find,
        "surroundings": _surroundings,
        "set_variable": _set_variable,
        "report": _report,
        "use": _use,
        "once": _once,
        "exit": _exit,
        "hang": _hang,
        "hold": _hold,
        "hang_limited": _hang_limited,
    },
    "async": {
        "add": _add_async,
        "refuse": _refuse_async,
        "order": _order_async,
        "overreach": _overreach_async,
        "draft": _draft_async,
        "leave": _leave_async,
        "find": _find_async,
        "surroundings": _surroundings_async,
        "set_variable": _set_variable_async,
        "report": _report_async,
        "use": _use_async,
        "once": _once_async,
        "exit": _exit_async,
        "hang": _hang_async,
        "hold": _hold_async,
        "hang_limited": _hang_limited_async,
    },
}
