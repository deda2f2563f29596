"""Redis and PostgreSQL as stores: real servers of our own, which restart, crash, lose replies and data."""

from __future__ import annotations

import contextlib
import itertools
import logging
import random
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from test_kills import is_caught, kills
from test_processes import BLIND, anomalies_of, in_processes, skewed, violations

from private_servers import PostgresServer, RedisServer, Server, free_port
from theus.errors import DefinitionError, StoreError, StoreUnavailable
from theus.protocols import Commit, Committed, Conflict, Record, Refused
from theus.state.transaction import Transaction
from theus.state.values import plain
from theus.stores import driver_of, open_store, redis
from theus.stores.codec import Codec
from theus.stores.replica import Replica
from theus.testing import stores
from theus.testing.stores import checks_for

KINDS: dict[str, tuple[type[Server], str]] = {
    "redis": (RedisServer, "name"),
    "postgres": (PostgresServer, "schema"),
}
_names = itertools.count()


@dataclass
class Shop:
    number: int = 0
    entries: list[int] = field(default_factory=list)
    keys: dict[str, int] = field(default_factory=dict)


class Place:
    """A server, and fresh stores on it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        made, self.option = KINDS[kind]
        self.server = made()
        self.stores: list[Replica] = []
        self.fresh()

    def fresh(self) -> None:
        self.name = f"shop{next(_names)}"

    def url(self, port: int | None = None, **options: Any) -> str:
        base = self.server.url
        if port is not None:
            base = base.replace(str(self.server.port), str(port))
        more = "".join(f"&{name}={value}" for name, value in options.items())
        return f"{base}?{self.option}={self.name}{more}"

    def open(self, url: str = "") -> Replica:
        store = Replica(driver_of(url or self.url()), Codec(Shop), Shop())
        self.stores.append(store)
        store.open()
        return store

    def close(self) -> None:
        for store in self.stores:
            store.close()
        self.stores.clear()


@pytest.fixture(scope="module", params=KINDS)
def shared(request: Any) -> Iterator[Place]:
    place = Place(request.param)
    yield place
    place.close()
    place.server.close()


@pytest.fixture
def place(shared: Place) -> Iterator[Place]:
    shared.fresh()
    yield shared
    shared.close()
    assert shared.server.process is not None
    if shared.server.process.poll() is not None:
        shared.server.start()


def finish(store: Replica, commit: Commit) -> Any:
    work = store.commit(commit, blocking=True)
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits on a loop")


def change(store: Replica, body: Callable[[Any], None], **more: Any) -> Any:
    """Until there is no conflict."""
    while True:
        transaction = Transaction(store.snapshot, process="test")
        body(transaction.domain)
        reads, ops = transaction.finish()
        answer = finish(store, Commit(transaction.base, reads, ops, "test", **more))
        transaction.close()
        if type(answer) is not Conflict:
            return answer


def count(shop: Any) -> None:
    shop.number += 1
    shop.entries.append(shop.number)


def at_once(*works: Callable[[], Any]) -> None:
    errors: list[BaseException] = []

    def run(work: Callable[[], Any]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def caught_up(store: Replica) -> Shop:
    """What the store itself has: a commit hears of everything before it."""
    change(store, lambda shop: shop.keys.update(seen=1))
    found: Shop = plain(store.snapshot.root)
    return found


# --- like every store ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", checks_for("server"), ids=str)
def test_it_is_a_store_like_the_others(place: Place, check: Any) -> None:
    check(lambda domain: open_store(place.url(), domain))


@pytest.mark.parametrize("check", checks_for("server"), ids=str)
def test_it_is_so_where_replies_are_lost(place: Place, check: Any, caplog: Any) -> None:
    caplog.set_level(logging.CRITICAL)
    with Proxy(place.server.port, 0.3) as proxy:
        proxy.loses.set()
        check(lambda domain: open_store(place.url(proxy.port, wait=60), domain))


# --- one state -------------------------------------------------------------------------------------------------------


def test_engines_follow_each_other(place: Place, monkeypatch: Any) -> None:
    monkeypatch.setattr(f"theus.stores.{place.kind}.LOOK", 3600.0)  # by what the server says, not because they look
    one, two = place.open(), place.open()
    heard: list[Committed] = []
    done = threading.Event()

    def listener(committed: Committed) -> None:
        heard.append(committed)
        if committed.records:
            done.set()

    two.tail(listener)
    for _ in range(5):
        change(one, count)
    change(one, lambda shop: None, records=[Record("signal", "s", b"\x00\xff")])
    assert done.wait(60)
    assert [committed.version for committed in heard] == [1, 2, 3, 4, 5, 6]
    assert plain(two.snapshot.root) == Shop(5, [1, 2, 3, 4, 5])
    assert heard[-1].records == [Record("signal", "s", b"\x00\xff")]


def test_news_are_sent_if_another_engine_listens_and_only_then(place: Place) -> None:
    if not isinstance(place.server, RedisServer):
        pytest.skip("PostgreSQL does not tell how many listen")
    one = place.open()
    driver: Any = one._driver
    client = driver._make_client()

    def sent() -> int:
        return int(client.info("commandstats").get("cmdstat_publish", {"calls": 0})["calls"])

    while not driver._hears:
        time.sleep(0.001)
    before = sent()
    for _ in range(3):
        change(one, count)
    assert sent() == before
    listener = client.pubsub()
    listener.subscribe(driver._channel)
    assert listener.get_message(timeout=5)["type"] == "subscribe"
    change(one, count)
    assert sent() == before + 1
    listener.close()
    client.close()


def test_blind_writes_of_two_engines_stand_and_reads_conflict(place: Place) -> None:
    one, two = place.open(), place.open()
    at_once(
        *[
            lambda store=store: [change(store, lambda shop: shop.entries.append(1)) for _ in range(40)]
            for store in (one, two)
        ]
    )
    at_once(*[lambda store=store: [change(store, count) for _ in range(40)] for store in (one, two)])
    assert caught_up(one) == caught_up(two)
    shop = caught_up(one)
    assert shop.number == 80
    assert shop.entries[80:] == [*range(1, 81)]
    assert place.open().snapshot.version == one.snapshot.version


def test_records_are_expected_and_found_by_their_beginning(place: Place) -> None:
    one, two = place.open(), place.open()
    first = [
        Record("step", "r/1", b"1"),
        Record("step", "r/ü", b""),
        Record("step", "s", b"2"),
        Record("ste", "p", b"x"),
    ]
    assert type(change(one, count, records=first)) is Committed
    assert two.records("step", "r/") == first[:2]
    assert two.records("step") == first[:3]
    assert two.records("none") == []
    answer = change(two, count, expected=[Record("step", "r/1", None)], records=[Record("step", "r/1", b"9")])
    assert answer == Refused(Record("step", "r/1", b"1"))
    taken: list[Any] = []
    at_once(
        *[
            lambda store=store: taken.append(
                change(
                    store,
                    lambda shop: None,
                    expected=[Record("owner", "r", None)],
                    records=[Record("owner", "r", b"me")],
                )
            )
            for store in (one, two) * 3
        ]
    )
    assert sorted(type(answer).__name__ for answer in taken) == ["Committed"] + ["Refused"] * 5
    change(two, count, records=[Record("step", "r/1", None)])
    assert one.records("step", "r/") == first[1:2]


def test_the_log_ends_where_a_snapshot_begins(place: Place) -> None:
    one = place.open()
    for _ in range(20):
        change(one, count)
    driver = one._driver
    state = one._sealed(one.snapshot.root)
    driver.keep(one.snapshot.version, state, 0)
    assert [entry.version for entry in driver.tail(0)] == [*range(1, 21)]
    driver.keep(20, b"older or the same: not kept", 20)
    assert driver.kept() == 20
    change(one, count)
    driver.keep(21, one._sealed(one.snapshot.root), 21)
    assert [entry.version for entry in driver.tail(0)] == [21]  # which version it is, is known by the last one
    two = place.open()
    assert plain(two.snapshot.root) == Shop(21, [*range(1, 22)])
    change(two, count)
    assert caught_up(one).number == 22


def test_an_engine_that_was_away_for_too_long_begins_at_the_snapshot(place: Place) -> None:
    one, two = place.open(), place.open()
    change(two, count)
    with two._log:  # two does not follow for a while
        for _ in range(10):
            change(one, count)
        version = one.snapshot.version
        one._driver.keep(version, one._sealed(one.snapshot.root), version)
        for _ in range(3):
            change(one, count)
    change(two, count)
    assert caught_up(one) == caught_up(two)
    assert caught_up(two).number == 15


def test_big_states_and_entries_go_in_and_out(place: Place) -> None:
    one = place.open()
    big = {f"key {number}": number for number in range(100_000)}
    change(one, lambda shop: setattr(shop, "keys", big))
    one._driver.keep(1, one._sealed(one.snapshot.root), 1)
    two = place.open()
    assert plain(two.snapshot.root).keys == big


# --- what can fail ---------------------------------------------------------------------------------------------------


def test_a_server_that_is_away_is_an_error_after_a_while_and_then_it_goes_on(place: Place, caplog: Any) -> None:
    caplog.set_level(logging.CRITICAL)
    store = place.open(place.url(wait=0.3))
    change(store, count)
    place.server.stop()
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1.* could not be reached for 0\.3 s") as away:
        change(store, count)
    assert "\n" not in str(away.value)  # whatever the client library says
    with pytest.raises(StoreUnavailable):
        place.open(place.url(wait=0.1))
    assert plain(store.snapshot.root).number == 1
    place.server.start()
    change(store, count)
    assert caught_up(store).number == 2


@pytest.mark.parametrize("how", ["stop", "crash"])
def test_calls_resume_by_themselves_when_the_server_restarts(place: Place, how: str, caplog: Any) -> None:
    caplog.set_level(logging.CRITICAL)
    restarted(place, how, 3)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("how", ["stop", "crash"])
def test_the_server_restarts_often(place: Place, how: str, caplog: Any) -> None:
    caplog.set_level(logging.CRITICAL)
    print(f"{place.kind}: {how} 25 times, {restarted(place, how, 25):,} commits, nothing lost, nothing twice")


def restarted(place: Place, how: str, times: int) -> int:
    """The server ends so many times in the middle of load; how many commits were answered."""
    stores = [place.open(place.url(wait=60)) for _ in range(2)]
    made = [0, 0]
    enough = threading.Event()

    def load(number: int) -> None:
        while not enough.is_set():
            change(stores[number], count)
            made[number] += 1

    def restarts() -> None:
        try:
            for _ in range(times):
                before = list(made)
                while any(now < then + 5 for now, then in zip(made, before, strict=True)):
                    time.sleep(0.005)
                getattr(place.server, how)()
                place.server.start()
        finally:
            enough.set()

    at_once(lambda: load(0), lambda: load(1), restarts)
    shop = caught_up(stores[0])
    assert shop.number == sum(made)
    assert shop.entries == [*range(1, shop.number + 1)]
    assert caught_up(stores[1]) == shop
    return sum(made)


def test_lost_replies_neither_lose_nor_double_a_commit(place: Place, caplog: Any) -> None:
    caplog.set_level(logging.CRITICAL)
    with Proxy(place.server.port, 0.3) as proxy:
        stores = [place.open(place.url(proxy.port, wait=60)) for _ in range(2)]
        proxy.loses.set()
        at_once(*[lambda store=store: [change(store, count) for _ in range(60)] for store in stores])
        proxy.loses.clear()
        assert proxy.lost > 10
        shop = caught_up(stores[0])
        assert shop.number == 120
        assert shop.entries == [*range(1, 121)]
        place.close()


class Proxy:
    """Stands between engine and server, and cuts connections when a reply is on its way."""

    def __init__(self, port: int, loss: float) -> None:
        self.loses = threading.Event()
        self.lost = 0
        self._target, self._loss, self._random = port, loss, random.Random(5)
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = self._door.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._door.close()
        for pair in self._pairs:
            for end in pair:
                end.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._door.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            self._pairs.append((client, server))
            threading.Thread(target=self._carry, args=(client, server), daemon=True).start()

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        replies, is_new = 0, False
        try:
            while True:
                for ready in select.select([client, server], [], [])[0]:
                    data = ready.recv(1 << 16)
                    if not data:
                        return
                    if ready is client:
                        is_new = True
                    elif is_new:  # the beginning of a reply
                        replies, is_new = replies + 1, False
                        talks = replies > 8  # it is open, and both have said who they are
                        if talks and self.loses.is_set() and self._random.random() < self._loss:
                            self.lost += 1
                            return
                    (client if ready is server else server).sendall(data)
        except (OSError, ValueError):
            pass
        finally:
            client.close()
            server.close()


def test_a_server_that_lost_its_data_is_found_out(place: Place) -> None:
    store = place.open()
    for _ in range(3):
        change(store, count)
    if isinstance(store._driver, redis.RedisDriver):
        store._driver._client.flushdb()
    else:
        store._driver._read("DELETE FROM journal RETURNING 1")
        store._driver._read("UPDATE head SET version = 1 RETURNING 1")
    with pytest.raises(StoreError, match=r"has lost commits: version 3 was acknowledged"):
        change(store, count)


def test_an_engine_process_may_be_killed(place: Place, tmp_path: Path) -> None:
    assert kills(tmp_path, place.url(), 10, seed=3) > 20


def test_an_engine_that_answers_too_early_is_caught(place: Place, tmp_path: Path) -> None:
    assert is_caught(tmp_path, place.url())


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_engine_processes_may_be_killed_often(place: Place, tmp_path: Path) -> None:
    acknowledged = kills(tmp_path, place.url(), 100, seed=4)
    print(f"{place.kind}: 100 kills, {acknowledged:,} commits acknowledged, nothing lost, nothing twice")


# --- processes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "rounds"), [(2, 8), (8, 1)])
def test_engine_processes_are_serializable_together(place: Place, tmp_path: Path, count: int, rounds: int) -> None:
    assert not violations(in_processes("scripts", count, place.url(), tmp_path, rounds), place.url())


@pytest.mark.parametrize(("count", "rounds"), [(2, 2), pytest.param(8, 1, marks=pytest.mark.soak)])
def test_engine_processes_show_no_anomaly(place: Place, tmp_path: Path, count: int, rounds: int) -> None:
    found = anomalies_of(count, place.url(), tmp_path, rounds, runs_again=True)
    assert not found, found[0]


@pytest.mark.parametrize(("count", "rounds"), [(2, 4), pytest.param(8, 1, marks=pytest.mark.soak)])
def test_engine_processes_are_serializable_where_replies_are_lost(
    place: Place, tmp_path: Path, count: int, rounds: int
) -> None:
    with Proxy(place.server.port, 0.3) as proxy:
        proxy.loses.set()
        lossy = place.url(proxy.port, wait=60)
        assert not violations(in_processes("scripts", count, lossy, tmp_path, rounds), place.url())
        place.fresh()
        found = anomalies_of(count, place.url(proxy.port, wait=60), tmp_path, rounds, runs_again=True)
        assert not found, found[0]
        assert proxy.lost > 10


@pytest.mark.parametrize(("count", "rounds"), [(2, 1_000), (8, 100)])
def test_engine_processes_show_no_write_skew(place: Place, tmp_path: Path, count: int, rounds: int) -> None:
    assert skewed(count, place.url(), tmp_path, rounds) == []


def test_write_skew_of_engine_processes_is_seen(place: Place, tmp_path: Path) -> None:
    while not skewed(8, place.url(), tmp_path, 100, BLIND):
        place.fresh()


@pytest.mark.soak
@pytest.mark.parametrize("check", [check for check in checks_for("server") if "skew" in str(check)], ids=str)
def test_a_thousand_rounds_of_write_skew_on_a_server(place: Place, check: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(stores, "ROUNDS", 1_000)
    check(lambda domain: open_store(place.url(), domain))


# --- URLs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost?name=a}b",
        "redis://localhost?wait=long",
        "postgresql://localhost/x?schema=a;b",
        "postgresql://localhost/x?wait=",
    ],
)
def test_an_option_that_makes_no_sense_is_refused(url: str) -> None:
    with pytest.raises(DefinitionError, match=r"cannot be the (name|wait|schema)"):
        driver_of(url)


def test_all_keys_of_redis_are_in_one_slot() -> None:
    """A cluster refuses a script, and any command, that touches keys of two."""
    server = RedisServer(
        "--cluster-enabled", "yes", "--cluster-port", str(free_port())
    )  # or it is 10,000 more, if there is such
    try:
        with contextlib.closing(redis.RedisDriver(server.url)) as driver:
            driver._client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            while "cluster_state:ok" not in str(driver._client.execute_command("CLUSTER", "INFO")):
                time.sleep(0.001)
        for name in "one", "two":
            url = f"{server.url}?name={name}"
            stores_of_it = [Replica(driver_of(url), Codec(Shop), Shop()) for _ in range(2)]
            for store in stores_of_it:
                store.open()
                change(store, count, records=[Record("step", "r", b"1")])
                store._driver.keep(store.snapshot.version, store._sealed(store.snapshot.root), store.snapshot.version)
            assert caught_up(stores_of_it[0]).number == 2
            assert stores_of_it[0].records("step") == [Record("step", "r", b"1")]
            for store in stores_of_it:
                store.close()
    finally:
        server.close()


def test_a_password_is_not_shown() -> None:
    driver = redis.RedisDriver("redis://me:secret@localhost:1/0?name=a&wait=0.05")
    with pytest.raises(StoreUnavailable) as caught:
        driver.load(lambda: b"")
    assert "secret" not in str(caught.value)
    assert "redis://localhost:1/0" in str(caught.value)


def test_a_redis_that_forgets_is_warned_of(place: Place, caplog: Any) -> None:
    if not isinstance(place.server, RedisServer):
        pytest.skip("PostgreSQL keeps what it acknowledges")
    place.open()
    assert "forgets" not in caplog.text
    place.fresh()
    driver = redis.RedisDriver(place.url())
    driver._client.config_set("appendfsync", "everysec")
    try:
        place.open()
    finally:
        driver._client.config_set("appendfsync", "always")
        driver.close()
    assert "appendonly yes and appendfsync everysec" in caplog.text.replace("b'", "").replace("'", "")
