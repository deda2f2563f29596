"""What all durable stores share: groups, leading, following, failing, snapshots. On a log in memory."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from log_tools import ExclusiveDriver, Log, LossyDriver, OptimisticDriver, PickleCodec, replica

from theus import CommitUnknown, Context, Engine, NotStorable, StoreError, StoreUnavailable, process
from theus.doors import drive
from theus.protocols import Commit, Committed, Conflict, Record, Refused
from theus.state.transaction import Transaction
from theus.state.values import plain
from theus.stores.driver import Entry, Make
from theus.stores.replica import Replica, _Waiting


@dataclass
class Shop:
    hits: int = 0
    log: list[str] = field(default_factory=list)
    stock: dict[str, int] = field(default_factory=dict)


@process
def hit(ctx: Context[Shop], by: int = 1) -> int:
    ctx.domain.hits += by
    return ctx.domain.hits


@process(environment="loop")
async def note(ctx: Context[Shop], text: str) -> None:
    ctx.domain.log.append(text)


def put(store: Replica, key: str, n: int, **more: Any) -> Commit:
    """A commit that sets one key blindly."""
    return Commit(store.snapshot.version, (), [("set", ("stock", key), n)], "put", **more)


def made(store: Replica, commit: Commit) -> Any:
    return drive(store.commit(commit, blocking=True))


class GatedDriver(ExclusiveDriver):
    """Waits before it appends, and notes the size of each group."""

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self.arrived = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)
        self.sizes: list[int] = []

    def append(self, known: int, group: str, make: Make) -> Sequence[Entry]:
        self.arrived.release()
        self.gate.acquire()

        def counted(others: Sequence[Entry]) -> Any:
            proposed = make(others)
            self.sizes.append(len(proposed))
            return proposed

        return super().append(known, group, counted)


def gated(log: Log) -> tuple[Replica, GatedDriver]:
    store = replica(log, Shop(), GatedDriver)
    store.open()
    driver: Any = store._driver
    return store, driver


def in_thread(work: Callable[[], Any]) -> Callable[[], Any]:
    """Start it; the answer gives what it returned, or raises what it raised."""
    box: list[Any] = []

    def run() -> None:
        try:
            box.append((work(), None))
        except BaseException as error:
            box.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()

    def answer() -> Any:
        thread.join(60)
        value, error = box[0]
        if error is not None:
            raise error
        return value

    return answer


def queued(store: Replica, count: int) -> None:
    """Wait until so many commits wait for the next group."""
    done = threading.Event()
    while len(store._waiting) < count:
        done.wait(0.001)


@pytest.mark.parametrize("kind", [ExclusiveDriver, OptimisticDriver])
def test_what_was_committed_is_there_for_the_next_engine(kind: type[ExclusiveDriver]) -> None:
    log = Log()
    with Engine(Shop(), store=replica(log, Shop(), kind)) as engine:
        assert [engine.run(hit) for _ in range(5)] == [1, 2, 3, 4, 5]
        engine.run(note, "a")
        changes = [str(change) for change in engine.history()]
        before = engine.diff(2, 4)
    with Engine(Shop(hits=99), store=replica(log, Shop(hits=99), kind)) as again:
        assert again.state.hits == 5  # a store with data wins over what the engine was made with
        assert again.state.log == ["a"]
        assert [str(change) for change in again.history()] == changes
        assert again.diff(2, 4) == before
        again.restore(3)
        assert again.state.hits == 3


@pytest.mark.parametrize("kind", [ExclusiveDriver, OptimisticDriver])
def test_engines_hear_of_each_other(kind: type[ExclusiveDriver]) -> None:
    log = Log()
    one, two = (replica(log, Shop(), kind) for _ in range(2))
    heard: list[Committed] = []
    arrived = threading.Semaphore(0)

    def listener(committed: Committed) -> None:
        heard.append(committed)
        arrived.release()

    two.open()
    end = two.tail(listener)
    record = Record("step", "a", b"1")
    made(one, put(one, "tea", 3, records=[record]))
    assert arrived.acquire(timeout=60)
    assert two.snapshot.version == 1
    assert plain(two.snapshot.root).stock == {"tea": 3}
    assert list(heard[0].records) == [record]
    made(two, put(two, "tea", 4))
    end()
    made(two, put(two, "tea", 5))
    assert [committed.version for committed in heard] == [1, 2]
    one.close()
    two.close()


def test_what_comes_meanwhile_is_the_next_group() -> None:
    store, driver = gated(Log())
    first = in_thread(lambda: made(store, put(store, "first", 1)))
    driver.arrived.acquire()
    rest = [in_thread(lambda n=n: made(store, put(store, "rest", n))) for n in range(8)]
    queued(store, 8)
    driver.gate.release()
    driver.arrived.acquire()
    driver.gate.release()
    assert first().version == 1
    assert sorted(answer().version for answer in rest) == list(range(2, 10))
    assert driver.sizes == [1, 8]
    store.close()


def test_a_loop_goes_on_while_its_commits_wait() -> None:
    store, driver = gated(Log())

    async def main() -> list[Any]:
        waiting = [asyncio.ensure_future(store.commit(put(store, "k", n), blocking=False)) for n in range(9)]
        await asyncio.sleep(0)  # the commits are asked for; the driver waits for us
        driver.gate.release(9)
        return await asyncio.gather(*waiting)

    answers = asyncio.run(main())
    assert sorted(answer.version for answer in answers) == list(range(1, 10))
    assert driver.sizes == [9]  # who is ready at once belongs to one group
    store.close()


@pytest.mark.parametrize("ending", ["another commit", "close"])
def test_a_loop_that_is_gone_stops_nobody(ending: str) -> None:
    store = replica(Log(), Shop())
    store.open()
    loop = asyncio.new_event_loop()
    task = loop.create_task(store.commit(put(store, "left behind", 1), blocking=False))
    loop.call_soon(loop.stop)
    loop.run_forever()  # the commit is asked for, and nobody leads yet
    task.cancel()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    if ending == "another commit":
        made(store, put(store, "another", 1))
    store.close()
    assert plain(store.snapshot.root).stock["left behind"] == 1
    task.get_coro().close()  # type: ignore[union-attr]


def test_threads_and_loops_lead_in_turn() -> None:
    log = Log()
    with Engine(Shop(), store=replica(log, Shop())) as engine:

        async def main() -> None:
            await asyncio.gather(*(engine.arun(note, str(n)) for n in range(50)))

        answers = [in_thread(lambda: [engine.run(hit) for _ in range(50)]) for _ in range(4)]
        answers += [in_thread(lambda: asyncio.run(main())) for _ in range(2)]
        for answer in answers:
            answer()
        assert engine.state.hits == 200
        assert len(engine.state.log) == 100
        assert [entry.version for entry in log.entries] == list(range(1, 301))


def test_each_of_a_group_gets_its_own_answer() -> None:
    store, driver = gated(Log())

    def raising(tx: Transaction) -> None:
        raise LookupError("mine")

    def adding(tx: Transaction) -> None:
        tx.domain.log.append(f"{tx.domain.stock['a']}")

    base = store.snapshot.version
    first = in_thread(lambda: made(store, put(store, "first", 1)))
    driver.arrived.acquire()
    commits = [
        put(store, "a", 1),
        put(store, "b", 1, complete=raising),
        Commit(base, [(("stock",), {"a"}, False, False)], [("set", ("hits",), 1)], "reader"),
        put(store, "a", 2, complete=adding),
        put(store, "c", 1, expected=[Record("owner", "r", b"1")]),
    ]
    answers = []
    for number, commit in enumerate(commits, 1):
        answers.append(in_thread(lambda commit=commit: made(store, commit)))
        queued(store, number)
    driver.gate.release(2)
    first()
    assert answers[0]().version == 2
    with pytest.raises(LookupError, match="mine"):
        answers[1]()
    assert answers[2]() == Conflict(("stock", "a"), "put")
    assert answers[3]().version == 3
    assert answers[4]() == Refused(Record("owner", "r", None))
    assert plain(store.snapshot.root) == Shop(log=["2"], stock={"first": 1, "a": 2})
    store.close()


class PickyCodec(PickleCodec):
    def encode_ops(self, operations: Any, process: str = "") -> bytes:
        for operation in operations:
            if isinstance(operation[-1], complex):
                raise NotStorable("a complex at stock.x", process=process, path="stock.x", what="complex")
        return super().encode_ops(operations)


def test_what_cannot_be_stored_is_refused_and_the_rest_goes_on() -> None:
    log = Log()
    store = Replica(lambda: ExclusiveDriver(log), PickyCodec(), Shop())
    with pytest.raises(NotStorable, match="a complex at stock") as caught:
        made(store, put(store, "x", 1j))  # type: ignore[arg-type]
    assert caught.value.process == "put"
    assert made(store, put(store, "y", 1)).version == 1
    assert plain(store.snapshot.root).stock == {"y": 1}
    store.close()


def test_a_store_that_is_away_loses_nothing() -> None:
    log = Log()
    store = replica(log, Shop())
    store.open()
    driver: Any = store._driver

    def away(what: str) -> None:
        raise StoreUnavailable("gone for now")

    driver.fail = away
    with pytest.raises(StoreUnavailable, match="gone"):
        made(store, put(store, "a", 1))
    assert store.snapshot.version == 0
    driver.fail = lambda what: None
    assert made(store, put(store, "a", 2)).version == 1
    store.close()


def test_an_unknown_commit_is_read_from_the_log_later() -> None:
    log = Log()
    store = replica(log, Shop())
    store.open()
    driver: Any = store._driver

    def unknown(what: str) -> None:
        if what == "after":
            raise CommitUnknown("no reply")

    driver.fail = unknown
    with pytest.raises(CommitUnknown) as caught:
        made(store, put(store, "a", 1))
    assert caught.value.commit_id
    driver.fail = lambda what: None
    assert made(store, put(store, "b", 2)).version == 2
    assert plain(store.snapshot.root).stock == {"a": 1, "b": 2}
    store.close()


def test_a_fault_of_the_driver_reaches_every_caller() -> None:
    store, driver = gated(Log())

    def broken(what: str) -> None:
        raise ZeroDivisionError

    driver.fail = broken
    answers = [in_thread(lambda n=n: made(store, put(store, "k", n))) for n in range(3)]
    driver.gate.release(3)
    for answer in answers:
        with pytest.raises(StoreError, match="ZeroDivisionError"):
            answer()
    driver.fail = lambda what: None
    driver.gate.release()
    assert made(store, put(store, "k", 9)).version == 1
    store.close()


@pytest.mark.parametrize("is_appended", [False, True])
def test_when_the_leader_is_interrupted_the_others_are_answered(is_appended: bool) -> None:
    log = Log()
    store, driver = gated(log)
    first = in_thread(lambda: made(store, put(store, "first", 1)))
    driver.arrived.acquire()

    def interrupt(what: str) -> None:
        if what == ("after" if is_appended else "before"):
            driver.fail = lambda what: None
            raise KeyboardInterrupt

    leader = in_thread(lambda: made(store, put(store, "leader", 1)))
    queued(store, 1)
    other = in_thread(lambda: made(store, put(store, "other", 1)))
    queued(store, 2)
    driver.gate.release()
    first()
    driver.fail = interrupt
    driver.gate.release(2)
    with pytest.raises(KeyboardInterrupt):
        leader()
    assert other().version == (3 if is_appended else 2)
    assert ("leader" in plain(store.snapshot.root).stock) is is_appended
    assert [entry.version for entry in log.entries] == list(range(1, store.snapshot.version + 1))
    store.close()


def test_a_cancel_comes_after_the_answer() -> None:
    store, driver = gated(Log())
    steps: list[Any] = []

    async def caller() -> None:
        steps.append(await store.commit(put(store, "a", 1), blocking=False))
        await asyncio.sleep(0)
        steps.append("never")

    async def main() -> None:
        task = asyncio.ensure_future(caller())
        await asyncio.to_thread(driver.arrived.acquire)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        driver.gate.release()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelling() == 1

    asyncio.run(main())
    assert [step.version for step in steps] == [1]
    store.close()


def test_commits_of_others_in_between_that_do_not_touch_ours_both_stand() -> None:
    log = Log()
    one, two = (replica(log, Shop(), OptimisticDriver) for _ in range(2))
    one.open()
    two.open()
    driver: Any = one._driver
    driver.between = once(lambda: made(two, put(two, "theirs", 1)))
    assert made(one, put(one, "ours", 1)).version == 2
    assert plain(one.snapshot.root).stock == {"theirs": 1, "ours": 1}
    assert list(plain(one.snapshot.root).stock) == ["theirs", "ours"]
    one.close()
    two.close()


def test_commits_of_others_in_between_that_touch_ours_are_a_conflict() -> None:
    log = Log()
    one, two = (replica(log, Shop(), OptimisticDriver) for _ in range(2))
    one.open()
    two.open()
    driver: Any = one._driver
    driver.between = once(lambda: made(two, put(two, "a", 1)))
    reader = Commit(0, [(("stock",), {"a"}, False, False)], [("set", ("hits",), 1)], "reader")
    assert made(one, reader) == Conflict(("stock", "a"), "put")

    def total(tx: Transaction) -> None:  # runs in the commit, so it runs again on the newest state
        tx.domain.hits = sum(tx.domain.stock.values())

    driver.between = once(lambda: made(two, put(two, "b", 2)))
    assert made(one, Commit(1, (), (), "total", total)).version == 3
    assert one.snapshot.root.hits == 3
    one.close()
    two.close()


def test_who_only_looks_in_its_commit_sees_what_comes_to_be() -> None:
    log = Log()
    one, two = (replica(log, Shop(), OptimisticDriver) for _ in range(2))
    one.open()
    two.open()
    seen: list[tuple[int, int]] = []

    def look(tx: Transaction) -> None:
        seen.append((tx.domain.hits, tx.domain.stock.get("a", 0)))

    driver: Any = one._driver
    for between, there, version in [
        (lambda: made(two, put(two, "a", 7)), [(1, 0), (1, 7)], 2),  # what it looked at: it looks again
        (lambda: made(two, put(two, "b", 7)), [(1, 7)], 4),  # something else: it stands
    ]:
        seen.clear()
        driver.between = once(between)
        writer = _Waiting(Commit(one.snapshot.version, (), [("set", ("hits",), 1)], "writer"), None)
        looker = _Waiting(Commit(0, (), (), "looker", look), None)
        one._commit_group([writer, looker])
        assert seen == there
        assert writer.answer == Committed(version, [("set", ("hits",), 1)])
        assert looker.answer == Committed(version, ())
    one.close()
    two.close()


def test_who_only_looked_at_what_did_not_come_to_be_is_told() -> None:
    log = Log()
    one = replica(log, Shop())
    one.open()
    driver: Any = one._driver

    def fail(what: str) -> None:
        raise StoreUnavailable("gone")

    driver.fail = lambda what: fail(what) if what == "after" else None
    writer = _Waiting(Commit(0, (), [("set", ("hits",), 1)], "writer"), None)
    looker = _Waiting(Commit(0, (), (), "looker", lambda tx: None), None)
    one._commit_group([writer, looker])
    assert isinstance(writer.error, StoreUnavailable)
    assert isinstance(looker.error, StoreUnavailable)
    one.close()


def test_a_key_that_went_away_in_between_comes_again() -> None:
    log = Log()
    one, two = (replica(log, Shop(stock={"a": 1}), OptimisticDriver) for _ in range(2))
    one.open()
    two.open()
    driver: Any = one._driver
    driver.between = once(lambda: made(two, Commit(0, (), [("del", ("stock", "a"))], "delete")))
    assert made(one, put(one, "a", 2)).version == 2
    assert "K:\n'stock'" in log.writes[2]  # so who counted the keys in between is in conflict
    one.close()
    two.close()


def once(work: Callable[[], Any]) -> Callable[[], None]:
    left = [work]

    def run() -> None:
        if left:
            left.pop()()

    return run


def test_an_expected_record_that_changes_in_between_is_seen() -> None:
    log = Log()
    one, two = (replica(log, Shop(), OptimisticDriver) for _ in range(2))
    one.open()
    two.open()
    made(one, Commit(0, (), (), "own", records=[Record("owner", "r", b"1")]))
    driver: Any = one._driver
    driver.between = once(lambda: made(two, Commit(0, (), (), "take", records=[Record("owner", "r", b"2")])))
    mine = [Record("owner", "r", b"1")]
    assert made(one, put(one, "a", 1, expected=mine)) == Refused(Record("owner", "r", b"2"))
    assert two.records("owner") == [Record("owner", "r", b"2")]
    one.close()
    two.close()


class AskedDriver(OptimisticDriver):
    """Counts how often it is asked for a record."""

    asked = 0

    def record(self, kind: str, key: str) -> bytes | None:
        self.asked += 1
        return super().record(kind, key)


def test_an_expected_record_is_asked_once_and_the_log_keeps_it_true() -> None:
    log = Log()
    one, two = (replica(log, Shop(), AskedDriver) for _ in range(2))
    made(one, Commit(0, (), (), "own", records=[Record("owner", "r", b"1")]))
    driver: Any = one._driver
    mine = [Record("owner", "r", b"1")]
    for n in range(3):
        assert isinstance(made(one, put(one, "a", n, expected=mine)), Committed)
    assert driver.asked == 1
    made(two, Commit(0, (), (), "take", records=[Record("owner", "r", b"2")]))
    assert made(one, put(one, "a", 4, expected=mine)) == Refused(Record("owner", "r", b"2"))
    made(one, Commit(0, (), (), "own", records=[Record("owner", "r", b"3")], expected=[Record("owner", "r", b"2")]))
    assert made(one, put(one, "a", 5, expected=mine)) == Refused(Record("owner", "r", b"3"))
    one.close()
    two.close()


def test_a_record_that_is_not_what_the_log_said_is_asked_again() -> None:
    log = Log()
    store = replica(log, Shop(), OptimisticDriver)
    made(store, Commit(0, (), (), "own", records=[Record("owner", "r", b"1")]))
    mine = [Record("owner", "r", b"1")]
    assert isinstance(made(store, put(store, "a", 1, expected=mine)), Committed)
    log.records["owner", "r"] = b"9"  # as a restored server might have it
    assert made(store, put(store, "a", 2, expected=mine)) == Refused(Record("owner", "r", b"9"))
    store.close()


def test_lost_replies_lose_and_double_nothing() -> None:
    log = Log()
    stores = [replica(log, Shop(), LossyDriver) for _ in range(3)]
    known: list[int] = []
    unknown: list[int] = []

    def work(store: Replica, first: int) -> None:
        for n in range(first, first + 60):
            while True:
                try:
                    made(store, Commit(store.snapshot.version, (), [("append", ("log",), [str(n)])], "note"))
                    known.append(n)
                except StoreUnavailable:
                    continue
                except CommitUnknown:
                    unknown.append(n)
                break

    answers = [in_thread(lambda n=n, store=store: work(store, 100 * n)) for n, store in enumerate(stores)]
    for answer in answers:
        answer()
    for store in stores:
        driver: Any = store._driver
        driver.loss = 0.0
        made(store, put(store, "end", 1))
    states = [plain(store.snapshot.root).log for store in stores[-1:]]
    logged = [int(text) for text in states[0]]
    assert len(set(logged)) == len(logged)
    assert set(known) <= set(logged) <= set(known) | set(unknown)
    assert len(known) > 100
    for store in stores:
        store.close()


def test_the_log_is_cut_when_it_is_heavier_than_the_state() -> None:
    log = Log()
    store = replica(log, Shop())
    text = "x" * 100_000
    for n in range(500):
        made(store, Commit(store.snapshot.version, (), [("set", ("log",), [text, str(n)])], "big"))
        if store._keeper is not None:
            store._keeper.join()
    assert sum(entry.weight for entry in log.entries) < 10 * 2**20
    assert len(log.snapshots) == 2
    assert len(store.history.last(10)) == 10
    store.close()
    again = replica(log, Shop())
    assert plain(again.snapshot.root).log == [text, "499"]
    assert again.snapshot.version == 500
    assert again.history.last(3)[-1].version == 500
    again.close()


def test_an_engine_that_was_away_for_long_jumps() -> None:
    log = Log()
    store, other = replica(log, Shop()), replica(log, Shop())
    old = store.open()
    with store._log:  # it follows nothing meanwhile
        for n in range(5):
            made(other, put(other, "a", n))
        other._driver.keep(5, other._sealed(other.snapshot.root), 5)
        made(other, put(other, "a", 5))
    late = Commit(old.version, [((), {"hits"}, False, False)], [("set", ("hits",), 1)], "late")
    assert isinstance(made(store, late), Conflict)
    assert made(store, put(store, "b", 1)).version == 7
    assert plain(store.snapshot.root).stock == {"a": 5, "b": 1}
    store.close()
    other.close()


def test_a_closed_store_says_so() -> None:
    store = replica(Log(), Shop())
    store.open()
    commit = put(store, "a", 1)
    store.close()
    store.close()
    with pytest.raises(StoreError, match="was closed"):
        made(store, commit)
    assert store.snapshot.version == 0  # what was read can still be looked at
