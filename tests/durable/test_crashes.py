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
from pathlib import Path

import pytest

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


def check(directory: Path, sync: str, kills: int, seed: int) -> None:
    while kills > 0:
        url = f"sqlite:{directory / f'{seed}.db'}?sync={sync}"
        killed, found, _ = finish(url, min(kills, 20), seed)
        assert found == expected(), f"seed {seed}, killed {killed} times"
        kills -= max(killed, 1)
        seed += 1


@pytest.mark.parametrize(("sync", "seed"), [("normal", 1), ("full", 2)])
def test_nothing_is_lost_and_nothing_is_done_twice(tmp_path, sync, seed):
    check(tmp_path, sync, 8, seed)


def test_what_is_torn_is_caught(tmp_path):
    """The negative control: where changes and records are two commits, the same check must fail."""
    for seed in range(100, 110):
        url = f"sqlite:{tmp_path / f'{seed}.db'}?sync=normal"
        _, found, _ = finish(url, 10, seed, "torn")
        if found != expected():
            return
    pytest.fail("ten runs with torn commits, and nobody noticed")


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("sync", ["normal", "full"])
def test_it_holds_for_long(tmp_path, sync):
    check(tmp_path, sync, int(os.environ.get("THEUS_KILLS", "500")), random.randrange(10**6, 10**9))
