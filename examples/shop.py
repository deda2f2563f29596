"""A shop: one state that many change at the same time, and that is never half changed.

python examples/shop.py
theus run examples/shop.py:place tea --arg qty=2
theus graph examples/shop.py:trade
"""

import random
from dataclasses import dataclass, field

from theus import ContractError, Engine, Tally, each, flow, process


@dataclass
class Shop:  # the domain: your own class
    stock: dict[str, int] = field(default_factory=dict)
    orders: list[str] = field(default_factory=list)
    refused: Tally = 0  # a counter to which many may add at once


@process(reads=["stock.{sku}"], writes=["stock.{sku}", "orders"])  # the contract: what it may touch
def place(ctx, sku: str, qty: int = 1):
    if ctx.domain.stock[sku] < qty:
        raise ValueError(f"only {ctx.domain.stock[sku]} of {sku} left")  # it raises: nothing is committed
    ctx.domain.stock[sku] -= qty  # ordinary changes, of a draft
    ctx.domain.orders.append(sku)
    return f"{qty} {sku}"


@process
def refuse(ctx, results):
    """Count what could not be sold; each(..., on_error="collect") hands on errors in their items' places."""
    ctx.domain.refused += sum(isinstance(result, Exception) for result in results)
    return [result for result in results if isinstance(result, str)]


def customers(count: int = 100) -> list[str]:
    chance = random.Random(7)
    return [chance.choice(["tea", "coffee", "cocoa"]) for _ in range(count)]


trade = flow(customers, each(place, limit=20, on_error="collect"), refuse)

engine = Engine(Shop(stock={"tea": 30, "coffee": 30, "cocoa": 10}))

if __name__ == "__main__":
    print(trade, "\n")
    sold = engine.run(trade, 100)
    shop = engine.state  # a read-only view of what is committed
    print(f"sold {len(sold)}, refused {shop.refused}, left {dict(shop.stock)}")
    assert len(shop.orders) == len(sold) == 100 - shop.refused
    assert sum(shop.stock.values()) + len(sold) == 70

    @process(reads=["orders"])
    def cheat(ctx):
        ctx.domain.stock["tea"] = 1_000  # not in its contract

    try:
        engine.run(cheat)
    except ContractError as error:
        print(f"ContractError: {error}")
    engine.close()
