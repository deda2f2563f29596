"""The engine finds out what a process is and places it by that; the user's word wins; nobody goes to and fro."""

from __future__ import annotations

import asyncio
import functools
import io
import re
import sys
import threading
import time
import types
from dataclasses import dataclass, field

import other_module
import pytest
from hypothesis import example, given, settings, strategies as st
from other_module import Ledger, bump
from recorded_calls import RECORDED
from rich.console import Console

from theus import Engine, each, process
from theus.cli.tables import FiguresTable
from theus.environments.meter import INTERVAL, Meter, Seen, SwitchInterval, Ticker, _held
from theus.environments.worker import WorkerEnvironment
from theus.events import ProcessMoved
from theus.nature import Explanation, Profile, quantile
from theus.placement import Known, Placement, gain, milliseconds, next_place, place, threads_are_parallel
from theus.protocols import Call, Measured, Outcome
from theus.surroundings import cannot_be_inline, cannot_travel
from theus.testing.environments import EngineStub, make_call

PATTERN = re.compile("a+")
seen: list[int] = []
count = 0


def profile_of(calls, fn=lambda: None):
    profile = Profile(process(fn))
    for wall, cpu, held in calls:
        outcome = Outcome(wall=wall, cpu=cpu, measured=Measured(held=held))
        profile.add(outcome)
        profile.measure(outcome)
    return profile


def spin(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(50))


# --- what it is ---


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_calls_are_recognised(name):
    kind, calls = RECORDED[name]
    assert profile_of(calls).known().kind() == kind


@pytest.mark.parametrize("name", [name for name, (kind, _) in RECORDED.items() if kind in ("computes", "releases")])
def test_one_call_that_computes_is_enough(name):
    kind, calls = RECORDED[name]
    assert profile_of(calls[:1]).known().kind() == kind


def test_without_a_look_at_the_lock_nobody_is_called_a_holder():
    known = profile_of([(0.1, 0.1, None)]).known()
    assert known.kind() == "unknown"
    assert place(process(spin), blocking=False, debug=False, known=known).environment == "thread"


def test_quantiles_of_many_calls():
    profile = profile_of([(n / 1000, None, None) for n in range(1, 101)])
    assert quantile(profile.walls, 0.5) == pytest.approx(0.05, rel=0.1)
    assert quantile(profile.walls, 0.99) == pytest.approx(0.099, rel=0.1)
    assert quantile({}, 0.5) is None


def test_a_call_out_of_the_ordinary_has_the_next_one_measured():
    profile = profile_of([(0.001, 0.001, 0.0)] * 4)
    profile.meter((None, None))
    assert profile.measure_at > profile.calls
    profile.add(Outcome(wall=0.2))
    assert profile.measure_at == profile.calls


def test_who_holds_the_lock_for_a_few_milliseconds_is_seen_and_nobody_guesses():
    assert profile_of([(0.003, 0.003, 0.003)]).known().kind() == "computes"
    assert profile_of([(0.003, 0.003, None)]).known().kind() == "waits"
    assert profile_of([(0.02, 0.003, 0.0)]).known().kind() == "waits"


@pytest.mark.parametrize(
    ("seen", "cpu", "all_cpu", "wall", "switches", "held"),
    [
        (None, 0.02, 0.02, 0.02, 0, None),
        (Seen(3, 3, 0.04, 0.0), 0.02, 0.04, 0.02, 0, 0.0),  # BLAS: others compute, but nobody is late
        (Seen(3, 3, 0.02, 0.02), 0.02, 0.02, 0.02, 0, 0.02),
        (Seen(3, 3, 0.01, 0.01), 0.02, 0.02, 0.02, 0, 0.02),  # as much of it as could be judged
        (Seen(3, 3, 0.02, 0.02), 0.02, 0.04, 0.02, 2, None),  # it or another one
        (Seen(3, 3, 0.02, 0.02), 0.02, 0.04, 0.02, 3, 0.02),  # it was stopped whenever the lock was given away
        (Seen(3, 3, 0.04, 0.04), 0.01, 0.04, 0.04, 0, 0.01),  # in turns on one core
        (Seen(0, 1, 0.004, 0.004), 0.004, 0.008, 0.004, 0, 0.004),  # other threads spin, but nobody else had the lock
        (Seen(0, 1, 0.004, 0.004), 0.002, 0.008, 0.004, 0, None),
    ],
)
def test_whose_the_lock_was(seen, cpu, all_cpu, wall, switches, held):
    assert _held(seen, cpu, all_cpu, wall, switches) == held


@pytest.mark.parametrize(("starved", "judged"), [(0.0, 1), (0.02, 0)])
def test_who_had_to_wait_for_a_processor_judges_nothing(starved, judged):
    class Delay:
        def new(self):
            return starved

    ticker = Ticker()
    ticker._due = time.perf_counter() - 0.02
    ticker._note(Delay())
    assert (ticker._seen.ticks, ticker._seen.judged) == (1, judged)


def test_while_the_lock_is_held_threads_take_turns_more_often():
    if threads_are_parallel():
        pytest.skip("nobody holds a lock here")
    usual = sys.getswitchinterval()

    def spins_until_they_do():
        end = time.thread_time() + 20
        while time.thread_time() < end:
            if sys.getswitchinterval() == INTERVAL:
                return True
        return False

    call = Call(process(spins_until_they_do), (), {}, None, None, None, 1, 1, None, EngineStub())
    outcome = Meter(Ticker()).measure(call)
    assert outcome.value is True
    assert sys.getswitchinterval() == usual > INTERVAL


def test_a_switch_interval_that_somebody_else_chose_stays(monkeypatch):
    chosen = []
    monkeypatch.setattr("sys.setswitchinterval", chosen.append)
    monkeypatch.setattr("sys.getswitchinterval", lambda: chosen[-1] if chosen else 0.005)
    interval = SwitchInterval()
    interval.shorten()
    interval.shorten()  # another engine
    interval.restore()
    assert chosen == [INTERVAL]
    interval.restore()
    assert chosen == [INTERVAL, 0.005]
    interval.shorten()
    chosen.append(0.1)  # by the program
    interval.restore()
    assert chosen == [INTERVAL, 0.005, INTERVAL, 0.1]


def test_as_long_as_nobody_can_tell_each_call_is_looked_at():
    profile = profile_of([(0.1, 0.1, None)] * 4)
    profile.meter((None, None))
    assert profile.measure_at == profile.calls + 1
    profile = profile_of([(0.1, 0.1, 0.1)] * 4)
    profile.meter((None, None))
    assert profile.measure_at > profile.calls + 1


def test_a_ticker_sees_whether_the_lock_can_be_had():
    meter = Meter(Ticker())

    def measured(fn, tells):
        call = Call(process(fn), (), {}, None, None, None, 1, 1, None, EngineStub(), meter=meter)
        for _ in range(30):  # three will do, where nothing else keeps the processors
            outcome = meter.measure(call)
            if tells(outcome):
                return outcome
        raise AssertionError(f"not seen in 30 calls: {outcome}")

    waits = measured(lambda: time.sleep(0.05), lambda outcome: outcome.measured.held == 0.0)
    assert waits.measured.waited <= waits.wall
    if not threads_are_parallel():
        measured(lambda: spin(0.05), lambda outcome: (outcome.measured.held or 0.0) > 0.5 * outcome.cpu)


# --- where it goes ---

COMPUTES = Known(measured=3, wall=0.1, cpu=0.1, typical_cpu=0.1, holds=1.0, moving=0.001)
SHORT = Known(measured=3, wall=1e-5, cpu=1e-5, typical_cpu=1e-5, holds=0.0)


def placed(fn, known, now="thread"):
    return place(process(fn), blocking=False, debug=False, known=known, now=now)


def changed(known, **fields):
    return Known(**{name: fields.get(name, getattr(known, name)) for name in Known.__slots__})


@pytest.mark.parametrize("known", [COMPUTES, SHORT])
@pytest.mark.parametrize("options", [{"nature": "io"}, {"nature": "cpu"}, {"environment": "thread"}, {"timeout": 1}])
def test_the_users_word_wins(known, options):
    asked = process(spin, **options)
    assert place(asked, blocking=False, debug=False, known=known) == place(asked, blocking=False, debug=False)


def test_who_computes_too_little_is_not_said_to_wait():
    reason = placed(spin, Known(measured=1, wall=1.1e-5, cpu=1.3e-5, typical_cpu=1.3e-5)).reason
    assert reason == "def that computes 0.013 ms a call, too little for another core: in a thread"
    reason = placed(spin, Known(measured=1, wall=0.01, cpu=4e-5, typical_cpu=4e-5)).reason
    assert reason == "def that mostly waits: computes 0.04 ms of 10 ms, so in a thread"


@pytest.mark.parametrize(("seconds", "text"), [(0.0000123, "0.012 ms"), (0.00949, "9.5 ms"), (0.0996, "100 ms")])
def test_times_are_written_without_powers_of_ten(seconds, text):
    assert milliseconds(seconds) == text


def test_who_computes_goes_to_another_core():
    assert placed(spin, COMPUTES).environment == "worker"
    assert place(process(spin), blocking=True, debug=False, known=COMPUTES).environment == "inline"


def test_who_releases_the_lock_stays_in_a_thread():
    assert placed(spin, changed(COMPUTES, holds=0.1)).environment == "thread"


def test_who_would_take_up_a_worker_for_waiting_stays_in_a_thread():
    much = changed(COMPUTES, cpu=0.02, waits=0.1)
    assert placed(spin, much).environment == "thread"
    assert placed(spin, much).reason.endswith("but waits 100 ms, for which it would take up one of 2 workers")
    assert placed(spin, changed(much, workers=16)).environment == "worker"  # they are there for it
    assert placed(spin, changed(much, waits=0.02)).environment == "worker"
    assert placed(spin, changed(much, waits=0.06)).environment == "thread"
    assert placed(spin, changed(much, waits=0.06), now="worker").environment == "worker"


def test_not_worth_it_says_so():
    dear = placed(spin, changed(COMPUTES, cpu=0.012, moving=0.04))
    assert dear == Placement("thread", "another core is not worth it: moves 40 ms to compute 12 ms", in_turn=True)


@pytest.mark.parametrize(
    ("known", "words"),
    [
        (
            changed(COMPUTES, cpu=0.02, moving=0.04),
            "on another core it would take 20 ms a call off this one, for 40 ms of",
        ),
        (
            changed(COMPUTES, cpu=0.02, refused={"worker": "no"}),
            "off this one, for 1 ms of sending; here its calls go",
        ),
        (
            changed(COMPUTES, cpu=0.02, waits=0.1),
            "on another core it would take 20 ms a call off this one, for 1 ms of",
        ),
        (COMPUTES, ""),
        (SHORT, ""),
    ],
)
def test_what_it_would_gain_elsewhere(known, words):
    told = gain(known, placed(spin, known))
    assert words in told
    assert bool(words) == bool(told)


def test_who_was_refused_says_which_value_and_what_it_would_gain():
    profile = profile_of([(0.02, 0.02, 0.02)], spin)
    profile.refused["worker"] = "the result (socket) cannot be sent"
    row = profile.explain(placed(spin, profile.known()))
    assert row.refused == ("worker: the result (socket) cannot be sent",)
    assert row.environment == "thread"
    assert row.reason.endswith("but cannot go to another core: the result (socket) cannot be sent")
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(FiguresTable([row]))
    for text in (str(Explanation((row,))), console.export_text()):
        assert "cannot go to worker: the result (socket) cannot be sent" in text
        assert "on another core it would take 20 ms a call off this one; here its calls go one after the other" in text


def test_what_a_call_takes_to_send_is_told():
    profile = profile_of([(0.02, 0.02, 0.02)], spin)
    profile.moved, profile.moving = 30_000, 0.0009
    row = profile.explain(placed(spin, profile.known()))
    assert (row.environment, row.moved, row.moving) == ("worker", 30_000, 0.0009)
    assert "a call and its result are 30,000 bytes; sending them takes 0.9 ms" in str(Explanation((row,)))


@pytest.mark.parametrize("options", [{}, {"reads": ["done"], "writes": ["done"]}], ids=["measured", "declared"])
def test_what_it_changes_is_told(options):
    @process(**options)
    def counts_up(ctx):
        ctx.domain.done += 1

    with Engine(Shop()) as engine:
        engine.run(counts_up)
        assert engine.explain(counts_up).rows[0].changes == ("done",)


def test_a_little_less_is_no_reason_to_leave():
    less = changed(COMPUTES, cpu=0.003, moving=0.0025)
    assert placed(spin, less).environment == "thread"
    assert placed(spin, less, now="worker").environment == "worker"


def appends(value):
    seen.append(value)


def calls_one_that_appends(value):
    appends(value)


def counts(value):
    global count  # noqa: PLW0603
    count += 1


@functools.cache
def memo():
    return {}


def uses_a_memo(value):
    memo()["seen"] = value


def matches(value):
    return PATTERN.match(value)


def closes_over_a_number():
    number = 0

    def adds(value):
        nonlocal number
        number += value

    return adds


def puts(value):
    other_module.put(value)


def bumps(value):
    bump()


def imports_what_bumps(value):
    from other_module import bump

    bump()


def imports_where_it_puts(value):
    import other_module

    other_module.put(value)


def counts_in_a_module(value):
    other_module.total += 1


def sets_in_a_module(value):
    setattr(other_module, "total", value)  # noqa: B010 - as some do


def sets_by_name(value):
    globals()["total"] = value


def counts_in_a_class(value):
    Ledger.total = Ledger.total + 1


def counts_itself(value):
    counts_itself.calls += 1


def counted(fn):
    @functools.wraps(fn)
    def wrapper(value):
        wrapper.calls += 1
        return fn(value)

    wrapper.calls = 0
    return wrapper


def appends_to_a_class(value):
    Ledger.rows.append(value)


def notes(value):
    Ledger.note(value)


def counts_by_a_method(value):
    Ledger.more(value)


def keeps_by_a_method(value):
    Ledger.open(value)


def uses_what_is_constant(value):
    box = types.SimpleNamespace()
    box.value = other_module.double(min(value, Ledger.limit)) + len(Ledger.__name__)
    box.size = Ledger.size
    box.ledger = Ledger.of(value)
    return box


@pytest.mark.parametrize(
    ("fn", "what"),
    [
        (appends, "'seen'"),
        (calls_one_that_appends, "'seen'"),
        (counts, "assigns the global 'count'"),
        (uses_a_memo, "the global 'memo' it uses is a memo (functools.cache), which would be a copy there"),
        (closes_over_a_number(), "assigns 'number'"),
        (threading.Event().wait, "method of Event"),
        (puts, "the global 'entries' it uses is a list"),
        (bumps, "assigns the global 'total'"),
        (imports_what_bumps, "assigns the global 'total'"),
        (imports_where_it_puts, "the global 'entries' it uses is a list"),
        (counts_in_a_module, "assigns other_module.total"),
        (sets_in_a_module, "assigns an attribute of other_module"),
        (sets_by_name, "assigns what globals() gives"),
        (counts_in_a_class, "assigns Ledger.total"),
        (counts_itself, "assigns counts_itself.calls"),
        (counted(spin), "assigns wrapper.calls"),
        (appends_to_a_class, "the Ledger.rows it uses is a list"),
        (notes, "the Ledger.rows it uses is a list"),
        (counts_by_a_method, "assigns cls.total"),
        (keeps_by_a_method, "assigns cls.current"),
    ],
)
def test_who_would_work_on_a_copy_stays_and_says_why(fn, what):
    assert what in cannot_travel(fn)
    assert what in placed(fn, COMPUTES).reason
    assert placed(fn, COMPUTES).environment == "thread"


def test_constants_and_functions_may_travel():
    assert cannot_travel(matches) is None
    assert cannot_travel(spin) is None
    assert cannot_travel(uses_what_is_constant) is None


def starts_a_loop():
    asyncio.run(asyncio.sleep(0))


def test_who_is_short_runs_inline_unless_it_may_wait_for_the_loop():
    assert placed(spin, SHORT).environment == "inline"
    assert placed(starts_a_loop, SHORT).environment == "thread"
    assert "asyncio" in cannot_be_inline(starts_a_loop)
    assert placed(threading.Event().wait, SHORT).environment == "thread"
    assert placed(spin, changed(SHORT, shares=True)).environment == "thread"
    assert placed(spin, changed(SHORT, stalls=1)).environment == "thread"
    assert placed(spin, changed(SHORT, measured=2)).environment == "thread"


# --- not to and fro ---

seconds = st.one_of(st.sampled_from([1e-6, 1e-3, 0.1]), st.floats(1e-7, 1.0))
calls = st.tuples(seconds, seconds, st.one_of(st.none(), st.floats(0.0, 1.0)))


@settings(max_examples=50)
@example([(0.1, 0.1, 1.0), (0.1, 1e-4, 0.0)], False, 1e-4, 300)
@example([(1e-6, 1e-6, 0.0), (0.1, 0.1, 1.0)], False, 1e-4, 300)
@given(
    st.lists(calls, min_size=1, max_size=40),
    st.booleans(),
    st.sampled_from([None, 1e-4, 1e-4, 0.05]),
    st.sampled_from([1, 40, 300]),
)
def test_no_process_changes_place_more_than_twice_in_a_thousand_calls(kinds, bimodal, moving, repeat):
    profile = Profile(process(spin))
    profile.moving = moving
    where, moves = "thread", []
    for number in range(1, 2500):
        kind = kinds[number % len(kinds)] if bimodal else kinds[number // repeat % len(kinds)]
        wall, cpu, share = kind
        held = None if share is None or where != "thread" else share * cpu
        outcome = Outcome(wall=max(wall, cpu), cpu=cpu, measured=Measured(held=held))
        profile.add(outcome)
        if number > 3 and number % 16:
            continue
        profile.measure(outcome)
        wanted = placed(spin, profile.known(), now=where).environment
        target = next_place(where, wanted, profile.calls - profile.moved_at)
        if target != where:
            where = target
            profile.moved_at = profile.calls
            moves.append(number)
    assert all(later - before >= 1000 for before, later in zip(moves, moves[2:], strict=False))


@given(st.sampled_from(["thread", "inline", "worker"]), st.integers(0, 5000))
def test_back_to_a_thread_is_always_allowed(now, since):
    assert next_place(now, "thread", since) == "thread"
    assert next_place(now, now, since) == now


# --- for real ---


def busy():
    spin(0.2)


def sleepy():
    time.sleep(0.2)


def quick(value):
    return value + 1


with_a_lock = pytest.mark.skipif(
    threads_are_parallel(), reason="without the interpreter's lock what computes stays in a thread"
)


@dataclass
class Shop:
    big: list[dict[str, int]] = field(default_factory=list)
    done: int = 0


async def called_until(holds, engine, target, *args):
    """The row of a process once that holds of it: three calls will do, where nothing else keeps the processors."""
    for _ in range(100):
        await engine.arun(target, *args)
        row = engine.explain(target).rows[0]
        if holds(row):
            return row
    return pytest.fail(str(engine.explain(target)))


@with_a_lock
def test_a_loop_in_python_moves_and_a_sleep_does_not():
    moved = []

    async def main(engine):
        for _ in range(3):
            await engine.arun(sleeping)
        await called_until(lambda row: any(place.startswith("pid ") for place in row.places), engine, computing)

    computing, sleeping = process(busy), process(sleepy)
    with Engine(observers=[lambda event: moved.append(event) if isinstance(event, ProcessMoved) else None]) as engine:
        asyncio.run(main(engine))
        rows = {row.process: row for row in engine.profiles().rows}
    assert rows["busy"].environment == "worker"
    assert rows["sleepy"].environment == "thread"
    assert [(event.process, event.before, event.after) for event in moved] == [("busy", "thread", "worker")]


def notes_down(rows):
    spin(0.02)
    rows.append(len(rows))


def reads_on(file):
    spin(0.02)
    return file.read(1)


def counts(rows):
    spin(0.02)
    return len(rows)


@with_a_lock
def test_who_changes_its_argument_in_place_is_not_sent_to_another_core():
    async def main(engine):
        rows = []
        row = await called_until(lambda row: row.refused, engine, process(notes_down), rows)
        assert "it changes its argument 'rows' (list) in place" in row.reason
        for _ in range(5):
            await engine.arun(notes_down, rows)
        assert rows == list(range(row.calls + 5))
        again = await called_until(
            lambda row: any(place.startswith("pid ") for place in row.places), engine, counts, [7]
        )
        assert again.environment == "worker"  # what it was given stays as it was

    with Engine() as engine:
        asyncio.run(main(engine))


@with_a_lock
def test_who_reads_from_an_open_file_is_not_sent_to_another_core(tmp_path):
    async def main(engine, file):
        row = await called_until(lambda row: row.refused, engine, process(reads_on), file)
        assert "TextIOWrapper" in row.reason
        assert await engine.arun(reads_on, file) == letters[row.calls]

    letters = "".join(chr(ord("a") + number % 26) for number in range(200))
    (tmp_path / "letters.txt").write_text(letters)
    with Engine() as engine, (tmp_path / "letters.txt").open() as file:
        asyncio.run(main(engine, file))


def test_short_calls_one_after_the_other_let_the_loop_have_its_turn():
    turns = []

    async def main(engine):
        async def others():
            while True:
                turns.append(1)
                await asyncio.sleep(0)

        await called_until(lambda row: row.environment == "inline", engine, target, 1)
        other = asyncio.ensure_future(others())
        await asyncio.sleep(0)
        turns.clear()
        assert await engine.arun(each(target, limit=1), range(2000)) == list(range(1, 2001))
        other.cancel()

    target = process(quick)
    with Engine() as engine:
        asyncio.run(main(engine))
    assert len(turns) > 10


def gives_a_lock(seconds):
    spin(seconds)
    return threading.Lock()


def asks_for_a_resource(ctx):
    spin(0.02)
    return ctx.resource("here")


@with_a_lock
def test_what_cannot_cross_keeps_a_process_here_and_is_named():
    target = process(gives_a_lock)
    with Engine() as engine:
        row = asyncio.run(called_until(lambda row: "the result" in row.reason, engine, target, 0.02))
    assert row.environment == "thread"
    assert not any(place.startswith("pid ") for place in row.places)  # it never ran twice


@with_a_lock
def test_a_call_that_cannot_cross_after_all_falls_back_to_a_thread():
    here = threading.Lock()

    def make():
        assert not here.locked()  # a closure over a lock: this factory cannot be sent
        return "x"

    target = process(asks_for_a_resource)
    with Engine(resources={"here": make}) as engine:
        row = asyncio.run(called_until(lambda row: "cannot be sent" in row.reason, engine, target))
    assert row.environment == "thread"
    assert row.failures == 0


def reads_all(ctx):
    spin(0.01)
    ctx.domain.done += 1
    return len(ctx.domain.big)


@with_a_lock
def test_a_domain_that_is_dear_to_send_keeps_its_process_here():
    target = process(reads_all)
    with Engine(Shop(big=[{"n": n} for n in range(200_000)])) as engine:
        row = asyncio.run(called_until(lambda row: "not worth it" in row.reason, engine, target))
    assert row.environment == "thread"


def test_one_call_that_was_dear_to_send_does_not_send_its_process_away():
    profile = Profile(process(busy))
    for moving, known in [(0.001, 0.001), (0.05, 0.002), (0.001, 0.001), (None, 0.001)]:
        profile.measure(Outcome(wall=0.03, cpu=0.03, measured=Measured(held=0.03, moving=moving)))
        assert profile.moving == known


def test_the_price_of_a_process_s_first_call_in_a_pool_is_not_its_price():
    async def main():
        environment = WorkerEnvironment(1)
        call = make_call(process(busy))
        call.meter = Meter()
        found = [(await environment.run(call)).measured for _ in range(2)]
        await environment.stop(2.0)
        assert found[0] is None
        assert found[1].moving is not None

    asyncio.run(main())


class SlowAtFirst:
    """Pickling it takes long once, as it does if a module is loaded for it or garbage collected meanwhile."""

    packed = 0

    def __reduce__(self):
        SlowAtFirst.packed += 1
        end = time.thread_time() + (0.3 if SlowAtFirst.packed == 1 else 0.0)
        while time.thread_time() < end:
            pass
        return int, (SlowAtFirst.packed,)


def test_what_seems_dear_to_send_is_packed_again():
    SlowAtFirst.packed = 0
    call = make_call(process(busy), SlowAtFirst())
    size, seconds = WorkerEnvironment(1).rehearse(call, Outcome(), 0.2, domain=False)
    assert SlowAtFirst.packed == 2
    assert size < 1000
    assert seconds < 0.1  # of CPU


def test_a_ticker_ends_when_nothing_is_watched(monkeypatch):
    monkeypatch.setattr("theus.environments.meter.IDLE_SECONDS", 0.01)
    ticker = Ticker()
    for _ in range(2):  # and begins anew
        before = ticker.watch(time.perf_counter())
        thread = ticker._thread
        assert thread is not None
        ticker.leave(time.perf_counter(), before)
        thread.join(30)
        assert not thread.is_alive()
