"""What the pools are given to do: a module of its own, so that a new worker loads nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Shop:
    stock: dict[str, int] = field(default_factory=dict)
    hits: int = 0


def nothing() -> None:
    pass


def spin(loops: int) -> int:
    total = 0
    for n in range(loops):
        total += n * n
    return total


def again(times: int, function: Callable[..., object], *args: Any) -> None:
    for _ in range(times):
        function(*args)


def count(ctx: Any) -> None:
    ctx.domain.hits += 1
