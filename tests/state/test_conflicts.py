"""The rule of conflict: reads decide, writes do not; and snapshot extension."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from state_tools import Session, race

from theus.protocols import Commit, Committed, Conflict
from theus.state.fields import Tally
from theus.state.values import plain


@dataclass
class User:
    name: str = ""
    score: int = 0


@dataclass
class D:
    a: int = 1
    b: int = 1
    hits: Tally = 0
    numbers: dict[Any, int] = field(default_factory=lambda: {"x": 1, "y": 2})
    items: list[Any] = field(default_factory=lambda: [1, 2, 3])
    tags: set[str] = field(default_factory=lambda: {"t"})
    users: dict[str, User] = field(default_factory=lambda: {"u": User("u"), "v": User("v")})
    one: User | None = field(default_factory=User)


def increment(d: Any) -> None:
    d.a += 1


CONFLICTS: list[tuple[str, Callable[[Any], Any], Callable[[Any], Any], tuple[Any, ...]]] = [
    ("lost update", increment, increment, ("a",)),
    ("write skew", lambda d: setattr(d, "a", d.b - 1), lambda d: setattr(d, "b", d.a - 1), ("a",)),
    (
        "phantom by len",
        lambda d: d.numbers.__setitem__("z", 1),
        lambda d: setattr(d, "a", len(d.numbers)),
        ("numbers",),
    ),
    (
        "phantom by keys",
        lambda d: d.numbers.__setitem__("z", 1),
        lambda d: setattr(d, "a", list(d.numbers)),
        ("numbers",),
    ),
    (
        "key gone under iteration",
        lambda d: d.numbers.pop("x"),
        lambda d: setattr(d, "a", sum(1 for _ in d.numbers)),
        ("numbers",),
    ),
    ("list grew under len", lambda d: d.items.append(1), lambda d: setattr(d, "a", len(d.items)), ("items",)),
    ("list grew under [-1]", lambda d: d.items.append(1), lambda d: setattr(d, "a", d.items[-1]), ("items",)),
    ("list grew under iteration", lambda d: d.items.append(1), lambda d: setattr(d, "a", sum(d.items)), ("items",)),
    ("list grew under truth", lambda d: d.items.append(1), lambda d: setattr(d, "a", bool(d.items)), ("items",)),
    (
        "own tail read by index",
        lambda d: d.items.append(9),
        lambda d: (d.items.append("x"), setattr(d, "a", d.items[3])),
        ("items",),
    ),
    (
        "own tail set by index",
        lambda d: d.items.append(9),
        lambda d: (d.items.append("x"), d.items.__setitem__(3, "y")),
        ("items",),
    ),
    ("list reordered", lambda d: d.items.reverse(), lambda d: setattr(d, "a", d.items[0]), ("items",)),
    ("append to a reordered list", lambda d: d.items.reverse(), lambda d: d.items.append(4), ("items",)),
    ("two reorder", lambda d: d.items.reverse(), lambda d: d.items.sort(), ("items",)),
    ("pop while appended", lambda d: d.items.append(1), lambda d: d.items.pop(), ("items",)),
    (
        "value changed under items()",
        lambda d: d.numbers.__setitem__("x", 5),
        lambda d: setattr(d, "a", sum(v for _, v in d.numbers.items())),
        ("numbers", "x"),
    ),
    (
        "value changed under values()",
        lambda d: d.numbers.__setitem__("x", 5),
        lambda d: setattr(d, "a", sum(d.numbers.values())),
        ("numbers", "x"),
    ),
    (
        "missing key came",
        lambda d: d.numbers.__setitem__("z", 1),
        lambda d: d.numbers.__setitem__("w", d.numbers.get("z", 0)),
        ("numbers", "z"),
    ),
    (
        "missing key came, in",
        lambda d: d.numbers.__setitem__("z", 1),
        lambda d: setattr(d, "a", "z" in d.numbers),
        ("numbers", "z"),
    ),
    (
        "key went, in",
        lambda d: d.numbers.__delitem__("x"),
        lambda d: setattr(d, "a", "x" in d.numbers),
        ("numbers", "x"),
    ),
    (
        "setdefault twice",
        lambda d: d.numbers.setdefault("z", 1),
        lambda d: d.numbers.setdefault("z", 2),
        ("numbers", "z"),
    ),
    ("delete twice", lambda d: d.numbers.__delitem__("x"), lambda d: d.numbers.__delitem__("x"), ("numbers", "x")),
    (
        "set over a deleted key that was read",
        lambda d: d.numbers.pop("x"),
        lambda d: d.numbers.__setitem__("x", d.numbers["x"] + 1),
        ("numbers", "x"),
    ),
    (
        "parent replaced, child written",
        lambda d: setattr(d, "one", None),
        lambda d: setattr(d.one, "name", "q"),
        ("one",),
    ),
    (
        "parent replaced, child read",
        lambda d: setattr(d, "one", User("new")),
        lambda d: setattr(d, "a", d.one.score),
        ("one",),
    ),
    (
        "user deleted, field written",
        lambda d: d.users.__delitem__("u"),
        lambda d: setattr(d.users["u"], "name", "q"),
        ("users", "u"),
    ),
    ("grand parent replaced, append", lambda d: setattr(d, "items", []), lambda d: d.items.append(1), ("items",)),
    (
        "looked up, nothing below touched",
        lambda d: setattr(d, "one", None),
        lambda d: setattr(d, "a", 0 if d.one is None else 1),
        ("one",),
    ),
    (
        "looked up in a dict",
        lambda d: d.users.__delitem__("u"),
        lambda d: setattr(d, "a", d.users.get("u") is not None),
        ("users", "u"),
    ),
    (
        "deep read by equality",
        lambda d: setattr(d.users["u"], "score", 1),
        lambda d: setattr(d, "a", d.users == {}),
        ("users",),
    ),
    (
        "deep read by plain",
        lambda d: setattr(d.users["u"], "score", 1),
        lambda d: setattr(d, "one", plain(d.users)["v"]),
        ("users",),
    ),
    (
        "deep read by passing on",
        lambda d: setattr(d.users["u"], "score", 1),
        lambda d: d.users.__setitem__("w", d.users["u"]),
        ("users", "u"),
    ),
    (
        "copied dict assigned back",
        lambda d: d.numbers.__setitem__("z", 1),
        lambda d: setattr(d, "numbers", {**d.numbers, "w": 1}),
        ("numbers",),
    ),
    ("member came", lambda d: d.tags.add("n"), lambda d: setattr(d, "a", "n" in d.tags), ("tags", "n")),
    ("set grew under len", lambda d: d.tags.add("n"), lambda d: setattr(d, "a", len(d.tags)), ("tags",)),
    ("remove twice", lambda d: d.tags.remove("t"), lambda d: d.tags.remove("t"), ("tags", "t")),
    ("tally read", lambda d: setattr(d, "hits", d.hits.__iadd__(1)), lambda d: setattr(d, "a", int(d.hits)), ("hits",)),
    (
        "tally set after reading",
        lambda d: setattr(d, "hits", d.hits.__iadd__(1)),
        lambda d: setattr(d, "hits", d.hits + 1),
        ("hits",),
    ),
]


@pytest.mark.parametrize(("name", "first", "second", "path"), CONFLICTS, ids=[case[0] for case in CONFLICTS])
def test_conflict(name: str, first: Callable[[Any], Any], second: Callable[[Any], Any], path: tuple[Any, ...]) -> None:
    state, made = race(D(), first, second)
    assert isinstance(made, Conflict), name
    assert made == Conflict(path, "first")
    alone = Session(D())
    alone.run(first)
    assert plain(alone.state) == plain(state), "a conflict changes nothing"


def both(d: Any) -> None:
    d.numbers["x"] = 5
    d.items.append(1)
    d.items.extend([2, 3])
    d.items += [4]
    d.tags.add("n")
    d.tags.discard("t")
    d.tags |= {"o", "p"}
    d.hits += 1
    d.b = 7
    d.numbers.update(q=1)
    d.users["new"] = User("new")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (both, both),
        (lambda d: setattr(d.users["u"], "name", "x"), lambda d: setattr(d.users["u"], "score", 5)),
        (lambda d: setattr(d.users["u"], "name", "x"), lambda d: d.users["v"].name),
        (lambda d: d.users.__setitem__("w", User()), lambda d: setattr(d.users["u"], "score", d.users["u"].score + 1)),
        (lambda d: d.numbers.__setitem__("x", 9), lambda d: setattr(d, "a", len(d.numbers))),
        (lambda d: d.numbers.__setitem__("x", 9), lambda d: setattr(d, "a", list(d.numbers))),
        (lambda d: d.numbers.__setitem__("x", 9), lambda d: setattr(d, "a", d.numbers["y"])),
        (lambda d: d.numbers.__setitem__("z", 9), lambda d: d.numbers.__delitem__("x")),
        (lambda d: d.items.append(9), lambda d: setattr(d, "a", d.items[0])),
        (lambda d: d.items.append(9), lambda d: d.items.__setitem__(0, 5)),
        (lambda d: d.tags.add("z"), lambda d: setattr(d, "a", "t" in d.tags)),
        (lambda d: d.tags.add("t"), lambda d: setattr(d, "a", len(d.tags))),
        (increment, lambda d: None),
        (increment, lambda d: d.a),
    ],
)
def test_no_conflict(first: Callable[[Any], Any], second: Callable[[Any], Any]) -> None:
    state, made = race(D(), first, second)
    assert isinstance(made, Committed)
    serial = Session(D())
    serial.run(first)
    serial.run(second)
    assert plain(state) == plain(serial.state)


def test_blind_writes_record_no_read() -> None:
    reads, ops = Session(D()).observe(both)
    assert list(reads) == []
    assert [op[0] for op in ops] == ["add", "set", "set", "set", "append", "include", "discard", "set"] or len(ops) == 8


def test_read_sets() -> None:
    session = Session(D())

    def reads(body: Callable[[Any], Any]) -> Any:
        return [(path, set(keys), shape, deep) for path, keys, shape, deep in session.observe(body)[0]]

    assert reads(lambda d: d.a) == [((), {"a"}, False, False)]
    assert reads(lambda d: d.numbers["x"]) == [(("numbers",), {"x"}, False, False)]
    assert reads(lambda d: d.numbers.get("no")) == [(("numbers",), {"no"}, False, False)]
    assert reads(lambda d: d.users["u"].name) == [(("users", "u"), {"name"}, False, False)]
    assert reads(lambda d: d.users["u"]) == [(("users",), {"u"}, False, False)]
    assert reads(lambda d: len(d.users)) == [(("users",), set(), True, False)]
    assert reads(lambda d: plain(d.users)) == [(("users",), set(), False, True)]
    assert reads(lambda d: (setattr(d, "a", 5), d.a)) == []
    assert reads(lambda d: (d.numbers.__setitem__("k", 5), d.numbers["k"])) == []
    assert reads(lambda d: d.items[1]) == [(("items",), {1}, False, False)]


def test_reads_and_operations_travel() -> None:
    import pickle

    reads, ops = Session(D()).observe(lambda d: (both(d), d.numbers["y"], len(d.users), plain(d.one)))
    assert pickle.loads(pickle.dumps((reads, ops))) == (reads, ops)


def test_many_items_are_one_deep_read() -> None:
    session = Session({"big": {i: i for i in range(2000)}, "list": list(range(2000)), "sum": 0})
    reads, _ = session.observe(lambda d: sum(d["big"].values()) + sum(d["list"]))
    assert sorted((path, len(keys), deep) for path, keys, _, deep in reads) == [
        (("big",), 0, True),
        (("list",), 0, True),
    ]


# --- commits ---------------------------------------------------------------------------------------------------------


def test_reading_calls_always_succeed_on_their_snapshot() -> None:
    session = Session(D())
    tx = session.fixed()
    assert tx.domain.a == 1
    session.run(increment)
    assert session.end(tx) == Committed(0, ())
    assert session.head.version == 1


def test_complete_runs_on_the_newest_state_in_the_same_commit() -> None:
    session = Session(D())
    tx = session.fixed("sender")
    tx.domain.b = 5
    session.run(increment)
    seen = []

    def complete(inner: Any) -> None:
        seen.append((inner.domain.a, inner.domain.b))
        inner.domain.a += 10

    reads, ops = tx.finish()
    made = session.head.commit(Commit(tx.base, reads, ops, "sender", complete))
    assert seen == [(2, 5)]
    assert made == Committed(2, [("set", ("b",), 5), ("set", ("a",), 12)])
    assert (session.state.a, session.state.b) == (12, 5)


def test_complete_that_raises_changes_nothing() -> None:
    session = Session({"m": {i: i for i in range(500)}, "l": list(range(500)), "s": set(range(500))})
    before = plain(session.state)

    def complete(inner: Any) -> None:
        inner.domain["m"][5] = "x"
        inner.domain["l"].append(1)
        inner.domain["s"].add("x")
        raise ValueError("no")

    ops = [("set", ("m", 1), 2), ("append", ("l",), [3]), ("discard", ("s",), {4})]
    with pytest.raises(ValueError, match="no"):
        session.head.commit(Commit(0, (), ops, "", complete))
    assert session.head.version == 0
    assert plain(session.state) == before
    session.run(lambda d: d["m"].__setitem__(1, 7))
    assert session.state["m"][1] == 7


def test_sender_that_wrote_nothing_is_not_validated() -> None:
    session = Session(D())
    tx = session.fixed("sender")
    assert tx.domain.a == 1
    session.run(increment)
    reads, ops = tx.finish()

    def message(inner: Any) -> None:
        inner.domain.hits += 1

    assert isinstance(session.head.commit(Commit(tx.base, reads, ops, "sender", message)), Committed)
    assert session.state.hits == 1


def test_too_old_to_be_validated() -> None:
    session = Session(D())
    for _ in range(1000):
        session.run(lambda d: d.numbers.__setitem__(d.a, 1) or increment(d))
    made = session.head.commit(Commit(1, [((), {"b"}, False, False)], [("set", ("b",), 1)], "old"))
    assert made == Conflict((), "")


def test_the_tree_of_written_paths_stays_small() -> None:
    session = Session({"d": {}})
    for i in range(3000):
        session.run(lambda d, i=i: d["d"].__setitem__(i, i) or (i > 5 and d["d"].pop(i - 5)))  # type: ignore[misc]
    assert session.head._places < 1500
    assert len(session.head._eras) < 100


@pytest.mark.parametrize("before", range(0, 20, 3))
def test_a_held_snapshot_keeps_its_versions_whenever_it_was_taken(before: int) -> None:
    session = Session({"d": {}, "n": 0})
    for i in range(before):
        session.run(lambda d, i=i: d.__setitem__("n", i))  # type: ignore[misc]
    good, bad = session.fixed("good"), session.fixed("bad")
    assert (len(good.domain["d"]), bad.domain["n"]) == (0, max(0, before - 1))
    good.domain["seen"] = bad.domain["seen"] = 1
    for i in range(2000):  # as many places as lead to a sweep
        session.run(lambda d, i=i: d.__setitem__(f"key {i}", i))  # type: ignore[misc]
    session.run(lambda d: d.__setitem__("n", -1), "other")
    assert session.end(bad) == Conflict(("n",), "other")
    assert isinstance(session.end(good), Committed)


def test_a_held_snapshot_is_validated_exactly() -> None:
    session = Session(D())
    good, bad = session.fixed("good"), session.fixed("bad")
    assert good.domain.numbers["x"] == 1
    assert bad.domain.numbers["y"] == 2
    good.domain.b = bad.domain.b = 3
    session.run(lambda d: d.numbers.__setitem__("y", 3), "early")
    for i in range(1000):
        session.run(lambda d, i=i: d.numbers.__setitem__(i, i))  # type: ignore[misc]
    assert session.end(bad) == Conflict(("numbers", "y"), "early")
    assert isinstance(session.end(good), Committed)


# --- snapshot extension ----------------------------------------------------------------------------------------------


def test_extension_moves_forward() -> None:
    session = Session(D())
    tx = session.begin("slow")
    assert tx.domain.b == 1
    users = tx.domain.users
    for _ in range(5):
        session.run(increment)
    tx.domain.a += 1
    assert tx.base == 5
    assert users["u"].name == "u"
    assert isinstance(session.end(tx), Committed)
    assert session.state.a == 7


def test_extension_keeps_one_consistent_picture() -> None:
    session = Session(D())
    tx = session.begin("reader")
    assert tx.domain.a == 1

    def both_up(d: Any) -> None:
        d.a += 1
        d.b += 1

    session.run(both_up)
    assert tx.domain.b == 1  # not 2: ``a`` was read and changed, so the old snapshot is kept
    assert tx.base == 0
    assert session.end(tx) == Committed(0, ())


def test_extension_that_fails_conflicts_at_the_commit_of_a_writer() -> None:
    session = Session(D())
    tx = session.begin("writer")
    tx.domain.a += 1
    session.run(increment, "other")
    assert tx.domain.b == 1
    assert session.end(tx) == Conflict(("a",), "other")


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.users.__delitem__("u"),
        lambda d: setattr(d, "users", {}),
        lambda d: d.users.__setitem__("u", None),
    ],
)
def test_extension_with_a_place_that_is_gone(change: Any) -> None:
    session = Session(D())
    tx = session.begin()
    user = tx.domain.users["u"]
    session.run(change)
    assert tx.domain.b == 1
    assert user.name == "u"
    assert tx.base == 0


def test_extension_of_written_places() -> None:
    session = Session(D())
    tx = session.begin()
    tx.domain.users["u"].score = 5
    tx.domain.items.append(9)
    session.run(lambda d: setattr(d.users["u"], "name", "changed"))
    session.run(lambda d: d.items.append(8))
    assert tx.domain.users["u"].name == "changed"
    assert list(tx.domain.items) == [1, 2, 3, 8, 9]
    assert isinstance(session.end(tx), Committed)
    assert session.state.items == [1, 2, 3, 8, 9]


def test_extension_is_off_without_a_head() -> None:
    from theus.state.snapshot import Snapshot
    from theus.state.transaction import Transaction

    session = Session(D())
    there = session.head.snapshot
    tx = Transaction(Snapshot(there.version, there.root))
    session.run(increment)
    assert tx.domain.a == 1


def test_waiting_then_incrementing_is_free_of_conflicts() -> None:
    session = Session(D())
    waiting = []
    for _ in range(100):
        tx = session.begin()
        assert tx.domain.b == 1
        waiting.append(tx)
    for tx in waiting:
        tx.domain.a += 1
        assert isinstance(session.end(tx), Committed)
    assert session.state.a == 101
