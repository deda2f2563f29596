"""The price of a transaction: begin, one operation, finish, commit, close; beside plain Python and deepcopy.

    python -m benchmarks.bench_state [quick]

Minima of several rounds, in microseconds; only ratios inside one table say something on a shared machine.
"""

from __future__ import annotations

import copy
import gc
import platform
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from theus.protocols import Commit, Committed
from theus.state.access import Contract, Grant
from theus.state.fields import Tally
from theus.state.head import Head
from theus.state.transaction import Transaction


@dataclass
class User:
    name: str
    score: int = 0


@dataclass
class Domain:
    n: int = 0
    hits: Tally = 0
    a: int = 1
    b: str = "b"
    c: float = 0.0
    d: None = None
    log: list[str] = field(default_factory=list)
    big: dict[int, int] = field(default_factory=dict)
    users: dict[str, User] = field(default_factory=dict)
    tags: set[str] = field(default_factory=set)


def make(size: int) -> Domain:
    users = {"a": User("a")} | {f"u{i}": User(str(i)) for i in range(min(size, 10_000))}
    return Domain(log=["x"] * min(size, 10_000), big={i: i for i in range(size)}, users=users)


def read(d: Domain) -> None:
    d.a  # noqa: B018


def increment(d: Domain) -> None:
    d.n += 1


def tally(d: Domain) -> None:
    d.hits += 1


def append(d: Domain) -> None:
    d.log.append("x")


def set_key(d: Domain) -> None:
    d.big[5] = 7


def nested(d: Domain) -> None:
    d.users["a"].name = "b"


def nothing(d: Domain) -> None:
    pass


OPERATIONS: list[Callable[[Domain], None]] = [nothing, read, increment, tally, append, set_key, nested]


def transact(head: Head, body: Callable[[Any], None], grant: Grant | None = None) -> None:
    tx = Transaction(head.snapshot, "bench", grant)
    body(tx.domain)
    reads, ops = tx.finish()
    head.commit(Commit(tx.base, reads, ops, "bench"))
    tx.close()


def untouched(head: Head) -> None:
    tx = Transaction(head.snapshot, "bench")
    tx.finish()
    tx.close()


def best(call: Callable[[], Any], number: int, rounds: int) -> float:
    """Microseconds per call, the best of some rounds."""
    gc.collect()
    gc.disable()
    times = []
    clock = time.perf_counter
    for _ in range(rounds):
        start = clock()
        for _ in range(number):
            call()
        times.append((clock() - start) / number)
    gc.enable()
    return min(times) * 1e6


def table(title: str, columns: list[str], rows: list[tuple[str, list[float]]]) -> None:
    print(f"\n{title}")
    print(f"{'':34}" + "".join(f"{column:>14}" for column in columns))
    for name, values in rows:
        print(f"{name:34}" + "".join(f"{value:14.2f}" for value in values))


def whole(quick: bool) -> None:
    number, rounds = (500, 5) if quick else (3000, 15)
    sizes = [10, 10_000, 1_000_000]
    heads = [Head(make(size)) for size in sizes]
    contract = Contract.parse(["a", "n", "users.*.name"], ["n", "hits", "log", "big", "users.*.name"], (), (), "bench")
    grant = contract.grant({})
    plain = make(10)
    rows = []
    for body in OPERATIONS:
        values = [best(lambda body=body, head=head: transact(head, body), number, rounds) for head in heads]  # type: ignore[misc]
        values.append(best(lambda body=body: transact(heads[0], body, grant), number, rounds))  # type: ignore[misc]
        values.append(best(lambda body=body: body(plain), number, rounds))  # type: ignore[misc]
        rows.append((body.__name__, values))
    values = [best(lambda head=head: untouched(head), number, rounds) for head in heads]  # type: ignore[misc]
    rows.append(("untouched (no draft, no commit)", [*values, 0, 0]))
    table("whole transaction, us", ["10", "10,000", "1,000,000", "10 + contract", "plain Python"], rows)
    print("deepcopy on entry, for comparison: ", end="")
    for size in (10, 10_000):
        state = make(size)
        print(f"{size:,} entries {best(lambda state=state: copy.deepcopy(state), 3, 3):,.0f} us", end="; ")  # type: ignore[misc]
    print()


def inside(quick: bool) -> None:
    number, rounds = (2_000, 5) if quick else (20_000, 9)
    head = Head(make(1_000_000))
    plain = make(10_000)
    tx = Transaction(head.snapshot)
    d = tx.domain
    big, pbig = d.big, plain.big
    user, puser = d.users["a"], plain.users["a"]
    keys = list(range(10_000))

    def each(data: Any) -> None:
        for key in keys:
            data[key]

    def fresh() -> None:
        other = Transaction(head.snapshot)
        each(other.domain.big)
        other.close()

    def first(data: Any) -> None:
        data.__dict__.pop("a", None)
        data.a  # noqa: B018

    rows = [
        ("read a field again", [best(lambda: d.a, number, rounds), best(lambda: plain.a, number, rounds)]),
        ("read a field for the first time", [best(lambda: first(d), number, rounds), 0.0]),
        (
            "write a field",
            [
                best(lambda: setattr(d, "c", 1.0), number, rounds),
                best(lambda: setattr(plain, "c", 1.0), number, rounds),
            ],
        ),
        ("d[k]", [best(lambda: big[5], number, rounds), best(lambda: pbig[5], number, rounds)]),
        (
            "d[k] = v",
            [best(lambda: big.__setitem__(5, 1), number, rounds), best(lambda: pbig.__setitem__(5, 1), number, rounds)],
        ),
        ("users[k].name", [best(lambda: user.name, number, rounds), best(lambda: puser.name, number, rounds)]),
        ("10,000 keys one by one, ms", [best(fresh, 1, rounds) / 1e3, best(lambda: each(pbig), 1, rounds) / 1e3]),
    ]
    log = d.log
    rows.append(
        ("append", [best(lambda: log.append("x"), number, rounds), best(lambda: plain.log.append("x"), number, rounds)])
    )
    tx.close()
    small = Head(make(10_000))

    def items() -> None:
        other = Transaction(small.snapshot)
        sum(value for _, value in other.domain.big.items())
        other.close()

    rows.append(
        (
            "items() of 10,000, ms",
            [best(items, 1, rounds) / 1e3, best(lambda: sum(v for _, v in pbig.items()), 1, rounds) / 1e3],
        )
    )
    table("one operation inside, us", ["draft", "plain"], rows)


def throughput(quick: bool) -> None:
    total = 20_000 if quick else 200_000
    print("\ncounter += 1, transactions per second")
    for threads in (1, 8):
        head = Head(Domain())

        def work(head: Head = head, share: int = total // threads) -> None:
            for _ in range(share):
                while True:
                    tx = Transaction(head.snapshot)
                    tx.domain.n += 1
                    reads, ops = tx.finish()
                    made = head.commit(Commit(tx.base, reads, ops, ""))
                    tx.close()
                    if type(made) is Committed:
                        break

        workers = [threading.Thread(target=work) for _ in range(threads)]
        start = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        seconds = time.perf_counter() - start
        assert head.snapshot.view().n == total // threads * threads
        print(f"  {threads} thread(s): {total / seconds:,.0f}")


def main(arguments: list[str]) -> None:
    quick = "quick" in arguments
    print(f"Python {platform.python_version()}")
    whole(quick)
    inside(quick)
    throughput(quick)


if __name__ == "__main__":
    main(sys.argv[1:])
