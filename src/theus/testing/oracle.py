"""The serial oracle: whatever ran at once must have ended as if it had run one after the other.

Random *scripts* of reads and writes run concurrently through an engine, in a mix of environments. Each
write depends on everything that its script read before, so any read of a wrong state spreads. Afterwards the
scripts are replayed one by one on a plain object, in the order of their commits: final state and every
script's own result must be the same. (After Block-STM's sequential baseline.)
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from theus.context import Context
from theus.engine import Engine
from theus.events import Event, StateCommitted
from theus.processes import Process, process
from theus.state.fields import Tally
from theus.workflow import parallel

KEYS = "abcd"
LARGE = 1_000_003


@dataclass
class Item:
    """One of the things in the world."""

    value: int = 0
    tags: list[int] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)


@dataclass
class World:
    """A small state with every kind of container, so that scripts meet often."""

    number: int = 0
    numbers: dict[str, int] = field(default_factory=dict)
    items: dict[str, Item] = field(default_factory=lambda: {key: Item() for key in KEYS})
    log: list[int] = field(default_factory=list)
    total: Tally = 0


Action = tuple[str, str, int]  # what to do, at which key, with which number
Script = tuple[Action, ...]

ACTIONS = (
    "read number", "write number", "read key", "write key", "drop key", "count keys", "sum all",
    "read item", "write item", "tag item", "mark item", "replace item", "length of log", "last of log", "log", "tally",
)  # fmt: skip


def random_script(rng: random.Random, length: int) -> Script:
    """``length`` random actions."""
    return tuple((rng.choice(ACTIONS), rng.choice(KEYS), rng.randrange(100)) for _ in range(length))


def act(world: World, action: Action, so_far: int) -> int:
    """Do one action; gives a number that depends on what was read now and before."""
    kind, key, n = action
    wrote = (so_far * 31 + n) % LARGE
    if kind == "read number":
        return (so_far * 7 + world.number) % LARGE
    if kind == "write number":
        world.number = wrote
    elif kind == "read key":
        return (so_far * 7 + world.numbers.get(key, 5)) % LARGE
    elif kind == "write key":
        world.numbers[key] = wrote
    elif kind == "drop key":
        return (so_far * 7 + world.numbers.pop(key, 3)) % LARGE
    elif kind == "count keys":
        return (so_far * 7 + len(world.numbers)) % LARGE
    elif kind == "sum all":
        return (so_far * 7 + sum(world.numbers.values())) % LARGE
    elif kind == "read item":
        return (so_far * 7 + world.items[key].value) % LARGE
    elif kind == "write item":
        world.items[key].value = wrote
    elif kind == "tag item":
        world.items[key].tags.append(wrote)
    elif kind == "mark item":
        world.items[key].seen.add(wrote % 7)
    elif kind == "replace item":
        world.items[key] = Item(wrote)
    elif kind == "length of log":
        return (so_far * 7 + len(world.log)) % LARGE
    elif kind == "last of log":
        return (so_far * 7 + (world.log[-1] if world.log else 1)) % LARGE
    elif kind == "log":
        world.log.append(wrote)
    elif kind == "tally":
        world.total += n
    return so_far


def play(world: World, script: Script) -> int:
    """A whole script, on a draft or on a plain object."""
    so_far = 1
    for action in script:
        so_far = act(world, action, so_far)
    return so_far


@process
async def on_loop(ctx: Context[World], script: Script) -> int:
    """A script on the event loop, with a wait after each action."""
    so_far = 1
    for action in script:
        so_far = act(ctx.domain, action, so_far)
        await asyncio.sleep(0)
    return so_far


@process(environment="thread")
def in_thread(ctx: Context[World], script: Script) -> int:
    """A script in a thread."""
    so_far = 1
    for action in script:
        so_far = act(ctx.domain, action, so_far)
        time.sleep(0)  # lets go of the GIL
    return so_far


@process(environment="worker")
def in_worker(ctx: Context[World], script: Script) -> int:
    """A script in a worker process."""
    return play(ctx.domain, script)


@process(environment="interpreter")
def in_interpreter(ctx: Context[World], script: Script) -> int:
    """A script in a sub-interpreter (Python 3.14)."""
    return play(ctx.domain, script)


@process(environment="inline")
def inline(ctx: Context[World], script: Script) -> int:
    """A script in the caller's thread."""
    return play(ctx.domain, script)


@process(nature="state")
def in_commit(ctx: Context[World], script: Script) -> int:
    """A script on the newest state, in the commit."""
    return play(ctx.domain, script)


@process
async def by_message(ctx: Context[World], script: Script) -> None:
    """A script sent to the state."""
    await asyncio.sleep(0)
    ctx.send(in_commit, script=script)


PLACES: dict[str, Process[Any, Any]] = {
    "loop": on_loop,
    "thread": in_thread,
    "inline": inline,
    "commit": in_commit,
    "message": by_message,
    "worker": in_worker,
    "interpreter": in_interpreter,
}


@dataclass(slots=True)
class History:
    """What happened: scripts in the order of their commits, what they gave, and how it ended."""

    committed: list[tuple[int, str, Script]]
    results: dict[str, Any]
    final: World
    conflicts: int

    def violations(self) -> list[str]:
        """Where the concurrent run differs from the serial one; empty if nowhere."""
        world = World()
        found = []
        for version, key, script in self.committed:
            expected = play(world, script)
            result = self.results[key]
            if result is not None and result != expected:
                found.append(f"version {version}, {key}: gave {result}, serially {expected}")
        if world != self.final:
            found.append(f"final state {self.final}\n  serially {world}")
        return found


def run_history(engine: Engine[World], scripts: Sequence[tuple[str, Script]]) -> History:
    """Run ``(place, script)`` pairs all at once through an engine made with ``World()``; gives what happened.

    The engine must have been made with ``observers=[recorder]`` of ``Recorder``.
    """
    recorder = next(observer for observer in engine.observers if isinstance(observer, Recorder))
    branches = [PLACES[place].bind(script=script) for place, script in scripts]
    run = engine.submit(parallel(*branches))
    values = run.result(60)
    results, scripts_by_key = {}, {}
    for index, (place, script) in enumerate(scripts):
        key = f"{run.id}/{index}.{PLACES[place].name}"
        results[key], scripts_by_key[key] = values[index], script
    committed = sorted(
        (version, key, scripts_by_key[key]) for version, key in recorder.commits if key in scripts_by_key
    )
    return History(committed, results, engine.state, recorder.conflicts)


class Recorder:
    """An observer that notes which call made which version."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.commits: list[tuple[int, str]] = []
        self.conflicts = 0

    def __call__(self, event: Event) -> None:
        with self._lock:
            if isinstance(event, StateCommitted):
                self.commits.append((event.version, event.key))
            elif type(event).__name__ == "CallConflicted":
                self.conflicts += 1
