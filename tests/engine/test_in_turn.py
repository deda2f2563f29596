"""Calls that compute and hold the interpreter's lock go one after the other in threads; nobody waits for ever for a turn."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from theus import Engine, each, parallel, process
from theus.clock import SystemClock
from theus.environments import in_turn
from theus.environments.in_turn import InTurnEnvironment
from theus.environments.thread import ThreadEnvironment
from theus.placement import Known, place, threads_are_parallel
from theus.testing.environments import make_call

ENOUGH = 60  #: seconds, after which a wait that should have ended is given up
with_a_lock = pytest.mark.skipif(
    threads_are_parallel(), reason="without the interpreter's lock threads compute side by side"
)


class Crowd:
    """Counts who is inside at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.inside = self.most = 0

    def __enter__(self) -> None:
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self.inside -= 1


def spin(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(50))


@pytest.fixture
def line():
    threads = ThreadEnvironment(SystemClock())
    yield InTurnEnvironment(threads)
    asyncio.run(threads.stop(1.0))


async def results(line, *bodies):
    outcomes = await asyncio.gather(*[line.run(make_call(process(body))) for body in bodies])
    return [outcome.value for outcome in outcomes]


# --- the line ---


def test_one_after_the_other_in_the_order_in_which_they_came(line):
    crowd, order = Crowd(), []

    def body(number):
        with crowd:
            time.sleep(0)
            order.append(number)

    asyncio.run(results(line, *[lambda number=number: body(number) for number in range(50)]))
    assert crowd.most == 1
    assert order == list(range(50))
    asyncio.run(results(line, lambda: body(50)))  # the line was empty, and another loop runs
    assert order[-1] == 50


def test_who_waits_for_one_behind_it_gets_it_and_the_line_goes_on_without_it(line, monkeypatch):
    monkeypatch.setattr(in_turn, "PATIENCE", 0.01)
    release, crowd = threading.Event(), Crowd()

    def waits():
        return release.wait(ENOUGH)

    def releases():
        monkeypatch.setattr(line, "_patience", ENOUGH)
        release.set()

    def computes():
        with crowd:
            time.sleep(0)

    values = asyncio.run(results(line, waits, waits, waits, releases, *[computes] * 20))
    assert values[:3] == [True] * 3
    assert crowd.most == 1


def test_patience_grows_with_each_call_that_takes_long(line, monkeypatch):
    monkeypatch.setattr(in_turn, "PATIENCE", 0.01)
    release, seen = threading.Event(), []

    def waits():
        seen.append(line._patience)
        if len(seen) == 4:
            release.set()
        return release.wait(ENOUGH)

    assert asyncio.run(results(line, *[waits] * 4)) == [True] * 4
    assert seen == [0.01, 0.02, 0.04, 0.08]


def test_a_call_from_inside_a_call_does_not_stand_in_line(monkeypatch):
    monkeypatch.setattr(in_turn, "PATIENCE", 10 * ENOUGH)
    release = threading.Event()

    def holds():
        return release.wait(ENOUGH)

    def inner():
        release.set()

    @process
    async def outer(ctx):
        await engine.arun(inner)

    async def main():
        for fn in (holds, inner):
            profile, kept = engine.profile(process(fn)), process(fn)
            engine.settle(profile, kept, False, place(kept, blocking=False, debug=False, known=HINDERED))
            assert profile.homes[False][1] is engine._in_turn
        held = asyncio.ensure_future(engine.arun(holds))
        while not engine._in_turn._turn:
            await asyncio.sleep(0)
        await engine.arun(outer)
        assert await held

    with Engine() as engine:
        asyncio.run(main())


def test_a_cancelled_call_in_line_never_begins_and_the_line_goes_on(line):
    started, release, ran = threading.Event(), threading.Event(), []

    def holds():
        started.set()
        release.wait(ENOUGH)

    async def main():
        first = asyncio.ensure_future(line.run(make_call(process(holds))))
        await asyncio.to_thread(started.wait, ENOUGH)
        second = asyncio.ensure_future(line.run(make_call(process(lambda: ran.append(2)))))
        third = asyncio.ensure_future(line.run(make_call(process(lambda: ran.append(3)))))
        await asyncio.sleep(0)
        second.cancel()
        release.set()
        await asyncio.gather(first, third)
        with pytest.raises(asyncio.CancelledError):
            await second

    asyncio.run(main())
    assert ran == [3]


def test_where_no_thread_can_be_had_the_caller_is_told_each_time(line):
    async def main():
        await line._threads.stop(1.0)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="stopped"):
                await line.run(make_call(process(spin)))

    asyncio.run(main())


# --- who goes there ---

HINDERED = Known(measured=1, wall=0.02, cpu=0.02, typical_cpu=0.02, holds=1.0, refused={"worker": "no"})


def changed(**fields):
    return Known(**{name: fields.get(name, getattr(HINDERED, name)) for name in Known.__slots__})


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (HINDERED, True),
        (changed(refused={}, moving=0.04), True),  # not worth it
        (changed(refused={}), True),  # what it takes is not known yet
        (changed(holds=None), True),  # so that it can be told
        (changed(waits=0.001), True),
        (changed(waits=0.01), False),  # others may compute meanwhile
        (changed(holds=0.1), False),
        (changed(cpu=0.0001, typical_cpu=0.0001, holds=None), False),
        (changed(parallel_threads=True), False),
        (Known(), False),
    ],
)
def test_who_runs_in_turn(known, expected):
    chosen = place(process(spin), blocking=False, debug=False, known=known)
    assert (chosen.environment, chosen.in_turn) == ("thread", expected)


@with_a_lock
def test_what_computes_and_may_not_travel_does_not_crowd():
    crowd, kept = Crowd(), []

    def computes(number):
        with crowd:
            spin(0.01)
        kept.append(number)  # so it may not travel

    async def main(engine):
        for _ in range(100):
            crowd.most = 0
            await engine.arun(each(computes), range(6))
            if crowd.most == 1:
                return
        pytest.fail(str(engine.explain(computes)))

    with Engine() as engine:
        asyncio.run(main(engine))
        assert engine.profile(process(computes)).homes[False][0].in_turn
    assert sorted(kept) == sorted([*range(6)] * (len(kept) // 6))


# --- the first call of all ---


def test_the_others_wait_for_the_first_call_as_long_as_it_computes(monkeypatch):
    monkeypatch.setattr("theus.moves.LOOK", ENOUGH)  # on a busy machine it may seem to wait
    crowd, seen = Crowd(), []

    def first(number):
        with crowd:
            if number == 0:
                spin(0.1)
                seen.append(crowd.most)
        return number

    with Engine() as engine:
        assert engine.run(each(first), range(8)) == [*range(8)]
    assert seen == [1]


def test_nobody_waits_for_a_first_call_that_waits():
    everybody = threading.Barrier(5)

    def meets(number):
        everybody.wait(ENOUGH)
        return number

    with Engine() as engine:
        assert engine.run(each(meets), range(5)) == [*range(5)]


def test_a_first_call_that_calls_itself_does_not_wait_for_itself(monkeypatch):
    monkeypatch.setattr("theus.moves.LOOK", 10 * ENOUGH)

    def again(number):
        return number if number == 0 else engine.run(each(again), [number - 1])[0]

    with Engine() as engine:
        assert engine.run(each(again), [2]) == [0]


@pytest.mark.parametrize("how", ["raises", "is cancelled"])
def test_nobody_waits_for_a_first_call_that_is_over(how, monkeypatch):
    monkeypatch.setattr("theus.moves.LOOK", 2 * ENOUGH)  # it is not seen to wait
    started, release = threading.Event(), threading.Event()

    def first(number):
        if number == 0:
            started.set()
            release.wait(ENOUGH)
            raise ValueError(number)
        return number

    async def main(engine):
        one = asyncio.ensure_future(engine.arun(first, 0))
        await asyncio.to_thread(started.wait, ENOUGH)
        others = asyncio.ensure_future(engine.arun(each(first), [1, 2]))
        elsewhere = asyncio.ensure_future(asyncio.to_thread(engine.run, each(first), [3, 4]))
        await asyncio.sleep(0)
        if how == "raises":
            release.set()
        else:
            one.cancel()
        assert await others == [1, 2]
        assert await elsewhere == [3, 4]
        with pytest.raises(ValueError if how == "raises" else asyncio.CancelledError):
            await one

    with Engine() as engine:
        asyncio.run(main(engine))
        release.set()


def test_a_first_call_that_computes_for_long_is_followed_by_the_others_in_turn(monkeypatch):
    monkeypatch.setattr("theus.moves.LOOK", 0.25)  # long, so that it computes for some of it on a busy machine, too
    monkeypatch.setattr("theus.moves.PATIENCE", 0.3)
    done, homes = threading.Event(), []

    def first(number):
        if number == 0:
            while not done.is_set():
                sum(range(50))
        else:
            homes.append(engine.profile(process(first)).homes[False][0])
            done.set()
        return number

    with Engine() as engine:
        assert engine.run(parallel(*[process(first).bind(number=number) for number in range(3)])) == (0, 1, 2)
    assert homes[0].in_turn
    assert homes[0].reason == "def that has computed for 0.3 s, as it seems: in a thread"
