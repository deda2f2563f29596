"""What the benchmark of big values runs on other cores."""

from __future__ import annotations

from typing import Any

import numpy as np

HELD: dict[int, Any] = {}


def ends(array: Any) -> float:
    """Look at the first and the last page."""
    return float(array[0] + array[-1])


def total(array: Any) -> float:
    return float(array.sum())


def hold(size: int) -> None:
    HELD[size] = np.ones(size)


def give(size: int) -> Any:
    return HELD[size]


def square(out: Any, source: Any) -> None:
    np.multiply(source, source, out=out)
