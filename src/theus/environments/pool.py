"""The pool: workers, the calls on their way to them, and the answers on their way back.

Who does what::

    a loop that calls      sends a call to a worker that is free, and reads what that worker answers  (owners.py)
    the keeper thread      starts workers, watches times, sends what a full socket did not take,
                           buries the dead, reads where no loop does                                  (keeper.py)

A worker (before that it may have been asked of a template, see ``forked_process.py``)::

    starting ──READY──> ready ──STOP──> ending ──┐
        │                 │                      ├──> dying ──> reaped: its jobs are settled, another takes its place
        └─────────────────┴── dies, is killed ───┘

A job (one call)::

    queued ──sent──> waits in the worker ──first in line──> runs ──DONE, FAILED──> settled
      ^                     │                                │
      └───── RETURNED ──────┘                                ├── timeout or cancel: STOP, 0.2 s later killed
                                                             └── the worker dies: EnvironmentBroken

Short calls are sent ahead: a worker may hold a few that wait for their turn, so that it need not wait for us between
two calls. When the one that runs takes longer than expected, those behind it are called back (``RECALL``) and go to
the next worker that is free. Order is that of arrival. All state is under one lock; nobody calls a user's code under it
but to pack a snapshot.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import logging
import marshal
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING

from theus.environments import wire
from theus.environments.batch import Batch, Series
from theus.environments.forked_process import Templates
from theus.environments.keeper import AT_EXIT, PATIENCE, Keeper
from theus.environments.losses import Kind, broken, closed, not_started
from theus.environments.mailbox import CombiningLock, Mailbox, Post, do_all, guarded
from theus.environments.near_blocks import Blocks
from theus.environments.owners import Owners
from theus.environments.parcel import FAULTS, Parcel
from theus.environments.peer import Carrier, Limits, Peer
from theus.environments.worker_process import WorkerProcess
from theus.errors import NotTransferable

if TYPE_CHECKING:
    from theus.environments.job import Job, Packed
    from theus.protocols import Call

POLITE = 0.2  #: seconds that an interrupted body has to unwind before its process is killed
LOADING = 60.0  #: seconds on top of its timeout that a process's first call in a worker has, to import its modules
AHEAD = 8  #: calls that a worker may hold, the one that runs included
LINE = 0.006  #: seconds of work that a worker may hold instead, of calls that came together
MOST_AHEAD = 256  #: of those
WORTH = 0.00005  #: seconds of work for which it pays to have another worker wake up
_ROUNDS = 16  # reads in a row for one worker before others have their turn
log = logging.getLogger("theus.environments")


class Pool:
    """The workers of one environment. (Names without an underscore are for this package.)"""

    def __init__(
        self,
        capacity: int,
        *,
        kind: Kind,
        carrier: type[Carrier],
        limits: Limits,
        set_up: Callable[[], tuple[int, Callable[[], Packed]]],
        on_lost: Callable[[Call, str, int | None], None],
        on_log: Callable[[Parcel], None],
        on_report: Callable[[Call, Parcel], None],
        dropped: deque[int],
    ) -> None:
        self.capacity = capacity
        self.kind = kind
        self.queue: deque[Job] = deque()
        self.workers: list[Peer] = []
        self.dying: list[Peer] = []
        self.starting: list[Peer] = []  #: asked of a template
        self.ends_at: float | None = None  #: once it closes: when what still runs is killed
        self.forgotten = False
        self.closed: Future[None] = Future()
        self.closed.set_running_or_notify_cancel()  # who waits for it may be cancelled, it may not
        self.keeper: Keeper | None = None
        self.post = Post(on_log)
        self.templates = Templates(possible=carrier is WorkerProcess)
        self.blocks = Blocks(self._wake)
        self._owners = Owners(self)
        self._arrived: deque[Job] = deque()
        self.lock = CombiningLock(self._arrived, self._take_in)  # over everything here, the workers and the keeper
        self._pid = os.getpid()
        self._carrier = carrier
        self._limits = limits
        self._set_up = set_up
        self._on_lost = on_lost
        self._on_report = on_report
        self._dropped = dropped
        self._exit_hook = functools.partial(_at_exit, weakref.ref(self))

    # --- for callers, from any thread ---

    def submit(self, jobs: Iterable[Job]) -> None:
        """Have calls run; never waits for the lock."""
        self.lock.hand_in(jobs)

    def is_idle(self) -> bool:
        """Whether there is nothing under way. Without the lock: it is a hint."""
        return not (self.queue or any(worker.calls for worker in list(self.workers)))

    def abandon(self, jobs: Iterable[Job]) -> list[asyncio.Future[None]]:
        """On their loop: stop calls that nobody waits for any more. What it gives is done when those have ended that run."""
        with self.lock:
            return self._abandon(jobs)

    def withdraw(self, batch: Batch, place: int) -> list[asyncio.Future[None]]:
        """The same for one call of a batch."""
        with self.lock:
            for job in batch.jobs:
                if isinstance(job, Series) and job.place <= place < job.place + job.left:
                    return self._abandon([self._part(job, place)])
        return []  # it has its answer

    def _part(self, series: Series, place: int) -> Job:
        """Have a call of a series be a job of its own, where it is."""
        line = self.queue if series.worker is None else series.worker.calls
        at = line.index(series)
        del line[at]
        pieces, one = series.around(place)
        for piece in reversed(pieces):
            line.insert(at, piece)
        return one

    def _abandon(self, jobs: Iterable[Job]) -> list[asyncio.Future[None]]:
        ended = []
        behind = set()
        for job in jobs:
            worker = job.worker
            if worker is None:  # settled, or still in the queue, where it will be passed over
                job.reason = job.reason or "cancel"
                continue
            job.ended = job.loop.create_future()
            ended.append(job.ended)
            if not job.reason:
                job.reason = "cancel"
                if job is not worker.calls[0]:
                    behind.add(worker)
                elif worker.ready:
                    self.interrupt(worker, monotonic())
                else:
                    worker.kill()
        for worker in behind:
            self.recall(worker)
        return ended

    def close(self, grace: float) -> Future[None]:
        """End all workers: those at rest at once, the others when their call ends or ``grace`` seconds are over."""
        with self.lock:
            self.begin_closing(monotonic() + grace)
            if self.keeper is not None:
                self.keeper.wake()
            elif not self.closed.done():
                self.blocks.close()
                self.closed.set_result(None)
        return self.closed

    def forget(self) -> None:
        """Close when there is time: nobody owns this pool any more. Takes no lock: a garbage collector may call it."""
        self.forgotten = True
        if self.keeper is not None:
            self.keeper.wake()

    def disown(self) -> None:
        """In a child that this process forked: close what belongs to the parent. Nothing of it is told to the workers."""
        for worker in [*self.workers, *self.dying, *self.starting]:
            worker.disown()
        self.templates.disown()
        self.blocks.close()
        if self.keeper is not None:
            self.keeper.close()

    def lacks_snapshot(self, version: int) -> bool:
        """Whether some worker, or one that is still to be started, does not have this one."""
        workers = list(self.workers)
        return not workers or not all(worker.has_snapshot(version) for worker in workers)

    def lacks_part(self, name: str, number: int) -> set[int]:
        """The numbers that workers without this part of the domain have instead; 0 for none."""
        workers = list(self.workers)
        return {worker.number_of(name) for worker in workers} - {number} if workers else {0}

    def _wake(self) -> None:
        if self.keeper is not None:
            self.keeper.wake()

    # --- placing jobs ---

    def _take_in(self) -> None:
        """Place the jobs that were submitted."""
        queue = self.queue
        others = len(queue)
        while self._arrived:
            job = self._arrived.popleft()
            if self.ends_at is None:
                queue.append(job)
            else:
                self._close(job)
        if not others:
            self.fill(monotonic())
        loop = None
        for job in list(islice(queue, others, None)):
            if job.loop is not loop:
                try:
                    self._expect(job)
                    loop = job.loop
                except OSError as error:  # no descriptors left for a keeper
                    queue.remove(job)
                    self._do_not_start(job, error)

    def _expect(self, job: Job) -> None:
        """A job waits: see to it that there will be a worker, and that it is noticed when one is free."""
        if self.keeper is None:
            self.keeper = Keeper(self)
            atexit.register(self._exit_hook)
        if len(self.workers) + len(self.dying) < self.capacity:
            self.keeper.wake()
        for worker in self.workers:
            if worker.owner is not job.loop:
                self.keeper.watch(worker)

    def new_worker(self) -> Peer:
        """Start a worker. Without the lock."""
        return Peer(self.templates.worker() or self._carrier, self.blocks)

    def fill(self, now: float) -> None:
        """Give waiting jobs to workers that are free."""
        queue = self.queue
        while queue:
            first = queue.popleft()
            if first.reason:
                continue
            worker = self._choose(first, now)
            if worker is None:
                queue.appendleft(first)
                return
            if isinstance(first, Series):
                count = self._room(worker, first)
                if count < first.left:
                    head = first.take_head(count)
                    (queue.append if first.batch.gives_way else queue.appendleft)(first)
                    first = head
            self._send(worker, first, now)

    def tidy(self) -> None:
        """Have the workers let go of values that are gone here; keep only so much free memory."""
        gone = self.blocks.let_go
        numbers = [gone.popleft() for _ in range(len(gone))]
        for worker in self.workers if numbers else ():
            kept = [number for number in numbers if worker.ledger.let_go(number)]
            if kept:
                worker.post(wire.BLOCKS, 0, [marshal.dumps(kept)])
        self.blocks.tidy()

    def fail_first(self, error: OSError) -> None:
        """There can be no worker for the job that waits longest."""
        if self.queue:
            self._do_not_start(self.queue.popleft(), error)

    def _do_not_start(self, job: Job, error: OSError) -> None:
        for one in job.apart():
            self.post.settle(one, not_started(one, error, self.kind))

    def _close(self, job: Job) -> None:
        for one in job.apart():
            self.post.settle(one, closed(one, self.kind))

    def _choose(self, job: Job, now: float) -> Peer | None:
        """The worker for a job: one that is free, or soon will be."""
        for worker in self.workers:
            if not worker.calls and not worker.ending:
                return worker
        return self._soonest(job, now) if job.short and len(self.workers) >= self.capacity else None

    def _room(self, worker: Peer, series: Series) -> int:
        """How many calls of a series a worker is given now."""
        room = self._most(series) - worker.held if series.short else 1
        most = self._limits.calls
        if most is not None:
            room = min(room, most - worker.done - worker.held)
        return min(room, series.left)

    def _most(self, job: Job) -> int:
        """How many calls such as this one a worker may hold: fewer of the last ones, as another may end sooner."""
        if not isinstance(job, Series):
            return AHEAD
        most = min(max(2, int(LINE / job.pace)), MOST_AHEAD)
        left = job.left + sum(other.left for other in islice(self.queue, AHEAD))
        if left >= most * self.capacity:
            return most
        left += sum(worker.held for worker in self.workers)
        fewest = max(2, int(WORTH / job.pace))
        return min(most, max(fewest, -(-left // (2 * self.capacity))))

    def _soonest(self, job: Job, now: float) -> Peer | None:
        """The worker with the shortest line of short calls."""
        found = None
        most = self._most(job)
        for worker in self.workers:
            calls = worker.calls
            if worker.held < (found.held if found is not None else most) and not worker.ending:
                if worker.is_full(self._limits):
                    continue
                if worker.ready and calls[0].short and now - calls[0].since < PATIENCE:  # behind it are only short ones
                    found = worker
        return found

    def _send(self, worker: Peer, job: Job, now: float) -> None:
        if self._dropped:
            self._pass_on_dropped()
        alone = not worker.calls
        try:
            worker.set_up(*self._set_up())
            if isinstance(job, Series):
                worker.send_series(job)
            else:
                worker.send_call(job)
        except FAULTS as error:
            for one in job.apart():
                self.post.settle(one, error)
            return
        keeper = self.keeper
        assert keeper is not None
        if worker.watched or worker.owner is not job.loop:
            self._owners.choose(keeper, worker, job.loop, alone=alone)
        if worker.held > 1:
            keeper.due(now + PATIENCE)
        if alone:
            self._begin(worker, now)
        else:
            mailbox = self.post.mailbox(job.loop)
            if not mailbox.will_flush:
                mailbox.will_flush = True
                mailbox.put(self._flush, mailbox)

    def _pass_on_dropped(self) -> None:
        while self._dropped:
            token = self._dropped.popleft()
            for worker in self.workers:
                if worker.known.pop(token, None) is not None:
                    worker.dropped.append(token)

    def _flush(self, mailbox: Mailbox) -> None:
        """Send the calls that were gathered for workers that are busy."""
        with self.lock:
            mailbox.will_flush = False
            for worker in self.workers:
                if worker.unsent:
                    self._flush_one(worker)

    def _flush_one(self, worker: Peer) -> None:
        worker.flush()
        if worker.unsent and self.keeper is not None:
            self.keeper.wake()  # it sends the rest when there is room

    def _begin(self, worker: Peer, now: float) -> None:
        """The first call in line begins about now."""
        job = worker.calls[0]
        job.since = now
        if worker.unsent:
            self._flush_one(worker)
        if job.reason:  # abandoned while it waited, and too late to be called back
            self.interrupt(worker, now)
        elif job.timeout is not None:
            self._set_deadline(job, now + job.timeout + (LOADING if job.announced or not worker.ready else 0.0))

    def _set_deadline(self, job: Job, moment: float) -> None:
        job.deadline = moment
        assert self.keeper is not None
        self.keeper.due(moment)

    # --- stopping jobs ---

    def recall(self, worker: Peer) -> None:
        """Call back what has not begun."""
        worker.recalled = worker.seq
        worker.order(wire.RECALL, worker.seq)
        if self.keeper is not None:
            self.keeper.watch(worker)

    def interrupt(self, worker: Peer, now: float) -> None:
        """Stop the call that runs; the worker ends with it."""
        job = worker.calls[0]
        self._set_deadline(job, now + POLITE)
        worker.end(job.seq)

    def _take_back(self, worker: Peer, first: int, last: int, now: float) -> None:
        back: list[Job] = []
        for job in [job for job in worker.calls if job.last >= first and job.seq <= last]:
            if isinstance(job, Series) and job.seq < first:  # its first call runs
                rest = job.take_tail(first - job.seq)
                worker.held -= rest.left
                back.append(rest)
            else:
                worker.take_off(job)
                back.append(job)
        for job in reversed(back):
            self._put_back(job)
        if worker.calls and worker.calls[0].reason and not worker.ending:
            self.interrupt(worker, now)

    def _put_back(self, job: Job) -> None:
        """A job that had not begun waits again, before all others."""
        job.worker = None
        job.deadline = None
        if job.reason or self.ends_at is not None:
            self._close(job)
        else:
            self.queue.appendleft(job)
            self._expect(job)

    # --- answers ---

    def pull(self, worker: Peer, *, to_the_end: bool = False) -> None:
        """Read what a worker has said. ``to_the_end``: it is dead, so nothing will follow."""
        reader = worker.reader
        rounds = 0
        try:
            while reader.receive():
                now = monotonic()
                self._take_values(worker, now)
                for frame in reader.frames():
                    self._hear(worker, frame, now)
                    self._take_values(worker, now)
                if self.queue:
                    self.fill(now)
                rounds += 1
                if not to_the_end and (not reader.was_full or rounds == _ROUNDS):
                    return
            self._lose(worker)
        except BlockingIOError:
            if to_the_end:
                self._lose(worker)
        except OSError:
            self._lose(worker)
        except Exception:
            log.exception("%s %d says what cannot be understood; it is ended", self.kind.noun, worker.number)
            self._lose(worker)

    def _hear(self, worker: Peer, frame: wire.Frame, now: float) -> None:
        kind = frame.kind
        if kind == wire.VALUE or kind == wire.DONE or kind == wire.FAILED:
            job = worker.calls[0]
            if job.seq != frame.seq:
                raise ValueError(f"an answer to call {frame.seq} while {job.seq} runs")
            worker.held -= 1
            worker.done += 1
            if kind == wire.VALUE:  # of one that was withdrawn from its series
                self.post.settle(job, (kind, marshal.loads(frame.parts[0]), worker.number))  # noqa: S302 - ours
            else:
                one = job.one()
                self.post.settle(one, one.refusal or (kind, worker.parcel(frame), worker.number))
            if not job.left or not isinstance(job, Series):
                worker.calls.popleft()
            if not worker.ending and worker.is_spent(self._limits):
                worker.end(0)
            if worker.calls:
                self._begin(worker, now)
        elif kind == wire.REPORT:
            if worker.calls and not worker.calls[0].reason:
                job = worker.calls[0]
                self.post.deliver(job.loop, job.where().run, self._on_report, job.call, worker.parcel(frame))
        elif kind == wire.LOG:
            self.post.log(worker.calls[0] if worker.calls and frame.seq else None, worker.parcel(frame))
        elif kind == wire.FETCH:
            # In a thread of its own: it may be big and call a user's code, and whoever reads here keeps the deadlines.
            asked = (worker, frame.seq, *marshal.loads(frame.parts[0]))  # noqa: S302 - ours
            thread = threading.Thread(target=guarded, args=(self._fetch, *asked), name="theus-parts", daemon=True)
            self.post.do_loose(thread.start)
        elif kind == wire.STARTED:
            job = worker.calls[0]
            if job.timeout is not None and not job.reason:
                self._set_deadline(job, now + job.timeout)
        elif kind == wire.BLOCKS:
            numbers, as_new = marshal.loads(frame.parts[0])  # noqa: S302 - from a process that we started
            worker.ledger.take_back(numbers, as_new=as_new)
        elif kind == wire.LOADED:
            self.templates.note(marshal.loads(frame.parts[0]))  # noqa: S302 - from a process that we started
        elif kind == wire.READY:
            worker.ready = True
            if worker.calls:
                self._begin(worker, now)
        elif kind == wire.RETURNED:
            self._take_back(worker, frame.seq, wire.read_number(frame.parts[0]), now)
        else:
            raise ValueError(f"a message of kind {kind}")

    def _take_values(self, worker: Peer, now: float) -> None:
        """The answers that come next, as long as they are simple values of calls in series."""
        calls, number = worker.calls, worker.number
        while calls and isinstance(series := calls[0], Series):
            parts = worker.reader.row(wire.VALUE, series.seq, series.left)
            if not parts:
                return
            count = len(parts)
            if not series.reason:
                rows = series.batch.rows
                rows.append((series.place, [marshal.loads(part) for part in parts], number))  # noqa: S302 - ours
                if len(rows) == 1:  # else somebody is on the way to take them
                    self.post.deliver(series.loop, series.batch.take_rows)
            worker.held -= count
            worker.done += count
            series.went_on(count)
            if not series.left:
                calls.popleft()
                if series.ended is not None:
                    self.post.settle(series, None)
            if not worker.ending and worker.is_spent(self._limits):
                worker.end(0)
            if calls:
                self._begin(worker, now)

    def _fetch(self, worker: Peer, seq: int, name: str, number: int) -> None:
        """A body waits for a part of its domain."""
        with self.lock:
            job = worker.calls[0] if worker.calls and worker.calls[0].seq == seq else None
        packed = None
        if job is not None:
            try:
                _, packed = job.part(name, 0)
            except NotTransferable as error:
                job.refusal = error
        with self.lock:
            if worker in self.workers:
                worker.answer(name, number, packed)
                self._flush_one(worker)

    def handle_loose(self) -> None:
        """Do what is left to be done without the lock."""
        with self.lock:
            loose = self.post.take_loose()
        do_all(loose)

    # --- the end of a worker ---

    def _lose(self, worker: Peer) -> None:
        """The worker is dead or dying: see to it that it is, and whatever it started."""
        worker.kill()
        if worker in self.workers:
            self.workers.remove(worker)
            self.dying.append(worker)
            if self.keeper is not None:
                self.keeper.drop(worker)

    def bury(self, worker: Peer) -> None:
        """The worker has been reaped: settle what it had."""
        self.dying.remove(worker)
        behind = list(worker.calls)
        worker.calls.clear()
        worker.held = 0
        first = behind[0].one() if behind else None
        if behind and (first is behind[0] or not behind[0].left):
            del behind[0]
        for job in reversed(behind):
            self._put_back(job)
        if first is not None:
            if worker.carrier.is_lost or (not first.reason and self.ends_at is None):
                self.post.deliver(
                    first.loop, self._on_lost, first.call, self.kind.environment, worker.carrier.exit_code
                )
            closing = self.ends_at is not None
            self.post.settle(first, closed(first, self.kind) if closing else broken(first, worker, self.kind))
        worker.close()
        self._owners.part(worker)

    # --- the end of the pool ---

    def begin_closing(self, ends_at: float) -> None:
        """Take nothing more, and end the workers; what still runs then is killed at ``ends_at``."""
        if self.ends_at is not None:
            self.ends_at = min(self.ends_at, ends_at)
            return
        self.ends_at = ends_at
        while self.queue:
            self._close(self.queue.popleft())
        for worker in self.workers:
            if not worker.ending:
                worker.end(0)

    def give_up(self) -> None:
        """The keeper cannot go on: nobody must wait for it."""
        for worker in [*self.workers, *self.dying]:
            worker.kill()
            for job in worker.calls:
                self._close(job)
        self.templates.kill()
        self.begin_closing(0.0)

    def release(self) -> None:
        """All workers are gone."""
        atexit.unregister(self._exit_hook)
        self.blocks.close()
        self.closed.set_result(None)

    def close_at_exit(self) -> None:
        """Close and wait for the end, whatever state the program left this pool in."""
        if self._pid != os.getpid() or self.keeper is None:
            return
        if self.lock.is_free_within(1.0):
            self.close(AT_EXIT)
            self.keeper.join(AT_EXIT + 2.0)
        else:  # KeyboardInterrupt came at the wrong moment
            for worker in [*self.workers, *self.dying]:
                worker.kill()


def _at_exit(ref: weakref.ref[Pool]) -> None:
    pool = ref()
    if pool is not None:
        pool.close_at_exit()
