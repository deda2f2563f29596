"""What a process keeps for itself, and what it hands on: each goes when its time is over, however the process ends."""

from __future__ import annotations

import asyncio
import weakref
from typing import Any

from theus import Context, flow, process


class Rows(list[int]):
    """A list that a weak reference can watch; a plain list cannot be watched."""


def keep(ctx: Context[Any], size: int) -> None:
    """Keep a large list in ``local``; tell who listens how to watch it."""
    ctx.local.temp_large_list = Rows(range(size))
    ctx.report(weakref.ref(ctx.local.temp_large_list))


# --- local: gone at the end of the attempt, whatever that is ---


@process
def ends(ctx: Context[Any], size: int) -> int:
    """Comes to its end."""
    keep(ctx, size)
    return len(ctx.local.temp_large_list)


@process
def fails(ctx: Context[Any], size: int) -> None:
    """Raises."""
    keep(ctx, size)
    raise ValueError("a row that is no row")


@process
async def is_cancelled(ctx: Context[Any], size: int) -> None:
    """Waits until somebody cancels it."""
    keep(ctx, size)
    await asyncio.sleep(3600)


@process(timeout=0.2)
async def times_out(ctx: Context[Any], size: int) -> None:
    """Takes longer than it may."""
    keep(ctx, size)
    await asyncio.sleep(3600)


@process
def leaks(ctx: Context[Any], size: int) -> Any:
    """Hands out what is private."""
    keep(ctx, size)
    return ctx.local


# --- pipe: one value, for the next step only ---


@process
def give(ctx: Context[Any], size: int) -> Rows:
    """Hands on a large list."""
    rows = Rows(range(size))
    ctx.report(weakref.ref(rows))
    return rows


@process
def take(rows: Rows) -> int:
    """Gets it."""
    return len(rows)


@process
def after(number: int) -> int:
    """Gets what the step before it returned, and nothing else."""
    return number


pipe = flow(give, take, after)


# --- thousands of steps ---


@process
def step(ctx: Context[Any], carried: bytes) -> bytes:
    """100 KB to work with, 100 KB to hand on."""
    ctx.local.rows = bytearray(carried)
    return bytes(ctx.local.rows)


@process
def failing_step(ctx: Context[Any], carried: bytes) -> bytes:
    """The same, and it fails; its error is kept."""
    ctx.local.rows = bytearray(carried)
    raise ValueError("a row that is no row")
