"""Many short calls go to a worker in one frame, and each is still a call of its own.

They came together as the items of an ``each``, or one by one in the same turn of a loop.
"""

import asyncio
import logging
import os
import signal
import sys
import threading
from collections import Counter

import batch_bodies as bodies
import pytest
from worker_tools import LIMIT, nothing_left, until, wait_until, workers

from theus import Engine, each
from theus.environments.peer import Limits, Peer
from theus.environments.pool import Pool
from theus.environments.worker import WorkerEnvironment
from theus.errors import EnvironmentBroken, NotTransferable
from theus.events import CallEnded, CallStarted
from theus.processes import Process
from theus.protocols import Calls, Outcome
from theus.testing.environments import make_call


@pytest.fixture(autouse=True)
def clean():
    with nothing_left():
        yield


@pytest.fixture
def frames(monkeypatch):
    """How many calls went together each time."""
    found = []
    send_series = Peer.send_series

    def seen(peer, series):
        found.append(series.left)
        send_series(peer, series)

    monkeypatch.setattr(Peer, "send_series", seen)
    return found


class Marks:
    """The items of a batch, and which of them have begun."""

    def __init__(self, folder):
        self.folder = folder / "marks"
        self.folder.mkdir()

    def calls(self, number, deeds):
        return [make_call(bodies.act, (n, str(self.folder), deeds.get(n, ""))) for n in range(number)]

    def begun(self):
        return {int(file.name): file.read_text() for file in self.folder.iterdir()}


@pytest.fixture
def marks(tmp_path):
    return Marks(tmp_path)


async def warm_up(environment, tmp_path, process=bodies.act):
    """Let it learn that calls of the process are short."""
    folder = tmp_path / "warm"
    folder.mkdir(exist_ok=True)
    value = (0, str(folder), "") if process is bodies.act else ""

    async def is_known():
        await environment.run(make_call(process, value))
        return environment.at_once(process) > 2

    async with asyncio.timeout(LIMIT):
        while not await is_known():
            pass


async def items(environment, calls, go_on=lambda outcome: True):
    found = {}

    def take(place, outcome):
        assert place not in found
        found[place] = outcome
        return go_on(outcome)

    made = Calls(lambda place, _: calls[place], [call.args for call in calls], {})
    await environment.run_many(made, take)
    return found


@pytest.fixture(params=["worker", "interpreter"])
def environment_class(request):
    if request.param == "worker":
        return WorkerEnvironment
    if sys.version_info < (3, 14):
        pytest.skip("sub-interpreters need Python 3.14")
    from theus.environments.interpreter import InterpreterEnvironment

    return InterpreterEnvironment


async def singles(environment, calls):
    async def one(call):
        try:
            return await environment.run(call)
        except (EnvironmentBroken, NotTransferable) as error:
            return Outcome(error=error)

    return dict(enumerate(await asyncio.gather(*map(one, calls))))


@pytest.fixture(params=[items, singles])
def outcomes(request):
    """Has calls made at once; gives what became of each."""
    return request.param


def test_a_worker_that_dies_takes_down_the_one_that_ran(marks, frames, tmp_path, outcomes):
    async def main():
        async with workers(1) as environment:
            await warm_up(environment, tmp_path)
            found = await outcomes(environment, marks.calls(40, {7: "leave", 20: "leave"}))
        for number in range(40):
            if number in (7, 20):
                assert isinstance(found[number].error, EnvironmentBroken)
                assert found[number].error.exit_code == 3
            else:
                assert (found[number].error, found[number].value) == (None, number)

    asyncio.run(main())
    assert marks.begun() == dict.fromkeys(range(40), "x")
    assert max(frames) > 1


def test_a_cancel_ends_the_one_that_runs_and_the_others_do_not_begin(marks, tmp_path):
    async def main():
        async with workers(1) as environment:
            await warm_up(environment, tmp_path)
            task = asyncio.ensure_future(items(environment, marks.calls(30, {3: "wait"})))
            await until(lambda: (marks.folder / "3").exists())
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert marks.begun() == dict.fromkeys(range(4), "x")
            found = await items(environment, marks.calls(4, {}))
            assert [found[n].value for n in range(4)] == [0, 1, 2, 3]

    asyncio.run(main())


def test_nobody_wants_the_rest(marks, tmp_path):
    async def main():
        async with workers(1) as environment:
            await warm_up(environment, tmp_path)
            calls = marks.calls(30, {5: "raise", 6: "wait"})
            found = await items(environment, calls, lambda outcome: outcome.error is None)
            assert [found[n].value for n in range(5)] == [0, 1, 2, 3, 4]
            assert str(found[5].error) == "item 5"
            assert len(found) == 6

    asyncio.run(main())
    assert set(marks.begun()) <= set(range(7))


@pytest.mark.parametrize("number", [4, 30])
def test_one_that_takes_longer_than_expected_holds_nobody_up(marks, frames, tmp_path, number, outcomes):
    async def main():
        async with workers(2) as environment:
            await asyncio.gather(
                *(environment.run(call) for call in marks.calls(2, {0: 2, 1: 2}))
            )  # so that there are two
            for mark in marks.folder.iterdir():
                mark.unlink()
            await warm_up(environment, tmp_path)
            found = await outcomes(environment, marks.calls(number, {0: number}))  # the first waits for all others
            assert [found[n].value for n in range(number)] == list(range(number))

    asyncio.run(main())
    assert marks.begun() == dict.fromkeys(range(number), "x")
    assert max(frames) > 1


def test_calls_that_came_together_start_all_workers(marks, outcomes, monkeypatch):
    monkeypatch.setattr("theus.environments.keeper.PATIENCE", LIMIT)  # none is called back from a worker
    started = []
    new_worker = Pool.new_worker

    def held_up(pool):
        worker = new_worker(pool)
        os.kill(worker.number, signal.SIGSTOP)
        started.append(worker.number)
        return worker

    monkeypatch.setattr(Pool, "new_worker", held_up)

    async def main():
        async with workers(2) as environment, asyncio.timeout(LIMIT):
            calls = marks.calls(2, {0: 2, 1: 2})  # each waits for the other
            task = asyncio.ensure_future(outcomes(environment, calls))
            await until(lambda: len(started) == 2)  # the second does not wait until the first is ready
            for pid in started:
                os.kill(pid, signal.SIGCONT)
            found = await task
            assert [found[n].value for n in range(2)] == [0, 1]

    asyncio.run(main())


def test_others_have_their_turn_before_the_rest_of_a_batch(marks, tmp_path):
    async def main():
        async with workers(1) as environment:
            await warm_up(environment, tmp_path)
            batch = asyncio.ensure_future(items(environment, marks.calls(2000, {})))
            await until(lambda: (marks.folder / "0").exists())
            await environment.run(make_call(bodies.size, b"x"))
            assert not batch.done()
            assert len(await batch) == 2000

    asyncio.run(main())


def test_what_cannot_cross_belongs_to_its_item(marks, tmp_path, outcomes):
    async def main():
        async with workers(2) as environment:
            await warm_up(environment, tmp_path)
            found = await outcomes(environment, marks.calls(20, {4: "lock", 9: threading.Lock(), 12: "raise"}))
            for number in range(20):
                kind = {4: NotTransferable, 9: NotTransferable, 12: ValueError}.get(number, type(None))
                assert type(found[number].error) is kind
            assert "the result" in found[4].error.what
            assert "argument" in found[9].error.what

    asyncio.run(main())
    assert marks.begun().keys() == {*range(20)} - {9}


def test_big_values_go_beside_small_ones(tmp_path, outcomes):
    async def main():
        async with workers(2) as environment:
            await warm_up(environment, tmp_path, bodies.size)
            values = [b"x" * (3_000_000 if n % 5 == 2 else n) for n in range(20)]
            found = await outcomes(environment, [make_call(bodies.size, value) for value in values])
            assert [found[n].value for n in range(20)] == [len(value) for value in values]

    asyncio.run(main())


def test_a_worker_that_may_take_so_many_calls_takes_no_more(frames, marks, tmp_path, outcomes):
    async def main():
        async with workers(1, limits=Limits(calls=7)) as environment:
            await warm_up(environment, tmp_path)
            found = await outcomes(environment, marks.calls(40, {}))
            assert [found[n].value for n in range(40)] == list(range(40))

    asyncio.run(main())
    assert marks.begun() == dict.fromkeys(range(40), "x")
    assert 1 < max(frames) <= 7


def test_items_of_an_each(frames):
    numbers = list(range(400))
    expected = [n / 2 for n in numbers]
    with Engine(workers=2) as engine:
        for _ in range(20):  # until it knows that they are short
            assert engine.run(each(bodies.halve, limit=8, on_error="collect"), [n for n in numbers if n % 7 != 3])
            if frames and max(frames) > 1:
                break
        assert max(frames) > 1
        found = engine.run(each(bodies.halve, limit=8, on_error="collect"), numbers)
        for number in numbers:
            if number % 7 == 3:
                assert str(found[number]) == f"odd luck with {number}"
                assert any("halve" in note and f"/{number}," in note for note in found[number].__notes__)
            else:
                assert found[number] == expected[number]
        with pytest.raises(ValueError, match="odd luck with"):
            engine.run(each(bodies.halve, limit=8), numbers)


def test_a_limit_holds_for_items_that_go_together(tmp_path):
    quick, slow = (str(tmp_path), False), (str(tmp_path), True)
    with Engine(workers=2) as engine:
        engine.run(each(bodies.user, limit=8), range(400))  # so that there are two workers
        engine.run(each(bodies.alone, limit=1), [quick] * 60)
        engine.run(each(bodies.alone, limit=1), [*[quick] * 5, slow, *[quick] * 60])


def test_each_item_has_its_events(frames):
    numbers = [n for n in range(400) if n % 7 != 3]
    with Engine(workers=2) as engine:
        for _ in range(20):
            engine.run(each(bodies.halve), numbers)
            if frames and max(frames) > 1:
                break
        frames.clear()
        events = list(engine.stream(each(bodies.halve, limit=8), numbers))
    assert max(frames) > 1
    for kind in (CallStarted, CallEnded):
        keys = Counter(event.key for event in events if isinstance(event, kind))
        assert len(keys) == len(numbers)
        assert set(keys.values()) == {1}


@pytest.mark.skipif(sys.version_info < (3, 14), reason="sub-interpreters need Python 3.14")
def test_sub_interpreters_take_batches_too(marks, frames, tmp_path):
    from theus.environments.interpreter import InterpreterEnvironment

    async def main():
        environment = InterpreterEnvironment(2)
        try:
            await warm_up(environment, tmp_path)
            calls = marks.calls(30, {5: "raise", 6: "wait"})
            found = await items(environment, calls, lambda outcome: outcome.error is None)
            assert len(found) <= 30
            assert "item 5" in {str(outcome.error) for outcome in found.values()}
            found = await items(environment, [make_call(bodies.size, b"x" * n) for n in range(30)])
            assert [(found[n].error, found[n].value) for n in range(30)] == [(None, n) for n in range(30)]
        finally:
            await environment.stop(2.0)

    asyncio.run(main())
    assert max(frames) > 1


def test_context_variables_travel_with_all(tmp_path, outcomes):
    async def main():
        async with workers(2) as environment:
            bodies.USER.set("ann")
            found = await outcomes(environment, [make_call(bodies.user, n) for n in range(30)])
            assert [found[n].value for n in range(30)] == [(n, "ann") for n in range(30)]

    asyncio.run(main())


async def hold(environment, marks, number, path):
    """Start calls of which each waits until that path exists, so that all workers have something to do."""
    tasks = [
        asyncio.ensure_future(environment.run(make_call(bodies.hold, (str(path), str(marks.folder / f"held{n}")))))
        for n in range(number)
    ]
    await until(lambda: all((marks.folder / f"held{n}").exists() for n in range(number)))
    for n in range(number):
        (marks.folder / f"held{n}").unlink()
    return tasks


def test_a_call_that_is_alone_goes_at_once(marks, tmp_path, monkeypatch):
    handed_in = []
    submit = Pool.submit

    def seen(pool, jobs):
        handed_in.append([job.left for job in jobs])
        submit(pool, jobs)

    async def main():
        async with workers(1) as environment:
            await warm_up(environment, tmp_path)
            (call,) = marks.calls(1, {})
            await until(lambda: [worker.state for worker in environment.workers()] == ["idle"])
            monkeypatch.setattr(Pool, "submit", seen)
            task = asyncio.ensure_future(environment.run(call))
            await asyncio.sleep(0)  # its first turn
            assert handed_in == [[1]]
            await task

    asyncio.run(main())


def test_calls_of_one_turn_share_a_frame(marks, frames, tmp_path):
    async def main():
        async with workers(1) as environment:
            await warm_up(environment, tmp_path)
            frames.clear()
            found = await singles(environment, marks.calls(9, {}))
            assert [found[n].value for n in range(9)] == list(range(9))
            assert sum(frames) == 9
            assert max(frames) > 1
            assert {outcome.place for outcome in found.values()} == {f"pid {environment.workers()[0].pid}"}

    asyncio.run(main())


@pytest.mark.parametrize(("made", "rests"), [(items, True), (singles, False)])
def test_only_answers_that_nobody_waits_for_are_left_for_a_moment(marks, tmp_path, monkeypatch, made, rests):
    """A caller that waits for one answer may make its next call when it has it, so none may wait for others."""
    unread = []

    async def main():
        loop = asyncio.get_running_loop()
        async with workers(1) as environment:
            await warm_up(environment, tmp_path)
            definition, _ = environment._book.process(bodies.act)
            definition.seconds = 0.001  # it looks busy for long
            before = environment.workers()[0].calls
            first_answered = tmp_path / "first answered"
            monkeypatch.setattr(
                loop, "remove_reader", lambda fd: unread.append(fd) or type(loop).remove_reader(loop, fd)
            )
            answering = asyncio.ensure_future(made(environment, marks.calls(6, {1: str(first_answered)})))
            await until(lambda: environment.workers()[0].calls > before, "the first answer")
            monkeypatch.undo()
            first_answered.touch()
            await answering

    asyncio.run(main())
    assert bool(unread) == rests


def test_processes_of_one_turn_do_not_mix(marks, frames, tmp_path):
    async def main():
        async with workers(1) as environment:
            await warm_up(environment, tmp_path)
            await warm_up(environment, tmp_path, bodies.size)
            calls = [
                call for n, one in enumerate(marks.calls(9, {})) for call in (one, make_call(bodies.size, b"x" * n))
            ]
            found = await singles(environment, calls)
            assert [found[n].value for n in range(18)] == [n // 2 for n in range(18)]

    asyncio.run(main())


def test_a_closure_that_changes_within_a_turn(tmp_path):
    async def main():
        factor = 1

        def times(number):
            return factor * number

        process = Process(times)
        async with workers(1) as environment:
            await warm_up(environment, tmp_path)
            await environment.run(make_call(process, 1))
            tasks = []
            for n in range(6):
                factor = n // 2
                tasks.append(asyncio.ensure_future(environment.run(make_call(process, 10))))
                await asyncio.sleep(0)
            assert [(await task).value for task in tasks] == [0, 0, 10, 10, 20, 20]

    asyncio.run(main())


@pytest.mark.parametrize("when", ["at once", "in the queue", "behind another", "while it runs"])
def test_one_that_is_cancelled_is_gone_and_the_others_are_not(marks, tmp_path, when):
    async def main():
        async with workers(1) as environment:
            await warm_up(environment, tmp_path)
            held = []
            if when in ("at once", "in the queue"):
                held = await hold(environment, marks, 1, tmp_path / "go on")
            deeds = {"behind another": {3: str(tmp_path / "go on")}, "while it runs": {4: "wait"}}.get(when, {})
            tasks = [asyncio.ensure_future(environment.run(call)) for call in marks.calls(9, deeds)]
            if when == "at once":
                await asyncio.sleep(0)  # they have been made, and the turn is not over
            elif when == "in the queue":
                for _ in range(5):
                    await asyncio.sleep(0)
            else:
                await until(lambda: (marks.folder / ("3" if when == "behind another" else "4")).exists())
            tasks[4].cancel()
            with pytest.raises(asyncio.CancelledError):
                await tasks[4]  # the others may still wait
            (tmp_path / "go on").touch()
            for n in {*range(9)} - {4}:
                assert (await tasks[n]).value == n
            for task in held:
                await task
            expected = set(range(9)) - ({4} if when != "while it runs" else set())
            assert marks.begun() == dict.fromkeys(expected, "x")

    asyncio.run(main())


@pytest.mark.parametrize("the_next", ["goes on", "is stopped too"])
def test_a_stop_that_comes_one_call_late(environment_class, tmp_path, monkeypatch, the_next):
    """It is meant for a call that has ended over there, and finds the next one running. That one may go on."""
    monkeypatch.setattr("theus.environments.pool.POLITE", LIMIT)  # what does not end politely does not end
    monkeypatch.setattr("theus.environments.keeper.PATIENCE", LIMIT)  # nothing is called back
    monkeypatch.setattr("theus.environments.pool.PATIENCE", LIMIT)

    def begin(environment, number):
        return asyncio.ensure_future(environment.run(make_call(bodies.stay, (str(tmp_path), number))))

    async def main():
        environment = environment_class(1)
        pool = environment._pool
        try:
            for number in {*range(20)} - {1, 2}:
                (tmp_path / f"{number} may go").touch()
            while environment.at_once(bodies.stay) < 40:  # so short that a worker holds several
                await begin(environment, 0)
            tasks = [begin(environment, number) for number in range(1, 20)]
            (worker,) = pool.workers
            await until(lambda: worker.held > 2 and not worker.unsent and (tmp_path / "1 began").exists())
            with pool.lock:  # so that nobody here hears that the first one has ended
                (tmp_path / "1 may go").touch()
                wait_until((tmp_path / "2 began").exists)
                line, count = worker.calls, 1 if the_next == "goes on" else 2
                ended = pool._abandon([pool._part(line[n], line[n].place) for n in range(count)])
            if the_next == "goes on":
                await until(lambda: worker.held == 1)  # what had not begun came back: the worker has heard of it
                (tmp_path / "2 may go").touch()
                assert (await tasks[1]).value == 2
            async with asyncio.timeout(LIMIT):
                await asyncio.gather(*ended)
            assert (tmp_path / "2 ended").exists()
            assert [(await task).value for task in tasks[2:]] == [*range(3, 20)]
            assert all((tmp_path / f"{number} began").read_text() == "x" for number in range(1, 20))
            for task in tasks[:count]:
                task.cancel()
            await asyncio.gather(*tasks[:2], return_exceptions=True)
        finally:
            await environment.stop(2.0)

    asyncio.run(main())


def test_what_waits_for_its_turn_is_not_overtaken(marks, tmp_path):
    async def main():
        async with workers(1) as environment:
            await warm_up(environment, tmp_path)
            ended = []

            async def one(number, call):
                await environment.run(call)
                ended.append(number)

            held = await hold(environment, marks, 1, tmp_path / "go on")
            calls = marks.calls(300, {})
            first = [asyncio.ensure_future(one(n, call)) for n, call in enumerate(calls)]
            for _ in range(3):
                await asyncio.sleep(0)
            last = asyncio.ensure_future(one(300, make_call(bodies.size, b"x")))
            await asyncio.sleep(0)
            (tmp_path / "go on").touch()
            await asyncio.gather(*held, *first, last)
            assert ended == list(range(301))

    asyncio.run(main())


def test_a_log_record_is_handled_in_the_context_of_its_call(tmp_path):
    seen = []

    class Handler(logging.Handler):
        def emit(self, record):
            seen.append((record.getMessage(), bodies.USER.get()))

    async def one(environment, name):
        bodies.USER.set(name)
        await environment.run(make_call(bodies.say, name))

    async def main():
        handler = Handler()
        logging.getLogger("batch_bodies").addHandler(handler)
        try:
            async with workers(1) as environment:
                await one(environment, "first")
                seen.clear()
                names = [f"user {n}" for n in range(12)]
                await asyncio.gather(*(one(environment, name) for name in names))
                await until(lambda: len(seen) == 12)
                assert sorted(seen) == sorted((name, name) for name in names)
        finally:
            logging.getLogger("batch_bodies").removeHandler(handler)

    asyncio.run(main())
