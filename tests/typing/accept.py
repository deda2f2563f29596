"""Calls that a type checker must accept, with the types that it must see. Never run."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any, assert_type

from theus import (
    CallTimeout,
    Context,
    Engine,
    StoreError,
    StoreUnavailable,
    Tally,
    TheusError,
    branch,
    each,
    flow,
    parallel,
    plain,
    process,
    repeat,
)


@dataclass
class Shop:
    stock: dict[str, int] = field(default_factory=dict)
    orders: list[str] = field(default_factory=list)
    hits: Tally = 0


# --- processes: def, async def, generators, with and without ctx, bare and with options


@process
def load(ctx: Context[Shop], file: str) -> list[str]:
    assert_type(ctx.domain, Shop)
    assert_type(ctx.domain.stock["tea"], int)
    ctx.domain.stock["tea"] -= 1
    ctx.domain.orders.append(file)
    ctx.domain.hits += 1
    ctx.domain.hits = 3
    assert_type(ctx.attempt, int)
    assert_type(ctx.key, str)
    assert_type(ctx.deadline, float | None)
    ctx.report("half way")
    ctx.emit("loaded", file)
    ctx.send(count, n=1)
    ctx.local.anything = [file]
    return [file]


@process(nature="io", timeout=5, retries=2, retry_on=(OSError, TimeoutError), idempotent=True)
async def fetch(ctx: Context[Shop], url: str, tries: int = 1) -> bytes:
    assert_type(ctx.domain, Shop)
    return url.encode() * tries


@process
async def store(ctx: Context[Shop], body: bytes) -> None:
    ctx.domain.orders.append(body.decode())


@process(nature="cpu", environment="worker")
def measure(body: bytes) -> int:
    return len(body)


@process(reads=["stock.{sku}"], writes=["stock.{sku}", "orders"], exclusive=["orders"])
def place(ctx: Context[Shop], sku: str, qty: int = 1) -> float:
    return 1.0 * qty


@process(nature="state")
def count(ctx: Context[Shop], n: int) -> None:
    ctx.domain.hits += n


@process
def lines(ctx: Context[Shop], file: str) -> Iterator[str]:
    yield file


@process
async def pages(ctx: Context[Shop], file: str) -> AsyncIterator[str]:
    yield file


@process
def total(ctx: Context[Shop], sizes: list[int]) -> int:
    return sum(sizes)


@process
def clock(ctx: Context[Shop]) -> int:
    return 1


@process
def double(n: int) -> int:
    return 2 * n


def untyped(ctx: Any, value: Any) -> Any:
    return value


# --- values flow from step to step

engine = Engine(Shop())
assert_type(engine, Engine[Shop])
assert_type(engine.state, Shop)
assert_type(engine.state.stock, dict[str, int])

assert_type(engine.run(load, "seeds.txt"), list[str])
assert_type(engine.run(place, sku="tea", qty=2), float)
assert_type(engine.run(fetch, "http://localhost"), bytes)
assert_type(engine.run(clock), int)
assert_type(engine.run(place.bind(sku="tea")), float)

assert_type(engine.run(flow(load), "a"), list[str])
assert_type(engine.run(flow(load, each(fetch)), "a"), list[bytes])
assert_type(engine.run(flow(load, each(fetch, limit=100), each(measure), total), "a"), int)
assert_type(engine.run(flow(load, each(fetch), each(measure), total, double, double, double, double), "a"), int)
assert_type(engine.run(flow(flow(load, each(fetch)), each(measure)), "a"), list[int])
assert_type(engine.run(flow(lines, each(fetch)), "a"), list[bytes])
assert_type(engine.run(flow(pages, each(fetch)), "a"), list[bytes])
assert_type(engine.run(each(fetch, on_error="collect"), ["a"]), list[bytes | Exception])
assert_type(engine.run(each(flow(fetch, measure), rate="100/s"), ["a"]), list[int])
assert_type(engine.run(parallel(measure, store), b"a"), tuple[int, None])
assert_type(engine.run(flow(fetch, parallel(measure, store, measure)), "a"), tuple[int, None, int])
assert_type(engine.run(branch(lambda shop: shop.hits > 3, double, double), 1), int)
assert_type(engine.run(branch(lambda shop, value: value > shop.hits, measure), b"a"), bytes | int)
assert_type(engine.run(repeat(double, while_=lambda shop: shop.hits < 10, limit=1000), 1), int)

# plain functions, lambdas and lists of steps are accepted; what they give is not followed
engine.run(untyped, 1)
engine.run([load, each(fetch)], "a")
engine.run(flow(load, len))
engine.run(flow(load, lambda names: names, [each(fetch), total]))
engine.run(parallel(untyped, measure), b"a")

# --- a process stays callable as the function that it was made from

measure(b"a")
double(2)


async def service() -> None:
    assert_type(await engine.arun(load, "a"), list[str])
    assert_type(await engine.arun(flow(load, each(fetch)), "a"), list[bytes])
    assert_type(await engine.arun(fetch, url="a"), bytes)
    run = engine.submit(fetch, "a")
    assert_type(run.result(timeout=1.0), bytes)
    assert_type(await run, bytes)
    run.cancel()
    async for event in engine.stream(flow(load, each(fetch)), "a"):
        print(event)
    for event in engine.stream(load, "a"):
        print(event)
    async with Engine(Shop()) as other:
        assert_type(other, Engine[Shop])
        async with other.transaction() as shop:
            assert_type(shop, Shop)


with Engine(Shop(), config={"limit": 3}, resources={"numbers": list}, max_pending=10, debug=True, workers=2) as small:
    assert_type(small, Engine[Shop])
    with small.transaction() as shop:
        assert_type(shop, Shop)
        shop.stock["tea"] = 3

without_domain = Engine()
assert_type(without_domain, Engine[Any])


def of_any_domain(engine: Engine, ctx: Context) -> None:
    assert_type(engine, Engine[Any])
    assert_type(ctx, Context[Any])


engine.on("loaded", print)
engine.close(grace=1.0)
assert_type(plain({"a": 1}), Any)

# --- errors carry their fields

assert_type(CallTimeout("too slow", process="place", timeout=1.0).timeout, float)
also_a_timeout: TimeoutError = CallTimeout("too slow")
base: TheusError = StoreUnavailable("gone")
kind: type[StoreError] = StoreUnavailable
