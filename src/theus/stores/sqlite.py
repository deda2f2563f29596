"""SQLite as the log of a store: one file, several processes, the standard library.

::

    journal   version, author, at, ops, records, team      one row for each commit
    record    kind, key, value                             as they were at version ``folded``: see ``recent.py``
    kept      version, size                                snapshots that are complete
    part      version, number, data                        their bytes, a mebibyte in each row

The file is in WAL mode: readers never wait. Writers queue at a lock file beside it (``flock``), because SQLite's own way of
waiting is to try again and again, which lets some processes starve; with the queue nobody ever finds the database locked.
A commit is one statement, which appends after the entry that its engine took for the newest, or does nothing if it is not.

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
_MANY = 32  #: commits of a program; whoever makes so many gets room for more
_ROOM = 6 * _PART  #: bytes; what of them does not fit into SQLite's cache is about what its log grows to
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
#: One statement for one commit: it comes after the newest entry, or is ignored because that is another one than was thought.
_APPEND = (
    "INSERT OR IGNORE INTO journal VALUES ((SELECT max(version) + (max(version) = ?) FROM journal), ?, ?, ?, ?, ?)"
)
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
        self._count = 0  #: of appends
        self._group = ""  #: the last one that was to be appended
        self._is_shared = False  #: others had appended something before the last append of ours, as they may again
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
                self._count += 1
                if self._count == _MANY and self._sync == "full":
                    self._make_room()
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
        state = b"" if tables else initial()
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {self._sync}")
        db.execute(f"PRAGMA journal_size_limit = {64 * _PART}")
        if not tables:
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
        looks, self._group = self._is_shared or group == self._group, group
        others: Sequence[Entry] = self._after(known) if looks else ()  # as a rule nobody came in between
        newest, self._is_shared = known, bool(others)
        while True:
            if others:
                newest, self._is_shared = others[-1].version, True
                ours = [entry.version for entry in others if entry.group == group]
                if ours:
                    return [entry for entry in others if entry.version < ours[0]]
            proposed = make(others)
            if proposed and self._insert(newest, group, proposed):
                return ()
            others = self._after(newest)
            if not others and proposed:
                raise StoreError(
                    f"store {self.path}: its log ends before version {newest}, which was read from it; was the file exchanged "
                    "for an older one? Nothing was committed; start the program again."
                )
            if not others:
                return ()

    def _insert(self, newest: Version, group: str, proposed: Sequence[Proposed]) -> bool:
        """Append after the newest entry, all or nothing; False: there are newer ones."""
        db = self._db
        rows = [
            (before, one.author, one.at, one.ops, packed_records(one), group)
            for before, one in enumerate(proposed, newest)
        ]
        try:
            if len(rows) == 1:
                is_made = bool(db.execute(_APPEND, rows[0]).rowcount == 1)
            else:
                db.execute("BEGIN IMMEDIATE")
                is_made = db.executemany(_APPEND, rows).rowcount == len(rows)
                db.execute("COMMIT" if is_made else "ROLLBACK")
        except BaseException as failure:
            if db.in_transaction:
                db.execute("ROLLBACK")
            if not isinstance(failure, sqlite3.Error) or not self._stands(group, newest + len(rows)):
                raise
            is_made = True
        if is_made:
            self._newest = newest + len(rows)
            for version, one in enumerate(proposed, newest + 1):
                self._recent.note(version, one.records)
        return is_made

    def _make_room(self) -> None:
        """Let the file that SQLite writes ahead (``-wal``) grow at once to what it reaches in the end.

        An ``fsync`` of a file that grew waits for the file system's own journal, and for whoever else writes there; one
        of a file that was only written over does not. What is rolled back leaves room behind, and nothing else.
        """
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            db.execute("INSERT INTO part VALUES (-1, 0, zeroblob(?))", (_ROOM,))
        except sqlite3.OperationalError as failure:  # the disk is nearly full: then it grows as it needs
            log.info("store %s: no room was made ahead: %s", self.path, failure)
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")

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
