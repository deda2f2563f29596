"""Flows whose steps start early, beside each other and beside transactions from outside, in a mix of environments.

What came out must be what the commits give when they are replayed one by one in the order of their versions; each flow's
own commits must come in the order of its list; a step that only read must have seen one state between its neighbours'.
"""

from __future__ import annotations

import asyncio
import os
import random
from copy import deepcopy
from typing import Any

import pytest

from theus import Engine, flow, plain, process
from theus.events import CallConflicted, Emitted, StateCommitted
from theus.testing import oracle
from theus.testing.oracle import World, play, random_script

HISTORIES = 60 if not os.environ.get("THEUS_SOAK") else 2_000


def told(fn: Any, place: str) -> Any:
    """The oracle's process, which also tells what it gave."""
    if place == "loop":

        async def run(ctx, script):
            value = await fn(ctx, script)
            ctx.emit("gave", value)
            return value

    else:

        def run(ctx, script):
            value = fn(ctx, script)
            ctx.emit("gave", value)
            return value

    return process(run, idempotent=True, environment=None if place == "loop" else place)


PLACES = {
    "loop": told(oracle.on_loop.fn, "loop"),
    "thread": told(oracle.in_thread.fn, "thread"),
    "worker": told(oracle.in_worker.fn, "worker"),
}


class Recorder:
    def __init__(self) -> None:
        self.commits: dict[str, int] = {}
        self.gave: dict[str, int] = {}
        self.conflicts = 0

    def __call__(self, event: Any) -> None:
        if isinstance(event, StateCommitted):
            self.commits[event.key] = event.version
        elif isinstance(event, Emitted):
            self.gave[event.key] = event.value
        elif isinstance(event, CallConflicted):
            self.conflicts += 1


def history(rng: random.Random, engine: Engine[World], recorder: Recorder, places: list[str]) -> None:
    scripts = [[(rng.choice(places), random_script(rng, rng.randrange(4))) for _ in range(6)] for _ in range(2)]
    works = [flow(*[PLACES[place].bind(script=script) for place, script in steps]) for steps in scripts]
    alone = [random_script(rng, 3) for _ in range(4)]
    first = _version(engine)
    before = plain(engine.state)

    async def main() -> list[str]:
        runs = [engine.submit(work) for work in works]
        for script in alone:
            for _ in range(rng.randrange(20)):
                await asyncio.sleep(0)
            runs.append(engine.submit(PLACES["loop"], script))
        for run in runs:
            await run
        return [run.id for run in runs]

    ids = asyncio.run(main())
    flows = [
        [(f"{run_id}/{index}.run", script) for index, (_, script) in enumerate(steps)]
        for run_id, steps in zip(ids, scripts, strict=False)
    ]
    flows += [[(f"{run_id}/run", script)] for run_id, script in zip(ids[2:], alone, strict=True)]
    check(flows, first, before, engine, recorder)


def check(flows: list[list[tuple[str, Any]]], first: int, world: World, engine: Any, recorder: Recorder) -> None:
    commits, gave = recorder.commits, recorder.gave
    by_version = {commits[key]: (key, script) for steps in flows for key, script in steps if key in commits}
    last = _version(engine)
    states = {first: deepcopy(world)}
    for version in range(first + 1, last + 1):
        key, script = by_version[version]
        assert play(world, script) == gave[key], key
        states[version] = deepcopy(world)
    assert engine.state == world
    for steps in flows:
        versions = [commits.get(key) for key, _ in steps]
        made = [version for version in versions if version is not None]
        assert made == sorted(made), "commits come in list order"
        for index, (key, script) in enumerate(steps):
            if versions[index] is None:  # it only read: one of the states between its neighbours' commits
                since = max([first, *(v for v in versions[:index] if v is not None)])
                until = min([last + 1, *(v for v in versions[index:] if v is not None)])
                assert gave[key] in {play(deepcopy(states[v]), script) for v in range(since, until)}, key


def _version(engine: Any) -> int:
    return int(engine._opened().snapshot.version)


@pytest.mark.parametrize("places", [["loop"], ["loop", "thread"]], ids=["loop", "threads"])
def test_flows_beside_each_other_are_serializable_and_in_order(places):
    conflicts = 0
    for number in range(HISTORIES):
        rng = random.Random(f"{places} {number}")
        recorder = Recorder()
        with Engine(World(), observers=[recorder]) as engine:
            history(rng, engine, recorder, places)
        conflicts += recorder.conflicts
    assert conflicts, "a test without conflicts shows nothing"


def test_also_with_worker_processes():
    recorder = Recorder()
    rng = random.Random(7)
    with Engine(World(), observers=[recorder], workers=2) as engine:
        for _ in range(8):
            history(rng, engine, recorder, ["loop", "thread", "worker", "worker"])
