"""PostgreSQL as the log of a store: ``postgresql://host/database?schema=shop``.

::

    head      version                                    one row; who appends holds its lock
    journal   version, author, at, ops, records, team    one row for each commit; the first of a group has its ``writes``
    record    kind, key, value                           as they are now
    kept      version                                    snapshots that are complete
    part      version, number, data                      their bytes

The schema and the function that appends are made on first use. A group is one call of the function: it takes the lock of
the head's row first, so every statement after it sees all that was appended before (a single statement would not: its
snapshot is older than the lock), and versions have no gap. ``NOTIFY`` tells the other engines.
"""

from __future__ import annotations

import contextlib
import select
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import psycopg

from theus.errors import CommitUnknown, StoreError
from theus.protocols import Record, Version
from theus.stores.driver import Entry, Loaded, packed_records, records_of
from theus.stores.server import (
    LOOK,
    PART,
    REST,
    WAIT,
    Appended,
    Batch,
    Down,
    Lost,
    ServerDriver,
    identifier,
    options,
)

_TABLES = """
CREATE TABLE IF NOT EXISTS head (one boolean PRIMARY KEY DEFAULT true CHECK (one), version bigint NOT NULL);
CREATE TABLE IF NOT EXISTS journal (
    version bigint PRIMARY KEY, author text NOT NULL, at double precision NOT NULL, ops bytea NOT NULL,
    records bytea, team text NOT NULL, writes text[]
);
CREATE TABLE IF NOT EXISTS record (
    kind text COLLATE "C", key text COLLATE "C", value bytea NOT NULL, PRIMARY KEY (kind, key)
);
CREATE TABLE IF NOT EXISTS kept (version bigint PRIMARY KEY);
CREATE TABLE IF NOT EXISTS part (version bigint, number int, data bytea NOT NULL, PRIMARY KEY (version, number));
ALTER TABLE part ALTER data SET STORAGE EXTERNAL;
CREATE OR REPLACE FUNCTION append(
    known bigint, our_team text, again boolean, asks text[], our_writes text[],
    expected_kinds text[], expected_keys text[], expected_values bytea[],
    authors text[], ats double precision[], all_ops bytea[], all_records bytea[],
    kinds text[], keys text[], new_values bytea[], token text
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    newest bigint;
    first bigint;
BEGIN
    SELECT version INTO newest FROM head FOR UPDATE;
    IF newest IS NULL THEN RETURN -1; END IF;
    IF newest < known THEN RETURN -2; END IF;
    IF newest > known THEN
        SELECT min(version) INTO first FROM journal WHERE version > known;
        IF first IS DISTINCT FROM known + 1 THEN RETURN CASE WHEN again THEN -3 ELSE 0 END; END IF;
        SELECT min(version) INTO first FROM journal WHERE version > known AND team = our_team;
        IF first IS NOT NULL THEN RETURN first; END IF;
        PERFORM FROM journal WHERE version > known AND writes && asks;
        IF FOUND THEN RETURN 0; END IF;
    END IF;
    PERFORM FROM unnest(expected_kinds, expected_keys, expected_values) AS expected(kind, key, value)
        LEFT JOIN record AS found ON found.kind = expected.kind AND found.key = expected.key
        WHERE found.value IS DISTINCT FROM expected.value;
    IF FOUND THEN RETURN 0; END IF;
    INSERT INTO journal
        SELECT newest + number, author, at, ops, records, our_team, CASE WHEN number = 1 THEN our_writes END
        FROM unnest(authors, ats, all_ops, all_records) WITH ORDINALITY AS entry(author, at, ops, records, number);
    IF cardinality(kinds) > 0 THEN
        DELETE FROM record AS old USING unnest(kinds, keys) AS gone(kind, key)
            WHERE old.kind = gone.kind AND old.key = gone.key;
        INSERT INTO record
            SELECT * FROM unnest(kinds, keys, new_values) AS new(kind, key, value) WHERE value IS NOT NULL;
    END IF;
    UPDATE head SET version = newest + cardinality(authors);
    PERFORM pg_notify(current_schema(), token);
    RETURN newest + 1;
END $$;
"""
_APPEND = """
SELECT append(
    %s, %s, %s, %s::text[], %s::text[], %s::text[], %s::text[], %s::bytea[],
    %s::text[], %s::float8[], %s::bytea[], %s::bytea[], %s::text[], %s::text[], %s::bytea[], %s
)
"""
_LOCK = 0x54485553  #: of the database, while the tables are made
#: what the server says when it goes down or comes up; all other errors of it mean that nothing was changed
_ENDING = ("57P01", "57P02", "57P03", "57P05")


class PostgresDriver(ServerDriver):
    """The log in one schema of a PostgreSQL database. In the URL: ``schema``, ``wait`` seconds for a server that is away."""

    def __init__(self, url: str) -> None:
        rest, ours = options(url, {"schema": identifier, "wait": float})
        super().__init__(rest, ours.get("wait", WAIT))
        self._schema = ours.get("schema", "theus").lower()
        self._talking = threading.RLock()  #: guards ``_connection``
        self._connection: Any = None
        self._news: Any = None

    # --- the Driver protocol ---

    def load(self, initial: Callable[[], bytes]) -> Loaded:
        self.ask(lambda: self._make(initial))
        while True:
            (oldest, newest), *_ = self._read("SELECT min(version), max(version) FROM kept")
            parts = self._read("SELECT data FROM part WHERE version = %s ORDER BY number", oldest)
            entries = self.tail(oldest)
            if parts and (not entries or entries[0].version == oldest + 1):
                return Loaded(oldest, b"".join(part for (part,) in parts), entries, newest)
            # another engine took it away while we read

    def _append(self, known: Version, batch: Batch, again: bool) -> Appended:
        expected, records, entries = batch.expected, batch.records, batch.entries
        arguments = (
            *(known, batch.group, again, _array(batch.asks), _array(batch.writes)),
            *(_array(kind for kind, _ in expected), _array(key for _, key in expected), _bytes(expected.values())),
            _array(one.author for one in entries),
            _array(repr(one.at) for one in entries),
            *(_bytes(one.ops for one in entries), _bytes(packed_records(one) for one in entries)),
            *(_array(kind for kind, _ in records), _array(key for _, key in records), _bytes(records.values())),
            self.token,
        )
        with self._speaking() as connection:
            ((first,),) = connection.execute(_APPEND, arguments, binary=True).fetchall()
        if first == known + 1:
            return first, ()
        if first >= 0:
            return first, self.tail(known)
        if first == -3:
            raise CommitUnknown(
                f"{self.shown} does not keep the log from when this group was sent; it may or may not be made"
            )
        raise StoreError(
            f"{self.shown} has lost commits: version {known} was acknowledged, the server is behind it. Make a new engine to"
            " go on from there"
        )

    def tail(self, after: Version) -> Sequence[Entry]:
        rows = self._read(
            "SELECT version, author, at, ops, records, team FROM journal WHERE version > %s ORDER BY version",
            after,
        )
        return [
            Entry(version, author, at, ops, records_of(data), team) for version, author, at, ops, data, team in rows
        ]

    def _listen(self) -> None:
        try:
            if self._news is None:
                self._news = self._connect()
                self._news.execute(f"LISTEN {self._schema}")
                return  # something may have come before
            while notices := list(self._news.notifies(timeout=LOOK, stop_after=1)):
                if any(notice.payload != self.token for notice in notices):
                    return
                self.closing.wait(REST)  # of our own there are many, and each look keeps those who commit waiting
        except psycopg.Error as error:
            raise Lost(str(error)) from error

    def _hang_up(self) -> None:
        if self._news is not None:
            self._news.close()
            self._news = None

    def record(self, kind: str, key: str) -> bytes | None:
        rows = self._read("SELECT value FROM record WHERE kind = %s AND key = %s", kind, key)
        return rows[0][0] if rows else None

    def records(self, kind: str, prefix: str) -> list[Record]:
        rows = self._read(
            "SELECT key, value FROM record WHERE kind = %s AND starts_with(key, %s) AND key >= %s ORDER BY key",
            kind,
            prefix,
            prefix,
        )
        return [Record(kind, key, value) for key, value in rows]

    def kept(self) -> Version:
        return int(self._read("SELECT max(version) FROM kept")[0][0])

    def keep(self, version: Version, state: bytes, floor: Version) -> None:
        for number in range(0, len(state), PART):
            self.ask(lambda number=number: self._put_part(version, number, state[number : number + PART]))  # type: ignore[misc]  # mypy infers no lambda with a default
        self.ask(lambda: self._keep(version, floor))

    def close(self) -> None:
        self.closing.set()
        with contextlib.suppress(Down, Lost, StoreError), self._speaking() as connection:
            connection.execute("SELECT pg_notify(%s, 'closing')", (self._schema,))  # wakes our own follower
        with self._talking:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    # --- talking ---

    def _connect(self) -> Any:
        seconds = max(2, round(self._wait / 2))
        try:
            connection = psycopg.connect(self.url, autocommit=True, connect_timeout=seconds)
        except psycopg.OperationalError as error:
            raise Down(str(error).strip()) from error
        try:
            connection.execute("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED")
            connection.execute(f"SET search_path = {self._schema}")
            connection.execute("SET client_min_messages = warning")
        except psycopg.Error:
            connection.close()
            raise
        return connection

    @contextlib.contextmanager
    def _speaking(self) -> Iterator[Any]:
        """The connection; errors of the client become ours."""
        with self._talking:
            try:
                if self._connection is not None and _is_cut(self._connection):
                    self._connection = None
                if self._connection is None:
                    if self.closing.is_set():
                        raise Down("it was closed here")
                    self._connection = self._connect()
                yield self._connection
            except psycopg.Error as error:
                reason = str(error).strip()
                if error.sqlstate is not None and error.sqlstate not in _ENDING and not error.sqlstate.startswith("08"):
                    raise StoreError(f"{self.shown} failed: {reason}") from error
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
                raise Lost(reason) from error

    def _read(self, query: str, *arguments: Any) -> list[Any]:
        def read() -> list[Any]:
            with self._speaking() as connection:
                rows: list[Any] = connection.execute(query, arguments, binary=True).fetchall()
                return rows

        return self.ask(read)

    def _make(self, initial: Callable[[], bytes]) -> None:
        """Tables, function and the first snapshot, unless they are there."""
        with self._speaking() as connection:
            if connection.execute("SELECT to_regclass('head')").fetchone()[0] is not None:
                if connection.execute("SELECT version FROM head").fetchone() is not None:
                    return
            state = initial()
            with connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
                connection.execute(f"CREATE SCHEMA IF NOT EXISTS {self._schema}")
                connection.execute(_TABLES)
                if connection.execute("SELECT version FROM head").fetchone() is not None:
                    return  # another engine was faster
                for number in range(0, len(state), PART):
                    self._put_part(0, number, state[number : number + PART])
                connection.execute("INSERT INTO kept VALUES (0)")
                connection.execute("INSERT INTO head (version) VALUES (0)")

    def _put_part(self, version: Version, number: int, data: bytes) -> None:
        with self._speaking() as connection:
            connection.execute(
                "INSERT INTO part VALUES (%s, %s, %s) ON CONFLICT (version, number) DO UPDATE SET data = excluded.data",
                (version, number, data),
            )

    def _keep(self, version: Version, floor: Version) -> None:
        with self._speaking() as connection, connection.transaction():
            connection.execute("LOCK TABLE kept IN EXCLUSIVE MODE")
            if connection.execute("SELECT max(version) FROM kept").fetchone()[0] >= version:
                return
            connection.execute("INSERT INTO kept VALUES (%s)", (version,))
            connection.execute("DELETE FROM kept WHERE version < %s", (floor,))
            connection.execute(
                "DELETE FROM part WHERE version < %s AND version NOT IN (SELECT version FROM kept)",
                (version,),
            )
            # the last one tells which version it is
            connection.execute(
                "DELETE FROM journal WHERE version <= %s AND version < (SELECT version FROM head)",
                (floor,),
            )


def _array(texts: Iterable[str]) -> str:
    """As the server writes an array; psycopg's own way takes many times as long."""
    return "{" + ",".join('"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' for text in texts) + "}"


def _bytes(values: Iterable[bytes | None]) -> str:
    """The same for bytes."""
    return "{" + ",".join("NULL" if value is None else f'"\\\\x{value.hex()}"' for value in values) + "}"


def _is_cut(connection: psycopg.Connection[Any]) -> bool:
    """Whether the server has closed an idle connection: then nothing that is sent now arrives."""
    look = select.poll()
    look.register(connection.fileno(), select.POLLIN)
    try:
        while look.poll(0):  # first what it said, then the end
            connection.pgconn.consume_input()
    except psycopg.OperationalError:
        connection.close()
        return True
    return False
