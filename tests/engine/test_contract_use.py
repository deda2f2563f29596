"""What a contract lets through, what it reports, and what is proposed; results that are kept across attempts."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

import pytest

from theus import Context, ContractError, DefinitionError, Engine, each, process
from theus.events import ContractBroken
from theus.testing import FakeClock


@dataclass
class User:
    name: str = ""
    visits: int = 0


@dataclass
class Shop:
    stock: dict[str, int] = field(
        default_factory=lambda: {"tea": 3, "coffee": 5, "cocoa": 1, "mate": 2, "black tea": 1}
    )
    users: dict[str, User] = field(default_factory=lambda: {name: User(name) for name in "abcdef"})
    orders: list[str] = field(default_factory=list)
    total: int = 0


@process(reads=["stock.{sku}"], writes=["orders"])
def breaks(ctx: Context[Shop], sku: str) -> None:
    ctx.domain.orders.append(sku)
    ctx.domain.stock[sku] -= 1


@pytest.mark.parametrize("door", ["run", "arun"])
def test_an_undeclared_write_names_process_path_and_contract(door):
    with Engine(Shop()) as engine:
        with pytest.raises(ContractError) as caught:
            engine.run(breaks, "tea") if door == "run" else asyncio.run(engine.arun(breaks, "tea"))
        assert (caught.value.process, caught.value.path) == ("breaks", "stock.tea")
        assert caught.value.declared == ("orders",)
        assert "stock.{sku}" in str(caught.value)
        assert caught.traceback[-1].frame.code.raw.co_name  # the line of the access is in the traceback
        assert "breaks" in [frame.name for frame in caught.traceback]
        assert engine.state == Shop()


def test_without_strict_it_is_reported_once_and_let_through(caplog):
    events = []
    with Engine(Shop(), strict=False, observers=[events.append]) as engine, caplog.at_level(logging.WARNING, "theus"):
        engine.run(breaks, "tea")
        engine.run(breaks, "tea")
        assert engine.state.stock["tea"] == 1
    assert len([event for event in events if isinstance(event, ContractBroken)]) == 2
    assert len(caplog.records) == 1
    assert "stock.tea" in caplog.text


@process(nature="state", writes=["total"])
def oversteps(ctx: Context[Shop]) -> None:
    ctx.domain.orders.append("undeclared")


def test_without_strict_a_message_is_let_through_and_reported_too():
    @process
    def sends(ctx):
        ctx.send(oversteps)

    events = []
    with Engine(Shop(), strict=False, observers=[events.append]) as engine:
        engine.run(sends)
        engine.run(oversteps)
        assert engine.state.orders == ["undeclared"] * 2
    broken = [event for event in events if isinstance(event, ContractBroken)]
    assert [(event.process, event.path) for event in broken] == [("oversteps", "orders")] * 2


def test_proposed_contracts_fit():
    @process
    def place(ctx, sku, user):
        ctx.domain.stock[sku] -= 1
        ctx.domain.orders.append(sku)
        ctx.domain.users[user].visits += 1

    @process
    def report(ctx):
        return sum(user.visits for user in ctx.domain.users.values()), len(ctx.domain.orders)

    @process
    def look(ctx):
        return ctx.domain.stock["black tea"]

    with Engine(Shop(), strict=False) as engine:
        for sku, user in (("tea", "a"), ("coffee", "b")):
            engine.run(place, sku, user)
        engine.run(report)
        engine.run(look)
        text = engine.contracts()
    lines = {line.split("# ")[1].split(",")[0]: line for line in text.splitlines()}
    assert "reads=['stock.{sku}', 'users.{user}.visits']" in lines["place"]
    assert "writes=['orders', 'stock.{sku}', 'users.{user}.visits']" in lines["place"]
    assert "reads=['stock.black tea']" in lines["look"]
    # Pasted, they let through what was seen.
    for function, arguments in ((place, ("tea", "a")), (report, ()), (look, ())):
        declared = eval(lines[function.name].split("  #")[0][1:], {"process": process})(function.fn)
        with Engine(Shop()) as strict:
            strict.run(declared, *arguments)


def test_once_keeps_a_result_across_attempts():
    asked = []

    def model(question):
        asked.append(question)
        return f"answer to {question}"

    async def amodel(question):
        return model(question)

    @process(retries=3)
    def sync_agent(ctx):
        answer = ctx.once("ask", model, "why")
        ctx.domain.orders.append(answer)
        if ctx.attempt < 3:
            raise ConnectionError
        return ctx.once("ask", model, "not asked again")

    @process(retries=3)
    async def agent(ctx, function):
        answers = await asyncio.gather(ctx.once("ask", function, "why"), ctx.once("ask", function, "why"))
        if ctx.attempt < 3:
            raise ConnectionError
        return answers

    with Engine(Shop(), clock=FakeClock(autojump=True)) as engine:
        assert engine.run(sync_agent) == "answer to why"
        assert engine.run(agent, model) == ["answer to why"] * 2
        assert engine.run(agent, amodel) == ["answer to why"] * 2
        assert engine.state.orders == ["answer to why"]
        assert asked == ["why"] * 3
        engine.run(agent, model)
        assert len(asked) == 4, "each call asks for itself"


def test_once_keeps_nothing_of_a_failure_and_refuses_what_it_cannot_wait_for():
    tries = []

    def flaky():
        tries.append(1)
        if len(tries) < 3:
            raise OSError
        return "done"

    async def later():
        pass

    @process(retries=5)
    async def agent(ctx):
        return await ctx.once("x", flaky)

    @process
    def wrong(ctx):
        ctx.once("x", later)

    with Engine(clock=FakeClock(autojump=True)) as engine:
        assert engine.run(agent) == "done"
        assert len(tries) == 3
        with pytest.raises(DefinitionError, match="async def"):
            engine.run(wrong)


def test_once_survives_a_conflict():
    asked = []

    @process
    async def agent(ctx, n):
        seen = ctx.domain.total
        answer = await ctx.once("ask", lambda: asked.append(n) or n)
        ctx.domain.total = seen + 1
        return answer

    with Engine(Shop()) as engine:
        assert engine.run(each(agent), range(10)) == list(range(10))
        assert engine.state.total == 10
        assert sorted(asked) == list(range(10))


def test_exclusive_calls_queue_before_they_start():
    inside, most = [], []

    @process(exclusive=["stock.{sku}"])
    async def alone(ctx, sku):
        inside.append(sku)
        most.append(inside.count(sku))
        await asyncio.sleep(0)
        inside.remove(sku)
        ctx.domain.stock[sku] += 1

    with Engine(Shop()) as engine:
        engine.run(each(alone), ["tea", "coffee"] * 10)
        assert (engine.state.stock["tea"], engine.state.stock["coffee"]) == (13, 15)
    assert max(most) == 1


def test_contracts_are_proposed_for_what_runs_in_the_commit():
    @process(nature="state")
    def sell(ctx, sku):
        ctx.domain["stock"][sku] -= 1

    @process(nature="state")
    def note(ctx, text):
        ctx.domain["log"].append(text)
        if text == "first":
            ctx.send(note, text="second")

    @process
    def order(ctx):
        ctx.send(sell, sku="tea")
        ctx.send(note, text="first")

    @process(nature="state")
    def fail(ctx):
        ctx.domain["log"].append("never")
        raise ValueError("no")

    engine = Engine({"stock": {"tea": 9}, "log": []}, strict=False)
    engine.run(sell, sku="tea")
    engine.run(order)
    with pytest.raises(ValueError, match="no"):
        engine.run(fail)
    assert engine.contracts().splitlines() == [
        "@process(reads=['stock.{sku}'], writes=['stock.{sku}'])  # sell, 2 calls seen",
        "@process(writes=['log'])  # note, 2 calls seen",
    ]
