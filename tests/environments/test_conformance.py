"""Every environment passes the checks that ship with theus."""

import asyncio
import sys

import pytest
from worker_tools import fork, start

from theus.clock import SystemClock
from theus.environments.in_turn import InTurnEnvironment
from theus.environments.inline import InlineEnvironment
from theus.environments.loop import LoopEnvironment
from theus.environments.own_loop import OwnLoopEnvironment
from theus.environments.thread import ThreadEnvironment
from theus.environments.worker import WorkerEnvironment
from theus.portal import Portal
from theus.testing.environments import RESOURCES, check_environment, checks_for


class OwnLoop(OwnLoopEnvironment):
    """Brings its loop along, which in an engine is the engine's."""

    def __init__(self, portal):
        super().__init__(portal.spawn, SystemClock(), lambda call: True)
        self.portal = portal

    async def stop(self, grace):
        await asyncio.to_thread(self.portal.close, grace)


class InTurn(InTurnEnvironment):
    """Brings its threads along, which in an engine are the engine's."""

    def __init__(self):
        super().__init__(ThreadEnvironment(SystemClock()))

    async def stop(self, grace):
        await self._threads.stop(grace)


MAKERS = {
    "inline": InlineEnvironment,
    "loop": lambda: LoopEnvironment(SystemClock()),
    "own loop": lambda: OwnLoop(Portal(None)),
    "thread": lambda: ThreadEnvironment(SystemClock(), 3),
    "in turn": InTurn,
    "worker": lambda: start(WorkerEnvironment(1, resources=RESOURCES)),
    "forked worker": lambda: fork(WorkerEnvironment(1, resources=RESOURCES)),
}
if sys.version_info >= (3, 14):
    from theus.environments.interpreter import InterpreterEnvironment

    MAKERS["interpreter"] = lambda: InterpreterEnvironment(1, resources=RESOURCES)


@pytest.fixture(scope="module")
def kept():
    """Environments that live through many checks: quicker, and what one check leaves behind would show in the next."""
    environments = {name: MAKERS[name]() for name in MAKERS if name in ("worker", "forked worker", "interpreter")}
    stops = [environment.stop for environment in environments.values()]

    async def stay(grace):
        pass

    for environment in environments.values():
        environment.stop = stay
    yield environments
    for stop in stops:
        asyncio.run(stop(2.0))


def wanted(name):
    return checks_for(name) if name != "in turn" else checks_for("thread", without={"timeout"})  # it is not for those


@pytest.mark.parametrize(("name", "check"), [(name, check) for name in MAKERS for check in wanted(name)], ids=str)
def test_environment(name, check, kept):
    alone = name not in kept or any(word in str(check) for word in ("stop", "capacity", "resource", "once"))
    asyncio.run(check(MAKERS[name] if alone else lambda: kept[name]))


def test_all_at_once():
    asyncio.run(check_environment(InlineEnvironment))


def test_a_broken_environment_is_found_out():
    class Forgetful(InlineEnvironment):
        async def run(self, call):
            outcome = await super().run(call)
            outcome.reads = ()
            return outcome

    with pytest.raises(AssertionError) as failure:
        asyncio.run(check_environment(Forgetful))
    assert "state_is_read_and_written" in failure.value.__notes__[0]
