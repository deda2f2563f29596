"""Nothing survives its scope: local dies with the attempt, pipe with the next step, a draft with the call."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import weakref
from dataclasses import dataclass, field

import pytest

from theus import CallTimeout, Engine, ScopeError, each, flow, process
from theus.testing import FakeClock

SOAK = bool(os.environ.get("THEUS_SOAK"))


class Large(list):
    """A list that can be referred to weakly."""


@dataclass
class Shop:
    items: list[int] = field(default_factory=list)
    by_name: dict[str, int] = field(default_factory=dict)


@pytest.fixture
def no_gc():
    """What goes away must go by reference counts alone."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def make(kept: list, how: str, started: threading.Event):
    """A process that keeps a large list in local and ends in the way asked for."""
    if how in ("cancel", "timeout"):

        @process(timeout=5 if how == "timeout" else None)
        async def work(ctx):
            ctx.local.temp_large_list = Large(range(1000))
            kept.append(weakref.ref(ctx.local.temp_large_list))
            started.set()
            await asyncio.Event().wait()

        return work

    @process
    def work(ctx):
        ctx.local.temp_large_list = Large(range(1000))
        kept.append(weakref.ref(ctx.local.temp_large_list))
        if how == "error":
            raise ValueError("on purpose")
        return len(ctx.local.temp_large_list)

    return work


@pytest.mark.parametrize("how", ["return", "error", "cancel", "timeout"])
def test_local_is_gone_after_its_process(how, no_gc):
    kept, started, clock = [], threading.Event(), FakeClock()
    work = make(kept, how, started)
    with Engine(clock=clock) as engine:
        if how == "return":
            assert engine.run(work) == 1000
        elif how == "error":
            with pytest.raises(ValueError) as caught:
                engine.run(work)
            assert caught.value.__traceback__ is not None  # held, and still:
        else:
            run = engine.submit(work)
            assert started.wait(10)
            run.cancel() if how == "cancel" else clock.advance(5)
            with pytest.raises((asyncio.CancelledError, CallTimeout)):
                run.result(10)
        assert kept[0]() is None


@pytest.mark.parametrize("place", ["inline", "thread", "loop"])
@pytest.mark.parametrize("fails", [False, True])
def test_what_was_entered_closes_in_reverse_order(place, fails):
    closed = []

    class Manager:
        def __init__(self, name):
            self.name = name

        def __enter__(self):
            return self.name

        def __exit__(self, kind, error, trace):
            closed.append((self.name, kind))

        async def __aenter__(self):
            return self.name

        async def __aexit__(self, kind, error, trace):
            closed.append((self.name, kind))

    if place == "loop":

        @process
        async def work(ctx):
            assert ctx.local.enter(Manager("first")) == "first"
            assert await ctx.local.aenter(Manager("second")) == "second"
            ctx.local.enter(Manager("third"))
            if fails:
                raise KeyError

    else:

        @process(environment=place)
        def work(ctx):
            for name in ("first", "second", "third"):
                assert ctx.local.enter(Manager(name)) == name
            if fails:
                raise KeyError

    with Engine() as engine:
        if fails:
            with pytest.raises(KeyError):
                engine.run(work)
        else:
            engine.run(work)
    assert closed == [(name, KeyError if fails else None) for name in ("third", "second", "first")]


def test_an_error_while_closing_fails_the_call_and_commits_nothing():
    class Broken:
        def __enter__(self):
            return self

        def __exit__(self, *exc_info):
            raise OSError("cannot close")

    @process
    def work(ctx):
        ctx.domain.items.append(1)
        ctx.local.enter(Broken())

    with Engine(Shop()) as engine:
        with pytest.raises(OSError, match="cannot close"):
            engine.run(work)
        assert engine.state.items == []


def test_aenter_in_a_def_says_what_to_do():
    @process
    def work(ctx):
        ctx.local.aenter(None).send(None)

    with Engine() as engine, pytest.raises(TypeError, match=r"ctx\.local\.enter"):
        engine.run(work)


class TestAfterTheEnd:
    """Whoever keeps a piece of a call gets an error that names scope and process."""

    @pytest.fixture(params=[None, "state"])
    def kept(self, request):
        pieces = {}

        @process(nature=request.param)
        def leaky(ctx, value):
            ctx.local.x = 1
            ctx.domain.items.append(5)
            pieces.update(
                ctx=ctx, local=ctx.local, domain=ctx.domain, items=ctx.domain.items, iterator=iter(ctx.domain.items)
            )
            pieces["names"] = ctx.domain.by_name.keys()

        with Engine(Shop()) as engine:
            engine.run(leaky, 1)
            yield pieces

    @pytest.mark.parametrize(
        ("use", "scope"),
        [
            (lambda kept: kept["local"].x, "local"),
            (lambda kept: setattr(kept["local"], "y", 1), "local"),
            (lambda kept: kept["local"].enter(None), "local"),
            (lambda kept: kept["ctx"].local.x, "local"),
            (lambda kept: kept["ctx"].pipe, "pipe"),
            (lambda kept: kept["ctx"].config, "config"),
            (lambda kept: kept["ctx"].report(1), "report"),
            (lambda kept: kept["ctx"].domain.items, "domain"),
            (lambda kept: kept["domain"].items, "domain"),
            (lambda kept: setattr(kept["domain"], "items", []), "domain"),
            (lambda kept: kept["items"].append(1), "domain"),
            (lambda kept: len(kept["items"]), "domain"),
            (lambda kept: next(kept["iterator"]), "domain"),
            (lambda kept: list(kept["names"]), "domain"),
        ],
    )
    def test_it_says_what_ended(self, kept, use, scope):
        with pytest.raises(ScopeError) as caught:
            use(kept)
        assert caught.value.scope == scope
        assert caught.value.process == "leaky"
        assert "leaky" in str(caught.value)


def test_context_fields_cannot_be_set():
    @process
    def work(ctx):
        with pytest.raises(AttributeError, match="write its fields"):
            ctx.domain = Shop()
        with pytest.raises(AttributeError, match="given by the engine"):
            ctx.pipe = 1
        with pytest.raises(AttributeError, match=r"ctx\.local"):
            ctx.scratch = 1

    with Engine(Shop()) as engine:
        engine.run(work)


@pytest.mark.parametrize("kind", ["def", "async def", "worker"])
def test_what_the_context_does_not_have(kind):
    @process(environment="worker" if kind == "worker" else None)
    def work(ctx):
        ctx.domian  # noqa: B018

    @process
    async def work_async(ctx):
        ctx.domian  # noqa: B018

    with Engine(Shop(), workers=1) as engine, pytest.raises(AttributeError, match="domian") as caught:
        engine.run(work_async if kind == "async def" else work)
    assert any("ctx has attempt," in note and "domain" in note for note in caught.value.__notes__)


def test_what_becomes_of_the_object_that_was_given_does_not_change_config():
    limits = {"most": 3, "names": ["tea"]}
    with Engine(config=limits) as engine:
        limits["most"] = 4
        limits["names"].append("milk")
        assert engine.run(lambda ctx: (ctx.config["most"], list(ctx.config["names"]))) == (3, ["tea"])


def test_config_never_changes():
    @process
    def work(ctx):
        assert ctx.config["limits"]["most"] == 3
        with pytest.raises(ScopeError, match="config"):
            ctx.config["limits"]["most"] = 4

    with Engine(config={"limits": {"most": 3}}) as engine:
        engine.run(work)


def test_the_pipe_reaches_the_next_step_and_no_further(no_gc):
    seen = []

    def first():
        value = Large([1, 2, 3])
        seen.append(weakref.ref(value))
        return value

    @process
    def second(ctx, value):
        assert ctx.pipe is value
        return "small"

    @process
    def third(ctx, value):
        assert ctx.pipe == value == "small"
        assert seen[0]() is None, "the first step's value outlived the second step"
        return value

    with Engine() as engine:
        assert engine.run([first, second, third]) == "small"


def test_a_bound_first_argument_leaves_the_value_in_the_pipe():
    @process
    def takes(ctx, sku):
        return sku, ctx.pipe

    with Engine() as engine:
        assert engine.run([lambda: "from the pipe", takes.bind(sku="tea")]) == ("tea", "from the pipe")


def test_returned_drafts_become_plain_values():
    @process
    def gives(ctx):
        ctx.domain.items.extend([1, 2])
        ctx.emit("items", ctx.domain.items)
        ctx.report(ctx.domain.items)
        return {"items": ctx.domain.items, "all": [ctx.domain]}

    heard = []
    with Engine(Shop()) as engine:
        engine.on("items", heard.append)
        result = engine.run(gives)
        assert type(result["items"]) is list
        assert type(result["all"][0]) is Shop
        result["items"].append(3)
        heard[0].append(4)
        assert engine.state.items == [1, 2]


def test_a_stored_error_keeps_no_big_variables_alive(no_gc):
    kept = []

    @process
    async def fails(ctx, n):
        large = Large([n])
        kept.append(weakref.ref(large))
        raise ValueError(n)

    with Engine() as engine:
        run = engine.submit(fails, 1)
        with pytest.raises(ValueError):
            run.result(10)
        results = engine.run(each(fails, on_error="collect"), range(3))
        assert [type(result) for result in results] == [ValueError] * 3
        assert [reference() for reference in kept] == [None] * 4


def test_a_failed_run_leaves_no_cycles(no_gc):
    """Errors that nobody keeps take everything with them at once, without the garbage collector."""
    kept = []

    @process
    def fails(ctx, value):
        ctx.local.large = Large([1])
        kept.append(weakref.ref(ctx.local.large))
        kept.append(weakref.ref(value))
        raise ValueError

    @process
    async def fails_later(ctx, value):
        local = Large([2])
        kept.append(weakref.ref(local))
        kept.append(weakref.ref(value))
        raise ValueError

    with Engine() as engine:
        for target in (fails, fails_later, flow(fails), flow(fails_later), each(fails_later), each(fails)):
            value = Large([3])
            try:
                engine.run(target, [value] if target.name.startswith("each") else value)
            except ValueError:
                pass
            del value
            assert [reference() for reference in kept if reference() is not None] == [], target


def rss() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.parametrize("how", ["works", "fails", "async"])
def test_memory_stays_flat(how):
    """Steps that each make 100 KB in local and pass 100 KB on. (A million of them: make soak.)"""
    steps_flat(how, 50_000 if how == "works" else 10_000)


@pytest.mark.soak
@pytest.mark.parametrize("how", ["works", "fails", "async"])
def test_memory_stays_flat_over_a_million_steps(how):
    grown = steps_flat(how, 1_000_000)
    print(f"1,000,000 steps, {how}: RSS grew by {grown / 1e6:.2f} MB")


def steps_flat(how: str, count: int) -> int:
    def produce(ctx, value):
        ctx.local.temp = bytearray(100_000)
        if how == "fails":
            raise ValueError
        ctx.domain.by_name["last"] = len(value)
        return bytearray(100_000)

    async def aproduce(ctx, value):
        return produce(ctx, value)

    step = process(aproduce if how == "async" else produce)
    with Engine(Shop()) as engine:

        async def main(rounds):
            for _ in range(rounds):
                await engine.arun([step, step], b"")

        def go(rounds):
            if how == "async":
                asyncio.run(main(rounds))
                return
            for _ in range(rounds):
                try:
                    engine.run([step, step], b"")
                except ValueError:
                    pass

        go(count // 20)
        before = rss()
        go(count // 2)
        grown = rss() - before
    assert grown < 4_000_000, f"memory grew by {grown / 1e6:.1f} MB over {count} steps"
    return grown
