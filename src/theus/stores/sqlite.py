"""SQLite as the log of a store: one file, several processes, the standard library.

::

    journal   version, author, at, ops, records, team      one row for each commit
    record    kind, key, value                             as they were at version ``folded``: see ``recent.py``
    kept      version, size                                snapshots that are complete
    part      version, number, data                        their bytes, a mebibyte in each row

The file is in WAL mode: readers never wait. Writers queue at a lock file beside it (``flock``), because SQLite's own way of
waiting is to try again and again, which lets some processes starve; with the queue nobody ever finds the database locked.
Everything else is one ``BEGIN IMMEDIATE`` for each group of commits, inside which nobody can come between.

**Power.** With ``sync="full"`` a commit is on the disk when it is answered. With ``"normal"`` it is in the operating
system: it survives the end of the process in any way, but a power failure may take the last ones (never a part of one).

What others append is noticed by looking at the file's ``data_version``, each millisecond after something happened, and
more seldom, down to a hundred times a second, when nothing does.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from theus.errors import CommitUnknown, StoreError, StoreUnavailable
from theus.protocols import Record, Version
from theus.stores.driver import Entry, Loaded, Make, Proposed, packed_records, records_of
from theus.stores.recent import Recent

log = logging.getLogger("theus")

Sync = Literal["full", "normal"]

_OURS = 0x54485553  #: the ``application_id`` of our files: THUS
_FORMAT = 2
_PART = 2**20  #: bytes of a snapshot in one row, and about what one transaction writes of it
_BATCH = 10_000  #: journal rows that one transaction deletes
_RECENT = 2**18  #: bytes of records that only the log shows, before the table is brought up to it
_SOON, _LATE = 0.001, 0.010  #: seconds between two looks at the file
_BUSY = 60.0  #: seconds to wait for somebody who holds the file without having queued: a shell, a backup
_TABLES = """
CREATE TABLE journal (version INTEGER PRIMARY KEY, author TEXT, at REAL, ops BLOB, records BLOB, team TEXT);
CREATE TABLE record (kind TEXT, key TEXT, value BLOB, PRIMARY KEY (kind, key)) WITHOUT ROWID;
CREATE TABLE folded (version INTEGER);
CREATE TABLE kept (version INTEGER PRIMARY KEY, size INTEGER);
CREATE TABLE part (version INTEGER, number INTEGER, data BLOB, PRIMARY KEY (version, number));
"""
_GONE = frozenset(
    (
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PROTOCOL,
    )
)


class SqliteDriver:
    """The log in one SQLite file. ``sync``: what a commit has reached when it is answered."""

    def __init__(self, path: str | os.PathLike[str], sync: Sync = "full") -> None:
        self.path = Path(path).absolute()
        self._sync = sync
        self._writing = threading.RLock()  #: guards ``_db``
        self._reading = threading.Lock()  #: guards ``_reader``
        self._db: Any = None
        self._reader: Any = None
        self._queue = -1  #: file descriptor
        self._recent = Recent(0)
        self._newest: Version = 0  #: the last entry that was given to the replica, or that it appended
        self.closing = threading.Event()
        self._speaking = _Speaking(self)
        self._pause = _SOON
        self._seen = -1  #: ``data_version`` at the last look

    # --- the Driver protocol ---

    def load(self, initial: Callable[[], bytes]) -> Loaded:
        with self._writing, self._speaking:
            if self._db is None:
                self._open(initial)
            if self._db.in_transaction:
                return self._load()
            with self._transaction("BEGIN"):
                return self._load()

    def append(self, known: Version, group: str, make: Make) -> Sequence[Entry]:
        with self._writing, self._speaking:
            fcntl.flock(self._queue, fcntl.LOCK_EX)
            try:
                if self._recent.weight > _RECENT:
                    with self._transaction("BEGIN IMMEDIATE"):
                        self._fold()
                    self._recent.forget(self._folded())
                return self._append(known, group, make)
            finally:
                fcntl.flock(self._queue, fcntl.LOCK_UN)

    def tail(self, after: Version) -> Sequence[Entry]:
        with self._writing, self._speaking:
            return self._after(after)

    def wait(self) -> bool:
        while not self.closing.wait(self._pause):
            if self._writing.acquire(blocking=False):  # else a commit is being made, which takes over what is new
                try:
                    if self._has_news():
                        self._pause = _SOON
                        return True
                finally:
                    self._writing.release()
            self._pause = min(1.2 * self._pause, _LATE)
        return False

    def record(self, kind: str, key: str) -> bytes | None:
        with self._writing, self._speaking:
            if (known := self._recent.get(kind, key)) is not None:
                return known[1]
            row = self._db.execute("SELECT value FROM record WHERE kind = ? AND key = ?", (kind, key)).fetchone()
            return None if row is None else row[0]

    def records(self, kind: str, prefix: str) -> list[Record]:
        with self._reading, self._speaking:
            recent = self._recent
            known = recent.version
            changed = recent.of(kind, prefix)
            with self._transaction("BEGIN", self._reader) as db:
                (folded,) = db.execute("SELECT version FROM folded").fetchone()
                found: dict[str, bytes | None] = dict(
                    db.execute(
                        "SELECT key, value FROM record WHERE kind = ? AND key >= ? AND key < ?",
                        (kind, prefix, f"{prefix}\U0010ffff"),
                    )
                )
                later = Recent(folded)
                for version, records in self._logged(db, max(known, folded)):
                    later.note(version, records)
            changed.update(later.of(kind, prefix))
            found.update((key, value) for key, (version, value) in changed.items() if version > folded)
        return [Record(kind, key, value) for key, value in sorted(found.items()) if value is not None]

    def kept(self) -> Version:
        with self._reading, self._speaking:
            return int(self._reader.execute("SELECT max(version) FROM kept").fetchone()[0])

    def keep(self, version: Version, state: bytes, floor: Version) -> None:
        for number in range(0, len(state), _PART):  # one after the other, so that commits come between
            with self._write() as db:
                row = (version, number, state[number : number + _PART])
                db.execute("INSERT OR REPLACE INTO part VALUES (?, ?, ?)", row)
        with self._write() as db:
            (newest,) = db.execute("SELECT max(version) FROM kept").fetchone()
            if newest < version:
                db.execute("INSERT INTO kept VALUES (?, ?)", (version, len(state)))
                db.execute("DELETE FROM kept WHERE version < ?", (floor,))
        self._sweep()

    def close(self) -> None:
        self.closing.set()
        with self._writing, self._reading:
            if self._db is not None:
                self._reader.close()
                self._db.close()
                self._db = None
                os.close(self._queue)

    # --- opening ---

    def _open(self, initial: Callable[[], bytes]) -> None:
        if not self.path.parent.is_dir():
            raise StoreError(f"store {self.path}: there is no directory {self.path.parent}; make it, or name another.")
        if self.path.is_dir():
            raise StoreError(f"store {self.path}: this is a directory; name a file, in it or elsewhere.")
        if self.path.exists():
            self._refuse_foreign()
        try:
            self._queue = os.open(f"{self.path}-queue", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise StoreError(f"store {self.path}: no file can be made beside it ({error.strerror}).") from error
        fcntl.flock(self._queue, fcntl.LOCK_EX)  # two engines may begin the same file
        try:
            self._db = self._connect()
            try:
                self._check_or_make(initial)
                self._reader = self._connect()
                self._reader.execute("PRAGMA query_only = 1")
            except BaseException:
                self._db.close()
                self._db = None
                raise
        finally:
            fcntl.flock(self._queue, fcntl.LOCK_UN)
            if self._db is None:
                os.close(self._queue)

    def _refuse_foreign(self) -> None:
        """Before anything is made beside it, or changed in it."""
        if not self.path.is_file():
            raise StoreError(f"store {self.path}: this is no file but a device or the like; name a file.")
        with contextlib.closing(self._connect()) as db:
            (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
            (ours,) = db.execute("PRAGMA application_id").fetchone()  # second: one that is being made gets both at once
        if tables and ours != _OURS:
            raise StoreError(f"store {self.path}: this SQLite file is not one of Theus; it was left alone.")

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=_BUSY, isolation_level=None, check_same_thread=False)

    def _check_or_make(self, initial: Callable[[], bytes]) -> None:
        db = self._db
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {self._sync}")
        db.execute(f"PRAGMA journal_size_limit = {64 * _PART}")
        if not tables:
            state = initial()
            with self._transaction("BEGIN IMMEDIATE"):
                for statement in _TABLES.strip().split("\n"):
                    db.execute(statement)
                db.execute(f"PRAGMA application_id = {_OURS}")
                db.execute(f"PRAGMA user_version = {_FORMAT}")
                db.execute("INSERT INTO folded VALUES (0)")
                parts = [(0, number, state[number : number + _PART]) for number in range(0, len(state), _PART)]
                db.executemany("INSERT INTO part VALUES (?, ?, ?)", parts)
                db.execute("INSERT INTO kept VALUES (0, ?)", (len(state),))
        (form,) = db.execute("PRAGMA user_version").fetchone()
        if form == 1:  # its table of records was written with each commit
            with self._transaction("BEGIN IMMEDIATE"):
                db.execute("CREATE TABLE folded (version INTEGER)")
                db.execute("INSERT INTO folded SELECT coalesce(max(version), 0) FROM journal")
                db.execute(f"PRAGMA user_version = {_FORMAT}")
        elif form != _FORMAT:
            raise StoreError(
                f"store {self.path} has format {form}, this version of Theus knows {_FORMAT}; use the newer version."
            )
        with self._transaction("BEGIN IMMEDIATE"):  # shows now what stands in the way of writing
            pass

    # --- reading and writing ---

    def _has_news(self) -> bool:
        """Whether others appended something. The connection that writes does not count what it wrote itself."""
        with self._speaking:
            (seen,) = self._db.execute("PRAGMA data_version").fetchone()
            if seen == self._seen:
                return False
            (newest,) = self._db.execute("SELECT max(version) FROM journal").fetchone()
            self._seen = seen
            return (newest or 0) > self._newest

    def _load(self) -> Loaded:
        (oldest,) = self._db.execute("SELECT min(version) FROM kept").fetchone()
        (kept,) = self._db.execute("SELECT max(version) FROM kept").fetchone()
        self._recollect()
        rows = self._db.execute("SELECT data FROM part WHERE version = ? ORDER BY number", (oldest,))
        state = b"".join(row[0] for row in rows)
        return Loaded(oldest, state, self._after(oldest), kept)

    def _after(self, version: Version) -> list[Entry]:
        rows = self._db.execute("SELECT * FROM journal WHERE version > ? ORDER BY version", (version,))
        entries = [
            Entry(number, author, at, ops, records_of(records), team) for number, author, at, ops, records, team in rows
        ]
        if entries:
            self._newest = entries[-1].version
            self._note(entries)
        return entries

    def _logged(self, db: Any, after: Version) -> Iterator[tuple[Version, Sequence[Record]]]:
        """What the log says of records after a version."""
        for version, records in db.execute(
            "SELECT version, records FROM journal WHERE version > ? ORDER BY version", (after,)
        ):
            yield version, records_of(records)

    def _recollect(self) -> None:
        """Find out what the table of records does not show yet."""
        recent = Recent(self._folded())
        for version, records in self._logged(self._db, recent.version):
            recent.note(version, records)
        self._recent = recent

    def _note(self, entries: Sequence[Entry]) -> None:
        """Take note of the records of entries that were read."""
        recent = self._recent
        if entries[0].version > recent.version + 1:  # the log does not reach back to what is known here
            self._recollect()
            return
        for entry in entries:
            if entry.version > recent.version:
                recent.note(entry.version, entry.records)
        if recent.weight > 2 * _RECENT:  # who only follows does not fold
            recent.forget(self._folded())

    def _folded(self) -> Version:
        (version,) = self._db.execute("SELECT version FROM folded").fetchone()
        return int(version)

    def _fold(self) -> None:
        """Bring the table of records up to the log, as far as that is known here."""
        db, recent = self._db, self._recent
        folded = self._folded()
        if folded < recent.version:
            changed = recent.changed(folded)
            gone = [(kind, key) for kind, key, value in changed if value is None]
            db.executemany("DELETE FROM record WHERE kind = ? AND key = ?", gone)
            there = [one for one in changed if one[2] is not None]
            db.executemany("INSERT OR REPLACE INTO record VALUES (?, ?, ?)", there)
            db.execute("UPDATE folded SET version = ?", (recent.version,))

    def _append(self, known: Version, group: str, make: Make) -> Sequence[Entry]:
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        version = known
        proposed: Sequence[Proposed] = ()
        try:
            others = self._after(known)
            ours = [entry.version for entry in others if entry.group == group]
            if ours:
                db.execute("ROLLBACK")
                return [entry for entry in others if entry.version < ours[0]]
            proposed = make(others)
            if not proposed:
                db.execute("ROLLBACK")
                return ()
            version = others[-1].version if others else known
            rows = []
            for one in proposed:
                version += 1
                rows.append((version, one.author, one.at, one.ops, packed_records(one), group))
            db.executemany("INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?)", rows)
            db.execute("COMMIT")
        except BaseException as failure:
            if db.in_transaction:
                db.execute("ROLLBACK")
            if not isinstance(failure, sqlite3.Error) or not self._stands(group, version):
                raise
        self._newest = version
        for number, one in enumerate(proposed, version - len(proposed) + 1):
            self._recent.note(number, one.records)
        return ()

    def _stands(self, group: str, version: Version) -> bool:
        """Whether a group whose commit failed is in the log all the same."""
        try:
            row = self._db.execute("SELECT 1 FROM journal WHERE version = ? AND team = ?", (version, group)).fetchone()
        except sqlite3.Error as failure:
            raise CommitUnknown(f"store {self.path} failed while it wrote: {failure}") from failure
        return row is not None

    def _sweep(self) -> None:
        """Take away what the oldest kept snapshot makes needless, a little at a time."""
        with self._write():
            self._fold()
        while True:
            with self._write() as db:
                (oldest,) = db.execute("SELECT min(version) FROM kept").fetchone()
                (first,) = db.execute("SELECT min(version) FROM journal").fetchone()
                (last,) = db.execute("SELECT max(version) FROM journal").fetchone()
                # The last one tells which version it is.
                end = min(oldest, self._folded(), (first or 0) + _BATCH, (last or 0) - 1)
                rows = db.execute("DELETE FROM journal WHERE version <= ?", (end,)).rowcount
                rows += db.execute(
                    "DELETE FROM part WHERE rowid IN (SELECT rowid FROM part WHERE version < ? LIMIT 4)", (oldest,)
                ).rowcount
            if not rows:
                return

    @contextlib.contextmanager
    def _write(self) -> Iterator[Any]:
        """A transaction of our own, behind the others."""
        with self._writing, self._speaking:
            fcntl.flock(self._queue, fcntl.LOCK_EX)
            try:
                with self._transaction("BEGIN IMMEDIATE") as db:
                    yield db
            finally:
                fcntl.flock(self._queue, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def _transaction(self, begin: str, db: Any = None) -> Iterator[Any]:
        db = db or self._db
        db.execute(begin)
        try:
            yield db
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")


class _Speaking:
    """Errors of SQLite become ours, with the file's name."""

    def __init__(self, driver: SqliteDriver) -> None:
        self._path = driver.path
        self._closing = driver.closing

    def __enter__(self) -> None:
        if self._closing.is_set():
            raise StoreError(f"store {self._path} was closed.")

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, sqlite3.Error):
            raise self._ours(error) from error

    def _ours(self, error: sqlite3.Error) -> StoreError:
        code = getattr(error, "sqlite_errorcode", None)
        primary = None if code is None else code & 0xFF
        if primary in _GONE:
            return StoreUnavailable(f"store {self._path} cannot be used at the moment: {error}.")
        if primary == sqlite3.SQLITE_READONLY:
            return StoreError(f"store {self._path} cannot be written ({error}); give it write permission.")
        if primary == sqlite3.SQLITE_NOTADB:
            return StoreError(f"store {self._path} is not a SQLite file; it was left alone.")
        return StoreError(f"store {self._path} failed: {error}.")
