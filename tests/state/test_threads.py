"""Many threads at once: nothing is lost, nothing is torn."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from state_tools import SOAK

from theus.protocols import Commit, Committed
from theus.state.fields import Tally
from theus.state.head import Head
from theus.state.transaction import Transaction


@dataclass
class D:
    n: int = 0
    hits: Tally = 0
    a: int = 500
    b: int = 500
    log: list[int] = field(default_factory=list)
    table: dict[int, int] = field(default_factory=lambda: dict.fromkeys(range(300), 10))


@pytest.fixture(autouse=True)
def _often() -> Iterator[None]:
    """Switch threads as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def transact(head: Head, body: Callable[[Any], Any]) -> int:
    """Run until it commits; how often it ran."""
    tries = 0
    while True:
        tries += 1
        tx = Transaction(head.snapshot)
        body(tx.domain)
        reads, ops = tx.finish()
        made = head.commit(Commit(tx.base, reads, ops, ""))
        tx.close()
        if isinstance(made, Committed):
            return tries


def in_threads(count: int, work: Callable[[int], None]) -> None:
    errors: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_increments_are_exact() -> None:
    head = Head(D())
    each = 250 * SOAK

    def body(d: Any) -> None:
        d.n += 1
        d.hits += 1

    def work(number: int) -> None:
        for _ in range(each):
            transact(head, body)

    in_threads(8, work)
    state = head.snapshot.view()
    assert (state.n, state.hits) == (8 * each, 8 * each)


def test_blind_writes_never_run_twice() -> None:
    head = Head(D())

    def work(number: int) -> None:
        for i in range(100 * SOAK):
            assert transact(head, lambda d, i=i: (d.log.append(i), d.table.__setitem__((number, i), i))) == 1  # type: ignore[misc]

    in_threads(6, work)
    state = head.snapshot.view()
    assert len(state.log) == 600 * SOAK
    assert len(state.table) == 300 + 600 * SOAK


def test_sums_are_conserved_at_every_read() -> None:
    head = Head(D())
    stop = threading.Event()

    def transfer(number: int) -> None:
        for i in range(150 * SOAK):
            one, two = (number * 37 + i * 11) % 300, (number * 53 + i * 7) % 300

            def body(d: Any, one: int = one, two: int = two) -> None:
                d.a -= 1
                d.b += 1
                d.table[one] -= 1
                d.table[two] = d.table[two] + 1

            transact(head, body)

    def read() -> None:
        kept = []
        while not stop.is_set():
            kept.append(head.snapshot)
            if len(kept) > 10:
                del kept[::2]
            for snapshot in (kept[0], kept[-1]):
                state = snapshot.view()
                assert state.a + state.b == 1000
                assert sum(state.table.values()) == 3000
                assert sum(state.table[key] for key in range(300)) == 3000
            tx = Transaction(head.snapshot)
            assert tx.domain.a + tx.domain.b == 1000
            assert sum(tx.domain.table.values()) == 3000
            tx.close()

    def work(number: int) -> None:
        if number < 4:
            transfer(number)
        else:
            read()

    ended = threading.Thread(target=lambda: None)
    ended.start()
    readers_and_writers = [0, 1, 2, 3, 4, 5]
    remaining = [4]
    lock = threading.Lock()

    def run(number: int) -> None:
        try:
            work(number)
        finally:
            if number < 4:
                with lock:
                    remaining[0] -= 1
                    if not remaining[0]:
                        stop.set()

    in_threads(len(readers_and_writers), run)


def test_no_write_skew() -> None:
    head = Head({"a": 1, "b": 1, "rounds": 0})
    barrier = threading.Barrier(2)

    def work(number: int) -> None:
        mine = "ab"[number]
        for _ in range(60 * SOAK):
            barrier.wait()

            def body(d: Any) -> None:
                if d["a"] + d["b"] == 2:
                    d[mine] = 0

            transact(head, body)
            barrier.wait()
            state = head.snapshot.view()
            assert state["a"] + state["b"] == 1
            barrier.wait()
            if number == 0:
                transact(head, lambda d: d.update(a=1, b=1))

    in_threads(2, work)


def test_messages_from_many_threads() -> None:
    head = Head(D())

    def message(tx: Transaction) -> None:
        inner = tx.nested(process="count")
        inner.domain.n += 1
        inner.domain.table[5] += 1
        tx.replay(inner.finish()[1])
        inner.close()

    def work(number: int) -> None:
        for _ in range(100 * SOAK):
            assert isinstance(head.commit(Commit(0, (), (), "sender", message)), Committed)

    in_threads(6, work)
    state = head.snapshot.view()
    assert state.n == 600 * SOAK
    assert state.table[5] == 10 + 600 * SOAK
