"""An engine that is killed with ``kill -9`` at any moment loses nothing that was acknowledged and applies nothing twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from doomed_process import Ledger, checked

from theus import Engine, plain

SCRIPT = Path(__file__).parent / "doomed_process.py"


class Doom:
    """Engine processes on one store that are killed, one after the other."""

    def __init__(self, folder: Path, store: str, kind: str = "good") -> None:
        self.store = store
        self.side = folder / "acknowledged"
        command = [sys.executable, "-W", "ignore", str(SCRIPT), self.store, str(self.side), kind]
        self.nursery = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def acknowledged(self) -> list[str]:
        """What was answered so far."""
        return self.side.read_text().splitlines() if self.side.exists() else []

    def kill_one(self, commits: int, more: float) -> None:
        """Begin one, kill it that many seconds after so many of its commits were answered."""
        before = len(self.acknowledged())
        pipes: Any = self.nursery
        pipes.stdin.write("\n")
        pipes.stdin.flush()
        child = int(pipes.stdout.readline())
        while len(self.acknowledged()) < before + commits:
            time.sleep(0.001)
        time.sleep(more)  # any moment will do
        os.kill(child, signal.SIGKILL)
        assert pipes.stdout.readline() == "gone\n"

    def faults(self) -> list[str]:
        """What is wrong after it."""
        acknowledged = self.acknowledged()
        with Engine(Ledger(), store=self.store) as engine:
            found = checked(plain(engine.state), acknowledged)
            replica: Any = engine.store
            loaded = replica._driver.load(bytes)
        versions = [entry.version for entry in loaded.entries]
        if versions != [*range(loaded.version + 1, loaded.version + 1 + len(versions))]:
            found.append("the log has gaps")
        return found

    def close(self) -> int:
        """End it; how many commits were acknowledged."""
        self.nursery.communicate()
        return len(self.acknowledged())


def kills(folder: Path, store: str, count: int, seed: int) -> int:
    """Kill so many engine processes on a store; how many commits they were told to be made."""
    rng = random.Random(seed)
    doom = Doom(folder, store)
    for number in range(count):
        doom.kill_one(rng.choice([0, 1, 5, 20]), rng.uniform(0.0, 0.02))
        found = doom.faults()
        assert not found, f"kill {number} of seed {seed}: {found[:3]}"
    return doom.close()


@pytest.mark.parametrize("sync", ["normal", "full"])
def test_what_was_acknowledged_survives_a_kill(sync: str, tmp_path: Path) -> None:
    assert kills(tmp_path, ledger(tmp_path, sync), 8, seed=1) > 20


def ledger(folder: Path, sync: str) -> str:
    return f"sqlite:{folder}/ledger.db?sync={sync}"


def is_caught(folder: Path, store: str) -> bool:
    """The negative control: engines that answer before they have written, killed until it shows."""
    doom = Doom(folder, store, "early")
    found = False
    for _ in range(50):
        doom.kill_one(10, 0.0)
        if found := bool(doom.faults()):
            break
    doom.close()
    return found


def test_a_driver_that_answers_too_early_is_caught(tmp_path: Path) -> None:
    assert is_caught(tmp_path, ledger(tmp_path, "normal"))


@pytest.mark.soak
@pytest.mark.parametrize("sync", ["normal", "full"])
@pytest.mark.timeout(3600)
def test_hundreds_of_kills(sync: str, tmp_path: Path) -> None:
    total = 0
    for part in range(5):
        folder = tmp_path / str(part)
        folder.mkdir()
        total += kills(folder, ledger(folder, sync), 100, seed=part)
    print(f"{sync}: 500 kills, {total:,} commits acknowledged, nothing lost, nothing twice")
