"""Every environment passes the checks that ship with theus."""

import asyncio

import pytest

from theus.clock import SystemClock
from theus.environments.inline import InlineEnvironment
from theus.environments.loop import LoopEnvironment
from theus.environments.thread import ThreadEnvironment
from theus.environments.worker import WorkerEnvironment
from theus.testing.environments import RESOURCES, check_environment, checks_for


class KeptWorkers(WorkerEnvironment):
    """Lives through many checks: quicker, and what one check leaves behind would show in the next."""

    async def stop(self, grace):
        pass


@pytest.fixture(scope="module")
def kept():
    environment = KeptWorkers(1, resources=RESOURCES)
    yield environment
    asyncio.run(WorkerEnvironment.stop(environment, 2.0))


MAKERS = {
    "inline": InlineEnvironment,
    "loop": lambda: LoopEnvironment(SystemClock()),
    "thread": lambda: ThreadEnvironment(SystemClock(), 3),
    "worker": lambda: WorkerEnvironment(1, resources=RESOURCES),
}


@pytest.mark.parametrize(("name", "check"), [(name, check) for name in MAKERS for check in checks_for(name)], ids=str)
def test_environment(name, check, kept):
    alone = name != "worker" or any(word in str(check) for word in ("stop", "capacity", "resource", "once"))
    asyncio.run(check(MAKERS[name] if alone else lambda: kept))


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
