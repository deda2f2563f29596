"""The ``theus`` command, as a user types it: what it prints where, and its exit codes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import theus
from theus.cli.missing import needing

CORE = "interpreter" if sys.version_info >= (3, 14) else "worker"  #: where what computes runs

SHOP = """
from __future__ import annotations
import asyncio
from dataclasses import dataclass, field
from theus import Engine, each, flow, process

@dataclass
class Shop:
    stock: dict[str, int] = field(default_factory=lambda: {"tea": 3})

@dataclass
class Sale:
    sku: str
    qty: int
    tags: frozenset = frozenset({"hot"})

engine = Engine(Shop())

@process(reads=["stock.{sku}"], writes=["stock.{sku}"])
def place(ctx, sku: str, qty: int = 1, note=None):
    if ctx.domain.stock[sku] < qty:
        raise ValueError(f"only {ctx.domain.stock[sku]} of {sku} left")
    ctx.domain.stock[sku] -= qty
    return Sale(sku, qty) if note is None else note

@process
async def double(ctx, number):
    await asyncio.sleep(0)
    return 2 * number

@process(nature="cpu")
def square(number):
    return number ** 2

def numbers(count: int):
    return list(range(count))

squares = flow(numbers, each(double, limit=2), each(square), sum)

def whole(text: str, flag: bool = False, part: float = 0.5):
    return [text, flag, part]

@process
async def forever(ctx):
    print("it waits", flush=True)
    await asyncio.sleep(3600)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(SHOP)
    return tmp_path


Theus = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def theus_command(folder: Path) -> Theus:
    def run(*words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "theus.cli", *words]
        return subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=60, input=stdin, check=False, env=environment()
        )

    return run


def environment() -> dict[str, str]:
    """As in CI: no terminal, no colours asked for."""
    return {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "COLUMNS", "PYTHONPATH")}


# --- run


def test_run_prints_the_result_on_stdout_and_the_rest_on_stderr(theus_command: Theus) -> None:
    done = theus_command("run", "shop:squares", "20")
    assert (done.returncode, done.stdout) == (0, "9880\n")
    assert "theus: double 20/20" in done.stderr
    assert "theus: square 20/20" in done.stderr
    row = next(line for line in done.stderr.splitlines() if line.startswith("square"))
    assert row.split()[:5] == ["square", "computes", "(declared)", CORE, "³"]
    assert "³ nature='cpu': computes, so on another core" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def test_a_file_is_a_target_and_its_engine_is_found(theus_command: Theus) -> None:
    done = theus_command("run", "shop.py:place", "tea", "--arg", "qty=2", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "Sale(sku='tea', qty=2, tags=frozenset({'hot'}))\n"


def test_json(theus_command: Theus) -> None:
    done = theus_command("run", "shop:place", "tea", "--json", "-q")
    assert json.loads(done.stdout) == {"sku": "tea", "qty": 1, "tags": ["hot"]}


def test_values_are_read_as_their_parameters_say(theus_command: Theus) -> None:
    done = theus_command("run", "shop:whole", "12", "--arg", "flag=yes", "--arg", "part=2", "--json", "-q")
    assert json.loads(done.stdout) == ["12", True, 2.0]


def test_values_without_a_kind_are_json_or_text(theus_command: Theus) -> None:
    note = {"list": [1, None]}
    done = theus_command("run", "shop:place", "tea", "--arg", f"note={json.dumps(note)}", "--json", "-q")
    assert json.loads(done.stdout) == note
    assert theus_command("run", "shop:place", "tea", "--arg", "note=a=b", "-q").stdout == "a=b\n"


def test_the_value_can_come_from_stdin(theus_command: Theus) -> None:
    assert theus_command("run", "shop:whole", "-", "--json", "-q", stdin="from afar").stdout.startswith('["from afar"')


def test_a_run_that_fails_shows_the_users_own_lines(theus_command: Theus) -> None:
    done = theus_command("run", "shop:place", "tea", "--arg", "qty=9")
    assert (done.returncode, done.stdout) == (1, "")
    lines = done.stderr.splitlines()
    traced = [line for line in lines if line.startswith("  File ")]
    assert len(traced) == 1
    assert "shop.py" in traced[0]
    assert "ValueError: only 3 of tea left" in lines
    assert any(line.startswith("in process 'place', call ") for line in lines)
    assert lines[-1].endswith("frames of Theus and asyncio left out; --traceback shows them")


def test_the_whole_traceback_on_demand(theus_command: Theus) -> None:
    done = theus_command("run", "shop:place", "tea", "--arg", "qty=9", "--traceback")
    assert done.stderr.count("  File ") > 3


def test_an_error_in_a_worker_process_shows_its_line(theus_command: Theus) -> None:
    done = theus_command("run", "shop:square", "text", "-q")
    assert done.returncode == 1
    assert "return number ** 2" in done.stderr
    assert "TypeError: unsupported operand" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["shop:plaec", "tea"], "shop has no 'plaec'. Did you mean 'place'?"),
        (["shp:place"], "there is no module 'shp'. Did you mean 'shop'?"),
        (["shp.py:place"], "there is no file 'shp.py'. Did you mean 'shop.py'?"),
        (
            ["shop:place", "tea", "--arg", "qyt=2"],
            "has no argument 'qyt'; it takes (sku, qty=…, note=…). Did you mean 'qty'?",
        ),
        (["shop:place", "tea", "--arg", "qty=two"], "qty='two' is not a whole number"),
        (["shop:place", "tea", "--arg", "qty"], "--arg qty is not NAME=VALUE"),
        (["shop:place"], "needs an argument 'sku'"),
        (["shop:Shop"], "which cannot run"),
        (["shop:place", "tea", "--engine", "engin"], "has no Engine 'engin'. Did you mean 'engine'?"),
    ],
)
def test_a_wrong_command_says_what_was_meant(theus_command: Theus, words: list[str], said: str) -> None:
    done = theus_command("run", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_only_workflow_needs_no_name(theus_command: Theus) -> None:
    assert theus_command("run", "shop.py", "3", "-q").stdout == "20\n"


def test_two_workflows_need_a_name(theus_command: Theus, folder: Path) -> None:
    (folder / "two.py").write_text("from theus import flow\none = flow(len)\nother = flow(repr)\n")
    done = theus_command("run", "two.py", "text")
    assert done.returncode == 2
    assert "say which: two.py:one, two.py:other" in done.stderr


def test_a_definition_that_is_wrong_shows_its_line(theus_command: Theus, folder: Path) -> None:
    (folder / "wrong.py").write_text("from theus import flow\n\nwork = flow(len, None)\n")
    done = theus_command("run", "wrong:work", "text")
    assert done.returncode == 2
    assert "wrong.py:3: work = flow(len, None)" in done.stderr
    assert "theus: flow: step 2 is None" in done.stderr


@pytest.mark.parametrize("command", ["run", "graph", "explain"])
def test_a_module_that_fails_to_load_shows_why(theus_command: Theus, folder: Path, command: str) -> None:
    (folder / "broken.py").write_text("import nothing_of_this_name\n")
    done = theus_command(command, "broken:work")
    assert done.returncode == 2
    assert "No module named 'nothing_of_this_name'" in done.stderr
    assert "broken.py" in done.stderr
    assert "theus/cli/" not in done.stderr


@pytest.mark.parametrize("command", ["run", "graph", "explain"])
def test_a_definition_that_is_wrong_is_shown_with_its_line(theus_command: Theus, folder: Path, command: str) -> None:
    (folder / "broken.py").write_text("from theus import flow\n\nwork = flow(len, None)\n")
    done = theus_command(command, "broken:work")
    assert done.returncode == 2
    assert "broken.py:3: work = flow(len, None)" in done.stderr


def test_a_module_of_a_package_by_its_file(theus_command: Theus, folder: Path) -> None:
    package = folder / "deep" / "store"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "prices.py").write_text("PRICE = 7\n")
    (package / "work.py").write_text(
        "from theus import process\nfrom .prices import PRICE\n\n"
        "@process(nature='cpu')\ndef cost(qty: int):\n    return qty * PRICE\n"
    )
    assert theus_command("run", "deep/store/work.py:cost", "6", "-q").stdout == "42\n"


def test_ctrl_c_ends_a_run(folder: Path) -> None:
    command = [sys.executable, "-m", "theus.cli", "run", "shop:forever"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "it waits\n"
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "theus: interrupted"
    assert "Traceback" not in err


def test_who_reads_only_the_beginning_is_no_failure(folder: Path) -> None:
    command = [sys.executable, "-m", "theus.cli", "graph", "shop:squares"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        running.stdout.close()
        assert running.stderr is not None
        assert running.stderr.read() == b""


def test_what_the_encoding_has_no_sign_for_is_spelled_out(folder: Path) -> None:
    command = [sys.executable, "-m", "theus.cli", "run", "shop:place", "tea", "--arg", "note=\N{GREEK SMALL LETTER PI}"]
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        timeout=60,
        check=True,
        env={**environment(), "PYTHONIOENCODING": "ascii"},
    )
    assert done.stdout.strip() == rb"\u03c0"


# --- graph, explain, the rest


def test_graph_prints_the_tree_and_mermaid(theus_command: Theus) -> None:
    done = theus_command("graph", "shop:squares")
    assert done.returncode == 0
    tree, _, mermaid = done.stdout.partition("\n\n")
    assert tree.splitlines()[0] == "flow"
    assert "│   └── double  (async)" in tree
    assert mermaid.startswith("flowchart TD\n")


def test_graph_writes_files(theus_command: Theus, folder: Path) -> None:
    done = theus_command("graph", "shop:squares", "--svg", "squares.svg", "--mermaid", "-")
    assert done.stdout.startswith("flowchart TD\n")
    assert (folder / "squares.svg").read_text().startswith("<svg")
    assert done.stderr == "theus: wrote squares.svg\n"


def test_graph_that_cannot_be_written_says_so(theus_command: Theus) -> None:
    done = theus_command("graph", "shop:squares", "--svg", "nowhere/squares.svg")
    assert done.returncode == 2
    assert done.stderr == "theus: cannot write nowhere/squares.svg: No such file or directory\n"


def test_explain_says_where_and_why(theus_command: Theus) -> None:
    done = theus_command("explain", "shop:squares")
    assert done.returncode == 0
    row = next(line for line in done.stdout.splitlines() if line.startswith("square "))
    assert row.split() == [
        "square",
        "computes",
        "(declared)",
        CORE,
        *["nature='cpu':", "computes,", "so", "on", "another", "core"],
        *(
            ["(a", "sub-interpreter:", "it", "only", "computes,", "as", "far", "as", "can", "be", "seen)"]
            if CORE == "interpreter"
            else ()
        ),
    ]


@pytest.mark.parametrize("words", [("explain", "--run"), ("profile",)])
def test_profile_runs_once_and_says_what_was_measured(
    theus_command: Theus, folder: Path, words: tuple[str, ...]
) -> None:
    (folder / "measured.py").write_text(
        "from dataclasses import dataclass\n"
        "from theus import Engine, flow, process\n"
        "@dataclass\n"
        "class Shop:\n"
        "    total: int = 0\n"
        "engine = Engine(Shop())\n"
        "@process\n"
        "def adds(ctx, number: int):\n"
        "    ctx.domain.total += number\n"
        "work = flow(adds)\n"
    )
    done = theus_command(*words, "measured:work", "3")
    assert done.returncode == 0
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("adds")]
    assert rows[0][-3] == "1"  # calls, then wall and CPU
    assert rows[1][-1] == "1"  # measured
    assert ["adds", "changes", "total"] in [line.split() for line in done.stdout.splitlines()]


def test_profile_of_what_fails_shows_the_error_and_what_ran(theus_command: Theus, folder: Path) -> None:
    (folder / "failing.py").write_text("def fails():\n    return 1 / 0\n")
    done = theus_command("profile", "failing:fails")
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert "fails" in done.stdout


def test_version(theus_command: Theus) -> None:
    assert theus_command("--version").stdout == f"theus {theus.__version__}\n"


def test_without_a_command_it_says_what_there_is(theus_command: Theus) -> None:
    done = theus_command()
    assert done.returncode == 2
    assert "demo" in done.stdout
    assert "explain" in done.stdout


def test_the_command_line_loads_nothing_that_it_does_not_need() -> None:
    code = "import sys; import theus.cli; print('asyncio' in sys.modules, 'rich' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "False False\n"
    )


def test_what_is_not_installed_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)

    def command() -> int:
        import sklearn  # noqa: F401

        return 0

    assert needing("demo", ("sklearn",), command) == 2
    assert capsys.readouterr().err == ('theus: this needs sklearn, which is not installed: pip install "theus[demo]"\n')


def test_another_missing_module_is_not_ours_to_explain() -> None:
    def command() -> int:
        raise ModuleNotFoundError("No module named 'nothing'", name="nothing")

    with pytest.raises(ModuleNotFoundError):
        needing("demo", ("sklearn",), command)
