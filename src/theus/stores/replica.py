"""What the stores on disk and across machines share: the whole state in memory, and a log that decides.

The domain lives in each engine's memory (a ``Head``). A *driver* appends to the log of all engines, which says what was
committed and in which order. Commits go to the log in groups::

    callers ──> queue ──> leader: validates and stages each ──> driver appends the group ──> published, answered
                  ^                                                          │
                  └── commits that come meanwhile are the next group <───────┘

**Who leads.** A caller that may block and finds nobody leading makes the group in its own thread. Callers on a loop are
served by one committer thread, because their loop must wait neither for a disk nor for a lock. Whoever leads makes one
group, then hands the lead to the first who came meanwhile.

**What others commit.** ``append`` hands the leader what other engines appended, before it stages; between our own commits
a follower thread waits for news. Either way the state moves in the order of the log, which is the same in all engines.

**What can fail.** What a commit itself raises (a message, an invariant, a value that cannot be stored) goes to its own
caller, and the others of the group go on. ``StoreUnavailable``: nothing of the group was sent. ``CommitUnknown``: it was
sent, and nobody knows. In both cases the staged state is forgotten; the log tells what happened when it can be read again.

**Snapshots.** When the log since the last snapshot has become heavier than that (and than 4 MiB), the state is
encoded in a thread of its own and handed to the driver. Of a small state the snapshot before it and the log in between are
kept as well: they are the history that survives a restart.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
import itertools
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from theus.errors import CommitUnknown, StoreError, TheusError
from theus.protocols import Commit, Committed, Conflict, Record, Refused, Version
from theus.state.access import Ops
from theus.state.head import Head, Looked, Staged
from theus.state.history import MOST_WEIGHT, History
from theus.state.migrations import schema_of
from theus.state.snapshot import Snapshot
from theus.stores import migrate
from theus.stores.driver import Driver, Entry, Loaded, Proposed, weigh
from theus.stores.listeners import Listeners
from theus.stores.past import Past

log = logging.getLogger("theus")

_BRIEF_PAUSE = 0.01  #: the same, while the store is being closed
_KEEPING = 5.0  #: seconds for a snapshot that is being made when the store is closed
_MOST_RECORDS = 10_000  #: whose values are known here
_PAUSE = 1.0  #: seconds until a follower whose store cannot be reached looks again


class Codec(Protocol):
    """How states and operations become bytes."""

    def encode_state(self, root: Any) -> bytes: ...
    def decode_state(self, data: bytes) -> Any: ...
    def encode_ops(self, operations: Ops, process: str = "") -> bytes: ...
    def decode_ops(self, data: bytes) -> Ops: ...


class _Waiting:
    """A commit that waits for its answer, and how to wake who waits for it."""

    __slots__ = ("answer", "commit", "context", "error", "future", "is_over", "leads", "lock", "loop")

    def __init__(self, commit: Commit, loop: asyncio.AbstractEventLoop | None) -> None:
        self.commit = commit
        self.context = None if commit.complete is None else contextvars.copy_context()
        self.answer: Committed | Conflict | Refused | None = None
        self.error: BaseException | None = None
        self.is_over = False  #: the answer stands
        self.leads = False  #: woken to lead, not to be answered
        self.loop = loop
        self.future = None if loop is None else loop.create_future()
        self.lock: threading.Lock | None = None  #: of a blocking caller that waits: held until it is woken

    @property
    def is_answered(self) -> bool:
        return self.answer is not None or self.error is not None


class Replica:
    """A durable store: a head in memory, and a driver that keeps the log."""

    def __init__(self, make_driver: Callable[[], Driver], codec: Codec, domain: Any) -> None:
        self._make_driver = make_driver
        self._codec = codec
        self._domain = domain
        kind: Any = None if domain is None else domain.__class__
        self._kind = kind  #: None: whatever is there
        self._name, self._schema = ("", 0) if kind is None else (str(kind.__qualname__), schema_of(kind))
        self._listeners = Listeners()
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        """As new: in the beginning, and in a forked child, to which threads, locks and connections do not come along."""
        self._process = os.getpid()
        self._token = secrets.token_hex(8)
        self._numbers = itertools.count(1)
        self._opening = threading.Lock()
        self._head: Head | None = None
        self._door = threading.Lock()  #: guards the queue and who leads
        self._is_idle = threading.Condition(self._door)
        self._waiting: list[_Waiting] = []
        self._is_led = False
        self._log = threading.Lock()  #: held by whoever moves the head
        self._driver = self._make_driver()
        self._called = threading.Semaphore(0)  #: the committer thread is to lead
        self._committer: threading.Thread | None = None
        self._follower: threading.Thread | None = None
        self._keeper: threading.Thread | None = None
        self._kept: Version = 0  #: of the newest snapshot in the store
        self._kept_size = 0
        self._weight = 0  #: of the log since then
        self._recorded: dict[tuple[str, str], bytes | None] = {}  #: records that were asked for; the log keeps it true

    # --- the Store seam ---

    @property
    def snapshot(self) -> Snapshot:
        return self._opened().snapshot

    @property
    def history(self) -> History:
        return self._opened().history

    def open(self) -> Snapshot:
        return self._opened().snapshot

    async def commit(self, commit: Commit, *, blocking: bool) -> Committed | Conflict | Refused:
        self._opened()
        if not (commit.ops or commit.complete or commit.records or commit.expected):
            return Committed(commit.base, ())
        if blocking:
            waiting = _Waiting(commit, None)
            self._see_through(waiting, leads=self._enter(waiting, wants_to_lead=True))
        else:
            loop = asyncio.get_running_loop()
            waiting = _Waiting(commit, loop)
            if self._enter(waiting, wants_to_lead=False):
                loop.call_soon(self._lead_if_free)  # after those who are ready now: they belong to the same group
            await _answered(waiting)
        if waiting.error is None:
            assert waiting.answer is not None
            return waiting.answer
        try:
            raise waiting.error
        finally:
            del waiting  # or error -> traceback -> this frame -> error would be a cycle

    def tail(self, listener: Callable[[Committed], None]) -> Callable[[], None]:
        self._opened()
        return self._listeners.add(listener)

    def records(self, kind: str, prefix: str = "") -> list[Record]:
        self._opened()
        return self._driver.records(kind, prefix)

    def past(self) -> Past:
        """What the store keeps of the past, read anew."""
        loaded, stored = self._read()
        return Past(lambda: self._oldest(loaded, stored), loaded.entries, self._codec.decode_ops)

    def _read(self) -> tuple[Loaded, migrate.Stored]:
        """All that is stored, by a driver of its own."""
        driver = self._make_driver()
        try:
            loaded = driver.load(self.initial)
        finally:
            driver.close()
        return loaded, migrate.told_apart(loaded, self._kind)

    def close(self) -> None:
        if self._closed or self._head is None or self._process != os.getpid():
            self._closed = True
            return
        with self._door:
            self._closed = True
            self._is_idle.wait_for(lambda: not self._is_led)
            self._is_led = bool(self._waiting)
        if self._is_led:  # those whose loop did not come to it
            self._lead(None)
        if self._keeper is not None:  # or the log of programs that are all short would never be let go of
            self._keeper.join(_KEEPING)
        self._driver.close()
        self._called.release()
        for thread in (self._committer, self._follower, self._keeper):
            if thread is not None and thread is not threading.current_thread():
                thread.join()

    # --- opening ---

    def _opened(self) -> Head:
        if self._process != os.getpid():
            self._forget_the_parent()
        head = self._head
        if head is None:
            with self._opening:
                head = self._head
                if head is None:
                    if self._closed:
                        raise _was_closed()
                    try:
                        head = self._load()
                    except BaseException:  # what it has opened would stay open; whoever tries again begins anew
                        self._driver.close()
                        self._driver = self._make_driver()
                        raise
                    self._follower = threading.Thread(target=self._follow, name="theus-follower", daemon=True)
                    self._follower.start()
                    self._head = head
                    self._look_at_the_weight()
        return head

    def _forget_the_parent(self) -> None:
        # What the parent has open is not closed, which could harm it, but left alone.
        self._parents = self._driver
        self._begin()

    def _load(self) -> Head:
        while True:
            loaded = self._driver.load(self.initial)
            stored = migrate.told_apart(loaded, self._kind)
            if self._kind is None:
                self._name, self._schema = stored.name, stored.schema
            if stored.schema == self._schema:
                break
            self._migrate(loaded, stored)
        self._kept, self._kept_size, self._weight = loaded.kept, len(loaded.state), 0
        self._recorded = {}
        head = self._oldest(loaded, stored)
        if stored.start >= 0:
            self._weight = loaded.entries[stored.start].weight
        for entry in loaded.entries[stored.start + 1 :]:
            self._follow_one(head, entry)
        return head

    def _oldest(self, loaded: Loaded, stored: migrate.Stored) -> Head:
        """The oldest state of today's version that is kept."""
        if stored.start < 0:
            return Head(self._codec.decode_state(stored.state), loaded.version)
        made = loaded.entries[stored.start]  # what is before it is of an older version
        return Head(self._codec.decode_ops(made.ops)[0][2], made.version)

    def initial(self) -> bytes:
        """What an empty store begins with. Who only looks at stores begins none, and raises here."""
        return self._sealed(Head(self._domain).snapshot.root)

    def _sealed(self, root: Any) -> bytes:
        return migrate.sealed(self._name, self._schema, self._codec.encode_state(root))

    def _migrate(self, loaded: Loaded, stored: migrate.Stored) -> None:
        """Append what makes the stored state one of today's; who finds that others came in between, does nothing."""
        made = migrate.migrated(stored, self._kind)
        operations = [("set", (), migrate.typed(made.after, self._codec.decode_state))]
        version = loaded.entries[-1].version if loaded.entries else loaded.version
        author = f"migration to {made.new}"
        everything = [((), (), True, True)]
        staged = Staged(Snapshot(version + 1, operations[0][2]), author, operations, everything, [True], True)
        encoded = self._codec.encode_ops(operations, author)
        records, expected = [migrate.mark(made.new)], [migrate.unmarked(made.old)]
        proposed = Proposed(author, time.time(), encoded, records, expected, staged)
        name = f"{self._token}-{next(self._numbers)}"
        self._driver.append(version, name, lambda others: [] if others else [proposed])

    def pending(self) -> migrate.Migration | None:
        """What opening would change, because the state was stored by an older version of its class; None: nothing.

        Nothing is written, but that an empty store begins.
        """
        _, stored = self._read()
        return None if self._kind is None or stored.schema == self._schema else migrate.migrated(stored, self._kind)

    def _follow_one(self, head: Head, entry: Entry) -> Committed:
        schema = migrate.marked(entry)
        if schema is not None and schema != self._schema:
            raise StoreError(
                f"another engine has migrated the store to version {schema}, this one runs code of version {self._schema}; "
                "start it again with the newer code."
            )
        committed = head.follow(entry.author, self._codec.decode_ops(entry.ops), entry.at)
        committed.records = entry.records
        self._note(entry.records)
        if entry.version > self._kept:
            self._weight += entry.weight
        return committed

    # --- waiting and leading ---

    def _enter(self, waiting: _Waiting, *, wants_to_lead: bool) -> bool:
        """Join the queue; gives whether nobody was leading. Who wants to, leads then."""
        with self._door:
            if self._closed:
                raise _was_closed()
            self._waiting.append(waiting)
            is_free = not self._is_led
            if wants_to_lead:
                self._is_led = True
                if not is_free:
                    waiting.lock = threading.Lock()
                    waiting.lock.acquire()
            return is_free

    def _lead_if_free(self) -> None:
        """Let the committer lead, unless somebody does or there is nothing to do (any more)."""
        with self._door:
            if self._is_led or not self._waiting:
                return
            self._is_led = True
        self._call_committer()

    def _see_through(self, waiting: _Waiting, *, leads: bool) -> None:
        """Lead, or wait for the answer, which may be to lead. Ctrl-C comes after the answer: the commit may be made."""
        interrupted: KeyboardInterrupt | None = None
        while waiting.lock is not None:
            try:
                waiting.lock.acquire()
                break
            except KeyboardInterrupt as interrupt:
                interrupted = interrupt
        if leads or waiting.leads:
            self._lead(waiting)
        if interrupted is not None:
            raise interrupted

    def _call_committer(self) -> None:
        if self._committer is None:  # only who leads comes here
            self._committer = threading.Thread(target=self._serve, name="theus-committer", daemon=True)
            self._committer.start()
        self._called.release()

    def _serve(self) -> None:
        while True:
            self._called.acquire()
            if self._closed and not self._is_led:
                return
            self._lead(None)

    def _lead(self, own: _Waiting | None) -> None:
        """Make one group of those who wait, hand the lead on, then answer."""
        with self._door:
            group, self._waiting = self._waiting, []
        answered, again = group, list[_Waiting]()
        try:
            self._commit_group(group)
        except BaseException:  # the leader itself was interrupted: nothing was committed of those without an answer
            answered = [one for one in group if one.is_answered]
            again = [one for one in group if not one.is_answered and one is not own]
            raise
        finally:
            with self._door:
                if again:
                    self._waiting[:0] = again
                following = self._waiting[0] if self._waiting else None
                if following is None:
                    self._is_led = False
                    if self._closed:
                        self._is_idle.notify_all()
            if following is not None:
                self._hand_over(following)
            _wake(answered)

    def _hand_over(self, waiting: _Waiting) -> None:
        if waiting.lock is not None:
            waiting.leads = True
            waiting.lock.release()
        else:
            self._call_committer()

    # --- a group ---

    def _commit_group(self, group: list[_Waiting]) -> None:
        """Answer each of a group. Raises only what interrupts the leader itself."""
        head = self._head
        assert head is not None
        name = f"{self._token}-{next(self._numbers)}"
        staged: list[tuple[_Waiting, Proposed]] = []
        looked: list[tuple[_Waiting, Looked]] = []  #: saw what is staged: true only if that comes to be

        def make(others: Sequence[Entry]) -> list[Proposed]:
            if staged:  # the store refused them: perhaps for a record
                head.discard()
                self._recorded.clear()
                staged.clear()
                looked.clear()
            for waiting in group:
                waiting.answer = waiting.error = None  # of the last time
            self._take_over(others)
            at = time.time()
            changed: dict[tuple[str, str], bytes | None] = {}
            for waiting in group:
                made = self._stage(head, waiting, at, changed)
                if isinstance(made, Proposed):
                    staged.append((waiting, made))
                elif made is not None:
                    looked.append((waiting, made))
                    staged[-1][1].looks = [*staged[-1][1].looks, *made.reads]
            return [proposed for _, proposed in staged]

        with self._log:
            try:
                between = self._driver.append(head.version, name, make)
            except Exception as failure:
                head.discard()
                for number, waiting in enumerate(group):
                    if not waiting.is_answered:
                        waiting.error = _for_one(failure, f"{name}.{number}")
            except BaseException:  # Ctrl-C in the leader's thread
                head.discard()
                self._look_up(name, staged)
                raise
            else:
                self._publish(head, staged, between)
                for waiting, one in looked:
                    waiting.answer = Committed(one.version + len(between), ())
        self._look_at_the_weight()

    def _stage(
        self, head: Head, waiting: _Waiting, at: float, changed: dict[tuple[str, str], bytes | None]
    ) -> Proposed | Looked | None:
        """Decide on one commit; None: it is answered. ``changed``: records of the group."""
        commit = waiting.commit
        encoded = b""

        def encode(operations: Ops) -> None:
            nonlocal encoded
            encoded = self._codec.encode_ops(operations, commit.author)

        for kind, key, expected in commit.expected:
            place = (kind, key)
            value = changed[place] if place in changed else self._record(place)
            if value != expected:
                waiting.answer = Refused(Record(kind, key, value))
                return None
        try:
            if waiting.context is None:
                staged = head.stage(commit, encode)
            else:  # the caller's context variables, also in the leader's thread
                staged = waiting.context.run(head.stage, commit, encode)
        except Exception as error:
            waiting.error = error
            return None
        if isinstance(staged, Looked):
            if staged.version > head.version:
                return staged
            waiting.answer = Committed(staged.version, ())
            return None
        if not isinstance(staged, Staged):
            waiting.answer = staged
            return None
        for kind, key, value in commit.records:
            changed[kind, key] = value
        return Proposed(commit.author, at, encoded, commit.records, commit.expected, staged)

    def _record(self, place: tuple[str, str]) -> bytes | None:
        """A record's value. The store is asked once: its owner's number goes with each commit of a run."""
        if place not in self._recorded:
            if len(self._recorded) >= _MOST_RECORDS:
                self._recorded.clear()
            self._recorded[place] = self._driver.record(*place)
        return self._recorded[place]

    def _note(self, records: Sequence[Record]) -> None:
        """What the log says of records that are known here."""
        for kind, key, value in records:
            if (kind, key) in self._recorded:
                self._recorded[kind, key] = value

    def _publish(self, head: Head, staged: list[tuple[_Waiting, Proposed]], between: Sequence[Entry]) -> None:
        """What was staged has come to be, after what others appended ``between``."""
        if between:
            head.discard()
            self._take_over(between)
            made = [head.follow(one.author, one.staged.ops, one.at) for _, one in staged]
        else:
            made = head.publish(staged[0][1].at) if staged else []
        for (waiting, one), committed in zip(staged, made, strict=True):
            committed.records = one.records
            self._note(one.records)
            self._weight += weigh(one.ops, one.records)
            waiting.answer = committed
            self._listeners.tell(committed)

    def _look_up(self, name: str, staged: list[tuple[_Waiting, Proposed]]) -> None:
        """The leader was interrupted: the log knows whether its group was appended. If not, the next leader does it."""
        head = self._head
        assert head is not None
        try:
            entries = self._driver.tail(head.version)
        except StoreError as failure:
            unknown = CommitUnknown(f"the commit was interrupted, and then the store was lost: {failure}")
            for number, (waiting, _) in enumerate(staged):
                waiting.error = _for_one(unknown, f"{name}.{number}")
            return
        self._take_over(entries)
        ours = [entry for entry in entries if entry.group == name]
        for (waiting, one), entry in zip(staged, ours, strict=False):
            waiting.answer = Committed(entry.version, one.staged.ops, one.records)

    def _take_over(self, entries: Sequence[Entry]) -> None:
        """Let others' commits become the state here."""
        head = self._head
        assert head is not None
        if entries and entries[0].version > head.version + 1:
            self._jump(head)
        for entry in entries:
            if entry.version > head.version:
                self._listeners.tell(self._follow_one(head, entry))

    def _jump(self, head: Head) -> None:
        """This engine was away for so long that the log does not reach back to where it was."""
        newest = self._load()
        head.jump(newest)

    # --- in the background ---

    def _follow(self) -> None:
        driver, is_lost = self._driver, False
        while True:
            try:
                if not driver.wait():
                    return
                with self._log:
                    if self._head is not None and not self._closed:
                        self._take_over(driver.tail(self._head.version))
                is_lost = False
            except StoreError as failure:
                if not is_lost and not self._closed:
                    log.warning("cannot follow what other engines commit, for now: %s", failure)
                is_lost = True
                time.sleep(_BRIEF_PAUSE if self._closed else _PAUSE)  # then ``wait`` lets go of what it listens with

    def _look_at_the_weight(self) -> None:
        if self._weight > max(self._kept_size, MOST_WEIGHT) and (self._keeper is None or not self._keeper.is_alive()):
            self._keeper = threading.Thread(target=self._keep, name="theus-keeper", daemon=True)
            self._keeper.start()

    def _keep(self) -> None:
        """Encode the state and hand it to the store, so that the log before it can go."""
        head = self._head
        assert head is not None
        try:
            kept = self._driver.kept()
            with self._log:
                snapshot, weight = head.snapshot, self._weight
                if kept > self._kept:  # another engine did it
                    self._weight = weight * (snapshot.version - kept) // max(1, snapshot.version - self._kept)
                    self._kept = kept
                    return
            state = self._sealed(snapshot.root)
            self._driver.keep(snapshot.version, state, self._kept if len(state) <= MOST_WEIGHT else snapshot.version)
            with self._log:
                self._kept, self._kept_size = snapshot.version, len(state)
                self._weight -= weight
        except StoreError as failure:
            if self._closed:
                return
            log.warning("the state could not be kept beside the log, which grows on: %s", failure)


async def _answered(waiting: _Waiting) -> None:
    """Wait for the answer. A cancel comes after it, because the commit is on its way: it may be made."""
    assert waiting.future is not None
    assert waiting.loop is not None
    cancels = 0
    while not waiting.is_over:
        try:
            await waiting.future
        except asyncio.CancelledError:  # the future with it; who answers has seen the next one, or it is over by now
            waiting.future = waiting.loop.create_future()
            cancels += 1
    task = asyncio.current_task()
    if task is not None:
        for _ in range(cancels):  # again, at whatever it awaits next
            task.uncancel()
            task.cancel()


def _wake(group: list[_Waiting]) -> None:
    """Let all who wait go on."""
    loops: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for waiting in group:
        waiting.is_over = True
        if waiting.lock is not None:
            waiting.lock.release()
        elif waiting.loop is not None and waiting.future is not None:
            loops.setdefault(waiting.loop, []).append(waiting.future)
    for loop, futures in loops.items():
        try:
            loop.call_soon_threadsafe(_settle, futures)
        except RuntimeError:  # that loop was closed: nobody waits there any more
            pass


def _settle(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


def _for_one(failure: Exception, commit_id: str) -> Exception:
    """The failure of a group for one of it: each caller raises an error of its own."""
    if not isinstance(failure, TheusError):
        own: TheusError = StoreError(f"the store failed: {failure!r}. Nothing of this commit is known to be made.")
    else:
        own = copy.copy(failure)
    if isinstance(own, CommitUnknown):
        own.commit_id = commit_id
    own.__cause__ = failure
    return own


def _was_closed() -> StoreError:
    return StoreError("the store was closed with its engine; make a new engine.")
