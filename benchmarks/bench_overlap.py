"""Steps of a flow that start before their turn, beside the same flow one after the other; the results must be equal.

A step that is *hot* reads a field, waits, and writes it: hot steps can only follow each other. Which ones are is drawn once,
as it was when the goals were set: at 10 % there are 12 of 100 and at 50 % 43, and no scheduler can be quicker than those
in a row.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.measure import in_turns, table
from theus import Engine, flow, process
from theus.workflow import Workflow, leaves

STEPS = 100
SECONDS = 0.01
SHARES = (0, 10, 50, 100)  #: per cent of hot steps
SEED = 3


@dataclass
class Desk:
    own: dict[int, int] = field(default_factory=dict)
    log: list[int] = field(default_factory=list)
    hot: int = 0


async def cool_body(ctx: Any, *, key: int) -> None:
    seen = ctx.domain.own.get(key, 0)
    await asyncio.sleep(SECONDS)
    ctx.domain.own[key] = seen + 1
    ctx.domain.log.append(key)


async def hot_body(ctx: Any, *, key: int) -> None:
    seen = ctx.domain.hot
    await asyncio.sleep(SECONDS)
    ctx.domain.hot = seen + 1
    ctx.domain.own[key] = seen
    ctx.domain.log.append(key)


async def empty_body(ctx: Any, *, key: int) -> None:
    ctx.domain.own[key] = key


def compute(ctx: Any, *, key: int, turns: int) -> int:
    total = 0
    for number in range(turns):
        total += number * number
    ctx.domain.own[key] = total
    return total


def made(kind: str, share: int) -> Workflow[Any, Any]:
    """The flow: ``sequential``, ``declared`` or ``undeclared``."""
    early = kind != "sequential"
    cool: dict[str, Any] = {"reads": ["own.{key}"], "writes": ["own.{key}", "log"]}
    hot: dict[str, Any] = {"reads": ["hot"], "writes": ["hot", "own.{key}", "log"]}
    if kind == "undeclared":
        cool = hot = {}
    one, other = process(cool_body, idempotent=early, **cool), process(hot_body, idempotent=early, **hot)
    draw = random.Random(SEED)
    return flow(*[(other if draw.random() * 100 < share else one).bind(key=key) for key in range(STEPS)])


def whole(engine: Engine[Desk], work: Workflow[Any, Any]) -> Callable[[], float]:
    def case() -> float:
        started = time.perf_counter()
        engine.run(work)
        return (time.perf_counter() - started) * 1e3

    return case


def share_of(share: int) -> None:
    """One table: the three kinds in turns, each on an engine of its own; all end with the same state."""
    kinds = ("sequential", "declared", "undeclared")
    engines = {kind: Engine(Desk()) for kind in kinds}
    figures = in_turns({kind: whole(engines[kind], made(kind, share)) for kind in kinds})
    states = [engines[kind].state for kind in kinds]
    assert states[0] == states[1] == states[2]
    assert [list(state.own) for state in states] == [list(states[0].own)] * 3
    hot = sum(process.name == "hot_body" for process in leaves(made("declared", share)))
    table(
        f"{STEPS} steps of {SECONDS * 1e3:g} ms, {share} % hot ({hot} of them: {max(1, hot) * SECONDS * 1e3:g} ms in a row)",
        figures,
        "sequential",
        "ms",
        "faster: " + ", ".join(f"{kind} {figures['sequential'] / figures[kind]:.2f} x" for kind in kinds[1:]),
    )
    for engine in engines.values():
        engine.close()


def per_step(**options: Any) -> Callable[[], float]:
    """Microseconds for each of many steps with next to nothing to do."""
    step = process(empty_body, **options)
    work = flow(*[step.bind(key=key) for key in range(STEPS)])

    async def rounds() -> float:
        engine = Engine(Desk())
        best = float("inf")
        for _ in range(20):
            started = time.perf_counter()
            await engine.arun(work)
            best = min(best, time.perf_counter() - started)
        await engine.aclose()
        return best / STEPS * 1e6

    return lambda: asyncio.run(rounds())


def computing(early: bool, engine: Engine[Desk], turns: int) -> Callable[[], float]:
    step = process(compute, nature="cpu", idempotent=early, writes=["own.{key}"])
    work = flow(*[step.bind(key=key, turns=turns) for key in range(STEPS)])

    def case() -> float:
        started = time.perf_counter()
        engine.run(work)
        return (time.perf_counter() - started) * 1e3

    return case


def main() -> None:
    for share in SHARES:
        share_of(share)
    declared: dict[str, Any] = {"writes": ["own.{key}"]}
    chain: dict[str, Any] = {"reads": ["own"], "writes": ["own.{key}"]}
    figures = in_turns(
        {
            "one after the other": per_step(**declared),
            "declared, nothing can overlap": per_step(idempotent=True, **chain),
            "declared, all overlap": per_step(idempotent=True, **declared),
            "undeclared, all overlap": per_step(idempotent=True),
        }
    )
    table("A step that does nothing, least of 20 runs", figures, "one after the other")
    with Engine(Desk(), workers=2) as engine:
        turns = _turns_of(0.005)
        figures = in_turns(
            {"one after the other": computing(False, engine, turns), "early": computing(True, engine, turns)}
        )
    table(f"{STEPS} steps that compute for 5 ms, 2 worker processes", figures, "one after the other", "ms")


def _turns_of(seconds: float) -> int:
    """How many turns of the loop take so long here."""
    turns, least = 20_000, float("inf")
    for _ in range(5):
        started = time.perf_counter()
        total = 0
        for number in range(turns):
            total += number * number
        least = min(least, time.perf_counter() - started)
    return int(turns * seconds / least)


if __name__ == "__main__":
    main()
