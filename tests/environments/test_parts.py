"""A domain that is sent in parts, when a body touches them: nobody can tell the difference, but for what it costs."""

import asyncio
import os
import random
import sys
import threading
from typing import Any

import msgspec
import numpy as np
import part_bodies as bodies
import pytest
from part_bodies import Store
from pydantic import BaseModel
from worker_tools import is_gone, until, wait_until

from theus import Engine, parallel, plain, process
from theus.environments.inline import InlineEnvironment
from theus.environments.interpreter import InterpreterEnvironment
from theus.environments.near_parts import NearParts, is_small
from theus.environments.worker import WorkerEnvironment
from theus.errors import CallTimeout, NotTransferable
from theus.processes import Process
from theus.protocols import Commit
from theus.state.delta import MOST
from theus.state.head import Head
from theus.testing.environments import EngineStub, make_call

KINDS = [WorkerEnvironment]
if sys.version_info >= (3, 14):
    KINDS.append(InterpreterEnvironment)


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def run(request):
    """Runs an async function with an environment of one worker."""

    def runner(body, kind=request.param):
        async def main():
            environment = kind(1)
            try:
                await body(environment)
            finally:
                await environment.stop(2.0)

        asyncio.run(main())

    return runner


async def result(environment, target, *args, snapshot, **options):
    outcome = await environment.run(make_call(target, *args, snapshot=snapshot, **options))
    if outcome.error is not None:
        raise outcome.error
    return outcome.value


def in_order(reads):
    return sorted((path, sorted(keys, key=repr), shape, deep) for path, keys, shape, deep in reads)


def test_reads_writes_and_results_are_those_of_a_call_inline(run):
    async def main(environment):
        inline = InlineEnvironment()
        for function in [*bodies.ALL, *bodies.ALL]:  # first asked for, then sent ahead
            target, head = Process(function), Head(Store())
            here = await inline.run(make_call(target, snapshot=head.snapshot))
            for _ in range(2):
                there = await environment.run(make_call(target, snapshot=head.snapshot))
                assert (there.error, there.value, there.base) == (None, here.value, here.base), function
                assert in_order(there.reads) == in_order(here.reads), function
                assert plain(list(there.ops)) == plain(list(here.ops)), function

    run(main)


class Counted:
    """Counts how often it is packed."""

    packed = 0

    def __reduce__(self):
        Counted.packed += 1
        return complex, (1,)


class Unpicklable:
    def __reduce__(self):
        raise TypeError("must not cross")


def test_what_is_not_touched_does_not_cross(run):
    async def main(environment):
        snapshot = Head(Store(thing=Unpicklable())).snapshot
        assert await result(environment, Process(bodies.one_key), snapshot=snapshot) == (7, None)
        with pytest.raises(NotTransferable, match=r"the domain\.thing: a .*Unpicklable"):
            await result(environment, Process(bodies.thing), snapshot=snapshot)
        assert await result(environment, Process(bodies.one_key), snapshot=snapshot) == (7, None)

    run(main)


def test_what_did_not_change_is_not_sent_again(run):
    async def main(environment):
        Counted.packed = 0
        head = Head(Store(thing=Counted()))
        target = Process(bodies.thing)
        for hits in range(4):
            assert await result(environment, target, snapshot=head.snapshot) == "complex"
            head.commit(Commit(head.version, (), [("set", ("hits",), hits), ("set", ("stock", "key 1"), hits)], "test"))
        assert Counted.packed == 1

    run(main)


class Model(BaseModel):
    stock: dict[str, Any] = {}


class Frozen(msgspec.Struct, frozen=True):
    stock: dict[str, Any]


def things():
    return {f"key {n}": Counted() for n in range(300)}


MODELS = [lambda: Model(stock=things()), lambda: Frozen(stock=things())]


@pytest.mark.parametrize(
    ("domain", "path"),
    [
        (lambda: Store(stock=things()), ("stock",)),
        (lambda: Store(extra={"a": [things()]}), ("extra", "a", 0)),
        (lambda: {"stock": things()}, ("stock",)),
        (things, ()),
        *((model, ("stock",)) for model in MODELS),
    ],
    ids=["a field", "deep in a field", "of a dict", "a big dict", "of pydantic", "of msgspec"],
)
@pytest.mark.parametrize("contract", [{}, {"reads": ["*"]}, {"reads": ["stock", "extra"]}], ids=["no", "all", "fields"])
def test_of_what_changed_only_the_change_is_sent(run, domain, path, contract):
    async def main(environment):
        Counted.packed = 0
        head, target = Head(domain()), Process(bodies.at, **contract)
        if path == () and contract.get("reads", ["*"]) != ["*"]:
            return  # it has no such field
        assert await result(environment, target, (*path, "key 1"), snapshot=head.snapshot) == 1
        assert Counted.packed == 300
        for number in range(3):
            ops = [("set", (*path, f"key {number}"), number), ("del", (*path, f"key {100 + number}"))]
            head.commit(Commit(head.version, (), ops, "test"))
            assert await result(environment, target, (*path, f"key {number}"), snapshot=head.snapshot) == number
        assert Counted.packed == 300

    run(main, *[WorkerEnvironment] * (domain in MODELS))  # they do not load in a sub-interpreter


def test_what_is_kept_of_the_changes_of_a_field_is_bounded():
    head = Head({"stock": bodies.many()})
    parts = NearParts(lambda value: value)
    first = parts.split(head.snapshot).numbers["stock"]
    assert parts.pack(head.snapshot.root, "stock", first, 0)[0] == 0  # some worker has it: now changes are kept
    numbers = [first]
    for turn in range(MOST + 5):
        head.commit(Commit(head.version, (), [("set", ("stock", "key 1"), -turn)], "test"))
        numbers.append(parts.split(head.snapshot).numbers["stock"])
    root, newest = head.snapshot.root, numbers[-1]
    assert parts.pack(root, "stock", newest, numbers[-2]) == (numbers[-2], [("set", ("key 1",), -turn)])
    assert len(parts.pack(root, "stock", newest, numbers[-1 - MOST])[1]) == MOST
    assert parts.pack(root, "stock", newest, numbers[-2 - MOST])[0] == 0  # too far behind: the whole
    blob = "x" * (2 << 20)
    head.commit(Commit(head.version, (), [("set", ("stock", "key 1"), blob)], "test"))
    heavy = parts.split(head.snapshot).numbers["stock"]
    assert parts.pack(head.snapshot.root, "stock", heavy, newest)[0] == 0  # nor is what is heavy kept


def random_change(rng):
    """An operation on a Store."""
    key, n = f"key {rng.randrange(520)}", rng.randrange(1000)
    return rng.choice(
        [
            [("set", ("stock", key), n)],
            [("set", ("stock", key), n), ("del", ("stock", key)), ("set", ("stock", key), n)],
            [("set", ("stock", key), n), ("del", ("stock", key))],
            [("append", ("log",), [n, n])],
            [("set", ("log", n % 500), n)],
            [("include", ("seen",), {n})],
            [("set", ("text",), str(n) * 300)],
            [("set", ("thing",), {"a": list(range(n))})],
            [("set", ("prices",), bodies.many(n))],
        ]
    )


@pytest.mark.parametrize("seed", range(4))
def test_workers_follow_whatever_happens_to_the_domain(run, seed):
    def shown(store):
        return {**vars(plain(store)), "stock": list(store.stock.items())}

    async def main(environment):
        environment.capacity = 2
        rng, head = random.Random(seed), Head(Store())
        targets = [
            Process(bodies.shown),
            Process(bodies.shown_stock, reads=["stock"]),
            Process(bodies.shown_log, reads=["log", "text"]),
        ]
        snapshots = [head.snapshot]
        for _ in range(30):
            head.commit(Commit(head.version, (), random_change(rng), "test"))
            snapshots = [*snapshots[-3:], head.snapshot]
            calls = [(rng.choice(targets), rng.choice(snapshots)) for _ in range(rng.randrange(4))]
            found = await asyncio.gather(*(result(environment, target, snapshot=at) for target, at in calls))
            for value, (target, at) in zip(found, calls, strict=True):
                expected = shown(at.view())
                assert value == {name: expected[name] for name in value}, target.name

    run(main)


def test_what_is_not_touched_for_long_is_kept_up_to_date(run):
    async def main(environment):
        Counted.packed = 0
        head, target = Head({"stock": things(), "turn": 0}), Process(bodies.stock_now_and_then, reads=["stock", "turn"])
        for turn in range(101):
            head.commit(
                Commit(head.version, (), [("set", ("stock", f"key {turn}"), turn), ("set", ("turn",), turn)], "test")
            )
            assert await result(environment, target, snapshot=head.snapshot) == (turn if turn % 100 == 0 else None)
        assert Counted.packed == 300 - 1

    run(main)


def test_what_the_last_call_touched_is_sent_ahead(run):
    async def main(environment):
        head = Head(Store())
        target = Process(bodies.is_here)
        for number in range(3):
            head.commit(Commit(head.version, (), [("set", ("stock", "key 1"), number)], "test"))
            assert await result(environment, target, snapshot=head.snapshot) == (number > 0, number)

    run(main)


def test_parts_are_of_the_snapshot_that_the_call_began_with(run, tmp_path):
    file = tmp_path / "go on"

    async def main(environment):
        head, host = Head(Store()), EngineStub()
        target = Process(bodies.wait_between)
        task = asyncio.ensure_future(
            result(environment, target, str(file), snapshot=head.snapshot, host=host)
        )  # fmt: skip
        await until(lambda: host.reports)
        head.commit(Commit(head.version, (), [("set", ("prices", "key 1"), 5), ("set", ("stock", "key 1"), 5)], "test"))
        file.touch()
        assert await task == (1, 1001)
        assert await result(environment, target, str(file), snapshot=head.snapshot, host=host) == (5, 5)

    run(main)


def test_many_in_flight_that_touch_different_parts(run):
    async def main(environment):
        snapshots = [Head({f"field {n}": bodies.many(n + 100 * turn) for n in range(20)}).snapshot for turn in range(2)]
        target = Process(bodies.key_of_field)
        for turn in (0, 1, 0):
            calls = [result(environment, target, n, snapshot=snapshots[turn]) for n in range(20)]
            mixed = [result(environment, target, n, snapshot=snapshots[1 - turn]) for n in range(20)]
            found = await asyncio.gather(*(each for pair in zip(calls, mixed, strict=True) for each in pair))
            assert found[0::2] == [5 + n + 100 * turn for n in range(20)]
            assert found[1::2] == [5 + n + 100 * (1 - turn) for n in range(20)]

    run(main)


def test_coroutines_and_threads_of_a_body_touch_them_too(run):
    async def main(environment):
        snapshot = Head(Store()).snapshot
        assert await result(environment, Process(bodies.stock_of_async), "key 9", snapshot=snapshot) == 9
        assert await result(environment, Process(bodies.in_threads), snapshot=snapshot) == [500, 500, 500]

    run(main)


def test_a_call_is_cancelled_while_it_fetches(run):
    async def main(environment):
        snapshot, host = Head({f"field {n}": bodies.many(n) for n in range(300)}).snapshot, EngineStub()
        task = asyncio.ensure_future(
            environment.run(make_call(Process(bodies.touch_all), snapshot=snapshot, host=host))
        )
        await until(lambda: host.reports)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await result(environment, Process(bodies.key_of_field), 3, snapshot=snapshot) == 8

    run(main)


def test_a_timeout_ends_a_call_whose_part_takes_too_long():
    pids = []

    class Slow:
        def __reduce__(self):
            wait_until(lambda: is_gone(pids[0]), "the end of the worker")
            return complex, (1,)

    async def main():
        environment = WorkerEnvironment(1)
        pids.append(await result(environment, Process(lambda ctx: os.getpid()), snapshot=None))
        with pytest.raises(CallTimeout):
            await environment.run(
                make_call(Process(bodies.thing, timeout=0.1), snapshot=Head(Store(thing=Slow())).snapshot)
            )
        assert await result(environment, Process(bodies.one_key), snapshot=Head(Store()).snapshot) == (7, None)
        await environment.stop(2.0)

    asyncio.run(main())


def test_an_array_crosses_as_memory_also_behind_a_call_that_has_it():
    """The part that is asked for lies in a block that was lent with a call which the worker has not looked at yet."""

    async def main():
        environment = WorkerEnvironment(1)
        array = np.full(1 << 18, 2.0)
        array.setflags(write=False)
        snapshot = Head(Store(thing=array)).snapshot
        target = Process(bodies.total)
        found = await asyncio.gather(
            *(result(environment, target, array, snapshot=snapshot) for _ in range(20)),
            *(result(environment, target, snapshot=snapshot) for _ in range(20)),
        )
        assert found == [4.0 * (1 << 18)] * 20 + [2.0 * (1 << 18)] * 20
        await environment.stop(2.0)

    asyncio.run(main())


@pytest.mark.parametrize("kind", [kind.name for kind in KINDS])
def test_conflicts_are_found_as_everywhere(kind):
    target = process(bodies.count_up, environment=kind)
    with Engine(Store(), workers=2) as engine:
        engine.run(parallel(*[target] * 20))
        assert engine.state.stock["key 0"] == 20


def test_an_error_of_the_body_and_the_next_call(run):
    async def main(environment):
        snapshot = Head(Store()).snapshot
        for _ in range(2):
            with pytest.raises(KeyError, match="3"):
                await result(environment, Process(bodies.fails), snapshot=snapshot)
        assert await result(environment, Process(bodies.stock_of), "key 2", snapshot=snapshot) == 2

    run(main)


def test_small_values_go_with_the_domain():
    assert all(map(is_small, [1, "a", None, [1, 2], {"a": [1, (2, 3)]}, set(), Store(0, "", {}, {}, [], set(), "")]))
    assert not any(map(is_small, [bodies.many(), "x" * 1000, [[1] * 40], threading.Lock(), Store(), Counted()]))
