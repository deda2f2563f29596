"""Bodies that touch a domain whose fields are big, and that domain."""

import os
import time
from dataclasses import dataclass, field
from typing import Any

from theus import Tally, plain


def many(start=0):
    return {f"key {n}": n + start for n in range(500)}


@dataclass
class Store:
    hits: Tally = 0
    name: str = "shop"
    stock: dict[str, int] = field(default_factory=many)
    prices: dict[str, int] = field(default_factory=lambda: many(1000))
    log: list[int] = field(default_factory=lambda: list(range(500)))
    seen: set[int] = field(default_factory=lambda: set(range(500)))
    text: str = "x" * 5000
    thing: Any = None
    extra: Any = None


# --- what each of them reads and writes is compared with what it does inline


def nothing(ctx):
    return None


def small_ones(ctx):
    ctx.domain.hits += 2
    return ctx.domain.name


def one_key(ctx):
    return ctx.domain.stock["key 7"], ctx.domain.stock.get("none")


def length_and_text(ctx):
    return len(ctx.domain.prices), len(ctx.domain.text)


def blind(ctx):
    ctx.domain.log.append(1)
    ctx.domain.seen.add(1000)
    ctx.domain.stock["new"] = 3


def walk(ctx):
    return sum(ctx.domain.stock.values()), 7 in ctx.domain.seen, ctx.domain.log[-1]


def moved(ctx):
    ctx.domain.extra = ctx.domain.stock
    ctx.domain.prices = {"only": 1}


def whole(ctx):
    return plain(ctx.domain)


def replaced(ctx):
    ctx.domain.text = ctx.domain.text + "y"
    del ctx.domain.stock["key 1"]
    return ctx.domain.stock == {}


def fails(ctx):
    raise KeyError(ctx.domain.stock["key 3"])


ALL = (nothing, small_ones, one_key, length_and_text, blind, walk, moved, whole, replaced)


# --- the rest


def stock_of(ctx, key):
    return ctx.domain.stock[key]


def at(ctx, path):
    place = ctx.domain
    for key in path:
        place = place[key] if hasattr(type(place), "__getitem__") else getattr(place, key)
    return place


def shown(ctx):
    return {**vars(plain(ctx.domain)), "stock": list(ctx.domain.stock.items())}


def shown_stock(ctx):
    return {"stock": list(ctx.domain.stock.items())}


def shown_log(ctx):
    return {"log": list(ctx.domain.log), "text": ctx.domain.text}


def stock_now_and_then(ctx):
    turn = ctx.domain["turn"]
    return ctx.domain["stock"][f"key {turn}"] if turn % 100 == 0 else None


def is_here(ctx):
    """Whether the part has been sent, before anybody touches it; and its content."""
    absent = ctx._attempt.call.snapshot.root.stock
    here = absent._fetch.func.__self__.has(*absent._fetch.args)
    return here, ctx.domain.stock["key 1"]


def thing(ctx):
    return type(ctx.domain.thing).__name__


def wait_between(ctx, file):
    first = ctx.domain.stock["key 1"]
    ctx.report("read")
    while not os.path.exists(file):
        time.sleep(0.001)
    return first, ctx.domain.prices["key 1"]


def key_of_field(ctx, number):
    return ctx.domain[f"field {number}"]["key 5"]


def touch_all(ctx):
    ctx.report("begun")
    while True:
        for name in ctx.domain:
            len(ctx.domain[name])


def total(ctx, other=None):
    return float(ctx.domain.thing.sum()) + (0.0 if other is None else float(other.sum()))


async def stock_of_async(ctx, key):
    return ctx.domain.stock[key]


def in_threads(ctx):
    import threading

    found = []
    threads = [
        threading.Thread(target=lambda n=name: found.append(len(getattr(ctx.domain, n))))
        for name in ("stock", "prices", "log")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def count_up(ctx):
    ctx.domain.stock["key 0"] += 1
