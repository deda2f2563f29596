"""What every store must do: a list of checks, for ours and for those that users write.

    @pytest.mark.parametrize("check", checks_for("sqlite"), ids=str)
    def test_conformance(check, tmp_path):
        check(lambda domain: open_store(tmp_path / "shop.db", domain))

or all of them at once with ``check_store(place)``. A *place* is a function that opens a store: each of its calls gives a
store on the same data, which begins with the domain that it is given if there is none yet. Each check needs a new place.
What a store cannot do by its nature (memory does not survive) is left out by ``checks_for``, or with ``without=``.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from theus.errors import NotStorable, StoreError
from theus.protocols import Commit, Committed, Conflict, Record, Refused, Store, Version
from theus.state.fields import Tally
from theus.state.transaction import Transaction
from theus.state.values import plain
from theus.stores.driver import Driver, Entry, Loaded, Make

__all__ = ["CANNOT", "CHECKS", "Check", "LossyDriver", "Place", "check_store", "checks_for"]

Place = Callable[[Any], Store]
Answer = Committed | Conflict | Refused

#: What a store cannot do, by name: begin again with what it had, be opened by several engines, refuse a value.
CANNOT = {"memory": {"restart", "engines", "refuse"}}


@dataclass
class Item:
    """One of the things on the shelf."""

    value: int = 0
    tags: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


@dataclass
class Shelf:
    """A domain with every kind of container."""

    number: int = 0
    ratio: float = 0.0
    data: bytes = b""
    total: Tally = 0
    numbers: dict[str, int] = field(default_factory=dict)
    by_number: dict[int, str] = field(default_factory=dict)
    items: dict[str, Item] = field(default_factory=lambda: {"a": Item(1), "b": Item(2)})
    log: list[int] = field(default_factory=list)
    pairs: list[tuple[int, str]] = field(default_factory=list)
    anything: dict[str, Any] = field(default_factory=dict)


class Kit:
    """What a check works with: stores on one place, and short ways to use them."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._stores: list[Store] = []

    def open(self, domain: Any = None) -> Store:
        """A store on the place."""
        store = self._place(Shelf() if domain is None else domain)
        store.open()
        self._stores.append(store)
        return store

    def close(self) -> None:
        for store in self._stores:
            store.close()


def finish(work: Coroutine[Any, Any, Answer]) -> Answer:
    """The answer of a commit that blocks."""
    try:
        work.send(None)
    except StopIteration as end:
        answer: Answer = end.value
        return answer
    raise AssertionError("with blocking=True, commit waits in its thread and not on a loop")


def begin(store: Store, *, stays: bool = False) -> Transaction:
    """A transaction on the newest state. ``stays``: it does not move on to a newer one."""
    transaction = Transaction(store.snapshot, process="check")
    if stays:
        transaction._stay()
    return transaction


def end(store: Store, transaction: Transaction, **more: Any) -> Answer:
    """Commit what a transaction did."""
    reads, ops = transaction.finish()
    commit = Commit(transaction.base, reads, ops, "check", **more)
    transaction.close()
    return finish(store.commit(commit, blocking=True))


def change(store: Store, body: Callable[[Any], Any]) -> Committed:
    """Do ``body(domain)`` until it is committed."""
    while True:
        transaction = begin(store)
        body(transaction.domain)
        answer = end(store, transaction)
        if isinstance(answer, Committed):
            return answer
        assert isinstance(answer, Conflict), answer


def state(store: Store) -> Any:
    """The newest state, as plain Python."""
    return plain(store.snapshot.root)


def caught_up(store: Store) -> Any:
    """The newest state of all engines: a commit hears of everything before it."""
    change(store, lambda shelf: shelf.numbers.update({"caught up": shelf.numbers.get("caught up", 0) + 1}))
    found = state(store)
    del found.numbers["caught up"]
    return found


def at_once(*works: Callable[[], Any]) -> list[Any]:
    """Run functions in threads, at the same time; gives what they return, raises what one raises."""
    results: list[Any] = [None] * len(works)
    errors: list[BaseException] = []
    start = threading.Barrier(len(works))

    def body(number: int, work: Callable[[], Any]) -> None:
        try:
            start.wait(60)
            results[number] = work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=body, args=pair) for pair in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


# --- the state -------------------------------------------------------------------------------------------------------


def it_begins_with_the_domain(kit: Kit) -> None:
    """An empty store has the domain that it was made with, at version 0."""
    store = kit.open(Shelf(number=3, log=[1, 2]))
    assert store.snapshot.version == 0
    assert state(store) == Shelf(number=3, log=[1, 2])


def a_commit_is_seen(kit: Kit) -> None:
    """After the answer the newest state has the change; older snapshots stay as they were."""
    store = kit.open()
    old = store.snapshot
    answer = change(store, _some_changes)
    assert answer.version == store.snapshot.version == 1
    expected = Shelf()
    _some_changes(expected)
    assert state(store) == expected
    assert plain(old.root) == Shelf()
    assert [made.version for made in store.history.last(5)] == [1]


def _append(n: int, shelf: Shelf) -> None:
    shelf.log.append(n)


def _set_x(n: int, shelf: Shelf) -> None:
    shelf.numbers["x"] = n


def _count(shelf: Shelf) -> None:
    shelf.number += 1
    shelf.log.append(shelf.number)


def _some_changes(shelf: Shelf) -> None:
    shelf.number = 5
    shelf.total += 2
    shelf.numbers["x"] = 1
    shelf.items["a"].tags.add("new")
    shelf.items["a"].notes += ["one", "two"]
    shelf.items["c"] = Item(9, {"x", "y"})
    del shelf.items["b"]
    shelf.log.append(7)
    shelf.pairs.append((1, "one"))
    shelf.by_number[5] = "five"


def nothing_to_change_is_no_version(kit: Kit) -> None:
    """A commit that changes nothing is made, and counts for nothing."""
    store = kit.open()
    answer = finish(store.commit(Commit(0, (), (), "check"), blocking=True))
    assert isinstance(answer, Committed)
    assert store.snapshot.version == 0


# --- conflicts -------------------------------------------------------------------------------------------------------


def lost_update(kit: Kit) -> None:
    """Two read a number and write it: the second is a conflict, which names the place and who was first."""
    store = kit.open()
    one, two = begin(store, stays=True), begin(store, stays=True)
    one.domain.number += 1
    two.domain.number += 1
    assert isinstance(end(store, one), Committed)
    assert end(store, two) == Conflict(("number",), "check")
    assert state(store).number == 1


def phantom(kit: Kit) -> None:
    """Who counted the keys, or looked for one that was not there, conflicts with who puts one in."""
    store = kit.open()
    counted, missed, other = (begin(store, stays=True) for _ in range(3))
    counted.domain.number = len(counted.domain.numbers)
    missed.domain.number = missed.domain.numbers.get("x", 0)
    other.domain.number = other.domain.numbers.get("y", 0)
    change(store, lambda shelf: shelf.numbers.update(x=1))
    assert isinstance(end(store, counted), Conflict)
    assert isinstance(end(store, missed), Conflict)
    assert isinstance(end(store, other), Committed)


def replaced_ancestor(kit: Kit) -> None:
    """Who read or wrote inside something conflicts with who replaced it."""
    store = kit.open()
    reader, writer = begin(store, stays=True), begin(store, stays=True)
    reader.domain.number = reader.domain.items["a"].value
    writer.domain.items["a"].notes.append("lost")
    change(store, lambda shelf: shelf.items.update(a=Item(5)))
    assert isinstance(end(store, reader), Conflict)
    assert isinstance(end(store, writer), Conflict)
    assert state(store).items["a"] == Item(5)


def deletion(kit: Kit) -> None:
    """What was deleted was changed, also if it is there again."""
    store = kit.open()
    change(store, lambda shelf: shelf.numbers.update(x=1))
    reader, again = begin(store, stays=True), begin(store, stays=True)
    reader.domain.number = reader.domain.numbers["x"]
    again.domain.number = again.domain.numbers["x"]
    change(store, lambda shelf: shelf.numbers.pop("x"))
    assert isinstance(end(store, reader), Conflict)
    change(store, lambda shelf: shelf.numbers.update(x=1))
    assert isinstance(end(store, again), Conflict)


def blind_writes_pass(kit: Kit) -> None:
    """Writes without reads do not conflict: keys, appends, tallies; the log has their order."""
    store = kit.open()
    started = [begin(store, stays=True) for _ in range(3)]
    for number, transaction in enumerate(started):
        transaction.domain.numbers["x"] = number
        transaction.domain.log.append(number)
        transaction.domain.total += 1
    answers = [end(store, transaction) for transaction in started]
    assert all(isinstance(answer, Committed) for answer in answers)
    found = state(store)
    assert (found.numbers, found.log, found.total) == ({"x": 2}, [0, 1, 2], 3)


def completion_runs_on_the_newest_state(kit: Kit) -> None:
    """``complete`` sees what was committed last, and its writes belong to the commit."""
    store = kit.open()
    transaction = begin(store, stays=True)
    transaction.domain.log.append(1)
    change(store, lambda shelf: shelf.numbers.update(x=5))

    def complete(tx: Transaction) -> None:
        tx.domain.number = tx.domain.numbers["x"] + len(tx.domain.log)

    answer = end(store, transaction, complete=complete)
    assert isinstance(answer, Committed)
    assert state(store).number == 6
    assert [op[1] for op in answer.ops] == [("log",), ("number",)]


def what_a_completion_raises_comes_out(kit: Kit) -> None:
    """Nothing is committed then, and the store goes on."""
    store = kit.open()
    transaction = begin(store)
    transaction.domain.number = 9

    def complete(tx: Transaction) -> None:
        tx.domain.log.append(1)
        raise LookupError("on purpose")

    try:
        end(store, transaction, complete=complete)
    except LookupError:
        pass
    else:
        raise AssertionError("the error of complete was lost")
    assert state(store) == Shelf()
    assert change(store, lambda shelf: shelf.log.append(2)).version == 1


# --- at once ---------------------------------------------------------------------------------------------------------

ROUNDS = 60  #: of each race


def races_lose_nothing(kit: Kit) -> None:
    """Threads that increment one number."""
    store = kit.open()

    def increments() -> None:
        for _ in range(ROUNDS):
            change(store, lambda shelf: setattr(shelf, "number", shelf.number + 1))

    at_once(*[increments] * 6)
    assert state(store).number == 6 * ROUNDS
    assert store.snapshot.version == 6 * ROUNDS


def write_skew(kit: Kit) -> None:
    """Each of two reads both numbers and raises its own if both are 0: never both."""
    store = kit.open()
    _skew(store, store, ROUNDS)


def write_skew_between_engines(kit: Kit) -> None:
    """The same with an engine for each."""
    _skew(kit.open(), kit.open(), ROUNDS)


def _skew(one: Store, two: Store, rounds: int) -> None:
    for number in range(rounds):
        names = f"a{number}", f"b{number}"
        meet = threading.Barrier(2)

        def side(store: Store, mine: str, names: Sequence[str] = names, meet: threading.Barrier = meet) -> None:
            transaction = begin(store, stays=True)
            numbers = transaction.domain.numbers
            if all(numbers.get(name, 0) == 0 for name in names):
                numbers[mine] = 1
            meet.wait(60)
            end(store, transaction)

        at_once(partial(side, one, names[0]), partial(side, two, names[1]))
        found = caught_up(one).numbers
        assert sum(found.get(name, 0) for name in names) == 1, f"round {number}: {found}"


def a_loop_is_not_held_up(kit: Kit) -> None:
    """With ``blocking=False`` many commits of one loop wait together."""
    store = kit.open()

    async def main() -> list[Answer]:
        commits = [Commit(0, (), [("append", ("log",), [n])], "check") for n in range(ROUNDS)]
        return await asyncio.gather(*(store.commit(commit, blocking=False) for commit in commits))

    answers = asyncio.run(main())
    assert sorted(answer.version for answer in answers if isinstance(answer, Committed)) == [*range(1, ROUNDS + 1)]
    assert sorted(state(store).log) == [*range(ROUNDS)]


# --- records and tail ------------------------------------------------------------------------------------------------


def records_are_kept_beside_the_state(kit: Kit) -> None:
    """Commits write, replace and take away records; a prefix finds them, sorted."""
    store = kit.open()
    first = [Record("step", f"r{run}/{step}", bytes([run, step])) for run in (2, 1) for step in (2, 1)]
    answer = end(store, begin(store), records=first)
    assert isinstance(answer, Committed)
    assert list(answer.records) == first
    change(store, lambda shelf: shelf.log.append(1))
    end(store, begin(store), records=[Record("step", "r1/1", b"new"), Record("step", "r1/2", None)])
    end(store, begin(store), records=[Record("run", "r1", b""), Record("step", "r1\U0001f600", b"x" * 100_000)])
    assert store.records("step", "r1/") == [Record("step", "r1/1", b"new")]
    assert [record.key for record in store.records("step")] == ["r1/1", "r1\U0001f600", "r2/1", "r2/2"]
    assert store.records("run") == [Record("run", "r1", b"")]
    assert store.records("nothing") == []


def expected_records_are_compared(kit: Kit) -> None:
    """A commit is refused, with the record as it is, unless the records are what it expects."""
    store = kit.open()
    one, two = Record("owner", "r", b"1"), Record("owner", "r", b"2")
    assert isinstance(end(store, begin(store), records=[one], expected=[Record("owner", "r", None)]), Committed)
    for expected in (Record("owner", "r", None), two):
        transaction = begin(store)
        transaction.domain.number = 9
        assert end(store, transaction, records=[two], expected=[expected]) == Refused(one)
    assert state(store).number == 0
    assert store.records("owner") == [one]
    assert isinstance(end(store, begin(store), records=[two], expected=[one]), Committed)


def a_race_for_a_record_has_one_winner(kit: Kit) -> None:
    """Of many who expect that there is none, one gets it."""
    store = kit.open()
    nobody = [Record("owner", "r", None)]

    def take(n: int) -> Answer:
        return end(store, begin(store), records=[Record("owner", "r", bytes([n]))], expected=nobody)

    answers = at_once(*[partial(take, n) for n in range(8)])
    assert sum(isinstance(answer, Committed) for answer in answers) == 1
    assert sum(isinstance(answer, Refused) for answer in answers) == 7


def the_tail_is_heard_in_order(kit: Kit) -> None:
    """Each commit from then on, once, in the order of versions, with its records; until it is ended."""
    store = kit.open()
    change(store, lambda shelf: shelf.log.append(0))
    heard: list[Committed] = []
    stop = store.tail(heard.append)
    at_once(*[lambda: [change(store, lambda shelf: shelf.log.append(1)) for _ in range(10)]] * 3)
    record = Record("signal", "s", b"1")
    end(store, begin(store), records=[record])
    stop()
    change(store, lambda shelf: shelf.log.append(2))
    numbers = [committed.version for committed in heard if committed.ops]
    assert numbers == [*range(2, 32)]
    assert [list(committed.records) for committed in heard if committed.records] == [[record]]


def engines_hear_of_each_other(kit: Kit) -> None:
    """What one engine commits reaches the others, without a commit of their own; records too."""
    one, two = kit.open(), kit.open()
    heard: list[Committed] = []
    done = threading.Event()

    def listener(committed: Committed) -> None:
        heard.append(committed)
        if committed.records:
            done.set()

    two.tail(listener)
    for n in range(20):
        change(one, partial(_append, n))
    record = Record("signal", "s", b"1")
    end(one, begin(one), records=[record])
    assert done.wait(60)
    assert state(two).log == [*range(20)]
    assert [committed.version for committed in heard] == [*range(1, 22)]
    assert two.records("signal") == [record]
    assert [change.version for change in two.history.last(3)] == [18, 19, 20]


def engines_are_one_state(kit: Kit) -> None:
    """Three engines increment one number and append to one list."""
    stores = [kit.open() for _ in range(3)]

    def work(store: Store) -> None:
        for _ in range(ROUNDS // 2):
            change(store, _count)

    at_once(*[partial(work, store) for store in stores])
    found = [caught_up(store) for store in stores]
    count = 3 * (ROUNDS // 2)
    assert found[0] == found[1] == found[2]
    assert found[0].number == count
    assert found[0].log == [*range(1, count + 1)]


def the_first_engine_decides_how_it_begins(kit: Kit) -> None:
    """What a store has wins over the domain that a later engine is made with."""
    one = kit.open(Shelf(number=1))
    two = kit.open(Shelf(number=2))
    assert state(one).number == state(two).number == 1


# --- values ----------------------------------------------------------------------------------------------------------

VALUES: dict[str, Any] = {
    "unicode": "ü\u0000\ud7ff\U0010ffff" + "漢字" * 10 + '"\\\n\u2028',
    "64 bit": [2**63 - 1, -(2**63), 2**64 - 1],
    "bigger": [2**64, -(2**200), 10**1000],
    "infinite": [math.inf, -math.inf, -0.0, 5e-324, 1.7976931348623157e308, 0.1],
    "nothing": [None, True, False, "", b"", [], {}, 0],
    "bytes": [b"\x00\xff" * 10, b"x" * 100_000],
    "nested": {"a": [{"b": [1, {"c": (1, (2, "x"))}]}]},
    "sets": [{1, 2}, frozenset((3, 4)), {"a"}],
    "keys": {1: "int", "1": "text", (1, "a"): "tuple", None: "none", 1.5: "float"},
    "$set": {"$set": [1]},
    "time": datetime(2024, 2, 29, 23, 59, 59, 999999, tzinfo=UTC),
    "big text": "x" * 3_000_000,
}


def _put_values(shelf: Shelf) -> None:
    for name, value in VALUES.items():
        shelf.anything[name] = value
    shelf.number = 2**100
    shelf.ratio = math.inf
    shelf.data = bytes(range(256)) * 5_000
    shelf.by_number = {n: str(n) for n in range(1_000)}
    shelf.log.extend(range(2_000))
    shelf.pairs = [(2**64, "x")]


def values_come_back(kit: Kit) -> None:
    """Text, numbers of any size, bytes, containers inside containers are what they were."""
    store = kit.open()
    change(store, _put_values)
    _check_values(store)


def _check_values(store: Store) -> None:
    expected = Shelf()
    _put_values(expected)
    found = state(store)
    for name, value in VALUES.items():
        assert found.anything[name] == value, name
        assert repr(found.anything[name]) == repr(value) or isinstance(value, (list, dict)), name
    assert found == expected
    assert list(found.by_number) == list(expected.by_number)
    assert math.copysign(1, found.anything["infinite"][2]) == -1
    change(store, lambda shelf: shelf.anything.update(nan=math.nan))
    assert math.isnan(state(store).anything["nan"])


def values_reach_other_engines(kit: Kit) -> None:
    """The same in another engine, which hears of them."""
    one, two = kit.open(), kit.open()
    change(one, _put_values)
    change(two, lambda shelf: shelf.numbers.update(x=1))
    change(two, lambda shelf: shelf.numbers.pop("x"))
    _check_values(two)
    assert math.isnan(caught_up(one).anything["nan"])


def what_cannot_be_stored_is_refused(kit: Kit) -> None:
    """At the commit, naming path, type and process; nothing is changed, and others go on."""
    store = kit.open()
    transaction = begin(store)
    transaction.domain.log.append(1)
    transaction.domain.anything["lock"] = threading.Lock()
    refused: NotStorable | None = None
    try:
        end(store, transaction)
    except NotStorable as error:
        refused = error
    assert refused is not None, "a lock was stored"
    assert refused.process == "check"
    assert "anything.lock" in refused.path
    assert "lock" in refused.what
    assert state(store) == Shelf()
    assert change(store, lambda shelf: shelf.log.append(2)).version == 1


# --- the end and a new beginning -------------------------------------------------------------------------------------


def a_restart_finds_everything(kit: Kit) -> None:
    """State, version, records, history and what can be restored."""
    store = kit.open(Shelf(number=7))
    for n in range(30):
        change(store, partial(_set_x, n))
    end(store, begin(store), records=[Record("run", "r", b"1")])
    change(store, _some_changes)
    last, found = store.history.last(20), state(store)
    store.close()
    again = kit.open(Shelf(number=8))
    assert again.snapshot.version == store.snapshot.version
    assert state(again) == found
    assert again.records("run") == [Record("run", "r", b"1")]
    seen = [(made.version, made.process, made.at) for made in again.history.last(20)]
    assert seen == [(made.version, made.process, made.at) for made in last]
    assert plain(again.history.snapshot_at(10, again.snapshot).root).numbers == {"x": 9}
    assert change(again, lambda shelf: shelf.log.append(1)).version == store.snapshot.version + 1


def values_survive_a_restart(kit: Kit) -> None:
    """The same values, big ones too."""
    store = kit.open()
    change(store, _put_values)
    found = state(store)
    store.close()
    again = kit.open()
    assert state(again) == found
    _check_values(again)


def a_closed_store_refuses(kit: Kit) -> None:
    """Closing twice is fine; a commit afterwards is refused."""
    store = kit.open()
    change(store, lambda shelf: shelf.log.append(1))
    store.close()
    store.close()
    try:
        change(store, lambda shelf: shelf.log.append(2))
    except StoreError:
        pass
    else:
        raise AssertionError("a closed store took a commit")


# --- the list --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that stores must do. ``needs``: what a store must be able to do for it."""

    body: Callable[[Kit], None]
    needs: frozenset[str] = frozenset()

    def __call__(self, place: Place) -> None:
        """Run it on a new place; raises AssertionError if the store does something else."""
        kit = Kit(place)
        try:
            self.body(kit)
        finally:
            kit.close()

    def __str__(self) -> str:
        return self.body.__name__.replace("_", " ")


CHECKS = [
    Check(it_begins_with_the_domain),
    Check(a_commit_is_seen),
    Check(nothing_to_change_is_no_version),
    Check(lost_update),
    Check(phantom),
    Check(replaced_ancestor),
    Check(deletion),
    Check(blind_writes_pass),
    Check(completion_runs_on_the_newest_state),
    Check(what_a_completion_raises_comes_out),
    Check(races_lose_nothing),
    Check(write_skew),
    Check(write_skew_between_engines, frozenset({"engines"})),
    Check(a_loop_is_not_held_up),
    Check(records_are_kept_beside_the_state),
    Check(expected_records_are_compared),
    Check(a_race_for_a_record_has_one_winner),
    Check(the_tail_is_heard_in_order),
    Check(engines_hear_of_each_other, frozenset({"engines"})),
    Check(engines_are_one_state, frozenset({"engines"})),
    Check(the_first_engine_decides_how_it_begins, frozenset({"engines"})),
    Check(values_come_back),
    Check(values_reach_other_engines, frozenset({"engines"})),
    Check(what_cannot_be_stored_is_refused, frozenset({"refuse"})),
    Check(a_restart_finds_everything, frozenset({"restart"})),
    Check(values_survive_a_restart, frozenset({"restart"})),
    Check(a_closed_store_refuses, frozenset({"restart"})),
]


def checks_for(name: str, without: Collection[str] = ()) -> list[Check]:
    """The checks that a store of this name has to pass. ``without``: what else it cannot do."""
    missing = CANNOT.get(name, set()) | set(without)
    return [check for check in CHECKS if not check.needs & missing]


def check_store(places: Callable[[], Place], name: str = "", without: Collection[str] = ()) -> None:
    """Run all checks, each on a new place.

    Raises:
        AssertionError: the store does something else; its notes say which check found it.
    """
    for check in checks_for(name, without):
        try:
            check(places())
        except BaseException as error:
            error.add_note(f"in the check: {check}")
            raise


class LossyDriver:
    """A driver around another that loses replies: what was appended is appended, but the answer does not come, and the
    group is sent again under its id.

    ``lose()`` decides, for each reply.
    """

    def __init__(self, driver: Driver, lose: Callable[[], bool]) -> None:
        self._driver = driver
        self._lose = lose

    def append(self, known: Version, group: str, make: Make) -> Sequence[Entry]:
        seen = known

        def noting(others: Sequence[Entry]) -> Any:
            nonlocal seen
            seen = others[-1].version if others else seen
            return make(others)

        between = self._driver.append(known, group, noting)
        while self._lose():
            between = self._driver.append(seen, group, make)
        return between

    def load(self, initial: Callable[[], bytes]) -> Loaded:
        return self._driver.load(initial)

    def tail(self, after: Version) -> Sequence[Entry]:
        return self._driver.tail(after)

    def wait(self) -> bool:
        return self._driver.wait()

    def record(self, kind: str, key: str) -> bytes | None:
        return self._driver.record(kind, key)

    def records(self, kind: str, prefix: str) -> list[Record]:
        return self._driver.records(kind, prefix)

    def kept(self) -> Version:
        return self._driver.kept()

    def keep(self, version: Version, state: bytes, floor: Version) -> None:
        self._driver.keep(version, state, floor)

    def close(self) -> None:
        self._driver.close()
