"""What it costs that a run can go on elsewhere: its steps beside the same steps without a ``run_id``, on the same store.

Many items at once share their commits (group commit); a run that is done is answered with its result.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import in_turns, table, timed
from theus import Context, Engine, Tally, each, flow, process
from theus.stores.memory import MemoryStore

STEPS = 200
ITEMS = 640
_numbers = itertools.count()


@dataclass
class Shop:
    n: int = 0
    hits: Tally = 0


@process
def step(ctx: Context[Shop]) -> int:
    ctx.domain.n += 1
    return ctx.domain.n


@process
async def hit(ctx: Context[Shop], item: int) -> int:
    ctx.domain.hits += 1
    return item


STEPS_IN_TURN = flow(*[step] * STEPS)
ITEMS_AT_ONCE = each(hit, limit=64)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        stores = {
            "memory": Engine[Shop](store=MemoryStore(Shop())),
            "NORMAL": Engine(Shop(), store=f"sqlite:{Path(name) / 'normal.db'}?sync=normal"),
            "FULL": Engine(Shop(), store=f"sqlite:{Path(name) / 'full.db'}?sync=full"),
        }
        for store, engine in stores.items():
            figures = in_turns(_cases(engine))
            table(f"A step of a durable run, {store}", figures, "a step of a run")
            engine.close()


def _cases(engine: Engine[Shop]) -> dict[str, Callable[[], float]]:
    engine.run(STEPS_IN_TURN, run_id="done")

    def fresh() -> str:
        return f"run-{next(_numbers)}"

    items = list(range(ITEMS))
    return {
        "a step of a run": timed(lambda: engine.run(STEPS_IN_TURN), STEPS),
        "a step of a durable run": timed(lambda: engine.run(STEPS_IN_TURN, run_id=fresh()), STEPS),
        "the result of a run that is done": timed(lambda: engine.run(STEPS_IN_TURN, run_id="done"), 1),
        "an item of a run, 64 at once": timed(lambda: engine.run(ITEMS_AT_ONCE, items), ITEMS),
        "an item of a durable run, 64 at once": timed(lambda: engine.run(ITEMS_AT_ONCE, items, run_id=fresh()), ITEMS),
    }


if __name__ == "__main__":
    main()
