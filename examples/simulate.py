"""Work for all cores: a simulation in parts, each on a core of its own, with one table of results.

Each part sends its result to the state as a message. A message is never a conflict, so no part runs twice.

    python examples/simulate.py
    theus run examples/simulate.py:experiment 8
"""

import os
import random
from dataclasses import dataclass, field

from theus import Engine, Tally, each, flow, process


@dataclass
class Results:
    inside: Tally = 0
    points: Tally = 0
    parts: dict[int, float] = field(default_factory=dict)
    places: set[int] = field(default_factory=set)  # the processes that had a part in it


@process(nature="state")  # short, never waits: runs in its sender's commit, on the newest state
def add(ctx, seed, inside, points, place):
    ctx.domain.inside += inside
    ctx.domain.points += points
    ctx.domain.parts[seed] = 4 * inside / points
    ctx.domain.places.add(place)


@process(nature="cpu")  # computes: runs in a worker process
def throw(ctx, seed: int, points: int = 200_000):
    chance = random.Random(seed)
    inside = sum(chance.random() ** 2 + chance.random() ** 2 <= 1 for _ in range(points))
    ctx.send(add, seed=seed, inside=inside, points=points, place=os.getpid())


@process(reads=["inside", "points"])
def estimate(ctx):
    return 4 * ctx.domain.inside / ctx.domain.points


def seeds(parts: int = 8):
    return range(parts)


experiment = flow(seeds, each(throw), estimate)

engine = Engine(Results())

if __name__ == "__main__":
    pi = engine.run(experiment, 8)
    results = engine.state
    print(f"π is about {pi:.4f}, from {results.points:,} points in {len(results.parts)} parts")
    print(f"they ran in {len(results.places)} processes, not in this one: {os.getpid() not in results.places}")
    print(engine.profiles())
    assert results.points == 8 * 200_000
    engine.close()
