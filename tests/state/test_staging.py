"""Staging: what is staged counts for the next commit and for nobody else, until it is published or forgotten."""

import random
from dataclasses import dataclass, field

import pytest

from theus.protocols import Commit, Committed, Conflict
from theus.state.access import Ops
from theus.state.head import Head, Looked, Staged
from theus.state.transaction import Transaction
from theus.state.values import plain
from theus.state.versioned import VDict, VList, VSet
from theus.testing.oracle import World, act, play, random_script


def accept(ops: Ops) -> None:
    """Every operation will do."""


def prepared(head: Head, script, seen=None) -> Commit:
    """A commit of a script, as made on the published state (or on an older one)."""
    tx = Transaction(seen or head.snapshot, "script")
    tx._stay()
    play(tx.domain, script)
    reads, ops = tx.finish()
    commit = Commit(tx.base, reads, ops, "script")
    tx.close()
    return commit


def test_readers_see_nothing_before_it_is_published() -> None:
    head = Head(World())
    before = head.snapshot
    staged = head.stage(prepared(head, [("write number", "a", 5)]), accept)
    assert isinstance(staged, Staged)
    assert head.snapshot is before
    assert head.version == 0
    (made,) = head.publish(1.5)
    assert made.version == head.version == 1
    assert head.snapshot.root.number == act_number(5)
    assert before.root.number == 0
    assert [change.at for change in head.history.last(1)] == [1.5]


def act_number(n: int) -> int:
    world = World()
    act(world, ("write number", "a", n), 1)
    return world.number


def test_the_next_is_validated_against_what_is_staged() -> None:
    head = Head(World())
    first, second = (prepared(head, [("read number", "a", 0), ("write number", "a", n)]) for n in (1, 2))
    assert isinstance(head.stage(first, accept), Staged)
    answer = head.stage(second, accept)
    assert isinstance(answer, Conflict)
    assert answer.path == ("number",)


def test_what_was_forgotten_stands_in_nobodys_way() -> None:
    head = Head(World())
    for n in range(20):
        head.stage(prepared(head, [("write number", "a", n), ("drop key", "a", 1), ("log", "a", n)]), accept)
    head.discard()
    assert head.version == 0
    head.commit(prepared(head, [("write item", "a", 1)]))
    reader = prepared(head, [("read number", "a", 0), ("count keys", "a", 0), ("write key", "b", 1)])
    head.commit(prepared(head, [("write item", "a", 2)]))  # so that the reader is not on the newest
    assert isinstance(head.commit(reader), Committed)


def test_an_older_reader_of_a_forgotten_path_still_conflicts_with_what_really_changed() -> None:
    head = Head(World())
    old = head.snapshot
    head.commit(prepared(head, [("write number", "a", 1)]))
    head.stage(prepared(head, [("write number", "a", 2)]), accept)
    head.discard()
    assert isinstance(head.commit(prepared(head, [("read number", "a", 0), ("log", "a", 1)], old)), Conflict)


def test_what_the_check_refuses_is_not_staged() -> None:
    head = Head(World())

    def refuse(ops: Ops) -> None:
        raise ValueError(len(ops))

    with pytest.raises(ValueError, match="1"):
        head.stage(prepared(head, [("write number", "a", 1)]), refuse)
    assert isinstance(head.stage(prepared(head, [("read number", "a", 1), ("log", "a", 1)]), accept), Staged)
    assert head.publish(0.0)[0].version == 1
    assert head.snapshot.root.number == 0


@dataclass
class Big:
    numbers: dict[int, int] = field(default_factory=lambda: dict.fromkeys(range(1000), 0))
    copy: dict[int, int] = field(default_factory=dict)
    members: set[int] = field(default_factory=lambda: set(range(1000)))
    log: list[int] = field(default_factory=lambda: list(range(1000)))


def test_a_message_on_a_staged_state_puts_no_patch_into_the_state() -> None:
    head = Head(Big())

    def set_one(tx: Transaction) -> None:
        tx.domain.numbers[5] = 7

    def take_over(tx: Transaction) -> None:
        tx.domain.copy = tx.domain.numbers

    head.stage(Commit(0, (), (), "one", set_one), accept)
    head.stage(Commit(0, (), (), "two", take_over), accept)
    head.publish(0.0)
    assert type(head.snapshot.root.copy) is VDict
    assert (
        plain(head.snapshot.root.copy) == plain(head.snapshot.root.numbers) == {**dict.fromkeys(range(1000), 0), 5: 7}
    )


def test_big_containers_are_published_without_patches() -> None:
    head = Head(Big())
    before = head.snapshot
    for n in range(3):
        ops = [("set", ("numbers", n), 1), ("append", ("log",), [n]), ("include", ("members",), {-n - 1})]
        head.stage(Commit(0, (), ops, "blind"), accept)
    head.publish(0.0)
    root = head.snapshot.root
    assert (type(root.numbers), type(root.log), type(root.members)) == (VDict, VList, VSet)
    assert (sum(plain(root.numbers).values()), len(root.log), len(root.members)) == (3, 1003, 1003)
    assert plain(before.root) == Big()


def test_a_message_in_a_message_puts_no_patch_into_the_state() -> None:
    head = Head(Big())

    def inner_takes_over(tx: Transaction) -> None:
        tx.domain.numbers[5] = 7
        inner = tx.nested(process="inner")
        inner.domain.copy = inner.domain.numbers
        ops = inner.finish()[1]
        inner.close()
        tx.replay(ops)

    head.commit(Commit(0, (), (), "one", inner_takes_over))
    assert type(head.snapshot.root.copy) is VDict
    assert head.snapshot.root.copy[5] == 7


def test_what_a_completion_read_is_told() -> None:
    head = Head(World())

    def read(tx: Transaction) -> None:
        tx.domain.log.append(tx.domain.number)

    staged = head.stage(Commit(0, (), (), "one", read), accept)
    assert isinstance(staged, Staged)
    assert [(path, set(keys)) for path, keys, _, _ in staged.reads if keys] == [((), {"number"})]


def test_what_a_message_or_an_invariant_read_is_told() -> None:
    head = Head(World())

    def message(tx: Transaction) -> None:
        inner = tx.nested(process="inner")
        inner.domain.log.append(inner.domain.number)
        reads, ops = inner.finish()
        tx.replay(ops, reads)
        inner.close()

    def invariant(tx: Transaction) -> None:
        assert tx.view().number == 0

    staged = head.stage(Commit(0, (), (), "one", message), accept)
    assert isinstance(staged, Staged)
    assert [(path, set(keys)) for path, keys, _, _ in staged.reads if keys] == [((), {"number"})]
    looked = head.stage(Commit(0, (), (), "two", invariant), accept)
    assert isinstance(looked, Looked)
    assert [tuple(read) for read in looked.reads] == [((), (), True, True)]
    assert looked.version == 1


def test_a_commit_without_operations_counts_if_it_is_followed() -> None:
    head = Head(World())
    for n in range(40):
        assert head.follow("other", (), float(n)).version == n + 1
    assert head.commit(prepared(head, [("write number", "a", 1)])).version == 41
    assert head.history.last(50)[0].version == 41


@pytest.mark.parametrize("seed", range(30))
def test_groups_end_as_commits_one_by_one_do(seed: int) -> None:
    rng = random.Random(seed)
    grouped, single = Head(World()), Head(World())
    kept = [(grouped.snapshot, single.snapshot)]
    for _ in range(40):
        group = [(random_script(rng, rng.randint(1, 4)), rng.choice(kept[-3:])) for _ in range(rng.randint(1, 5))]
        if rng.random() < 0.3:  # a group that comes to nothing
            for script, (old, _) in group:
                grouped.stage(prepared(grouped, script, old), accept)
            grouped.discard()
            assert plain(grouped.snapshot.root) == plain(single.snapshot.root)
        for script, (old, _) in group:
            grouped.stage(prepared(grouped, script, old), accept)
        made = grouped.publish(0.0)
        for one in made:  # the same decisions, one after the other
            single.follow("script", one.ops, 0.0)
        assert grouped.version == single.version
        assert plain(grouped.snapshot.root) == plain(single.snapshot.root)
        kept.append((grouped.snapshot, single.snapshot))
    for old, same in kept:
        assert plain(old.root) == plain(same.root)
