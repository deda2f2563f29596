"""The demo, as somebody types it: it ends well, says the essentials, and leaves nothing behind."""

import importlib.util
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from theus.demo.pages import delays, make_index, make_pages

missing = [name for name in ("sklearn", "aiohttp", "httpx", "psutil", "rich") if importlib.util.find_spec(name) is None]
needs_all = pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")
COMMAND = [sys.executable, "-m", "theus.cli", "demo", "--quick"]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the whole demo prints where there is no terminal."""
    environment = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "COLUMNS")}
    done = subprocess.run(
        COMMAND,
        cwd=tmp_path_factory.mktemp("anywhere"),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=environment,
    )
    # On a machine that stalls, the watchdog may rightly warn.
    said = [line for line in done.stderr.splitlines() if "keeps the event loop waiting" not in line]
    assert (done.returncode, said) == (0, []), done.stdout + done.stderr
    return done.stdout


@needs_all
def test_every_claim_holds(log: str) -> None:
    assert "✗" not in log
    assert re.search(r"Every claim held\. \d+ s", log)


@needs_all
@pytest.mark.parametrize(
    "said",
    [
        "✓ 20 modules of the standard library, as pydoc writes them",
        "crawl = flow(fetch, links, each(fetch, limit=100))",
        "✓ both doors gave the same pages, character by character",
        "✓ all three found the same",
        "Engine().run([load, clean, count], page)",
        "✓ domain.done   = 28: 20 pages and 2 × 4 trainings, each counted once",
        "to the word what a plain loop counts",
        "none lost, none twice",
        "✓ after it returned       gone",
        "✓ after it raised         gone",
        "✓ after it was cancelled  gone",
        "✓ after its timeout       gone",
        "✓ when take began, the list was there: it got it",
        "✓ when after began, the list was gone",
        "✓ memory moved by ",
        "¹ async def: waits, so on the event loop",
        "ms   while all cores train models",
    ],
)
def test_the_essentials_are_said(log: str, said: str) -> None:
    assert said in log


@needs_all
def test_a_log_is_plain_text_of_80_columns(log: str) -> None:
    assert "\x1b" not in log
    assert max(map(len, log.splitlines())) <= 80


@needs_all
def test_the_table_says_where_each_process_ran(log: str) -> None:
    table = log[log.index("What ran where, and why") :]
    rows = {line.split()[0]: line.split() for line in table.splitlines() if re.match(r"  \w+ .* [¹²³⁴⁵⁶⁷⁸⁹] ", line)}
    assert {"fetch", "links", "index", "train", "step"} <= set(rows)
    assert "loop" in rows["fetch"]
    assert "worker" in rows["train"]


class Terminal:
    """A program on a pseudo terminal."""

    def __init__(self, *words: str, folder: Path) -> None:
        near, far = pty.openpty()
        self.near = near
        self.text = ""
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "50"}
        environment.pop("NO_COLOR", None)
        self.process = subprocess.Popen(
            [*COMMAND, *words], cwd=folder, stdin=far, stdout=far, stderr=far, env=environment, start_new_session=True
        )
        os.close(far)

    def read_until(self, said: str) -> None:
        while said not in self.text:
            part = self.read()
            assert part, self.text
            self.text += part

    def read(self) -> str:
        try:
            return os.read(self.near, 100_000).decode(errors="replace")
        except OSError:  # the program has ended
            return ""

    def end(self) -> int:
        while part := self.read():
            self.text += part
        return self.process.wait(60)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.near)


@pytest.fixture
def run_demo(tmp_path: Path) -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for terminal in opened:
        terminal.close()


@needs_all
def test_on_a_terminal_it_has_colours_and_gives_the_cursor_back(run_demo: list[Terminal], tmp_path: Path) -> None:
    terminal = Terminal("cleans", folder=tmp_path)
    run_demo.append(terminal)
    assert terminal.end() == 0
    assert "\x1b[32m✓" in terminal.text
    assert "It waits" not in terminal.text
    hidden, shown = terminal.text.count("\x1b[?25l"), terminal.text.count("\x1b[?25h")
    assert hidden == shown >= 1


@needs_all
@pytest.mark.parametrize("moment", ["pydoc writes", "loop late", "bare asyncio"])
def test_ctrl_c_leaves_a_clean_terminal_and_no_process(run_demo: list[Terminal], tmp_path: Path, moment: str) -> None:
    terminal = Terminal("waits", folder=tmp_path)
    run_demo.append(terminal)
    terminal.read_until(moment)
    os.killpg(terminal.process.pid, signal.SIGINT)  # as a terminal does: to all that run in it
    assert terminal.end() == 130  # reading ends when nobody has the terminal open any more: all are gone
    assert terminal.text.rstrip().endswith("theus: interrupted")
    assert terminal.text.count("\x1b[?25l") == terminal.text.count("\x1b[?25h")
    assert "Traceback" not in terminal.text
    with pytest.raises(ProcessLookupError):
        os.killpg(terminal.process.pid, 0)


def test_pages_are_real_and_link_to_each_other() -> None:
    pages = dict(make_pages(5))
    assert list(pages) == ["abc", "argparse", "array", "ast", "asyncio"]
    assert "ABCMeta" in pages["abc"]
    assert 'href="re.html"' in pages["argparse"] or 'href="os.html"' in pages["argparse"]
    assert set(re.findall(r'href="(\w+)\.html"', make_index(list(pages)))) == set(pages)


def test_delays_are_spread_evenly_and_always_the_same() -> None:
    names = [name for name, _ in make_pages(5)]
    found = delays(names, 0.2, 1.0)
    assert sorted(found.values()) == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert found == delays(list(reversed(names)), 0.2, 1.0)
