"""Steps whose contracts meet, and whose order nothing but time or the list decides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from theus.processes import Process
from theus.state.access import Reach, overlap


@dataclass(frozen=True, slots=True)
class Ambiguity:
    """Two steps of which one may write, by its contract, what the other reads or writes.

    ``decided_by``: ``"timing"`` for branches of ``parallel`` and items of ``each``, which commit as they finish;
    ``"list position"`` for steps of a ``flow`` of which the second may start early and needs nothing from the first but
    what it finds in the state.
    """

    first: str
    second: str
    paths: tuple[str, ...]  #: where they meet, as the contracts say it
    inside: str  #: the workflow they stand in
    decided_by: Literal["timing", "list position"]

    def __str__(self) -> str:
        pair = f"{self.first!r} and {self.second!r}" if self.first != self.second else f"two calls of {self.first!r}"
        return f"{pair} meet at {', '.join(self.paths)} in {self.inside}: {self.decided_by} decides who comes first"


def meeting(
    a: Process[Any, Any],
    b: Process[Any, Any],
    inside: str,
    decided_by: Literal["timing", "list position"],
    item: Process[Any, Any] | None = None,
) -> Iterator[Ambiguity]:
    """Where two processes meet, if they do. ``item``: the one of them that takes an item of its own each time."""
    one, other = _reach(a, a is item), _reach(b, b is item)
    if one is None or other is None:
        return
    paths = {
        text if len(place) >= len(met) else other_text
        for mine, theirs in ((_written(a, one), _touched(b, other)), (_written(b, other), _touched(a, one)))
        for text, place in mine
        for other_text, met in theirs
        if overlap(place, met)
    }
    if paths:
        yield Ambiguity(a.name, b.name, tuple(sorted(paths)), inside, decided_by)


def _reach(process: Process[Any, Any], takes_item: bool) -> Reach | None:
    """What a call may touch. What comes by the pipe may be any key; of two items it is not the same."""
    known = process.arguments((), process.bound) if process.contract.is_bound else {}
    if process.pipe_parameter is not None:
        known.pop(process.pipe_parameter, None)
        if takes_item:
            known[process.pipe_parameter] = object()
    return process.contract.reach(known)


def _written(process: Process[Any, Any], reach: Reach) -> list[tuple[str, tuple[Any, ...]]]:
    return list(zip(process.contract.writes or (), reach.writes, strict=True))


def _touched(process: Process[Any, Any], reach: Reach) -> list[tuple[str, tuple[Any, ...]]]:
    return [*_written(process, reach), *zip(process.contract.reads or (), reach.reads, strict=True)]
