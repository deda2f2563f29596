"""Random transactions in random interleavings end in a state that their commits, replayed one by one, give.

Each transaction runs a random program on the draft, interleaved with others at statement level. Those that
commit are run again, in commit order, on one plain object. Everything that they returned and the final state must
be equal: that is strict serializability. A broken rule of conflict shows here first (see the last test).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from state_tools import Session, examples

from theus.protocols import Committed
from theus.state.apply import apply_ops
from theus.state.fields import Tally
from theus.state.head import Head
from theus.state.transaction import Transaction
from theus.state.values import plain


@dataclass
class Leaf:
    n: int = 0
    marks: list[int] = field(default_factory=list)


@dataclass
class World:
    a: int = 0
    b: int = 0
    hits: Tally = 0
    log: list[int] = field(default_factory=list)
    table: dict[str, Any] = field(default_factory=dict)
    leaves: dict[str, Leaf] = field(default_factory=dict)
    tags: set[int] = field(default_factory=set)


def _copy_number(w: Any, k: str, n: int) -> Any:
    w.table[k] = w.a + n


def _append_len(w: Any, k: str, n: int) -> Any:
    w.log.append(len(w.log))


def _replace(w: Any, k: str, n: int) -> Any:
    w.leaves[k] = Leaf(n)


def _drop(w: Any, k: str, n: int) -> Any:
    return w.leaves.pop(k, None) is None


def _bump(w: Any, k: str, n: int) -> Any:
    leaf = w.leaves.get(k)
    if leaf is not None:
        leaf.n += n
        leaf.marks.append(n)
        return leaf.n
    return None


def _total(w: Any, k: str, n: int) -> Any:
    w.a = sum(leaf.n for leaf in w.leaves.values()) + n


def _move(w: Any, k: str, n: int) -> Any:
    if k in w.leaves:
        w.leaves["moved"] = w.leaves.pop(k)


def _reset(w: Any, k: str, n: int) -> Any:
    w.leaves = {}


def _tally(w: Any, k: str, n: int) -> Any:
    w.hits += n


def _increment(w: Any, k: str, n: int) -> Any:
    w.a += n


def _skew(w: Any, k: str, n: int) -> Any:
    if n % 2:
        w.a = w.b + 1
    else:
        w.b = w.a + 1


STATEMENTS: list[Callable[[Any, str, int], Any]] = [
    _copy_number,
    _append_len,
    _replace,
    _drop,
    _bump,
    _total,
    _move,
    _reset,
    _tally,
    _increment,
    _skew,
    lambda w, k, n: w.log.append(n),
    lambda w, k, n: w.log[-1] if w.log else None,
    lambda w, k, n: w.log.insert(0, n),
    lambda w, k, n: w.log.pop() if w.log else None,
    lambda w, k, n: w.table.__setitem__(k, n),
    lambda w, k, n: w.table.get(k),
    lambda w, k, n: w.table.pop(k, None),
    lambda w, k, n: list(w.table),
    lambda w, k, n: list(w.leaves),
    lambda w, k, n: len(w.leaves),
    lambda w, k, n: w.table.setdefault(k, n),
    lambda w, k, n: setattr(w, "table", {**w.table, k: n}),
    lambda w, k, n: w.tags.add(n),
    lambda w, k, n: w.tags.discard(n),
    lambda w, k, n: n in w.tags,
    lambda w, k, n: len(w.tags),
    lambda w, k, n: int(w.hits),
    lambda w, k, n: plain(w.leaves),
    lambda w, k, n: setattr(w, "hits", n),
    lambda w, k, n: w.leaves[k].marks[0] if k in w.leaves and w.leaves[k].marks else None,
]

statements = st.tuples(st.integers(0, len(STATEMENTS) - 1), st.sampled_from("xyz"), st.integers(0, 3))
programs = st.lists(st.lists(statements, min_size=1, max_size=5), min_size=2, max_size=5)
schedules = st.lists(st.integers(0, 4), max_size=40)


def start() -> World:
    return World(table={"x": 1}, leaves={"x": Leaf(1), "y": Leaf(2)}, log=[1], tags={1})


def perform(statement: tuple[int, str, int], world: Any) -> Any:
    number, key, n = statement
    return plain(STATEMENTS[number](world, key, n))


def check(program: list[list[tuple[int, str, int]]], schedule: list[int], extend: bool) -> int:
    """Run, replay, compare; how many committed."""
    session = Session(start())
    running: dict[int, tuple[Transaction, list[Any]]] = {}
    history: list[tuple[int, list[Any]]] = []
    tree: Any = session.head.snapshot.root
    order = [*schedule, *[number for number in range(len(program)) for _ in range(9)]]
    done: set[int] = set()
    readers: list[tuple[int, int, list[Any]]] = []
    for number in order:
        number %= len(program)
        if number in done:
            continue
        if number not in running:
            running[number] = (session.begin() if extend else session.fixed(), [])
        tx, results = running[number]
        if len(results) < len(program[number]):
            results.append(perform(program[number][len(results)], tx.domain))
            continue
        done.add(number)
        base = tx.base
        made = session.end(tx)
        if isinstance(made, Committed):
            if made.ops:
                history.append((number, results))
                tree = apply_ops(tree, made.ops, trial=True)
            else:
                readers.append((base, number, results))
    model = start()
    versions = [plain(model)]
    for number, results in history:
        assert [perform(statement, model) for statement in program[number]] == results
        model = plain(model)
        versions.append(plain(model))
    assert plain(session.state) == model
    assert plain(tree) == model
    assert list(session.state.table.items()) == list(model.table.items())
    for base, number, results in readers:
        assert [perform(statement, versions[base]) for statement in program[number]] == results
    return len(history)


@examples(300)
@given(programs, schedules, st.booleans())
def test_commits_are_serial(program: Any, schedule: Any, extend: bool) -> None:
    check(program, schedule, extend)


def test_the_oracle_sees_a_missing_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """With validation switched off the oracle finds a violation."""
    monkeypatch.setattr(Head, "_validate", lambda *arguments: None)
    program = [[(9, "x", 1)], [(9, "x", 1)]]
    with pytest.raises(AssertionError):
        check(program, [0, 1, 0, 1], False)
