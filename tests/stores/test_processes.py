"""Several engine processes on one SQLite file are one serializable state."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
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


BLIND = """
from theus.state.head import Head
Head._validate = lambda *args: None
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
        if runs_again and "in the commit, turn" in one.id:
            continue
        # A cancel that came while the commit was on its way is raised after it: the lists tell which it was.
        wrote = was_cancelled and any(op[0] == "append" and op[1:] in there for op in one.ops)
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


@pytest.mark.soak
def test_many_processes_for_long(tmp_path: Path) -> None:
    for number in range(10 * SOAK):
        folder = tmp_path / str(number)
        folder.mkdir()
        store = f"sqlite:{folder}/world.db?sync=normal"
        assert not violations(in_processes("scripts", 8, store, folder, 40), store)
        found = anomalies_of(8, f"sqlite:{folder}/lists.db?sync=normal", folder, 10, runs_again=True)
        assert not found, found[0]
