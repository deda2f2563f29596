"""The programs in ``examples/`` run, and say what they should."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SAID = {
    "clean_rows": "{'tea': 2, 'coffee': 5}",
    "shop": "ContractError: process 'cheat' wrote stock.tea",
    "service": "40 sold, 80 came too late, 0 left",
    "chat": "90 answers kept, 1,800 tokens",
    "simulate": "they ran in ",
    "notebook": "halfway | in process 'fail'",
}
HELPERS = {"slow_model"}


def test_every_example_is_run_here() -> None:
    assert {file.stem for file in EXAMPLES.glob("*.py")} == SAID.keys() | HELPERS


@pytest.mark.parametrize("name", SAID)
def test_an_example_runs(name: str, tmp_path: Path) -> None:
    for module in ("aiohttp", "httpx"):
        if importlib.util.find_spec(module) is None and module in (EXAMPLES / f"{name}.py").read_text():
            pytest.skip(f"not installed: {module}")
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / f"{name}.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert SAID[name] in done.stdout


@pytest.mark.parametrize("target", ["clean_rows.py", "shop.py:trade", "simulate.py:experiment"])
def test_an_example_is_drawn(target: str) -> None:
    command = [sys.executable, "-m", "theus.cli", "graph", f"{EXAMPLES}/{target}", "--mermaid", "-"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("flowchart TD\n")


def test_the_notebook_is_made_of_cells() -> None:
    text = (EXAMPLES / "notebook.py").read_text()
    assert text.startswith("# %% [markdown]\n")
    assert "await " not in text.replace("types `await`", "")
