"""The same, as processes of an engine."""

from __future__ import annotations

from benchmarks import bodies
from theus import process


@process(nature="cpu")
def nothing() -> None:
    pass


@process(nature="cpu")
def spin(loops: int) -> int:
    return bodies.spin(loops)
