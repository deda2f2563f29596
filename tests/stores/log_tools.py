"""A log in memory with the two kinds of drivers on it, for tests of what all durable stores share."""

from __future__ import annotations

import pickle
import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

from theus.errors import CommitUnknown, StoreUnavailable
from theus.protocols import Record, Version
from theus.state.access import Ops
from theus.stores import keys
from theus.stores.driver import Entry, Loaded, Make
from theus.stores.replica import Replica


class PickleCodec:
    """Bytes for tests that are not about encoding."""

    encode_state = staticmethod(pickle.dumps)
    decode_state = decode_ops = staticmethod(pickle.loads)

    def encode_ops(self, operations: Ops, process: str = "") -> bytes:
        return pickle.dumps(operations)


class Log:
    """What several drivers share: entries, what each wrote, records, snapshots."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.news = threading.Condition(self.lock)
        self.entries: list[Entry] = []
        self.writes: dict[Version, set[str]] = {}
        self.records: dict[tuple[str, str], bytes] = {}
        self.snapshots: dict[Version, bytes] = {}
        self.groups: dict[str, Version] = {}

    @property
    def version(self) -> Version:
        return self.entries[-1].version if self.entries else max(self.snapshots, default=0)

    def after(self, version: Version) -> list[Entry]:
        return [entry for entry in self.entries if entry.version > version]


class ExclusiveDriver:
    """Holds the log's lock around ``make``, as SQLite does."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.closed = False
        self.fail: Callable[[str], None] = lambda what: None  #: raises what is to go wrong

    def load(self, initial: Callable[[], bytes]) -> Loaded:
        with self.log.lock:
            if not self.log.snapshots:
                self.log.snapshots[0] = initial()
            oldest = min(self.log.snapshots)
            return Loaded(oldest, self.log.snapshots[oldest], self.log.after(oldest), max(self.log.snapshots))

    def append(self, known: Version, group: str, make: Make) -> Sequence[Entry]:
        with self.log.lock:
            self.fail("before")
            self._write(group, make(self.log.after(known)))
            self.fail("after")
            return []

    def _write(self, group: str, proposed: Sequence[Any]) -> None:
        for one in proposed:
            version = self.log.version + 1
            self.log.groups.setdefault(group, version)
            self.log.entries.append(Entry(version, one.author, one.at, one.ops, one.records, group))
            self.log.writes[version] = one.writes
            for record in one.records:
                if record.value is None:
                    self.log.records.pop((record.kind, record.key), None)
                else:
                    self.log.records[record.kind, record.key] = record.value
        self.log.news.notify_all()

    def tail(self, after: Version) -> Sequence[Entry]:
        with self.log.lock:
            self.fail("tail")
            return self.log.after(after)

    def wait(self) -> bool:
        with self.log.lock:
            if not self.closed:
                self.log.news.wait()
            return not self.closed

    def record(self, kind: str, key: str) -> bytes | None:
        with self.log.lock:
            return self.log.records.get((kind, key))

    def records(self, kind: str, prefix: str) -> list[Record]:
        with self.log.lock:
            return [
                Record(kind, key, value)
                for (found, key), value in sorted(self.log.records.items())
                if found == kind and key.startswith(prefix)
            ]

    def kept(self) -> Version:
        with self.log.lock:
            return max(self.log.snapshots)

    def keep(self, version: Version, state: bytes, floor: Version) -> None:
        with self.log.lock:
            self.log.snapshots[version] = state
            self.log.snapshots = {kept: data for kept, data in self.log.snapshots.items() if kept >= floor}
            self.log.entries = self.log.after(floor)

    def close(self) -> None:
        with self.log.lock:
            self.closed = True
            self.log.news.notify_all()


class OptimisticDriver(ExclusiveDriver):
    """Lets others in between and compares keys, as a script on a server does. ``between``: called before each try."""

    between: Callable[[], None] = staticmethod(lambda: None)

    def append(self, known: Version, group: str, make: Make) -> Sequence[Entry]:
        others: Sequence[Entry] = ()
        while True:
            proposed = make(others)
            self.seen = known = others[-1].version if others else known
            if not proposed:
                return ()
            self.between()
            with self.log.lock:
                self.fail("before")
                others = self.log.after(known)
                written = {key for entry in others for key in self.log.writes[entry.version]}
                if any(keys.meet(one.asks, written) for one in proposed) or not self._expected(proposed):
                    continue
                self._write(group, proposed)
                self.fail("after")
                return others

    def _expected(self, proposed: Sequence[Any]) -> bool:
        records = dict(self.log.records)
        for one in proposed:
            if any(records.get((record.kind, record.key)) != record.value for record in one.expected):
                return False
            records.update({(record.kind, record.key): record.value for record in one.records})
        return True


class LossyDriver(OptimisticDriver):
    """Loses replies, and the connection before anything was sent; sends a group again under its id."""

    loss = 0.3

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self.rng = random.Random(id(log) % 7)

    def append(self, known: Version, group: str, make: Make) -> Sequence[Entry]:
        def lose(what: str) -> None:
            if self.rng.random() < self.loss:
                raise _Lost if what == "after" else StoreUnavailable("the connection was lost")

        self.fail = lose
        try:
            return super().append(known, group, make)
        except _Lost:
            for _ in range(3):
                if self.rng.random() > self.loss:
                    with self.log.lock:
                        first = self.log.groups[group]
                        return [entry for entry in self.log.after(self.seen) if entry.version < first]
            raise CommitUnknown("the connection was lost") from None


class _Lost(Exception):
    pass


def replica(log: Log, domain: Any, kind: type[ExclusiveDriver] = ExclusiveDriver) -> Replica:
    """A store on the log."""
    return Replica(lambda: kind(log), PickleCodec(), domain)
