"""ctx.emit(..., durable=True): recorded in the commit, delivered until the handlers have it, also after a restart."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pytest

from theus import DefinitionError, Engine, NotStorable, flow, process
from theus.stores import open_store
from theus.stores.memory import MemoryStore
from theus.testing import FakeClock


@dataclass
class Shop:
    total: int = 0


@process
def order(ctx, number: int):
    ctx.domain.total += number
    ctx.emit("ordered", {"number": number}, durable=True)
    return number


@process(nature="state")
def by_message(ctx, number):
    ctx.emit("ordered", {"number": number}, durable=True)


@process
def send(ctx, number: int):
    ctx.send(by_message, number=number)


@process
async def far(ctx, number: int):
    ctx.emit("ordered", {"number": number}, durable=True)


@pytest.fixture(params=["memory", "sqlite"])
def store(request, tmp_path):
    store = MemoryStore(Shop()) if request.param == "memory" else open_store(tmp_path / "shop.db", Shop())
    yield store
    store.close()


class Handler:
    """Fails as often as it is told to; ``done`` is set when it has taken so many."""

    def __init__(self, expect: int = 1, fail: int = 0) -> None:
        self.got: list[tuple[object, str]] = []
        self.tried = threading.Semaphore(0)
        self.done = threading.Event()
        self.expect = expect
        self.fail = fail

    def __call__(self, value, key):
        self.tried.release()
        if self.fail:
            self.fail -= 1
            raise OSError("the mail server is down")
        self.got.append((value, key))
        if len(self.got) == self.expect:
            self.done.set()


def gone(store):
    """Wait until nothing is in the outbox."""
    while store.records("outbox"):
        threading.Event().wait(0.001)


@pytest.mark.parametrize("target", [order, send, far, far.bind(number=7)])
@pytest.mark.parametrize("run_id", ["r", None])
def test_it_is_delivered_once_with_an_id_if_all_goes_well(store, target, run_id):
    handler = Handler()
    with Engine(store=store) as shop:
        shop.on("ordered", handler)
        shop.run(target, run_id=run_id, **({} if target.bound else {"number": 7}))
        assert handler.done.wait(30)
        gone(store)
    ((value, key),) = handler.got
    assert value == {"number": 7}
    if run_id:
        assert key == f"r/{target.name}#0"


def test_it_is_recorded_in_the_commit_of_its_call(store):
    with Engine(store=store) as shop:
        shop.run(order, 7)
        assert len(store.records("outbox")) == 1
        with pytest.raises(NotStorable, match="ordered"):
            shop.run(
                process(lambda ctx: (setattr(ctx.domain, "total", 0), ctx.emit("ordered", object(), durable=True)))
            )
        assert shop.state.total == 7
        assert len(store.records("outbox")) == 1


@pytest.mark.parametrize("target", [far, send])
def test_it_is_recorded_though_nothing_else_is_changed(store, target):
    with Engine(store=store) as shop:
        shop.run(target, 7)
        assert len(store.records("outbox")) == 1


def test_what_failed_or_was_rolled_back_emits_nothing(store):
    @process
    def fails(ctx):
        ctx.emit("ordered", 1, durable=True)
        raise ValueError

    with Engine(store=store) as shop:
        with pytest.raises(ValueError):
            shop.run(fails)
        assert store.records("outbox") == []


def test_it_is_delivered_after_a_restart_by_an_engine_that_handles_it(store):
    with Engine(store=store) as shop:
        shop.run(order, 7, run_id="r")
        shop.run(order, 8, run_id="s")
    handler, other = Handler(expect=2), Handler()
    with Engine(store=store) as shop:
        shop.on("returned", other)
        shop.on("ordered", handler)
        assert handler.done.wait(30)
        gone(store)
    assert sorted(handler.got, key=lambda got: got[1]) == [({"number": 7}, "r/order#0"), ({"number": 8}, "s/order#0")]
    assert other.got == []


def test_it_is_tried_again_until_the_handler_returns_and_only_that_one(store):
    clock = FakeClock(autojump=True)
    first, second = Handler(), Handler(fail=3)
    with Engine(store=store, clock=clock) as shop:
        shop.on("ordered", first)
        shop.on("ordered", second)
        shop.run(order, 7)
        assert second.done.wait(30)
        gone(store)
    assert len(first.got) == len(second.got) == 1
    assert len(clock.slept) == 3


def test_an_engine_that_ends_leaves_what_was_not_taken_in_the_store(store):
    handler, clock = Handler(fail=1), FakeClock()
    shop = Engine(store=store, clock=clock)
    shop.on("ordered", handler)
    shop.run(order, 7)
    while not clock.sleepers:
        threading.Event().wait(0.001)
    shop.close(grace=10_000)  # not for those that wait for their next try
    assert handler.got == []
    with Engine(store=store) as shop:
        shop.on("ordered", handler)
        assert handler.done.wait(30)
        gone(store)


def test_an_engine_that_ends_waits_for_a_handler_that_has_begun(store):
    begun, go_on = threading.Event(), threading.Event()
    done = []

    def slow(value):
        begun.set()
        go_on.wait()
        done.append(value)

    shop = Engine(store=store)
    shop.on("ordered", slow)
    shop.run(order, 7)
    begun.wait()
    closing = threading.Thread(target=shop.close)
    closing.start()
    while not shop.outbox._closing:
        threading.Event().wait(0.001)
    go_on.set()
    closing.join()
    assert done == [{"number": 7}]
    assert store.records("outbox") == []


def test_a_handler_that_comes_late_does_not_make_it_delivered_twice(store):
    begun, go_on = threading.Event(), threading.Event()
    got = []

    def slow(value):
        begun.set()
        go_on.wait()
        got.append(value)

    with Engine(store=store) as shop:
        shop.on("ordered", slow)
        shop.run(order, 7)
        begun.wait()
        shop.on("ordered", got.append)  # it hears of the next one
        go_on.set()
        gone(store)
    assert got == [{"number": 7}]


def test_async_handlers_and_handlers_of_one_argument(store):
    done = threading.Event()
    got = []

    async def handler(value):
        got.append(value)
        done.set()

    with Engine(store=store) as shop:
        shop.on("ordered", handler)
        shop.run(order, 7)
        assert done.wait(30)
        gone(store)
    assert got == [{"number": 7}]


def test_a_step_that_is_recorded_emits_nothing_again(store):
    broken = [True]

    @process
    def last(ctx, number):
        if broken:
            raise ValueError
        return number

    handler = Handler()
    with Engine(store=store) as shop:
        shop.on("ordered", handler)
        with pytest.raises(ValueError):
            shop.run(flow(order, last), 7, run_id="r")
        broken.clear()
        assert shop.run(flow(order, last), 7, run_id="r") == 7
        assert handler.done.wait(30)
        gone(store)
    assert len(handler.got) == 1


def test_other_emits_have_ids_as_well(store):
    @process
    def see(ctx):
        ctx.emit("seen", 1)
        ctx.emit("seen", 2)

    got = []
    with Engine(store=store) as shop:
        shop.on("seen", lambda value, key: got.append((value, key)))
        shop.on("seen", got.append)
        shop.run(see, run_id="r")
    assert got == [(1, "r/see#0"), 1, (2, "r/see#1"), 2]


def test_without_a_domain_there_is_no_commit_to_record_it_in():
    with Engine() as plain, pytest.raises(DefinitionError, match="durable=True"):
        plain.run(process(lambda ctx: ctx.emit("x", 1, durable=True)))
