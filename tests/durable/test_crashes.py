"""kill -9 at random moments: a run that is begun again ends in the state of an undisturbed one, nothing done twice.

The moment is drawn as a number of events of the program, so a slow machine is killed as often in the middle as a fast one.
The whole process group dies: the engine, its threads and its worker processes.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from private_servers import PostgresServer, RedisServer, Server

PROGRAM = Path(__file__).with_name("crash_program.py")
UNDISTURBED = 122  # events of a run that nobody kills


def start(url: str, run_id: str, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), url, run_id, *options],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that it can be killed with its workers
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": ""},
    )


def kill_after(program: subprocess.Popen[str], events: int) -> str | None:
    """Kill it at its n-th event; gives what it said if it was done before."""
    assert program.stdout is not None
    said = None
    with program:
        for line in program.stdout:
            if line.startswith("DONE"):
                said = line
            events -= 1
            if not events:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(program.pid, signal.SIGKILL)
    assert said is not None or program.returncode == -signal.SIGKILL
    return said


def finish(url: str, kills: int, seed: int, *options: str) -> tuple[int, object, str]:
    """One run, killed up to so many times; gives how often it was, how it ended, and the run's id."""
    rng = random.Random(seed)
    killed = 0
    run_id = f"run-{seed}"
    while True:
        events = rng.randrange(1, UNDISTURBED // 3) if killed < kills else 10**9
        said = kill_after(start(url, run_id, *options), events)
        if said is not None:
            return killed, json.loads(said.removeprefix("DONE ")), run_id
        killed += 1


def expected() -> object:
    done = ["load", "wait", "approve", "last", *(f"again {number}" for number in range(1, 6))]
    for item in range(12):
        done += [f"work {item}", f"{'odd' if item % 2 else 'even'} {item}", f"far {item}", f"note {item}"]
    state = {"done": dict.fromkeys(done, 1), "calls": len(done), "rounds": 5, "answers": ["yes"]}
    return [[sum(range(12)) * 2 + 5, 12], state]


def check(url: Callable[[int], str], kills: int, seed: int) -> None:
    """Kill so many times in all; ``url`` gives each run's store, by its seed."""
    while kills > 0:
        killed, found, _ = finish(url(seed), min(kills, 20), seed)
        assert found == expected(), f"seed {seed}, killed {killed} times"
        kills -= max(killed, 1)
        seed += 1


def torn_is_caught(url: Callable[[int], str]) -> bool:
    """The negative control: where changes and records are two commits, the same check must fail."""
    for seed in range(100, 110):
        _, found, _ = finish(url(seed), 10, seed, "torn")
        if found != expected():
            return True
    return False


def files(directory: Path, sync: str) -> Callable[[int], str]:
    return lambda seed: f"sqlite:{directory / f'{seed}.db'}?sync={sync}"


def names(server: Server) -> Callable[[int], str]:
    """Stores of one server."""
    option = "name" if isinstance(server, RedisServer) else "schema"
    return lambda seed: f"{server.url}?{option}=run{seed}&wait=60"


@pytest.fixture(scope="module", params=[RedisServer, PostgresServer])
def server(request) -> Iterator[Server]:
    server = request.param()
    yield server
    server.close()


@pytest.mark.parametrize(("sync", "seed"), [("normal", 1), ("full", 2)])
def test_nothing_is_lost_and_nothing_is_done_twice(tmp_path, sync, seed):
    check(files(tmp_path, sync), 8, seed)


def test_nor_on_a_server(server):
    check(names(server), 8, seed=3)


def test_what_is_torn_is_caught(tmp_path):
    assert torn_is_caught(files(tmp_path, "normal"))


def test_what_is_torn_is_caught_on_a_server(server):
    assert torn_is_caught(names(server))


def under_restarts(server: Server, times: int, seed: int) -> int:
    """A run, in the middle of which the server crashes up to so many times; how often it did. The program goes on."""
    rng = random.Random(seed)
    program = start(names(server)(seed), f"run-{seed}")
    crashed, said = 0, None
    moments = set(rng.sample(range(1, UNDISTURBED - 10), times))
    assert program.stdout is not None
    with program:
        for number, line in enumerate(program.stdout):
            if line.startswith("DONE"):
                said = line
            elif number in moments:
                server.crash()
                server.start()
                crashed += 1
    assert said is not None, "the program ended without a result"
    assert json.loads(said.removeprefix("DONE ")) == expected(), f"seed {seed}, crashed {crashed} times"
    return crashed


def test_a_run_goes_on_when_the_server_crashes(server):
    assert under_restarts(server, 3, seed=50)


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("sync", ["normal", "full"])
def test_it_holds_for_long(tmp_path, sync):
    check(files(tmp_path, sync), int(os.environ.get("THEUS_KILLS", "500")), random.randrange(10**6, 10**9))


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_it_holds_for_long_on_a_server(server):
    check(names(server), 100, seed=1000)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_the_server_crashes_often(server):
    crashed = 0
    for seed in range(2000, 2005):
        crashed += under_restarts(server, 5, seed)
    print(f"{type(server).__name__}: {crashed} crashes of the server in 5 durable runs, each as if undisturbed")
