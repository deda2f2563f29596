"""Conflict keys say the same as the head's rule of conflict."""

import enum
import random

import pytest

from theus.protocols import Commit, Conflict
from theus.state.head import Head, Staged
from theus.state.transaction import Transaction
from theus.stores import keys
from theus.testing.oracle import World, play, random_script


def prepared(head: Head, script) -> Commit:
    tx = Transaction(head.snapshot, "script")
    play(tx.domain, script)
    reads, ops = tx.finish()
    tx.close()
    return Commit(tx.base, [(path, set(seen), shape, deep) for path, seen, shape, deep in reads], ops, "script")


@pytest.mark.parametrize("seed", range(400))
def test_keys_meet_where_the_head_finds_a_conflict(seed: int) -> None:
    rng = random.Random(seed)
    head = Head(World())
    head.commit(prepared(head, random_script(rng, 6)))
    mine = prepared(head, random_script(rng, rng.randint(1, 4)))
    theirs = head.stage(prepared(head, random_script(rng, rng.randint(1, 3))), lambda ops: None)
    if not isinstance(theirs, Staged):
        return
    head.publish(0.0)
    met = keys.meet(keys.asked(mine.reads, mine.ops), keys.written(theirs.ops, theirs.moved))
    if mine.ops:
        assert (met is not None) == isinstance(head.commit(mine), Conflict), met


class Number(enum.IntEnum):
    ONE = 1


class Name(enum.StrEnum):
    TEA = "tea"


@pytest.mark.parametrize(
    ("one", "same"), [(1, True), (1, 1.0), (1, Number.ONE), ("tea", Name.TEA), ((1, "a"), (1.0, "a")), (2**70, 2.0**70)]
)
def test_equal_keys_have_one_text(one: object, same: object) -> None:
    reads = [(("stock",), {one}, False, False)]
    assert keys.meet(keys.asked(reads, ()), keys.written([("set", ("stock", same), 1)], [False]))


@pytest.mark.parametrize(("one", "other"), [(1, "1"), ("a\nb", "a"), ("'a'", "a"), ((1, 2), "(1,2)"), (1.5, 1)])
def test_different_keys_have_different_texts(one: object, other: object) -> None:
    reads = [(("stock",), {one}, False, False)]
    assert not keys.meet(keys.asked(reads, ()), keys.written([("set", ("stock", other), 1)], [False]))
    assert not keys.meet(keys.asked([], [("set", (one, "x"), 1)]), keys.written([("set", (other,), 1)], [True]))
