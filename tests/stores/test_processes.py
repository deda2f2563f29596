"""Several engine processes on one SQLite file are one serializable state."""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from engine_process import NAME, Lists

from theus import Engine, plain
from theus.stores.sqlite import SqliteDriver
from theus.testing.anomalies import Observed, anomalies
from theus.testing.oracle import History, World

SCRIPT = Path(__file__).parent / "engine_process.py"
SOAK = int(os.environ.get("THEUS_SOAK", "0"))


def in_processes(what: str, count: int, store: str, folder: Path, rounds: int, before: str = "") -> list[Any]:
    """Run ``what`` in processes that begin together; what each found out. ``before``: code to run first in each."""
    children = []
    for number in range(count):
        command = [sys.executable, str(SCRIPT), what, store, str(folder / f"out{number}"), str(number), str(rounds)]
        if before:
            code = f"import runpy, sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); sys.argv = sys.argv[1:]\n{before}\n"
            code += f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
            command[1:2] = ["-c", code, str(SCRIPT)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        children.append(subprocess.Popen(command, text=True, **pipes))
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    said = [child.communicate()[1] for child in children]
    assert not any(child.returncode for child in children), "\n".join(said)
    return [pickle.loads((folder / f"out{number}").read_bytes()) for number in range(count)]


def violations(found: list[Any], store: str) -> list[str]:
    """Where scripts in processes differ from the same scripts one after the other."""
    committed, results = [], {}
    for process, made in enumerate(found):
        for version, script, result in made:
            key = f"process {process}, version {version}"
            committed.append((version, key, script))
            results[key] = result
    with Engine(World(), store=store) as engine:
        return History(sorted(committed), results, engine.state, 0).violations()


@pytest.mark.parametrize(("count", "rounds"), [(1, 15), (2, 15), (8, 4)])
def test_scripts_in_processes_are_serializable(count: int, rounds: int, tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path}/world.db?sync=normal"
    assert not violations(in_processes("scripts", count, store, tmp_path, rounds), store)


#: Nobody looks whether what was read is still so, neither here nor on a server.
BLIND = """
from theus.state.head import Head
from theus.stores.server import Batch
Head._validate = lambda *args: None
Batch.asks = property(lambda batch: [], lambda batch, keys: None)
"""

#: Three of ten replies of the file get lost; the group is sent again.
LOSSY = """
import random
from theus import stores
from theus.testing.stores import LossyDriver
driver_of, rng = stores.driver_of, random.Random()
stores.driver_of = lambda url: lambda: LossyDriver(driver_of(url)(), lambda: rng.random() < 0.3)
"""

#: Who wants to append does not queue, but tries again and again, as SQLite does it by itself.
UNQUEUED = """
import fcntl
from theus.stores.sqlite import SqliteDriver
append, flock = SqliteDriver.append, fcntl.flock
def unqueued(*arguments):
    fcntl.flock = lambda *_: None
    try:
        return append(*arguments)
    finally:
        fcntl.flock = flock
SqliteDriver.append = unqueued
"""


def test_the_oracle_sees_processes_that_do_not_look_at_each_other(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path}/world.db?sync=normal"
    with pytest.raises(AssertionError):  # some of them even fail
        assert not violations(in_processes("scripts", 2, store, tmp_path, 30, BLIND), store)


def anomalies_of(
    count: int, store: str, folder: Path, rounds: int, before: str = "", *, runs_again: bool = False
) -> list[Any]:
    """What processes saw that cannot be. ``runs_again``: others may come in between, so what runs in a commit may run on a
    state that does not come to be, and then again; what it saw the first time counts for nothing.
    """
    histories = in_processes("appends", count, store, folder, rounds, before)
    with Engine(Lists(), store=store) as engine:
        lists = plain(engine.state.lists)
    last = Observed("the end", [("read", f"{NAME}.{letter}", lists.get(f"{NAME}.{letter}", [])) for letter in "xyz"])
    there = {(key, value) for key, values in lists.items() for value in values}
    calls = []
    for one, was_cancelled in [pair for history in histories for pair in history]:
        # A cancel that came while the commit was on its way is raised after it: the lists tell which it was.
        wrote = was_cancelled and any(op[0] == "append" and op[1:] in there for op in one.ops)
        if runs_again and not wrote and "in the commit, turn" in one.id:
            continue
        # Without times: an engine hears of others' commits some milliseconds late, so there is no real-time order.
        calls.append(Observed(one.id, one.ops, one.committed or wrote))
    return anomalies([*calls, last])


@pytest.mark.parametrize(("count", "rounds"), [(1, 4), (2, 4), (8, 1)])
def test_appends_in_processes_show_no_anomaly(count: int, rounds: int, tmp_path: Path) -> None:
    found = anomalies_of(count, f"sqlite:{tmp_path}/lists.db?sync=normal", tmp_path, rounds, runs_again=count > 1)
    assert not found, found[0]


def test_processes_that_do_not_look_at_each_other_show_anomalies(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):  # some of them even fail
        assert not anomalies_of(2, f"sqlite:{tmp_path}/lists.db?sync=normal", tmp_path, 6, BLIND)


def test_processes_lose_no_increment(tmp_path: Path) -> None:
    store = str(tmp_path / "world.db")
    counts = in_processes("increments", 3, store, tmp_path, 30)
    with Engine(World(), store=store) as engine:
        assert engine.state.number == sum(counts)
        with contextlib.closing(SqliteDriver(store)) as driver:
            versions = [entry.version for entry in driver.load(bytes).entries]
        assert versions == [*range(1, sum(counts) + 1)]


@pytest.mark.parametrize(("count", "rounds"), [(2, 8), (8, 1)])
def test_processes_are_serializable_where_replies_are_lost(count: int, rounds: int, tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path}/world.db?sync=normal"
    assert not violations(in_processes("scripts", count, store, tmp_path, rounds, LOSSY), store)
    found = anomalies_of(count, f"sqlite:{tmp_path}/lists.db?sync=normal", tmp_path, rounds, LOSSY, runs_again=True)
    assert not found, found[0]


def skewed(count: int, store: str, folder: Path, rounds: int, before: str = "") -> list[str]:
    """The rounds in which not one process raised its flag: each raises it if none is up."""
    in_processes("flags", count, store, folder, rounds, before)
    with Engine(World(), store=store) as engine:
        raised = Counter(flag.partition(".")[0] for flag in engine.state.numbers)
    return [turn for turn in map(str, range(rounds)) if raised[turn] != 1]


@pytest.mark.parametrize("sync", ["normal", "full"])
@pytest.mark.parametrize(("count", "rounds"), [(2, 1_000), (8, 100)])
def test_processes_show_no_write_skew(count: int, rounds: int, sync: str, tmp_path: Path) -> None:
    assert skewed(count, f"sqlite:{tmp_path}/world.db?sync={sync}", tmp_path, rounds) == []


def test_write_skew_of_processes_is_seen(tmp_path: Path) -> None:
    turns = (f"{tmp_path}/world{number}.db" for number in itertools.count())
    assert any(skewed(8, store, tmp_path, 100, BLIND) for store in turns)


def shares(folder: Path, before: str = "") -> list[int]:
    """How many of some hundred commits on one file each of eight processes made; each at a place of its own."""
    folder.mkdir()
    return in_processes("shares", 8, f"{folder}/world.db", folder, 1_600, before)


def test_processes_share_a_file_fairly(tmp_path: Path) -> None:
    made = shares(tmp_path / "fair")
    assert min(made) > 50, made  # a quarter of its share


def test_processes_that_do_not_queue_starve(tmp_path: Path) -> None:
    turns = (tmp_path / str(number) for number in itertools.count())
    assert any(min(shares(turn, UNQUEUED)) < 50 for turn in turns)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_many_processes_for_long(tmp_path: Path) -> None:
    for number in range(5 * SOAK):
        folder = tmp_path / str(number)
        folder.mkdir()
        store = f"sqlite:{folder}/world.db?sync=normal"
        assert not violations(in_processes("scripts", 8, store, folder, 40), store)
        # Short histories: what a call reads of a list grows with the square of its length.
        found = anomalies_of(8, f"sqlite:{folder}/lists.db?sync=normal", folder, 2, runs_again=True)
        assert not found, found[0]
    print(f"{5 * SOAK} times 8 processes: random scripts, random appends; a serial order, no anomaly")
