"""What every environment must do: a list of checks, for ours and for those that users write.

    @pytest.mark.parametrize("check", checks_for("worker"), ids=str)
    def test_conformance(check):
        asyncio.run(check(lambda: WorkerEnvironment(1, resources=RESOURCES)))

or all of them at once with ``await check_environment(make)``. ``make`` gives a new environment each time; one that makes
resources itself is made with ``resources=RESOURCES``. A check that an environment cannot pass by its nature (inline
cannot time out) is left out by ``checks_for``; what an unknown environment cannot do is said with ``without=``.

The processes below are at the top of this module so that a worker process can import them. Each exists as ``def`` and as
``async def``.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from theus.context import Context
from theus.errors import CallTimeout, ContractError, EnvironmentBroken, ScopeError
from theus.processes import Process, process
from theus.protocols import Call, Commit, Environment, Outcome
from theus.state.fields import Tally
from theus.state.head import Head
from theus.state.snapshot import Snapshot, readonly

Make = Callable[[], Environment]

LIMIT = 30.0  #: seconds; a check that takes longer has failed

#: What an environment cannot do, by name: run `def` or `async def`, end a call in time, kill a body that does not end,
#: run it apart from its caller.
CANNOT = {
    "inline": {"async", "timeout", "cancel", "kill", "apart"},
    "loop": {"def", "kill", "apart"},
    "thread": {"async", "kill"},
}


# --- a small world ---------------------------------------------------------------------------------------------------


@dataclass
class Shop:
    """A domain."""

    stock: dict[str, int] = field(default_factory=dict)
    orders: list[str] = field(default_factory=list)
    hits: Tally = 0


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


def make_call(target: Process[Any, Any], *args: Any, host: EngineStub | None = None, **options: Any) -> Call:
    """A call of a process with all else at its default. ``options``: fields of ``Call``."""
    settings: dict[str, Any] = {
        **{"kwargs": {}, "snapshot": None, "config": None, "pipe": None, "attempt": 1, "key": "run/step"},
        **{"deadline": None, "host": host or EngineStub()},
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
    ctx.send(_count, n=2)
    return ["ordered", item]


@process(reads=["stock.{item}"], writes=["stock.{item}", "orders", "hits"])
async def _order_async(ctx: Context[Shop], item: str) -> list[str]:
    await asyncio.sleep(0)
    found: list[str] = _order(ctx, item)
    return found


@process(nature="state", writes=["hits"])
def _count(ctx: Context[Shop], n: int) -> None:
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
    await _until(Path(answer).exists)
    ctx.report({"done": [1, 2]})
    return "reported"


@process
def _use(ctx: Context[Any]) -> int:
    return int(ctx.resource("counter").next())


@process
async def _use_async(ctx: Context[Any]) -> int:
    return int(ctx.resource("counter").next())


@process
def _exit() -> None:
    raise SystemExit(3)


@process
async def _exit_async() -> None:
    raise SystemExit(3)


@process
def _span() -> tuple[float, float]:
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
    Path(started).touch()
    await asyncio.Event().wait()


@process(timeout=0.2)
def _hang_limited(started: str, freed: str) -> None:
    _hang(started, freed)


@process(timeout=0.2)
async def _hang_limited_async(started: str, freed: str) -> None:
    await _hang_async(started, freed)


@process(timeout=0.2)
def _spin(ctx: Context[Any]) -> None:
    while True:
        try:
            time.sleep(0)
        except BaseException:  # noqa: S112 - a body that does not want to end
            continue


def _wait_for(file: Path) -> None:
    limit = time.monotonic() + LIMIT
    while not file.exists():
        if time.monotonic() > limit:
            raise TimeoutError(f"nobody made {file}")
        time.sleep(0.001)


async def _until(holds: Callable[[], bool]) -> None:
    limit = time.monotonic() + LIMIT
    while not holds():
        if time.monotonic() > limit:
            raise TimeoutError("it never came to be")
        await asyncio.sleep(0.001)


PROCESSES: dict[str, dict[str, Process[Any, Any]]] = {
    "def": {
        **{"add": _add, "refuse": _refuse, "order": _order, "overreach": _overreach, "draft": _draft, "leave": _leave},
        **{"find": _find, "surroundings": _surroundings, "set_variable": _set_variable, "report": _report, "use": _use},
        **{"exit": _exit, "hang": _hang, "hang_limited": _hang_limited},
    },
    "async": {
        **{"add": _add_async, "refuse": _refuse_async, "order": _order_async, "overreach": _overreach_async},
        **{"draft": _draft_async, "leave": _leave_async, "find": _find_async, "surroundings": _surroundings_async},
        **{"set_variable": _set_variable_async, "report": _report_async, "use": _use_async, "exit": _exit_async},
        **{"hang": _hang_async, "hang_limited": _hang_limited_async},
    },
}


# --- the checks ------------------------------------------------------------------------------------------------------


class Kit:
    """What a check works with: an environment, started, and the processes in one style."""

    def __init__(self, environment: Environment, style: str, folder: Path) -> None:
        self.environment = environment
        self.style = style
        self.folder = folder

    async def run(self, name: str, *args: Any, **options: Any) -> Outcome:
        """Run one of the processes."""
        return await self.environment.run(make_call(PROCESSES[self.style][name], *args, **options))

    async def value(self, name: str, *args: Any, **options: Any) -> Any:
        """Run one of the processes and give what it returns; its error is raised."""
        outcome = await self.run(name, *args, **options)
        if outcome.error is not None:
            raise outcome.error
        return outcome.value


async def value_comes_back(kit: Kit) -> None:
    """What the body returns is in the outcome, with times and a place."""
    outcome = await kit.run("add", 1, kwargs={"c": 5})
    assert (outcome.value, outcome.error) == (16, None)
    assert (outcome.reads, outcome.ops, outcome.messages, outcome.emits) == ((), (), (), ())
    assert outcome.wall >= 0
    assert outcome.cpu is None or outcome.cpu >= 0


async def error_keeps_its_type(kit: Kit) -> None:
    """An error comes back with type, arguments, attributes, notes, cause and the frames where it happened."""
    outcome = await kit.run("refuse", snapshot=Head(Shop()).snapshot)
    error = outcome.error
    assert type(error) is Refused
    assert error.args == ("only 2 of tea left",)
    assert (error.item, error.left) == ("tea", 2)
    assert error.__notes__ == ["ask again tomorrow"]
    assert type(error.__cause__) is KeyError
    frames = traceback.extract_tb(error.__traceback__)
    assert frames[-1].name == "_sell"
    assert Path(frames[-1].filename) == Path(__file__)
    assert frames[-1].line == "raise error from reason"
    assert outcome.value is None
    assert not outcome.ops


async def state_is_read_and_written(kit: Kit) -> None:
    """Reads, operations, messages and emits are in the outcome; they can be committed; the snapshot stays as it was."""
    head = Head(Shop(stock={"tea": 3, "milk": 1}), version=7)
    snapshot = head.snapshot
    outcome = await kit.run("order", "tea", snapshot=snapshot)
    assert outcome.error is None
    assert outcome.value == ["ordered", "tea"]
    assert outcome.base == 7
    assert [path for path, *_ in outcome.reads] == [("stock",)]
    assert list(outcome.emits) == [("ordered", {"item": "tea"})]
    assert [(message.name, arguments) for message, arguments in outcome.messages] == [("_count", {"n": 2})]
    assert outcome.messages[0][0] is _count
    assert snapshot.view() == Shop(stock={"tea": 3, "milk": 1})
    head.commit(Commit(outcome.base, outcome.reads, outcome.ops, "order"))
    assert head.snapshot.view() == Shop(stock={"tea": 2, "milk": 1}, orders=["tea"], hits=1)


async def snapshots_are_told_apart(kit: Kit) -> None:
    """Each call sees its own snapshot, also when an older one follows a newer one."""
    head = Head(Shop(stock={"tea": 3}))
    first = _alone(head.snapshot)
    outcome = await kit.run("order", "tea", snapshot=first)
    head.commit(Commit(outcome.base, outcome.reads, outcome.ops, "order"))
    other = _alone(Head(Shop(stock={"tea": 9})).snapshot)
    for snapshot, left in ((_alone(head.snapshot), 1), (first, 2), (other, 8), (first, 2)):
        outcome = await kit.run("order", "tea", snapshot=snapshot)
        assert ("set", ("stock", "tea"), left) in list(outcome.ops)


def _alone(snapshot: Snapshot) -> Snapshot:
    """A snapshot that cannot move on to a newer state."""
    return Snapshot(snapshot.version, snapshot.root)


async def contract_is_kept(kit: Kit) -> None:
    """A write that the contract does not grant is refused, with the path."""
    error = (await kit.run("overreach", snapshot=Head(Shop(stock={"tea": 3})).snapshot)).error
    assert type(error) is ContractError
    assert error.path == "stock.tea"
    assert "overreach" in error.process


async def domain_may_be_missing(kit: Kit) -> None:
    """Without a domain its use is an error that says so."""
    error = (await kit.run("order", "tea")).error
    assert type(error) is ScopeError
    assert error.scope == "domain"


async def draft_comes_out_plain(kit: Kit) -> None:
    """A returned draft is a plain value."""
    found = await kit.value("draft", snapshot=Head(Shop(stock={"tea": 3})).snapshot)
    assert type(found) is dict
    assert found == {"tea": 3, "milk": 1}


async def scopes_end(kit: Kit) -> None:
    """Context, draft and local are dead afterwards, and what was entered was closed in reverse; also after an error."""
    snapshot = Head(Shop(stock={"tea": 3})).snapshot
    name = PROCESSES[kit.style]["leave"].name
    for fails in (False, True):
        outcome = await kit.run("leave", fails, snapshot=snapshot)
        assert (type(outcome.error) is ValueError) is fails
        ended = [f"{scope} of {name} ended" for scope in ("domain", "domain", "local")]
        assert await kit.value("find") == [*ended, "second closed", "first closed"]


@dataclass
class Settings:
    """A config."""

    name: str


async def surroundings_are_there(kit: Kit) -> None:
    """Pipe value, config, attempt, key, deadline and the caller's context variables reach the body."""
    REQUEST.set("somebody")
    options: dict[str, Any] = {"pipe": [1, "two"], "config": readonly(Settings("shop")), "attempt": 3, "key": "r/s/1"}
    found = await kit.value("surroundings", {"a": (1, 2)}, deadline=12.5, **options)
    assert found == [{"a": (1, 2)}, [1, "two"], "shop", 3, "r/s/1", 12.5, "somebody"]


async def variables_do_not_leak(kit: Kit) -> None:
    """What a body sets in its context is gone with it, here and for the next call."""
    REQUEST.set("somebody")
    await kit.value("set_variable")
    options: dict[str, Any] = {"config": readonly(Settings("shop"))}
    assert (await kit.value("surroundings", 0, **options))[-1] == REQUEST.get() == "somebody"


async def reports_are_live(kit: Kit) -> None:
    """A reported value arrives while the body still runs."""
    host, answer, seen = EngineStub(), kit.folder / "answer", []

    def on_report(value: Any) -> None:
        seen.append(value)
        answer.touch()  # the body waits for it

    host.on_report = on_report
    assert await kit.value("report", str(answer), host=host) == "reported"
    assert seen == ["half", {"done": [1, 2]}]


async def resource_is_shared(kit: Kit) -> None:
    """A resource is one instance for calls in the same place."""
    host = EngineStub()
    assert [await kit.value("use", host=host) for _ in range(3)] == [1, 2, 3]


async def exit_ends_only_the_call(kit: Kit) -> None:
    """``SystemExit`` comes back in the outcome; the environment goes on."""
    error = (await kit.run("exit")).error
    assert type(error) is SystemExit
    assert error.code == 3
    assert await kit.value("add", 1) == 111


async def capacity_is_respected(kit: Kit) -> None:
    """No more calls than ``capacity`` run at the same time, and all of them run."""
    capacity = kit.environment.capacity
    if kit.style == "async" or capacity > 64:
        return
    outcomes = await asyncio.gather(*(kit.environment.run(make_call(_span)) for _ in range(3 * capacity)))
    spans = [outcome.value for outcome in outcomes]
    most = max(sum(begin <= moment < end for begin, end in spans) for moment, _ in spans)
    assert most <= capacity


async def timeout_ends_the_call(kit: Kit) -> None:
    """A call that takes longer than its process's ``timeout`` ends with ``CallTimeout``; the environment goes on."""
    freed = kit.folder / "freed"
    try:
        await kit.run("hang_limited", str(kit.folder / "started"), str(freed))
    except CallTimeout as error:
        assert error.timeout == 0.2
        assert error.process == PROCESSES[kit.style]["hang_limited"].name
    else:
        raise AssertionError("no CallTimeout")
    finally:
        freed.touch()
    assert await kit.value("add", 1) == 111


async def cancel_ends_the_call(kit: Kit) -> None:
    """Cancelling raises ``CancelledError``, and the environment goes on."""
    started, freed = kit.folder / "started", kit.folder / "freed"
    task = asyncio.ensure_future(kit.run("hang", str(started), str(freed)))
    await _until(started.exists)
    task.cancel()
    results = await asyncio.gather(task, return_exceptions=True)
    freed.touch()
    assert isinstance(results[0], asyncio.CancelledError)
    assert await kit.value("add", 1) == 111


async def stubborn_body_is_killed(kit: Kit) -> None:
    """Also a body that never ends and swallows everything is ended by its timeout."""
    try:
        await kit.environment.run(make_call(_spin))
    except CallTimeout:
        assert await kit.value("add", 1) == 111
    else:
        raise AssertionError("no CallTimeout")


async def several_loops_share_it(kit: Kit) -> None:
    """Calls from several loops in several threads at once each get their own answer."""
    found: dict[int, list[int]] = {}

    async def some(start: int) -> None:
        found[start] = list(await asyncio.gather(*(kit.value("add", start + i) for i in range(20))))

    threads = [threading.Thread(target=asyncio.run, args=(some(1000 * n),)) for n in range(1, 4)]
    for thread in threads:
        thread.start()
    await some(0)
    await _until(lambda: not any(thread.is_alive() for thread in threads))
    assert found == {1000 * n: [1000 * n + i + 110 for i in range(20)] for n in range(4)}


async def stops_more_than_once(kit: Kit) -> None:
    """Stopping again, and stopping what never ran, does nothing."""
    await kit.environment.stop(1.0)
    await kit.environment.stop(1.0)


async def stops_what_runs(kit: Kit) -> None:
    """Stopping ends what still runs after the grace."""
    started, freed = kit.folder / "started", kit.folder / "freed"
    task = asyncio.ensure_future(kit.run("hang", str(started), str(freed)))
    await _until(started.exists)
    await kit.environment.stop(0.0)
    results = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(results[0], EnvironmentBroken)


@dataclass(frozen=True)
class Check:
    """One behaviour, in one style (processes that are ``def`` or ``async def``)."""

    behaviour: Callable[[Kit], Awaitable[None]]
    style: str
    needs: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"{self.behaviour.__name__}-{self.style}"

    async def __call__(self, make: Make) -> None:
        """Check it on a new environment."""
        async with _kit(make, self.style) as kit, asyncio.timeout(LIMIT):
            await self.behaviour(kit)


@contextlib.asynccontextmanager
async def _kit(make: Make, style: str) -> AsyncIterator[Kit]:
    environment = make()
    await environment.start()
    with TemporaryDirectory() as folder:
        try:
            yield Kit(environment, style, Path(folder))
        finally:
            await environment.stop(0.5)


CHECKS: tuple[Check, ...] = tuple(
    Check(behaviour, style, frozenset({style, *needs}))
    for style in ("def", "async")
    for behaviour, *needs in (
        (value_comes_back,),
        (error_keeps_its_type,),
        (state_is_read_and_written,),
        (snapshots_are_told_apart,),
        (contract_is_kept,),
        (domain_may_be_missing,),
        (draft_comes_out_plain,),
        (scopes_end,),
        (surroundings_are_there,),
        (variables_do_not_leak, "apart"),
        (reports_are_live,),
        (resource_is_shared,),
        (exit_ends_only_the_call,),
        (capacity_is_respected,),
        (timeout_ends_the_call, "timeout"),
        (cancel_ends_the_call, "cancel"),
        (stubborn_body_is_killed, "def", "kill"),
        (several_loops_share_it,),
        (stops_more_than_once,),
        (stops_what_runs, "kill"),
    )
)


def checks_for(name: str, *, without: Collection[str] = ()) -> list[Check]:
    """The checks that an environment of that name has to pass. ``without``: what it cannot do (see ``CANNOT``)."""
    cannot = {*CANNOT.get(name, ()), *without}
    return [check for check in CHECKS if not check.needs & cannot]


async def check_environment(make: Make, *, without: Collection[str] = ()) -> None:
    """Run all checks; the first behaviour that is missing raises ``AssertionError``."""
    for check in checks_for(make().name, without=without):
        try:
            await check(make)
        except Exception as error:
            error.add_note(f"this was the check {check}: {check.behaviour.__doc__}")
            raise
