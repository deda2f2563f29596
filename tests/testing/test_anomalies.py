"""The checker of list-append histories: each anomaly by hand, serial histories, and the truth by trying all orders."""

from __future__ import annotations

import os
from collections import defaultdict
from itertools import permutations

import hypothesis.strategies as st
import pytest
from hypothesis import assume, given, settings

from theus.testing.anomalies import Kind, Observed, anomalies

SOAK = int(os.environ.get("THEUS_SOAK", "0"))


def examples(number):
    """Hypothesis settings: so many examples, many more in a soak."""
    return settings(max_examples=20_000 if SOAK else number)


def tx(name, text, committed=True, began=None, ended=None):
    """``x+1`` appends 1 to x, ``x:1,2`` reads x as [1, 2], ``x:`` reads it as empty."""
    ops = []
    for word in text.split():
        if "+" in word:
            key, value = word.split("+")
            ops.append(("append", key, int(value)))
        else:
            key, values = word.split(":")
            ops.append(("read", key, [int(value) for value in values.split(",") if value]))
    return Observed(name, ops, committed, began, ended)


def kinds(history):
    return {anomaly.kind for anomaly in anomalies(history)}


CLEAN = {
    "nothing": [],
    "one reader": [tx("A", "x: y:")],
    "own appends are seen": [tx("A", "x: x+1 x:1 x+2 x:1,2"), tx("B", "x:1,2")],
    "blind appends": [tx("A", "x+1 y+2"), tx("B", "x+3 y+4"), tx("C", "x:3,1 y:4,2")],
    "what was rolled back is not seen": [tx("A", "x+1", False), tx("B", "x: x+2"), tx("C", "x:2")],
    "who was rolled back may have read anything": [tx("A", "x:7,7 x+1 x:", False), tx("B", "x:")],
    "readers at different times": [tx("A", "x+1"), tx("B", "x:1 x+2"), tx("C", "x:"), tx("D", "x:1"), tx("E", "x:1,2")],
    "an old snapshot": [tx("A", "x+1 y+1", began=0, ended=1), tx("B", "x: y:", began=0, ended=3)],
    "nobody saw the appends": [tx("A", "x+1"), tx("B", "x+2"), tx("C", "x:")],
    "the order in time is the serial one": [
        tx("A", "x+1", began=0, ended=1),
        tx("B", "x:1 x+2", began=2, ended=3),
        tx("C", "x:1,2", began=4, ended=5),
    ],
    "at one moment": [tx("A", "x+1", began=0, ended=1), tx("B", "x:", began=1, ended=2)],
}

WRONG = {
    "own append missing": ([tx("A", "x+1 x:")], {Kind.INTERNAL}),
    "own append in the middle": ([tx("A", "x+1 x:1,2"), tx("B", "x+2")], {Kind.INTERNAL}),
    "own append too early": ([tx("A", "x:1 x+1")], {Kind.INTERNAL}),
    "a read that does not repeat": ([tx("A", "x: x:1"), tx("B", "x+1")], {Kind.INTERNAL}),
    "a value of nobody": ([tx("A", "x:1")], {Kind.GARBAGE}),
    "a value twice": ([tx("A", "x:1,1"), tx("B", "x+1")], {Kind.DUPLICATE}),
    "aborted read": ([tx("A", "x+1", False), tx("B", "x:1")], {Kind.ABORTED_READ}),
    "intermediate read": ([tx("A", "x+1 x+2"), tx("B", "x:1")], {Kind.INTERMEDIATE_READ, Kind.G_SINGLE}),
    "intermediate read, rest unseen": ([tx("A", "x+1 y+9 x+2"), tx("B", "x:1 y:9")], {Kind.INTERMEDIATE_READ, Kind.G_SINGLE}),
    "appends of one in another order": ([tx("A", "x+1 x+2"), tx("B", "x:2,1")], {Kind.ORDER}),
    "two orders": ([tx("A", "x+1"), tx("B", "x+2"), tx("C", "x:1,2"), tx("D", "x:2,1")], {Kind.ORDER}),
    "dirty update": ([tx("A", "x+1", False), tx("B", "x+2"), tx("C", "x:1,2")], {Kind.ABORTED_READ, Kind.DIRTY_UPDATE}),
    "lost update": (
        [tx("A", "x: x+1"), tx("B", "x: x+2"), tx("C", "x:1,2")],
        {Kind.LOST_UPDATE, Kind.G_SINGLE},
    ),
    "lost update, one is gone": ([tx("A", "x: x+1"), tx("B", "x: x+2"), tx("C", "x:2")], {Kind.LOST_UPDATE, Kind.G_SINGLE}),
    "lost update that nobody saw": ([tx("A", "x: x+1"), tx("B", "x: x+2")], {Kind.LOST_UPDATE}),
    "G0": ([tx("A", "x+1 y+1"), tx("B", "x+2 y+2"), tx("C", "x:1,2"), tx("D", "y:2,1")], {Kind.G0}),
    "G0 in one list": ([tx("A", "x+1 x+3"), tx("B", "x+2"), tx("C", "x:1,2,3")], {Kind.G0}),
    "G1c": ([tx("A", "x+1 y:2"), tx("B", "y+2 x:1")], {Kind.G1C}),
    "G1c of three": ([tx("A", "x+1 z:3"), tx("B", "x:1 y+2"), tx("C", "y:2 z+3")], {Kind.G1C}),
    "G-single": ([tx("A", "x+1 y+2"), tx("B", "x: y:2")], {Kind.G_SINGLE}),
    "G-single over three": ([tx("A", "x+1"), tx("B", "x:1 y+2"), tx("C", "y:2 x:")], {Kind.G_SINGLE}),
    "write skew": ([tx("A", "x: y: x+1"), tx("B", "x: y: y+2"), tx("C", "x:1 y:2")], {Kind.WRITE_SKEW}),
    "G2 of three": (
        [tx("A", "x: y+1"), tx("B", "y: z+2"), tx("C", "z: x+3"), tx("D", "x:3 y:1 z:2")],
        {Kind.G2},
    ),
    "phantom of two readers": ([tx("A", "x+1"), tx("B", "y+2"), tx("C", "x:1 y:"), tx("D", "x: y:2")], {Kind.G2}),
    "stale read": ([tx("A", "x+1", began=0, ended=1), tx("B", "x:", began=2, ended=3)], {Kind.REAL_TIME}),
    "lost append": (
        [tx("A", "x+1", began=0, ended=1), tx("B", "x+2", began=2, ended=3), tx("C", "x:2", began=4, ended=5)],
        {Kind.REAL_TIME},
    ),
    "too late in the order": (
        [tx("A", "x+1", began=0, ended=1), tx("B", "x+2", began=2, ended=3), tx("C", "x:2,1")],
        {Kind.REAL_TIME},
    ),
}  # fmt: skip


@pytest.mark.parametrize("history", CLEAN.values(), ids=CLEAN)
def test_clean_histories_are_clean(history):
    assert anomalies(history) == []


@pytest.mark.parametrize(("history", "expected"), WRONG.values(), ids=WRONG)
def test_every_anomaly_is_found_whatever_the_order_of_the_history(history, expected):
    assert kinds(history) == expected
    assert kinds(reversed(history)) == expected


def test_a_cycle_is_told_with_its_transactions_and_edges():
    (found,) = anomalies([tx("A", "x: y: x+1"), tx("B", "x: y: y+2"), tx("C", "x:1 y:2")])
    assert found.transactions == ("A", "B")
    assert str(found).splitlines() == [
        "write skew: A -rw-> B -rw-> A",
        "  rw: A read [] from 'y' before B appended 2 to 'y'",
        "  rw: B read [] from 'x' before A appended 1 to 'x'",
    ]


def test_each_kind_of_edge_has_its_words():
    history = [
        tx("A", "x+1", began=0, ended=1),
        tx("B", "x+2 y+3"),
        tx("C", "y:3", began=-3, ended=-2),
        tx("D", "x:1,2"),
    ]
    (found,) = anomalies(history)
    assert found.kind is Kind.REAL_TIME
    assert set(str(found).splitlines()[1:]) == {
        "  rt: C had ended when A began",
        "  ww: A appended 1 to 'x', then B appended 2 to 'x'",
        "  wr: B appended 3 to 'y', and C read it",
    }


def test_a_lost_update_names_all_that_read_alike():
    found = anomalies([tx(name, f"x: x+{n}") for n, name in enumerate("ABC")])
    assert [(one.kind, one.transactions) for one in found] == [(Kind.LOST_UPDATE, ("A", "B", "C"))]
    assert str(found[0]) == (
        "lost update: A, B and C all read [] from 'x', and A appended [0], B appended [1] and C appended [2]"
    )


def test_long_lists_are_shortened():
    history = [tx("A", " ".join(f"x+{n}" for n in range(10))), tx("B", "x:" + ",".join(map(str, range(9))))]
    found = [one for one in anomalies(history) if one.kind is Kind.INTERMEDIATE_READ]
    assert "B read [... 3 more, 3, 4, 5, 6, 7, 8] from 'x'" in str(found[0])


def test_two_knots_are_two_findings():
    history = [tx(f"{name}{n}", f"{own}{n}+1 {other}{n}:") for n in range(2) for name, own, other in ("Axy", "Byx")]
    found = anomalies(history)
    assert [one.kind for one in found] == [Kind.WRITE_SKEW] * 2
    assert {one.transactions for one in found} == {("A0", "B0"), ("A1", "B1")}


def test_what_names_nobody_is_refused():
    with pytest.raises(ValueError, match=r"1 was appended to 'x' twice, by A and by B"):
        anomalies([tx("A", "x+1"), tx("B", "x+1")])
    with pytest.raises(ValueError, match=r"1 was appended to 'x' twice, by A and by A"):
        anomalies([tx("A", "x+1 x+1")])
    with pytest.raises(ValueError, match="two transactions are called 'A'"):
        anomalies([tx("A", "x+1"), tx("A", "x+2")])


def test_a_long_history_needs_no_recursion():
    chain = [tx(f"T{n}", f"k{n}+1 k{n + 1}:") for n in range(3000)]
    assert anomalies(chain) == []
    assert kinds([*chain, tx("last", "k3000+1 k0:")]) == {Kind.G2}


# --- serial histories, and one fault in them ---

KEYS = "xyz"
plans = (
    st.lists(  # transactions: (operations: append?, list), does it commit, how much it overlaps with its neighbours)
        st.tuples(
            st.lists(st.tuples(st.booleans(), st.sampled_from(KEYS)), min_size=1, max_size=5),
            st.sampled_from([True, True, True, False]),
            st.integers(0, 30),
        ),
        min_size=1,
        max_size=12,
    )
)


def serially(plan, spread=0):
    """Execute one transaction after the other, at moments 10, 20, ...; then one that reads everything."""
    lists = {key: [] for key in KEYS}
    history, value = [], 0
    last = ([(False, key) for key in KEYS], True, 0)
    for number, (actions, commits, overlap) in enumerate([*plan, last], 1):
        view = {key: list(values) for key, values in lists.items()}
        ops = []
        for appends, key in actions:
            if appends:
                value += 1
                view[key].append(value)
                ops.append(("append", key, value))
            else:
                ops.append(("read", key, list(view[key])))
        if commits:
            lists = view
        width = min(overlap, spread)
        history.append(Observed(f"T{number}", ops, commits, number * 10 - width, number * 10 + 1 + width))
    return history


@given(plans, st.integers(0, 30), st.randoms())
@examples(100)
def test_serial_histories_are_clean(plan, spread, rng):
    history = serially(plan, spread)
    rng.shuffle(history)
    assert anomalies(history) == []


def _change(history, place, index, change):
    """``history`` with the values of one read changed."""
    one = history[place]
    ops = list(one.ops)
    kind, key, values = ops[index]
    ops[index] = (kind, key, change(list(values)))
    return [*history[:place], Observed(one.id, ops, one.committed, one.began, one.ended), *history[place + 1 :]]


def _swap(values):
    values[-1], values[-2] = values[-2], values[-1]
    return values


@given(plans, st.data())
@examples(200)
def test_one_fault_is_found(plan, data):
    history = serially(plan)
    reads = [
        (place, index)
        for place, one in enumerate(history)
        if one.committed
        for index, op in enumerate(one.ops)
        if op[0] == "read"
    ]
    place, index = data.draw(st.sampled_from(reads), "which read")
    key, values = history[place].ops[index][1:]
    rolled_back = [
        op[2] for one in history if not one.committed for op in one.ops if op[0] == "append" and op[1] == key
    ]
    faults = {"a value of nobody": (lambda read: [*read, -1], Kind.GARBAGE)}
    if values:
        faults["the last one missing"] = (lambda read: read[:-1], None)
        faults["one of them missing"] = (lambda read: [v for v in read if v != read[len(read) // 2]], None)
        faults["one of them twice"] = (lambda read: [*read, read[0]], None)
    if len(values) > 1:
        faults["two swapped"] = (_swap, None)
    if rolled_back:
        faults["one that was rolled back"] = (lambda read: [rolled_back[0], *read], Kind.ABORTED_READ)
    change, kind = faults[data.draw(st.sampled_from(sorted(faults)), "fault")]
    found = kinds(_change(history, place, index, change))
    assert found
    # Where the same transaction read that list before, the change shows as a read that does not repeat.
    assert kind is None or kind in found or Kind.INTERNAL in found


@given(plans, st.data())
@examples(200)
def test_a_transaction_on_an_old_snapshot_is_found(plan, data):
    """A fault of a store that does not validate: one transaction reads what was before its predecessor, and commits."""
    history = serially(plan)[:-1]
    places = [
        place
        for place in range(1, len(history))
        if history[place].committed
        and history[place - 1].committed
        and {op[1] for op in history[place].ops if op[0] == "read"}
        & {op[1] for op in history[place - 1].ops if op[0] == "append"}
    ]
    assume(places)
    place = data.draw(st.sampled_from(places), "which")
    hidden = {op[2] for op in history[place - 1].ops if op[0] == "append"}
    for index, op in enumerate(history[place].ops):
        if op[0] == "read":
            history = _change(history, place, index, lambda read: [value for value in read if value not in hidden])
    assert anomalies(history)


# --- the truth: all serial orders tried ---


def could_be_serial(history):
    """Whether some order of the committed transactions explains every read."""
    committed = [one for one in history if one.committed]
    return any(_explains(order) for order in permutations(committed))


def _explains(order):
    lists = defaultdict(list)
    for one in order:
        for op in one.ops:
            if op[0] == "append":
                lists[op[1]].append(op[2])
            elif lists[op[1]] != op[2]:
                return False
    return True


isolation = st.sampled_from(["none", "snapshot", "writes checked"])
small = st.lists(
    st.lists(st.tuples(st.booleans(), st.sampled_from("xy")), min_size=1, max_size=4), min_size=2, max_size=4
)


def concurrently(plan, schedule, level):
    """Interleave transactions in a store that isolates them badly; at the end one reads everything."""
    lists: dict[str, list[int]] = {"x": [], "y": []}
    running: dict[int, tuple[dict, list, dict]] = {}
    history: list[Observed] = []
    value = 0
    waiting = [number for number, actions in enumerate(plan) for _ in range(len(actions) + 1)]
    for number in [*schedule, *waiting]:
        number %= len(plan)
        if number not in waiting:
            continue
        if number not in running:
            running[number] = ({key: list(held) for key, held in lists.items()}, [], {"x": [], "y": []})
        view, ops, own = running[number]
        waiting.remove(number)
        if len(ops) < len(plan[number]):
            appends, key = plan[number][len(ops)]
            if appends:
                value += 1
                (lists if level == "none" else own)[key].append(value)
                ops.append(("append", key, value))
            else:
                ops.append(("read", key, list(lists[key]) if level == "none" else [*view[key], *own[key]]))
            continue
        aborted = level == "writes checked" and any(own[key] and lists[key] != view[key] for key in own)
        if level != "none" and not aborted:
            for key, values in own.items():
                lists[key] += values
        history.append(Observed(f"T{number}", ops, not aborted))
    history.append(Observed("last", [("read", key, held) for key, held in lists.items()]))
    return history


@given(small, st.lists(st.integers(0, 3), max_size=14), isolation)
@examples(500)
def test_found_is_what_no_serial_order_explains(plan, schedule, level):
    history = concurrently(plan, schedule, level)
    found = anomalies(history)
    assert (not found) == could_be_serial(history), found
