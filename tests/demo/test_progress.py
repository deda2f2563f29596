"""Progress bars, told by events: what they count, and where they write."""

import io
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterable

import pytest
from rich.console import Console

from theus import DefinitionError, Engine, each, flow, process
from theus.events import CallConflicted, CallEnded, CallRetried, CallStarted, EachStarted, Event, RunEnded, RunStarted
from theus.observe.progress import ProgressBars, RunProgress, duration, per_second

RUN = "run-1"


class Teller:
    """Makes the events of a run, at a time that the test sets."""

    def __init__(self, listener: object, run_id: str = RUN) -> None:
        self.listener = listener
        self.run_id = run_id
        self.at = 100.0

    def tell(self, kind: type[Event], key: str = "", **values: object) -> None:
        event = kind(at=self.at, run_id=self.run_id, key=f"{self.run_id}{key}", **values)
        self.listener(event)

    def start(self) -> None:
        self.tell(RunStarted, target="flow(load, each)")

    def end(self, state: str = "done") -> None:
        self.tell(RunEnded, target="flow(load, each)", state=state, seconds=1.0)

    def fan_out(self, total: int | None, step: str = "fetch", key: str = "/1.each(fetch)") -> None:
        self.tell(EachStarted, key, step=step, total=total)

    def begin(self, key: str, attempt: int = 1, process: str = "fetch") -> None:
        self.tell(CallStarted, key, process=process, attempt=attempt, environment="loop", reason="")

    def finish(self, key: str, error: str | None = None, attempt: int = 1, process: str = "fetch") -> None:
        self.tell(
            CallEnded,
            key,
            process=process,
            attempt=attempt,
            environment="loop",
            place="",
            wall=1.0,
            cpu=None,
            error=error,
        )


def told(*, total: int | None = 4) -> tuple[Teller, RunProgress]:
    run = RunProgress(RUN, "flow(load, each)", 100.0)
    teller = Teller(run.take)
    teller.fan_out(total)
    return teller, run


def bar(run: RunProgress) -> tuple[int, int, int | None]:
    (only,) = run.bars.values()
    return only.done, only.failed, only.total


# --- what is counted


def test_items_are_counted_when_their_call_ends() -> None:
    teller, run = told()
    for number in range(3):
        teller.begin(f"/1.each(fetch)/{number}")
    teller.finish("/1.each(fetch)/1")
    assert bar(run) == (1, 0, 4)
    assert run.running() == "fetch ×2 (loop)"


def test_a_conflict_goes_on_with_the_same_item() -> None:
    teller, run = told()
    teller.begin("/1.each(fetch)/0")
    teller.tell(CallConflicted, "/1.each(fetch)/0", process="fetch", attempt=1, path="n", author="other")
    teller.begin("/1.each(fetch)/0", attempt=2)
    assert bar(run) == (0, 0, 4)
    teller.finish("/1.each(fetch)/0", attempt=2)
    assert bar(run) == (1, 0, 4)


def test_a_failure_that_is_tried_again_is_not_done() -> None:
    teller, run = told()
    teller.begin("/1.each(fetch)/0")
    teller.finish("/1.each(fetch)/0", error="OSError()")
    teller.tell(CallRetried, "/1.each(fetch)/0", process="fetch", attempt=1, delay=0.1, error="OSError()")
    assert bar(run) == (0, 0, 4)
    teller.begin("/1.each(fetch)/0", attempt=2)
    teller.finish("/1.each(fetch)/0", attempt=2)
    assert bar(run) == (1, 0, 4)


def test_a_collected_failure_is_done_and_counted() -> None:
    teller, run = told()
    teller.begin("/1.each(fetch)/0")
    teller.finish("/1.each(fetch)/0", error="ValueError()")
    assert bar(run) == (1, 1, 4)
    assert run.bars["/1.each(fetch)"].summary("") == "fetch 1/4 in 0.0 s, 1 failed"


def test_an_item_of_several_steps_is_done_after_its_last() -> None:
    teller, run = told()
    for step in ("0.parse", "1.store"):
        teller.begin(f"/1.each(fetch)/0/{step}")
        assert bar(run) == (0, 0, 4)
        teller.finish(f"/1.each(fetch)/0/{step}")
    assert bar(run) == (1, 0, 4)


def test_an_item_of_parallel_steps_is_done_after_the_last_of_them() -> None:
    teller, run = told()
    for branch in ("0.parse", "1.store"):
        teller.begin(f"/1.each(fetch)/0/{branch}")
    teller.finish("/1.each(fetch)/0/1.store")
    assert bar(run) == (0, 0, 4)
    teller.finish("/1.each(fetch)/0/0.parse")
    assert bar(run) == (1, 0, 4)


def test_fan_outs_inside_a_fan_out_share_one_bar() -> None:
    teller, run = told(total=2)
    for outer in range(2):
        teller.fan_out(3, step="part", key=f"/1.each(fetch)/{outer}/0.each(part)")
        for inner in range(3):
            teller.begin(f"/1.each(fetch)/{outer}/0.each(part)/{inner}", process="part")
            teller.finish(f"/1.each(fetch)/{outer}/0.each(part)/{inner}", process="part")
    assert [(each.name, each.depth, each.done, each.total) for each in run.bars.values()] == [
        ("fetch", 0, 2, 2),
        ("part", 1, 6, 6),
    ]


def test_rounds_of_a_repeat_share_one_bar() -> None:
    teller, run = told(total=0)
    for number in range(3):
        teller.fan_out(5, step="improve", key=f"/2.repeat(each)/each(improve)#{number}")
    assert [(each.name, each.total) for each in run.bars.values()] == [("fetch", 0), ("improve", 15)]


def test_a_source_of_unknown_length_has_no_end_in_sight() -> None:
    teller, run = told(total=None)
    teller.begin("/1.each(fetch)/0")
    teller.at += 2
    teller.finish("/1.each(fetch)/0")
    (only,) = run.bars.values()
    assert (only.counted, only.left(run.now()), only.total) == ("1", None, None)


def test_rate_and_time_left() -> None:
    teller, run = told(total=10)
    for number in range(4):
        teller.begin(f"/1.each(fetch)/{number}")
        teller.finish(f"/1.each(fetch)/{number}")
    teller.at += 2
    teller.begin("/1.each(fetch)/4")
    (only,) = run.bars.values()
    assert (only.rate(102.0), only.left(102.0)) == (2.0, 3.0)


def test_nothing_runs_after_the_end() -> None:
    teller, run = told()
    teller.begin("/1.each(fetch)/0")
    teller.end("cancelled")
    assert (run.running(), run.state) == ("", "cancelled")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (125, "2:05 min"),
        (3725, "1:02:05 h"),
        (-1, "0.0 s"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("rate", "text"), [(1234.4, "1,234/s"), (52.14, "52.1/s"), (0.2, "12.0/min"), (0.0, "0.0/s")])
def test_rates(rate: float, text: str) -> None:
    assert per_second(rate) == text


# --- where it is written


def sober() -> tuple[Teller, io.StringIO]:
    out = io.StringIO()
    return Teller(ProgressBars(console=Console(file=out, width=80), every=5.0)), out


def test_without_a_terminal_a_line_is_written_now_and_then() -> None:
    teller, out = sober()
    teller.start()
    teller.fan_out(10)
    for number in range(10):
        teller.begin(f"/1.each(fetch)/{number}")
        teller.at += 1
        teller.finish(f"/1.each(fetch)/{number}")
    teller.end()
    assert out.getvalue().splitlines() == [
        "theus: fetch 5/10, 1.0/s, 5.0 s left",
        "theus: fetch 10/10 in 10 s, 1.0/s",
    ]


def test_a_run_that_fails_says_so() -> None:
    teller, out = sober()
    teller.start()
    teller.fan_out(10)
    teller.at += 2
    teller.end("failed")
    assert out.getvalue() == "theus: fetch 0/10 in 0.0 s, failed\n"


def test_names_are_written_as_they_are() -> None:
    teller, out = sober()
    teller.start()
    teller.fan_out(1, step="[bold]fetch[/]")
    teller.end()
    assert "[bold]fetch[/] 0/1" in out.getvalue()


def terminal() -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=80, force_terminal=True, color_system=None, _environ={"TERM": "xterm"}), out


def test_on_a_terminal_there_are_bars_and_the_cursor_comes_back() -> None:
    console, out = terminal()
    teller = Teller(ProgressBars(console=console))
    teller.start()
    teller.fan_out(2)
    for number in range(2):
        teller.begin(f"/1.each(fetch)/{number}")
        teller.at += 1
        teller.finish(f"/1.each(fetch)/{number}")
    teller.end()
    text = out.getvalue()
    assert "✓ fetch 2/2 in 2.0 s, 1.0/s" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1
    assert text.rindex("\x1b[?25h") > text.rindex("fetch")


def test_several_runs_share_a_terminal() -> None:
    console, out = terminal()
    tellers = [Teller(ProgressBars(console=console), f"run-{number}") for number in range(3)]
    for teller in tellers:
        teller.start()
        teller.fan_out(1)
    for teller in reversed(tellers):
        teller.end()
    text = out.getvalue()
    assert text.count("✓ fetch 0/1") == 3
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1


def test_runs_in_several_threads_share_a_terminal() -> None:
    console, out = terminal()
    bars = ProgressBars(console=console)

    @process
    async def twice(number: int) -> int:
        return 2 * number

    def work() -> None:
        with Engine(observers=[bars]) as engine:
            for _ in range(5):
                engine.run(each(twice, limit=3), range(20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    text = out.getvalue()
    assert text.count("✓ twice 20/20") == 20
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") >= 1


def test_what_a_run_shows_is_what_it_did() -> None:
    seen: list[Event] = []

    @process
    async def parse(number: int) -> int:
        return number

    def store(number: int) -> Iterable[int]:
        return [number] * 3

    workflow = each(flow(parse, store, each(parse, limit=2)), limit=4)
    with Engine(observers=[seen.append]) as engine:
        engine.run(workflow, range(10))
    run = RunProgress(seen[0].run_id, "", seen[0].at)
    for event in seen:
        run.take(event)
    assert [(each.done, each.total, each.failed) for each in run.bars.values()] == [(10, 10, 0), (30, 30, 0)]
    assert run.state == "done"


def test_without_rich_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.live", None)
    with pytest.raises(DefinitionError, match=r'pip install "theus\[cli\]"'), Engine() as engine:
        engine.run(each(len), ["a"], progress=True)


SCRIPT = """
from theus import Engine, each, process
@process
def shout(word):
    print("word:", word, flush=True)
    return word.upper()
with Engine() as engine:
    print(engine.run(each(shout, limit=1), ["a", "b"], progress=True))
"""


def test_progress_leaves_stdout_alone() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "word: a\nword: b\n['A', 'B']\n"
    assert done.stderr.startswith("theus: shout 2/2 in ")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo terminal")
def test_bars_on_a_terminal_while_stdout_is_a_pipe() -> None:
    near, far = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            stdout=subprocess.PIPE,
            stderr=far,
            text=True,
            check=True,
            timeout=60,
            env={**os.environ, "TERM": "xterm"},
        )
        shown = os.read(near, 100_000).decode()
    finally:
        os.close(near)
        os.close(far)
    assert done.stdout == "word: a\nword: b\n['A', 'B']\n"
    assert "shout 2/2" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1
