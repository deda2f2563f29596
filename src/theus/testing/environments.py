"""What every environment must do: a list of checks, for ours and for those that users write.

    @pytest.mark.parametrize("check", checks_for("worker"), ids=str)
    def test_conformance(check):
        asyncio.run(check(lambda: WorkerEnvironment(1, resources=RESOURCES)))

or all of them at once with ``await check_environment(make)``. ``make`` gives a new environment each time; one that makes
resources itself is made with ``resources=RESOURCES``. A check that an environment cannot pass by its nature (inline
cannot time out) is left out by ``checks_for``; what an unknown environment cannot do is said with ``without=``.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from theus.errors import CallTimeout, ContractError, EnvironmentBroken, ScopeError
from theus.protocols import Commit, Environment, Outcome
from theus.state.head import Head
from theus.state.snapshot import Snapshot, readonly
from theus.testing.environment_world import (
    LIMIT,
    PROCESSES,
    REQUEST,
    RESOURCES,
    EngineStub,
    Refused,
    Settings,
    Shop,
    count_hits,
    make_call,
    span,
    spin_for_ever,
    until,
)

__all__ = ["CANNOT", "CHECKS", "RESOURCES", "Check", "EngineStub", "check_environment", "checks_for", "make_call"]

Make = Callable[[], Environment]

#: What an environment cannot do, by name: run `def` or `async def`, end a call in time, stop its body, kill a body that
#: does not want to end, run it apart from its caller.
CANNOT = {
    "inline": {"async", "timeout", "cancel", "stop", "kill", "apart"},
    "loop": {"def", "kill", "apart"},
    "own loop": {"def", "kill", "apart"},
    "thread": {"async", "stop", "kill"},
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
    assert Path(frames[-1].filename).name == "environment_world.py"
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
    assert list(outcome.emits) == [("ordered", {"item": "tea"}, False)]
    assert [(message.name, arguments) for message, arguments in outcome.messages] == [("count_hits", {"n": 2})]
    assert outcome.messages[0][0] is count_hits
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


async def once_is_kept(kit: Kit) -> None:
    """What ``ctx.once`` found is in the outcome, also of a call that fails, and the next attempt gets it."""
    host = EngineStub()
    outcome = await kit.run("once", True, host=host)
    assert type(outcome.error) is ValueError
    assert outcome.kept == {"asked": 1}
    outcome = await kit.run("once", False, host=host, kept=outcome.kept, attempt=2)
    assert outcome.value == [1, 1]
    assert await kit.value("once", False, host=host) == [2, 2]


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
    outcomes = await asyncio.gather(*(kit.environment.run(make_call(span)) for _ in range(3 * capacity)))
    spans = [outcome.value for outcome in outcomes]
    most = max(sum(begin <= moment < end for begin, end in spans) for moment, _ in spans)
    assert most <= capacity


async def timeout_ends_the_call(kit: Kit) -> None:
    """A call that takes longer than its process's ``timeout`` ends with ``CallTimeout``; the environment goes on."""
    freed = kit.folder / "freed"
    running = kit.run("hang_limited", str(kit.folder / "started"), str(freed))
    (error,) = await asyncio.gather(running, return_exceptions=True)
    freed.touch()
    assert isinstance(error, CallTimeout)
    assert error.timeout == 0.2
    assert error.process == PROCESSES[kit.style]["hang_limited"].name
    assert await kit.value("add", 1) == 111


async def cancel_ends_the_call(kit: Kit) -> None:
    """Cancelling raises ``CancelledError``, and the environment goes on."""
    started, freed = kit.folder / "started", kit.folder / "freed"
    task = asyncio.ensure_future(kit.run("hang", str(started), str(freed)))
    await until(started.exists)
    task.cancel()
    results = await asyncio.gather(task, return_exceptions=True)
    freed.touch()
    assert isinstance(results[0], asyncio.CancelledError)
    assert await kit.value("add", 1) == 111


async def stopping_closes_local(kit: Kit) -> None:
    """A body that is cancelled unwinds: what it entered is closed before the cancel is over."""
    started, ended = kit.folder / "started", kit.folder / "closed"
    task = asyncio.ensure_future(kit.run("hold", str(started), str(ended)))
    await until(started.exists)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert ended.exists()


async def stubborn_body_is_killed(kit: Kit) -> None:
    """Also a body that never ends and swallows everything is ended by its timeout."""
    (error,) = await asyncio.gather(kit.environment.run(make_call(spin_for_ever)), return_exceptions=True)
    assert isinstance(error, CallTimeout)
    assert await kit.value("add", 1) == 111


async def several_loops_share_it(kit: Kit) -> None:
    """Calls from several loops in several threads at once each get their own answer."""
    found: dict[int, list[int]] = {}

    async def some(start: int) -> None:
        found[start] = list(await asyncio.gather(*(kit.value("add", start + i) for i in range(20))))

    threads = [threading.Thread(target=asyncio.run, args=(some(1000 * n),)) for n in range(1, 4)]
    for thread in threads:
        thread.start()
    await some(0)
    await until(lambda: not any(thread.is_alive() for thread in threads))
    assert found == {1000 * n: [1000 * n + i + 110 for i in range(20)] for n in range(4)}


async def stops_more_than_once(kit: Kit) -> None:
    """Stopping again, and stopping what never ran, does nothing."""
    await kit.environment.stop(1.0)
    await kit.environment.stop(1.0)


async def stops_what_runs(kit: Kit) -> None:
    """Stopping ends what still runs after the grace."""
    started, freed = kit.folder / "started", kit.folder / "freed"
    task = asyncio.ensure_future(kit.run("hang", str(started), str(freed)))
    await until(started.exists)
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
        (once_is_kept,),
        (exit_ends_only_the_call,),
        (capacity_is_respected,),
        (timeout_ends_the_call, "timeout"),
        (cancel_ends_the_call, "cancel"),
        (stopping_closes_local, "cancel", "stop"),
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
