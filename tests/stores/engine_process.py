"""One of several engine processes on one store; what happened in it goes to a file, pickled.

    python engine_process.py WHAT STORE OUT NUMBER ROUNDS

Says "ready" and begins at the first line from its standard input, so that all begin together.
"""

from __future__ import annotations

import itertools
import pickle
import random
import sys
import threading
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "testing"))

from append_tools import MIXED, SPACE, Journal, Lists, Planner, execute, observe

from theus import Engine, process
from theus.testing.oracle import Recorder, World, random_script, run_history

NAME = "all"  # of the one history that all processes make together
MANY = 10_000  # more calls than one process makes
MOST = 8  # processes


def scripts(store: str, number: int, rounds: int) -> Any:
    """Random scripts at once, for the serial oracle: their commits and results."""
    rng = random.Random(number)
    made = []
    with Engine(World(), store=store, observers=[Recorder()]) as engine:
        begin(engine)
        places = ["loop", "thread", "inline", "commit", "message"]
        for _ in range(rounds):
            batch = [(rng.choice(places), random_script(rng, rng.randrange(1, 7))) for _ in range(rng.randrange(2, 8))]
            history = run_history(engine, batch)
            made += [(version, script, history.results[key]) for version, key, script in history.committed]
    return made


def appends(store: str, number: int, rounds: int) -> Any:
    """Random appends and reads at once, for the search for anomalies: what each attempt saw and did, and whether its call was cancelled."""
    journal = Journal()
    history = []
    planner = Planner(random.Random(number), NAME)
    planner.numbers = itertools.count(SPACE * (1 + MANY * number), SPACE)
    with Engine(Lists(), store=store, observers=[journal]) as engine:
        begin(engine)
        for part in range(rounds):
            plans = planner.plans(MIXED, 16)
            for plan in plans:
                plan.id = f"p{number}.{part}.{plan.id}"
            ended, _ = execute(engine, journal, plans, NAME)
            mistakes = [call for call in ended if call.how == "failed by mistake"]
            assert not mistakes, mistakes[0].error
            for call in ended:
                history += [(observed, call.how == "cancelled") for observed in observe(journal, [call])]
    return history


def increments(store: str, number: int, rounds: int) -> Any:
    """Threads that read and increment one number: how far each got."""

    @process
    def increment(ctx: Any) -> None:
        ctx.domain.number += 1

    def work() -> None:
        for _ in range(rounds):
            engine.run(increment)

    with Engine(World(), store=store) as engine:
        begin(engine)
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return 3 * rounds


def flags(store: str, number: int, rounds: int) -> Any:
    """Raise a flag of its own in each round, if none of the others is up: write skew, if two are."""

    @process
    def raise_one(ctx: Any, turn: int) -> None:
        numbers = ctx.domain.numbers
        if not any(numbers.get(f"{turn}.{other}") for other in range(MOST)):
            numbers[f"{turn}.{number}"] = 1

    with Engine(World(), store=store) as engine:
        begin(engine)
        for turn in range(rounds):
            engine.run(raise_one, turn)


def shares(store: str, number: int, rounds: int) -> Any:
    """Commit at a place of its own until all together have made so many: how many it made."""

    @process
    def count(ctx: Any) -> None:
        ctx.domain.numbers[f"{number}"] = made + 1

    made = 0
    with Engine(World(), store=store) as engine:
        begin(engine)
        while sum(engine.state.numbers.values()) < rounds:
            engine.run(count)
            made += 1
    return made


def begin(engine: Engine[Any]) -> None:
    """Wait for the others."""
    _ = engine.state
    print("ready", flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    what, store, out, number, rounds = sys.argv[1:]
    sys.setswitchinterval(1e-4)
    done = {made.__name__: made for made in (scripts, appends, increments, flags, shares)}
    Path(out).write_bytes(pickle.dumps(done[what](store, int(number), int(rounds))))
