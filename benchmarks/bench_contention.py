"""Many that change one place at once, and the price of a whole call whatever the size of the state.

Every figure stands beside its ceiling or baseline, measured in turns with it: the same loop under a lock and without
Theus, or the same loop with bare optimistic transactions that start again at once.
"""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from theus import Context, Engine, each, process
from theus.protocols import Commit, Committed
from theus.state.head import Head
from theus.state.snapshot import Snapshot
from theus.state.transaction import Transaction

WORKERS = 8
WINDOW = 0.7  #: seconds that each case of contention runs in one round
ROUNDS = 2
INSIDE = 0.001  #: seconds between the read and the write
SLOW = 0.05
MODEL = 0.2  #: seconds that an agent waits for its model


@dataclass
class Board:
    limit: int = 10
    count: int = 0
    log: list[int] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


# --- what contends ---------------------------------------------------------------------------------------------------


@dataclass
class Tried:
    """What one case did: commits of each worker, executions of the body, seconds."""

    commits: list[int]
    attempts: int = 0
    seconds: float = 0.0

    def __add__(self, other: Tried) -> Tried:
        commits = [a + b for a, b in zip(self.commits, other.commits, strict=True)]
        return Tried(commits, self.attempts + other.attempts, self.seconds + other.seconds)

    @property
    def rate(self) -> float:
        return sum(self.commits) / self.seconds

    @property
    def evenness(self) -> float:
        return max(self.commits) / min(self.commits) if min(self.commits) else float("inf")


Case = Callable[[], Tried]


def tasks(
    make: Callable[[Tried], Callable[[int], Awaitable[Any]]], workers: int = WORKERS, seconds: float = WINDOW
) -> Case:
    """A case: ``workers`` asyncio tasks do one thing again and again; ``make`` gives it."""

    async def main() -> Tried:
        tried = Tried([0] * workers)
        once = make(tried)
        started = time.perf_counter()

        async def work(number: int) -> None:
            while time.perf_counter() - started < seconds:
                await once(number)
                tried.commits[number] += 1

        await asyncio.gather(*[work(number) for number in range(workers)])
        tried.seconds = time.perf_counter() - started
        return tried

    return lambda: asyncio.run(main())


def threads(make: Callable[[Tried], Callable[[], Any]]) -> Case:
    """The same with threads."""

    def case() -> Tried:
        tried = Tried([0] * WORKERS)
        once = make(tried)
        started = time.perf_counter()

        def work(number: int) -> None:
            while time.perf_counter() - started < WINDOW:
                once()
                tried.commits[number] += 1

        _all([threading.Thread(target=work, args=(number,)) for number in range(WORKERS)])
        tried.seconds = time.perf_counter() - started
        return tried

    return case


def _all(workers: list[threading.Thread]) -> None:
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def rounds(cases: dict[str, Case]) -> dict[str, Tried]:
    """Every case in turns, added up."""
    total: dict[str, Tried] = {}
    for _ in range(ROUNDS):
        for name, case in cases.items():
            tried = case()
            total[name] = total[name] + tried if name in total else tried
    return total


def show(title: str, total: dict[str, Tried], note: str = "") -> None:
    """Print cases of contention beside the first of them."""
    first = next(iter(total.values()))
    columns(
        title,
        ["commits/s", "x the first", "max/min", "attempts"],
        {
            name: [
                f"{tried.rate:,.0f}",
                f"{tried.rate / first.rate:.2f}",
                f"{tried.evenness:.2f}",
                f"{tried.attempts / sum(tried.commits):.2f}" if tried.attempts else "",
            ]
            for name, tried in total.items()
        },
        note,
    )


def columns(title: str, heads: list[str], rows: dict[str, list[str]], note: str = "") -> None:
    """Print rows of figures under their heads."""
    print(f"\n{title}")
    width = max(map(len, rows))
    print(f"  {'':<{width}}" + "".join(f"  {head:>12}" for head in heads))
    for name, cells in rows.items():
        print(
            f"  {name:<{width}}"
            + "".join(f"  {cell:>{max(12, len(head))}}" for cell, head in zip(cells, heads, strict=True))
        )
    if note:
        print(f"  {note}")


def least(cases: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The least that each case took in interleaved rounds: what others do on the machine only adds."""
    seen: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            seen[name].append(case())
    return {name: min(values) for name, values in seen.items()}


# --- the bodies of contention ---


def by_engine(body: Callable[[Any], Awaitable[None]]) -> Callable[[Tried], Callable[[int], Awaitable[Any]]]:
    """Calls of an ``async def`` through an engine of their own, executions counted."""

    def make(tried: Tried) -> Callable[[int], Awaitable[Any]]:
        engine = Engine(Board())

        @process
        async def counted(ctx: Context[Board]) -> None:
            tried.attempts += 1
            await body(ctx)

        return lambda _: engine.arun(counted)

    return make


async def modify(ctx: Context[Board]) -> None:
    seen = ctx.domain.count
    await asyncio.sleep(INSIDE)
    ctx.domain.count = seen + 1


async def wait_then_add(ctx: Context[Board]) -> None:
    assert ctx.domain.limit
    await asyncio.sleep(INSIDE)
    ctx.domain.count += 1


async def append(ctx: Context[Board]) -> None:
    await asyncio.sleep(INSIDE)
    ctx.domain.log.append(1)


async def append_to_what_was_read(ctx: Context[Board]) -> None:
    before = len(ctx.domain.log)
    await asyncio.sleep(INSIDE)
    ctx.domain.log.append(before)


def optimistic(
    first: Callable[[Any], Any], then: Callable[[Any, Any], None], *, fixed: bool
) -> Callable[[Tried], Callable[[int], Awaitable[Any]]]:
    """Bare transactions that start again at once when they conflict."""

    def make(tried: Tried) -> Callable[[int], Awaitable[Any]]:
        head = Head(Board())

        async def once(_: int) -> None:
            while True:
                tried.attempts += 1
                base = head.snapshot
                tx = Transaction(Snapshot(base.version, base.root) if fixed else base)
                seen = first(tx.domain)
                await asyncio.sleep(INSIDE)
                then(tx.domain, seen)
                if _made(head, tx):
                    return

        return once

    return make


def _made(head: Head, tx: Transaction) -> bool:
    reads, ops = tx.finish()
    made = head.commit(Commit(tx.base, reads, ops, ""))
    tx.close()
    return type(made) is Committed


def _write_count(board: Any, seen: int) -> None:
    board.count = seen + 1


def _add(board: Any, seen: Any) -> None:
    board.count += 1


def under_a_lock(tried: Tried) -> Callable[[int], Awaitable[Any]]:
    lock, board = asyncio.Lock(), Board()

    async def once(_: int) -> None:
        async with lock:
            seen = board.count
            await asyncio.sleep(INSIDE)
            board.count = seen + 1

    return once


# --- contention ------------------------------------------------------------------------------------------------------


def alone() -> None:
    """Transactions without an engine, beside a lock around the same addition."""
    total = 16_000

    def spread(count: int, work: Callable[[int], None]) -> Callable[[], float]:
        def case() -> float:
            workers = [threading.Thread(target=work, args=(total // count,)) for _ in range(count)]
            started = time.perf_counter()
            _all(workers)
            return (time.perf_counter() - started) / total * 1e6

        return case

    lock, board = threading.Lock(), Board()

    def locked(share: int) -> None:
        for _ in range(share):
            with lock:
                board.count += 1

    head = Head(Board())

    def transactions(share: int) -> None:
        for _ in range(share):
            while True:
                tx = Transaction(head.snapshot)
                tx.domain.count += 1
                if _made(head, tx):
                    break

    figures = least(
        {
            "a lock and += 1, 1 thread": spread(1, locked),
            "transactions, 1 thread": spread(1, transactions),
            "transactions, 8 threads": spread(8, transactions),
        },
        rounds=12,
    )
    columns(
        "counter += 1 without an engine",
        ["each second", "us"],
        {name: [f"{1e6 / figure:,.0f}", f"{figure:.2f}"] for name, figure in figures.items()},
        "best of 12 rounds; goal: 200,000 and more from one and from eight threads",
    )


def one_counter() -> None:
    total = rounds(
        {
            "asyncio.Lock": tasks(under_a_lock),
            "await engine.arun": tasks(by_engine(modify)),
            "optimistic, again at once": tasks(optimistic(lambda board: board.count, _write_count, fixed=False)),
        }
    )
    show(
        "8 tasks, 1 ms inside a read-modify-write of one counter",
        total,
        "goal: 0.95 of the lock and more, max/min 1.1 and less, 1.1 attempts and less",
    )


def one_counter_by_threads() -> None:
    def locked(tried: Tried) -> Callable[[], Any]:
        lock, board = threading.Lock(), Board()

        def once() -> None:
            with lock:
                seen = board.count
                time.sleep(INSIDE)
                board.count = seen + 1

        return once

    def through(tried: Tried) -> Callable[[], Any]:
        engine = Engine(Board())

        @process
        def modify(ctx: Context[Board]) -> None:
            tried.attempts += 1
            seen = ctx.domain.count
            time.sleep(INSIDE)
            ctx.domain.count = seen + 1

        return lambda: engine.run(modify)

    total = rounds({"threading.Lock": threads(locked), "engine.run": threads(through)})
    show("The same with 8 threads", total)


def slow_beside_fast() -> None:
    """One takes 50 ms, seven take 1 ms, all of them on one counter. A fair lock gives the slow one every eighth turn."""

    def locked(tried: Tried) -> Callable[[int], Awaitable[Any]]:
        lock = asyncio.Lock()

        async def once(number: int) -> None:
            async with lock:
                await asyncio.sleep(INSIDE if number else SLOW)

        return once

    def through(tried: Tried) -> Callable[[int], Awaitable[Any]]:
        engine = Engine(Board())

        async def body(ctx: Context[Board], seconds: float) -> None:
            seen = ctx.domain.count
            await asyncio.sleep(seconds)
            ctx.domain.count = seen + 1

        @process
        async def slow(ctx: Context[Board]) -> None:
            tried.attempts += 1
            await body(ctx, SLOW)

        @process
        async def fast(ctx: Context[Board]) -> None:
            await body(ctx, INSIDE)

        return lambda number: engine.arun(fast if number else slow)

    total = rounds(
        {
            "alone, await engine.arun": tasks(through, 1, 2 * WINDOW),
            "beside 7, asyncio.Lock": tasks(locked, seconds=2 * WINDOW),
            "beside 7, await engine.arun": tasks(through, seconds=2 * WINDOW),
        }
    )
    pace = {name: tried.commits[0] / tried.seconds for name, tried in total.items()}
    columns(
        "1 slow (50 ms) beside 7 fast (1 ms) on one counter: the slow one",
        ["commits/s", "of its pace", "attempts", "each fast one"],
        {
            name: [
                f"{pace[name]:.1f}",
                f"{pace[name] / pace['alone, await engine.arun']:.0%}",
                f"{tried.attempts / tried.commits[0]:.2f}" if tried.attempts else "",
                f"{statistics.mean(tried.commits[1:]) / tried.seconds:.1f}" if len(tried.commits) > 1 else "",
            ]
            for name, tried in total.items()
        },
        "seven turns of 1 ms between two of its own leave 50/57 = 88 %",
    )


def waiting_first() -> None:
    total = rounds(
        {
            "fixed snapshot, again at once": tasks(optimistic(lambda board: board.limit, _add, fixed=True)),
            "the counter read before": tasks(by_engine(modify)),
            "wait, then += 1": tasks(by_engine(wait_then_add)),
        }
    )
    title = "8 tasks: read a limit, wait 1 ms, counter += 1"
    show(title, total, "goal: 7 times a fixed snapshot and more")


def blind() -> None:
    total = rounds(
        {
            "length read before": tasks(by_engine(append_to_what_was_read)),
            "blind append": tasks(by_engine(append)),
        }
    )
    title = "8 tasks, 1 ms inside: append to one list"
    show(title, total, "goal: 7 times a read-modify-write and more")


@process(nature="state")
def add_line(ctx: Context[Board], line: str) -> None:
    ctx.domain.lines.append(line)


def ten_agents() -> None:
    asked = 0

    async def model(name: int, transcript: list[str]) -> str:
        nonlocal asked
        asked += 1
        await asyncio.sleep(MODEL)
        return f"{name} after {len(transcript)} lines"

    @process
    async def sends(ctx: Context[Board], name: int) -> None:
        ctx.send(add_line, line=await model(name, list(ctx.domain.lines)))

    @process
    async def writes(ctx: Context[Board], name: int) -> None:
        ctx.domain.lines.append(await model(name, list(ctx.domain.lines)))

    async def bare() -> None:
        await asyncio.gather(*[model(name, []) for name in range(10)])

    async def through(target: Any) -> None:
        async with Engine(Board(lines=["hello"])) as engine:
            await engine.arun(each(target), range(10))
            assert len(engine.state.lines) == 11

    cases: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
        "asyncio.gather": bare,
        "ctx.send": lambda: through(sends),
        "append to what was read": lambda: through(writes),
    }
    rows = {}
    for name, work in cases.items():
        asked = 0
        started = time.perf_counter()
        asyncio.run(work())
        rows[name] = [f"{time.perf_counter() - started:.3f}", str(asked)]
    columns(
        f"Ten agents read one transcript, wait {MODEL} s for a model, add their line",
        ["seconds", "model calls"],
        rows,
        "goal: the time of one, ten calls",
    )


# --- the whole call --------------------------------------------------------------------------------------------------

CALLS = 300


@dataclass
class User:
    name: str
    score: int = 0


@dataclass
class Shop:
    n: int = 0
    name: str = "shop"
    log: list[int] = field(default_factory=list)
    big: dict[int, int] = field(default_factory=dict)
    users: dict[str, User] = field(default_factory=dict)


def make_shop(size: int) -> Shop:
    some = min(size, 10_000)
    return Shop(0, "shop", [0] * some, {n: n for n in range(size)}, {f"u{n}": User(str(n)) for n in range(some)})


def read(ctx: Context[Shop]) -> None:
    ctx.domain.name  # noqa: B018


def increment(ctx: Context[Shop]) -> None:
    ctx.domain.n += 1


def grow(ctx: Context[Shop]) -> None:
    ctx.domain.log.append(1)


def set_key(ctx: Context[Shop]) -> None:
    ctx.domain.big[5] = 7


def nested(ctx: Context[Shop]) -> None:
    ctx.domain.users["u1"].name = "b"


async def aread(ctx: Context[Shop]) -> None:
    ctx.domain.name  # noqa: B018


async def aincrement(ctx: Context[Shop]) -> None:
    ctx.domain.n += 1


async def agrow(ctx: Context[Shop]) -> None:
    ctx.domain.log.append(1)


async def aset_key(ctx: Context[Shop]) -> None:
    ctx.domain.big[5] = 7


async def anested(ctx: Context[Shop]) -> None:
    ctx.domain.users["u1"].name = "b"


#: name: the body as def and as async def, what it reads and writes, the goal in us
BODIES: dict[str, tuple[Any, Any, list[str], list[str], int]] = {
    "read one field": (read, aread, ["name"], [], 10),
    "counter += 1": (increment, aincrement, ["n"], ["n"], 10),
    "append to a list": (grow, agrow, [], ["log"], 10),
    "one key of the dict": (set_key, aset_key, [], ["big"], 13),
    "nested field": (nested, anested, [], ["users.*.name"], 13),
}


def whole_calls() -> None:
    small, large = Engine(make_shop(10)), Engine(make_shop(1_000_000))
    plain = _Plain(make_shop(10))

    def run(engine: Engine[Shop], target: Any) -> Callable[[], float]:
        def case() -> float:
            started = time.perf_counter()
            for _ in range(CALLS):
                engine.run(target)
            return (time.perf_counter() - started) / CALLS * 1e6

        return case

    def arun(engine: Engine[Shop], target: Any) -> Callable[[], float]:
        async def main() -> float:
            started = time.perf_counter()
            for _ in range(CALLS):
                await engine.arun(target)
            return (time.perf_counter() - started) / CALLS * 1e6

        return lambda: asyncio.run(main())

    def bare(body: Any) -> Callable[[], float]:
        def case() -> float:
            started = time.perf_counter()
            for _ in range(CALLS):
                body(plain)
            return (time.perf_counter() - started) / CALLS * 1e6

        return case

    rows = {}
    for name, (body, abody, reads, writes, goal) in BODIES.items():
        figures = least(
            {
                "plain": bare(body),
                "run": run(small, process(body)),
                "run, 1M": run(large, process(body)),
                "contract": run(small, process(reads=reads, writes=writes)(body)),
                "state": run(small, process(nature="state")(body)),
                "arun": arun(small, process(abody)),
                "arun, 1M": arun(large, process(abody)),
                "acontract": arun(small, process(reads=reads, writes=writes)(abody)),
            },
            rounds=20,
        )
        rows[name] = [
            f"{figures['plain']:.2f}",
            f"{figures['run']:.2f}",
            f"{figures['run, 1M']:.2f}",
            f"{figures['run, 1M'] / figures['run']:.2f} x",
            f"{figures['contract'] / figures['run']:.2f} x",
            f"{figures['state'] / figures['run']:.2f} x",
            f"{figures['arun']:.2f}",
            f"{figures['arun, 1M']:.2f}",
            f"{figures['arun, 1M'] / figures['arun']:.2f} x",
            f"{figures['acontract'] / figures['arun']:.2f} x",
            f"{goal}",
        ]
    columns(
        "One whole call in us: engine.run(def) and await engine.arun(async def), state of 10 and of 1,000,000 entries",
        [
            "plain",
            "run, 10",
            "run, 1M",
            "1M/10",
            "contract",
            "state",
            "arun, 10",
            "arun, 1M",
            "1M/10",
            "contract",
            "goal",
        ],
        rows,
        "least of 20 rounds; goal: 1M/10 1.3 x and less, contract 1.05 x (of the call without), state 1 x (of run) and less",
    )
    small.close()
    large.close()


class _Plain:
    """A context without an engine: the body on the plain object."""

    def __init__(self, domain: Shop) -> None:
        self.domain = domain


def main() -> None:
    alone()
    one_counter()
    one_counter_by_threads()
    slow_beside_fast()
    waiting_first()
    blind()
    ten_agents()
    whole_calls()


if __name__ == "__main__":
    main()
