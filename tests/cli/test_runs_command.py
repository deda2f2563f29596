"""Durable runs and the state they work on, from the command line."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from private_servers import PostgresServer, RedisServer

SHOP = """
from __future__ import annotations
from dataclasses import dataclass, field
from pathlib import Path
from theus import Engine, each, flow, process
import os

@dataclass
class Shop:
    stock: dict[str, int] = field(default_factory=lambda: {"tea": 3})
    seen: set[str] = field(default_factory=set)

engine = Engine(Shop(), store=os.environ.get("SHOP_STORE", "shop.db"))

@process
def load(ctx, names: list[str]) -> list[str]:
    return sorted(names)

@process
def sell(ctx, name: str) -> int:
    ctx.domain.stock[name] = ctx.domain.stock.get(name, 10) - 1
    ctx.domain.seen.add(name)
    return ctx.once("double", lambda: ctx.domain.stock[name] * 2)

@process
def check(ctx, counts: list[int]) -> list[int]:
    if Path("broken").exists():
        raise ValueError(f"counts are {counts}")
    return counts

@process
async def approve(ctx, counts: list[int]) -> str:
    return f"{sum(counts)}: {await ctx.wait_for('approval')}"

job = flow(load, each(sell, limit=1), check, approve)
"""

START = """
import shop
from theus import Engine
run = shop.engine.submit(shop.job, ["tea", "milk"], run_id="nightly-24")
{then}
shop.engine.close()
"""
FAILS = "run._followed().exception()"
DONE = "shop.engine.signal(run.id, 'approval', 'yes'); run.result()"
WAITS = "while not shop.engine.waits._waiting: pass"

Theus = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def theus(tmp_path: Path) -> Theus:
    (tmp_path / "shop.py").write_text(SHOP)

    def run(*words: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "theus.cli", *words]
        return subprocess.run(
            command, cwd=tmp_path, input=typed, capture_output=True, text=True, timeout=100, check=False
        )

    return run


def begin(folder: Path, then: str) -> None:
    script = START.format(then=then)
    subprocess.run([sys.executable, "-c", script], cwd=folder, check=True, timeout=100, capture_output=True)


def test_a_run_that_waits_is_listed_signalled_and_resumed(theus, tmp_path):
    begin(tmp_path, WAITS)

    listed = theus("runs", "shop.db")
    assert listed.returncode == 0, listed.stderr
    assert "nightly-24" in listed.stdout
    assert "running, waits: wait_for('approval')" in listed.stdout

    assert theus("signal", "nightly-24", "approval", '"yes"', "--store", "shop.db").returncode == 0
    shown = theus("show", "nightly-24", "--store", "shop.db").stdout
    assert '(["tea","milk"])' in shown
    assert "1.each(sell)/0" in shown
    assert "signals not taken" in shown
    assert "approval/000000001" in shown

    resumed = theus("resume", "nightly-24", "shop:job")
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout == "22: yes\n"
    assert theus("resume", "nightly-24", "shop:job", "--json", "-q").stdout == '"22: yes"\n'

    refused = theus("signal", "nightly-24", "approval", "--store", "shop.db")
    assert refused.returncode == 2
    assert "is done" in refused.stderr

    assert theus("forget", "nightly-24", "--store", "shop.db").returncode == 0
    assert "no durable run" in theus("runs", "shop.db").stdout
    assert theus("forget", "nightly-24", "--store", "shop.db").returncode == 2


def test_a_run_that_failed_is_shown_and_its_calls_are_run_again(theus, tmp_path):
    (tmp_path / "broken").touch()
    begin(tmp_path, FAILS)
    shown = theus("show", "nightly-24", "--store", "shop.db").stdout
    assert "failed" in shown
    assert "ValueError('counts are [18, 4]')" in shown

    again = theus("replay", "nightly-24", "1.each(sell)/0", "shop:job")
    assert again.returncode == 0, again.stderr
    assert again.stdout == "18\n"  # as it was then: what it kept, too
    assert "it would change stock.milk" in again.stderr
    assert "something else" not in again.stderr

    failed = theus("replay", "nightly-24", "2.check", "shop:job")
    assert failed.returncode == 1
    assert "counts are [18, 4]" in failed.stderr
    assert "it is not recorded" in failed.stderr

    unknown = theus("replay", "nightly-24", "7.nothing", "shop:job")
    assert unknown.returncode == 2
    (tmp_path / "broken").unlink()
    assert theus("run", "shop:load", '["a"]', "--run-id", "other", "-q").stdout == "['a']\n"
    assert "other" in theus("runs", "shop.db").stdout


def test_a_run_whose_workflow_was_changed_is_refused_with_what_differs(theus, tmp_path):
    begin(tmp_path, WAITS)
    (tmp_path / "shop.py").write_text(SHOP.replace("flow(load, each(sell, limit=1), check", "flow(load, check"))
    refused = theus("resume", "nightly-24", "shop:job", "-q")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "\n-1.each(sell): each\n" in refused.stderr
    assert re.search(r"begin another run\. .* workflow\.compatible_with\('[0-9a-f]{12}'\)\.\n$", refused.stderr)


@pytest.fixture(params=["sqlite", "redis", "postgresql"])
def url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = {"redis": RedisServer, "postgresql": PostgresServer}.get(request.param)
    with contextlib.ExitStack() as stack:
        found = "shop.db" if server is None else stack.enter_context(contextlib.closing(server())).url
        monkeypatch.setenv("SHOP_STORE", found)
        yield found


def test_calls_of_a_run_that_is_done_are_run_again(theus, tmp_path, url):
    begin(tmp_path, DONE)
    shown = theus("show", "nightly-24", "--store", url).stdout
    assert "can be replayed" in shown

    for step, gave, change in [
        ("0.load", "['milk', 'tea']\n", ""),
        ("1.each(sell)/0", "18\n", "it would change stock.milk"),
        ("1.each(sell)/1", "4\n", "it would change stock.tea"),
        ("2.check", "[18, 4]\n", ""),
        ("3.approve", "22: yes\n", ""),
    ]:
        assert step in shown
        again = theus("replay", "nightly-24", step, "shop:job")
        assert (again.returncode, again.stdout) == (0, gave), again.stderr
        assert change in again.stderr
        assert "something else" not in again.stderr
        assert "not recorded" not in again.stderr

    (tmp_path / "broken").touch()
    failed = theus("replay", "nightly-24", "2.check", "shop:job")
    assert failed.returncode == 1
    assert "counts are [18, 4]" in failed.stderr


BREAKS = """
@process
{kind}def breaks(ctx, name: str) -> int:
    ctx.domain.stock[name] += 1
    if Path("broken").exists():
        raise ValueError(name)
    return ctx.domain.stock[name]
"""


@pytest.mark.parametrize("kind", ["", "async "])
def test_the_debugger_opens_where_a_call_raised_with_its_state_of_then(theus, tmp_path, kind):
    with (tmp_path / "shop.py").open("a") as file:
        file.write(BREAKS.format(kind=kind))
    for run_id in ("one", "two"):
        assert theus("run", "shop:breaks", "tea", "--run-id", run_id, "-q").returncode == 0
    (tmp_path / "broken").touch()
    typed = "p name, ctx.domain.stock, ctx.key\nq\n"
    debugged = theus("replay", "one", "breaks", "shop:breaks", "--pdb", typed=typed)
    assert debugged.returncode == 1
    assert "('tea', {'tea': 4}, 'one/breaks')" in debugged.stdout
    assert debugged.stderr.count("ValueError: tea") == 1
    assert "on version 1; nothing is committed" in debugged.stderr
    assert "frames of Theus" not in theus("replay", "one", "breaks", "shop:breaks", "--traceback").stderr


LATER = """
@process
def refuses(ctx) -> int:
    ctx.local.enter(Leaves())
    return 1

class Leaves:
    def __enter__(self): pass
    def __exit__(self, *error):
        if Path("broken").exists():
            raise ValueError("it does not close")
"""


def test_the_debugger_opens_for_what_raises_after_the_body_too(theus, tmp_path):
    with (tmp_path / "shop.py").open("a") as file:
        file.write(LATER)
    assert theus("run", "shop:refuses", "--run-id", "one", "-q").returncode == 0
    (tmp_path / "broken").touch()
    debugged = theus("replay", "one", "refuses", "shop:refuses", "--pdb", typed="p error\nq\n")
    assert debugged.returncode == 1
    assert "(None, None, None)" in debugged.stdout
    assert "it does not close" in debugged.stderr


FILLS = """
import sys, shop
with shop.engine, shop.engine.transaction() as state:
    state.seen = {sys.argv[1] * 3_000_000}
"""


def test_a_call_is_replayed_as_long_as_the_log_goes_back_to_it(theus, tmp_path):
    begin(tmp_path, DONE)
    for letter in "abcdef":  # programs of their own: before one ends, it writes the state down if that is due
        subprocess.run([sys.executable, "-c", FILLS, letter], cwd=tmp_path, check=True, timeout=100)
    again = theus("replay", "nightly-24", "1.each(sell)/0", "shop:job")
    assert again.returncode == 2
    assert "it ran with what nightly-24/0.load gave, which is not kept: the log goes from version" in again.stderr
    assert "has to be run anew" in again.stderr


def test_a_named_run_that_nobody_would_keep_is_refused(theus, tmp_path):
    (tmp_path / "plain.py").write_text("def double(n: int) -> int:\n    return 2 * n\n")
    refused = theus("run", "plain:double", "2", "--run-id", "n1")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "no engine with a store" in refused.stderr


def test_the_state(theus, tmp_path):
    begin(tmp_path, WAITS)
    with_types = ("--types", "shop:Shop")
    state = {"stock": {"tea": 2, "milk": 9}, "seen": ["milk", "tea"]}
    assert json.loads(theus("state", "show", "shop.db", "--json", *with_types).stdout) == state
    assert json.loads(theus("state", "show", "shop.db", "--json", "--types", "shop:engine").stdout) == state
    first = json.loads(theus("state", "show", "shop.db", "--json", "--version", "0", *with_types).stdout)
    assert first == {"stock": {"tea": 3}, "seen": []}
    mistyped = theus("state", "show", "shop.db", "--types", "shop:Shops")
    assert mistyped.returncode == 2
    assert "shop has no 'Shops'. Did you mean 'Shop'?" in mistyped.stderr
    untyped = theus("state", "show", "shop.db")
    assert untyped.returncode == 2
    assert "--types" in untyped.stderr
    shown = theus("state", "diff", "shop.db", "0", "4", *with_types).stdout
    assert "stock.milk" in shown
    restored = theus("state", "restore", "shop.db", "0", *with_types)
    assert restored.returncode == 0, restored.stderr
    assert json.loads(theus("state", "show", "shop.db", "--json", *with_types).stdout) == first


def test_a_state_of_plain_values_is_shown_without_the_code_that_made_it(theus, tmp_path):
    make = "from theus import Engine\nwith Engine({'a': [1]}, store='plain.db') as e:\n    with e.transaction() as d: d['a'].append(2)"
    subprocess.run([sys.executable, "-c", make], cwd=tmp_path, check=True, timeout=100)
    assert theus("state", "show", "plain.db").stdout == "{'a': [1, 2]}\n"
    assert theus("state", "diff", "plain.db", "0", "1").returncode == 0


NEWER = """
from dataclasses import dataclass, field
from theus import migration

@dataclass
class Shop:
    schema_version = 2
    goods: dict[str, int] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)

@migration(1, 2)
def rename(state):
    state["goods"] = state.pop("stock")
"""


def test_a_state_is_migrated_and_before_that_shown_what_would_change(theus, tmp_path):
    begin(tmp_path, WAITS)
    (tmp_path / "newer.py").write_text(NEWER)
    with_types = ("shop.db", "--types", "newer:Shop")
    refused = theus("state", "show", *with_types)
    assert refused.returncode == 2
    assert "theus state migrate" in refused.stderr
    dry = theus("state", "migrate", *with_types, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "version 1 to 2: rename" in dry.stdout
    assert "goods: new, {'tea': 2, 'milk': 9}" in dry.stdout
    assert "stock: {'tea': 2, 'milk': 9} goes" in dry.stdout
    assert theus("state", "show", "shop.db", "--types", "shop:Shop").returncode == 0
    assert "the state is of version 2 now" in theus("state", "migrate", *with_types).stdout
    assert "nothing to do" in theus("state", "migrate", *with_types).stdout
    state = json.loads(theus("state", "show", *with_types, "--json").stdout)
    assert state["goods"] == {"tea": 2, "milk": 9}
    assert "nightly-24" in theus("runs", "shop.db").stdout  # without any class, also then


def test_a_file_that_is_no_store_is_told_of_without_a_traceback(theus, tmp_path):
    (tmp_path / "foreign.db").write_text("no database" * 100)
    for words in (("runs", "foreign.db"), ("show", "r", "--store", "foreign.db")):
        answer = theus(*words)
        assert answer.returncode == 1
        assert "is not a SQLite file" in answer.stderr
        assert "Traceback" not in answer.stderr
    with contextlib.closing(sqlite3.connect(tmp_path / "others.db")) as db:
        db.execute("CREATE TABLE t (a)")
    answer = theus("state", "show", "others.db")
    assert answer.returncode == 1
    assert "is not one of Theus" in answer.stderr
    assert "--types" not in answer.stderr


def test_what_is_not_there(theus, tmp_path):
    for words in (("runs", "none.db"), ("show", "r", "--store", "none.db"), ("state", "show", "none.db")):
        answer = theus(*words)
        assert answer.returncode == 2
        assert "there is no store" in answer.stderr
    assert not (tmp_path / "none.db").exists()
    theus("run", "shop:load", "[]")
    assert "no durable run" in theus("runs", "shop.db").stdout
    answer = theus("resume", "r", "shop:job")
    assert answer.returncode == 2
    assert "no run 'r'" in answer.stderr


def test_the_command_line_begins_no_store(theus, tmp_path, url):
    """A name that is mistyped, and a file that was made and never written, hold nothing: they are left so."""
    if url == "shop.db":
        (tmp_path / url).touch()
    types = ("--types", "shop:engine")
    for words in (
        ("runs", url),
        ("signal", "r", "approval", "1", "--store", url),
        ("state", "show", url),
        ("state", "show", url, *types),
        ("state", "restore", url, "0", *types),
        ("state", "migrate", url, *types),
    ):
        answer = theus(*words)
        assert answer.returncode == 2, words
        assert "there is no store" in answer.stderr, words
    if url == "shop.db":
        assert (tmp_path / url).stat().st_size == 0
    assert theus("run", "shop:load", '["a"]', "--run-id", "r", "-q").stdout == "['a']\n"


WAITS_TWICE = """
import shop
from datetime import UTC, datetime
from theus import process

@process
async def twice(ctx):
    await ctx.wait_for("early")
    await ctx.sleep_until(datetime(2020, 1, 2, tzinfo=UTC))
    try:
        await ctx.wait_for("late", timeout=0)
    except TimeoutError:
        pass
    await ctx.wait_for("never", timeout=86400)

@process
def tell(ctx):
    ctx.emit("sold", ["tea"], durable=True)

shop.engine.run(tell, run_id="tells")
run = shop.engine.submit(twice, run_id="waits")
shop.engine.signal("waits", "early", {"by": "me"})
while "wait_for('never')" not in str([one.key for one in shop.engine.store.records("once")]): pass
shop.engine.close()
"""


def test_waits_are_told_in_words(theus, tmp_path):
    (tmp_path / "waits.py").write_text(WAITS_TWICE)
    subprocess.run([sys.executable, "waits.py"], cwd=tmp_path, check=True, timeout=100)
    lines = theus("show", "waits", "--store", "shop.db").stdout.splitlines()
    said = [
        next(line for line in lines if name in line)
        for name in ("sleep_until #", "'late') #", "'never') #", "'early') #")
    ]
    told = (r"until 2020-01-0\d", "did not come in time", r"waits until 20\d\d-", r'took \{"by":"me"\}')
    for line, words in zip(said, told, strict=True):
        assert re.search(words, line)
    assert 'sold: ["tea"]' in theus("show", "tells", "--store", "shop.db").stdout
