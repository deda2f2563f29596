"""What can be a process, and what is refused, with what to write instead."""

from __future__ import annotations

import asyncio
import functools
import pickle

import pytest

from theus import Context, DefinitionError, Engine, Process, each, flow, process


@process(reads=["stock.{sku}"], writes=["orders"], retries=2, timeout=5)
def place(ctx: Context, sku: str, qty: int = 1, *, note: str = "") -> str:
    """Place an order."""
    return f"{qty} {sku}{note}"


@process
def double(n):
    return n * 2


class Till:
    def __init__(self, rate):
        self.rate = rate

    @process
    def tax(self, ctx, amount):
        return amount * self.rate

    @process
    def plain_tax(self, amount):
        return amount * self.rate

    def undecorated(self, amount):
        return amount * self.rate

    def __call__(self, amount):
        return amount + self.rate


@pytest.fixture
def engine():
    with Engine() as engine:
        yield engine


def test_a_process_stays_a_plain_function():
    assert place(None, "tea", note="!") == "1 tea!"
    assert double(4) == 8
    assert place.__doc__ == "Place an order."
    assert place.__wrapped__(None, "tea") == "1 tea"
    assert repr(place.bind(sku="tea")) == "<process place, sku='tea'>"


@pytest.mark.parametrize(
    ("target", "result"),
    [
        (double, 10),
        (lambda n: n + 1, 6),
        (functools.partial(pow, 2), 32),
        (functools.partial(lambda a, b: a - b, b=2), 3),
        (Till(3).tax, 15),
        (Till(3).plain_tax, 15),
        (Till(3).undecorated, 15),
        (Till(3), 8),
        (str, None),
        (abs, 5),
    ],
    ids=[
        "process",
        "lambda",
        "partial of a builtin",
        "partial",
        "method with ctx",
        "method",
        "plain method",
        "callable",
        "class",
        "builtin",
    ],
)
def test_what_can_run(engine, target, result):
    if target is str:
        with pytest.raises(DefinitionError, match="class"):
            engine.run(target, 5)
        return
    assert engine.run(target, 5) == result
    assert engine.run(each(target), [5]) == [result]


def test_a_method_without_its_instance_is_refused(engine):
    with pytest.raises(DefinitionError, match="instance"):
        engine.run(Till.tax, 5)


def test_a_bound_method_is_one_process_with_one_profile(engine):
    till = Till(2)
    for _ in range(3):
        assert engine.run(till.tax, 5) == 10
    assert engine.explain(till.tax).rows[0].calls == 3


async def a_coroutine():
    pass


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: process(staticmethod(double)), "swap them"),
        (lambda: process(classmethod(double)), "swap them"),
        (lambda: process(Till), "class"),
        (lambda: process(42), "not callable"),
        (lambda: process(flow(double)), "a value of type Flow is not callable"),
        (lambda: process(retries=1)(double), "process already"),
        (lambda: Engine(invariants=lambda domain: True), r"invariants=\[...\]"),
        (lambda: process(nature="fast")(double.fn), "one of 'io', 'cpu', 'state'"),
        (lambda: process(environment="moon")(double.fn), "'inline'"),
        (lambda: process(timeout=-1)(double.fn), "seconds above 0"),
        (lambda: process(retries=1.5)(double.fn), "whole number"),
        (lambda: process(retries=True)(double.fn), "whole number"),
        (lambda: process(retry_on="all")(double.fn), "exception type"),
        (lambda: process(nature="state")(a_coroutine), "never waits"),
        (lambda: process(environment="thread")(a_coroutine), "event loop"),
        (lambda: process(environment="loop")(double.fn), "stall"),
        (lambda: process(inputs=["a"])(double.fn), "reads="),
        (lambda: process(read=["a"])(double.fn), "reads="),
        (lambda: process(whatever=1)(double.fn), "It takes nature"),
        (lambda: process(reads="orders")(double.fn), r"reads=\['orders'\]"),
        (lambda: process(reads=["domain.orders"])(double.fn), "'orders'"),
        (lambda: process(reads=["stock.{sku}"])(double.fn), "no parameter 'sku'"),
        (lambda: process(reads=["a..b"])(double.fn), "empty"),
        (lambda: process(lambda run_id: None), "run_id"),
        (lambda: process(lambda ctx, progress: None), "progress"),
        (lambda: place.bind(skuu="tea"), "Did you mean 'sku'"),
        (lambda: process(lambda a, b, /: None).bind(b=1), "by position only"),
    ],
)
def test_what_is_refused_when_it_is_defined(make, words):
    with pytest.raises(DefinitionError, match=words):
        make()


def test_a_contract_that_names_no_field_is_refused_before_it_runs():
    from dataclasses import dataclass

    @dataclass
    class Shop:
        orders: int = 0

    @process(reads=["order"])
    def look(ctx):
        raise AssertionError("must not run")

    with Engine(Shop()) as engine, pytest.raises(DefinitionError, match="orders"):
        engine.run(look)


def test_a_domain_that_cannot_be_one_says_what_can():
    with pytest.raises(DefinitionError, match="dataclass"):
        Engine(object())
    with pytest.raises(DefinitionError, match="instance"):
        Engine(Till)


@pytest.mark.parametrize(
    "options",
    [{"workers": 0}, {"max_pending": "many"}, {"observers": [1]}, {"resources": {"http": 5}}, {"loop_factory": 3}],
)
def test_engine_options_are_checked(options):
    with pytest.raises(DefinitionError):
        Engine(**options)


def test_arguments_for_patterns_count_defaults_and_names():
    @process(reads=["stock.{sku}", "stock.{other}"])
    def look(ctx, sku, other="coffee"):
        return ctx.domain["stock"][sku] + ctx.domain["stock"][other]

    with Engine({"stock": {"tea": 1, "coffee": 2, "cocoa": 4}}) as engine:
        assert engine.run(look, "tea") == 3
        assert engine.run(look, "tea", other="cocoa") == 5


def test_a_process_of_a_module_travels_by_reference_and_others_by_value():
    assert pickle.loads(pickle.dumps(place)) is place
    bound = pickle.loads(pickle.dumps(place.bind(sku="tea")))
    assert bound is not place
    assert bound.bound == {"sku": "tea"}
    assert isinstance(bound, Process)


def test_unknown_environments_say_so(engine):
    with pytest.raises(DefinitionError, match="'ray'"):
        engine.run(process(environment="ray")(double.fn), 1)


async def forgets(ctx):
    ctx.domain["n"] = 1
    return ctx.compute(sum, [1, 2])


def hands_on():
    return asyncio.sleep(0)


@pytest.mark.parametrize(
    ("target", "named"),
    [(forgets, "compute"), (hands_on, "sleep"), (process(environment="worker")(hands_on), "sleep")],
    ids=["async def", "def", "in a worker"],
)
def test_a_coroutine_that_nobody_awaited_is_no_result(target, named):
    with Engine({"n": 0}) as engine:
        with pytest.raises(TypeError, match=rf"coroutine .*{named}\(\.\.\.\), which has not run: an await is missing"):
            engine.run(target)
        assert engine.state == {"n": 0}
