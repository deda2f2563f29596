"""kill -9 at random moments: of workers under load, and of the program that has them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from worker_tools import LIMIT, nothing_left, until, wait_until

from theus import Context, Engine, Tally, process
from theus.errors import EnvironmentBroken

PROGRAM = Path(__file__).with_name("doomed_program.py")
KEYS = "abc"
CALLERS = 6


# --- workers ---------------------------------------------------------------------------------------------------------


@dataclass
class Book:
    """Everything is added up, so what is lost or done twice shows."""

    accounts: dict[str, int] = field(default_factory=dict)
    log: list[int] = field(default_factory=list)
    total: Tally = 0


def burn() -> None:
    sum(range(20_000))


@process(environment="worker")
def enter(ctx: Context[Book], number: int, key: str) -> int:
    balance = ctx.domain.accounts.get(key, 0) + number
    burn()
    ctx.domain.accounts[key] = balance
    ctx.domain.log.append(number)
    burn()
    ctx.domain.total += number
    return balance


@process(environment="worker", reads=["accounts"], writes=["accounts.{key}", "log", "total"])
def enter_declared(ctx: Context[Book], number: int, key: str) -> int:
    return enter(ctx, number, key)


@process(environment="worker", idempotent=True, retries=50)
def enter_again(ctx: Context[Book], number: int, key: str) -> int:
    return enter(ctx, number, key)


@process(environment="worker")
def tell(ctx: Context[Book], number: int, key: str) -> None:
    burn()
    ctx.send(note, number=number, key=key)
    burn()


@process(nature="state")
def note(ctx: Context[Book], number: int, key: str) -> None:
    ctx.domain.accounts[key] = ctx.domain.accounts.get(key, 0) + number
    ctx.domain.log.append(number)
    ctx.domain.total += number


SOME, OTHERS = (enter, enter_declared, tell), (enter_again,)  #: the others pause longer and longer between attempts


async def kill_workers(kills: int, seed: int) -> tuple[int, int]:
    """Kill workers under load; the state has what succeeded, once, and nothing else. Gives how many did, and did not."""
    rng = random.Random(seed)
    engine: Engine[Book] = Engine(Book(), workers=2)
    succeeded: dict[int, str] = {}
    lost: dict[int, tuple[str, int | None]] = {}
    numbers = iter(range(1, sys.maxsize))
    goes_on = True

    async def call(targets: tuple[Any, ...]) -> None:
        while goes_on:
            number, key, target = next(numbers), rng.choice(KEYS), rng.choice(targets)
            try:
                await engine.arun(target, number, key)
            except EnvironmentBroken as error:
                lost[number] = target.name, error.exit_code
            else:
                succeeded[number] = key

    async def kill() -> None:
        answers = len(succeeded) + len(lost) + rng.choice([0, 1, 2, 5, 10])
        while len(succeeded) + len(lost) < answers:  # a busy machine may take long to start workers again and again
            await asyncio.sleep(0.001)
        await asyncio.sleep(rng.uniform(0.0, 0.01))  # any moment will do
        pids = await until(lambda: pids_of(engine), "a worker")
        pid = rng.choice(pids)
        os.kill(pid, signal.SIGKILL)
        await until(lambda: pid not in pids_of(engine), "the end of the worker")

    callers = [asyncio.ensure_future(call(OTHERS if n % 3 == 0 else SOME)) for n in range(CALLERS)]
    try:
        for _ in range(kills):
            await kill()
    finally:
        goes_on = False
        await asyncio.gather(*callers)
        state = engine.state
        await engine.aclose()
    assert {code for _, code in lost.values()} <= {-signal.SIGKILL}
    assert enter_again.name not in {name for name, _ in lost.values()}
    assert sorted(state.log) == sorted(succeeded), f"seed {seed}"
    assert state.total == sum(succeeded)
    sums: Counter[str] = Counter()
    for number, key in succeeded.items():
        sums[key] += number
    assert dict(state.accounts.items()) == dict(sums)
    return len(succeeded), len(lost)


def pids_of(engine: Engine[Any]) -> list[int]:
    environment: Any = engine.environments.get("worker")
    return [] if environment is None else [worker.pid for worker in environment.workers()]


def test_what_was_answered_is_in_the_state_once_whoever_is_killed() -> None:
    with nothing_left():
        succeeded, _ = asyncio.run(kill_workers(3, seed=1))
    assert succeeded


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_a_thousand_kills_of_workers() -> None:
    succeeded = lost = 0
    for seed in range(10):
        with nothing_left():
            found = asyncio.run(kill_workers(100, seed))
        succeeded, lost = succeeded + found[0], lost + found[1]
    print(f"1,000 kills: {succeeded:,} calls succeeded and stand in the state once, {lost:,} were lost and do not")


# --- the program -----------------------------------------------------------------------------------------------------


def kill_program(folder: Path, rng: random.Random, *options: str) -> int:
    """Kill a program whose workers compute, at a random moment; nothing of it may remain. Gives how many workers it had."""
    mark = uuid.uuid4().hex
    compiled = {
        "PYTHONPYCACHEPREFIX": str(folder.parent / "compiled"),
        "PYTHONDONTWRITEBYTECODE": "",
    }  # once for all kills
    environment = {**os.environ, "TMPDIR": str(folder), "THEUS_MARK": mark, **compiled}
    program = subprocess.Popen(
        [sys.executable, str(PROGRAM), *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder, env=environment
    )  # fmt: skip
    assert program.stdout is not None
    lines = rng.choice([0, 1, 2, 3, 5, 20])
    heard = [program.stdout.readline() for _ in range(lines)]
    time.sleep(rng.uniform(0.0, rng.choice([0.02, 0.5]) if lines else 0.5))  # any moment will do
    family = marked(mark)
    named = [place for pid in family for place in named_memory(pid)]
    program.kill()
    _, err = program.communicate(timeout=LIMIT)  # what remained would hold the other ends
    assert (heard, program.returncode) == (["answered\n"] * lines, -signal.SIGKILL), err
    wait_until(lambda: not marked(mark), "the end of all processes")
    assert named == []
    assert list(folder.iterdir()) == []
    return len(family) - 1


def marked(mark: str) -> list[int]:
    """The processes that this program is, has started, or that those have started."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if f"THEUS_MARK={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.append(int(pid))
    return found


def named_memory(pid: int) -> list[str]:
    """What a process has of shared memory with a name, which would outlive it."""
    found = []
    with contextlib.suppress(OSError):
        found += [line for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "/dev/shm/" in line]
        found += [
            name for fd in os.listdir(f"/proc/{pid}/fd") if "/dev/shm/" in (name := os.readlink(f"/proc/{pid}/fd/{fd}"))
        ]
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says which processes there are")
@pytest.mark.parametrize("options", [(), ("child",)], ids=["workers", "what a worker started"])
def test_nothing_remains_of_a_program_that_is_killed(tmp_path: Path, options: tuple[str, ...]) -> None:
    rng = random.Random(7)
    assert sum(kill_program(tmp_path, rng, *options) for _ in range(4))


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_two_hundred_kills_of_the_program(tmp_path: Path) -> None:
    rng = random.Random(20261124)
    workers = [kill_program(tmp_path, rng, *(["child"] if n % 2 else [])) for n in range(200)]
    print(f"200 kills of a program with {sum(workers)} workers and what those had started: nothing remained")
