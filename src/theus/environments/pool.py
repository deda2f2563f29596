"""The pool: worker processes, and the threads that serve them.

Any thread may submit and abandon jobs. A *reader* thread for each worker waits for what it says and hands it to the loop
that waits for it, all that came at once in one call; blocking in ``recv`` was quicker than one selector for all workers,
and much less has to be looked at between an answer and its loop. One *keeper* thread does what is rare: it starts
workers (on Linux they die with the *thread* that started them, and this one lives as long as they do), watches times,
sends what a full socket did not take, and buries the dead.

A worker::

    starting ──READY──> ready ──STOP──> ending ──┐
        │                 │                      ├──> dying ──> reaped: its jobs are settled, another takes its place
        └─────────────────┴── dies, is killed ───┘

A job (one call)::

    queued ──sent──> waits in the worker ──first in line──> runs ──DONE, FAILED──> settled
      ^                     │                                │
      └───── RETURNED ──────┘                                ├── timeout or cancel: STOP, 0.1 s later SIGKILL
                                                             └── the worker dies: EnvironmentBroken

Short calls are sent ahead: a worker may hold a few that wait for their turn, so that it need not wait for us between
two calls. When the one that runs takes longer than expected, those behind it are called back (``RECALL``) and go to
the next worker that is free. Order is that of arrival.

Nothing is left behind: a worker leads a process group of its own, which is killed as a whole whenever a worker ends;
it dies with its parent (see ``far.py``); and a pool whose owner is forgotten or whose program ends closes itself.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import logging
import os
import selectors
import signal
import socket
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from time import monotonic
from typing import TYPE_CHECKING, Any

from theus.environments import wire
from theus.environments.parcel import FAULTS, Parcel
from theus.environments.worker_process import WorkerProcess
from theus.errors import CallTimeout, EnvironmentBroken

if TYPE_CHECKING:
    from theus.environments.job import Job, Packed

POLITE = 0.1  #: seconds that an interrupted body has to unwind before its process is killed
LOADING = 60.0  #: seconds, on top of its timeout, that a process's first call in a worker may take to import its modules
AHEAD = 8  #: calls that a worker may hold, the one that runs included
PATIENCE = 0.005  #: seconds after which calls are taken back from behind one that was expected to be short
AT_EXIT = 0.25  #: seconds that calls still running have when the program ends

log = logging.getLogger("theus.environments")

Delivery = tuple[Callable[..., None], tuple[Any, ...]]
_NEVER = float("inf")


class _Lock:
    """A lock that need not be waited for: jobs that arrive while it is held are taken in by its holder."""

    __slots__ = ("_arrived", "_lock", "_take_in")

    def __init__(self, arrived: deque[Job], take_in: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._arrived = arrived
        self._take_in = take_in

    def __enter__(self) -> None:
        self._lock.acquire()
        if self._arrived:
            self._take_in()

    def __exit__(self, *exception: object) -> None:
        lock = self._lock
        while True:
            if self._arrived:
                self._take_in()
            lock.release()
            # One that came between the two had found the lock taken, so it is ours.
            if not self._arrived or not lock.acquire(blocking=False):
                return

    def take_in(self) -> None:
        """Take in what has arrived, unless somebody else does."""
        if self._lock.acquire(blocking=False):
            self.__exit__()


class Pool:
    """Worker processes of one environment."""

    def __init__(
        self,
        capacity: int,
        *,
        set_up: Callable[[], tuple[int, Callable[[], Packed]]],
        on_lost: Callable[[str, int | None], None],
        on_log: Callable[[Parcel], None],
        dropped: deque[int],
    ) -> None:
        self.pid = os.getpid()
        self._capacity = capacity
        self._set_up = set_up
        self._on_lost = on_lost
        self._on_log = on_log
        self._dropped = dropped
        self._arrived: deque[Job] = deque()
        self._lock = _Lock(self._arrived, self._take_in)  # over everything below
        self._queue: deque[Job] = deque()
        self._workers: list[WorkerProcess] = []
        self._dying: list[WorkerProcess] = []
        self._mailboxes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Mailbox] = weakref.WeakKeyDictionary()
        self._flush_posted = False
        self._keeper: threading.Thread | None = None
        self._selector: selectors.BaseSelector
        self._wake_end: socket.socket
        self._woken_end: socket.socket
        self._sleeps_until = 0.0  #: when the server thread looks again by itself
        self._ends_at: float | None = None  #: once it closes: when what still runs is killed
        self._forgotten = False
        self._closed: Future[None] = Future()
        self._exit_hook = functools.partial(_at_exit, weakref.ref(self))

    # --- for callers, from any thread ---

    def submit(self, job: Job) -> None:
        """Have a call run. Never waits for the lock: who holds it takes the job in when he lets go of it."""
        self._arrived.append(job)
        self._lock.take_in()

    def abandon(self, job: Job, ended: asyncio.Future[None]) -> bool:
        """Stop a call that nobody waits for any more. True: ``ended`` gets a result when its body has ended."""
        with self._lock:
            worker = job.worker
            if worker is None:
                if job in self._queue:
                    self._queue.remove(job)
                return False
            job.ended = ended
            if not job.reason:
                job.reason = "cancel"
                if job is not worker.calls[0]:
                    self._recall(worker)
                elif worker.ready:
                    self._interrupt(worker, monotonic())
                else:
                    worker.kill()
            return True

    def close(self, grace: float) -> Future[None]:
        """End all workers: those at rest at once, the others when their call ends or ``grace`` seconds are over."""
        with self._lock:
            self._begin_closing(monotonic() + grace)
            if self._keeper is not None:
                self._wake()
            elif not self._closed.done():
                self._closed.set_result(None)
        return self._closed

    def forget(self) -> None:
        """Close when there is time: nobody owns this pool any more. Takes no lock, for a garbage collector may call it."""
        self._forgotten = True
        if self._keeper is not None:
            self._wake()

    def has_snapshot(self, fields: tuple[str, ...], version: int) -> bool:
        """Whether every worker has this one, so that it need not be packed."""
        workers = list(self._workers)
        return bool(workers) and all(worker.has_snapshot(fields, version) for worker in workers)

    def workers(self) -> list[tuple[int, int, str]]:
        """Process id, calls answered and state of each worker."""
        with self._lock:
            return [
                (w.pid, w.done, "ending" if w.ending else "running" if w.calls else "idle" if w.ready else "starting")
                for w in self._workers
            ]

    def _take_in(self) -> None:
        """Place the jobs that were submitted, under the lock."""
        now = monotonic()
        while self._arrived:
            job = self._arrived.popleft()
            if self._ends_at is not None:
                self._settle(job, _stopped_error(job.name))
                continue
            if self._keeper is None:
                self._open()
            if self._queue or not self._place(job, now):
                self._queue.append(job)
                if len(self._workers) + len(self._dying) < self._capacity:
                    self._wake()

    def _open(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake_end, self._woken_end = socket.socketpair()
        self._wake_end.setblocking(False)
        self._woken_end.setblocking(False)
        self._selector.register(self._woken_end, selectors.EVENT_READ)
        # A daemon, because Python waits for other threads before it calls what was registered for its exit.
        self._keeper = threading.Thread(target=self._keep, name="theus-workers", daemon=True)
        self._keeper.start()
        atexit.register(self._exit_hook)

    def _wake(self) -> None:
        try:
            self._wake_end.send(b"\0")
        except OSError:  # full: it is about to wake up anyway; closed: there is nobody to wake
            pass

    def _due(self, moment: float) -> None:
        """Make sure that the keeper looks at that moment."""
        if moment < self._sleeps_until:
            self._sleeps_until = moment
            self._wake()

    # --- placing jobs, under the lock ---

    def _place(self, job: Job, now: float) -> bool:
        """Send a job to a worker that is free or soon will be."""
        best: WorkerProcess | None = None
        for worker in self._workers:
            if not worker.calls and not worker.ending:
                best = worker
                break
        else:
            if job.short and len(self._workers) >= self._capacity:
                best = self._soonest(now)
        if best is None:
            return False
        self._send(best, job, now)
        return True

    def _soonest(self, now: float) -> WorkerProcess | None:
        """The worker with the shortest line of short calls."""
        found = None
        for worker in self._workers:
            calls = worker.calls
            if len(calls) < (len(found.calls) if found is not None else AHEAD) and not worker.ending:
                if worker.ready and now - calls[0].since < PATIENCE and all(job.short for job in calls):
                    found = worker
        return found

    def _send(self, worker: WorkerProcess, job: Job, now: float) -> None:
        while self._dropped:
            token = self._dropped.popleft()
            for other in self._workers:
                if other.known.pop(token, None) is not None:
                    other.dropped.append(token)
        try:
            worker.set_up(*self._set_up())
            worker.send_call(job)
        except FAULTS as error:
            self._settle(job, error)
            return
        if len(worker.calls) == 1:
            self._begin(worker, now)
        else:
            if not self._flush_posted:
                self._flush_posted = True
                self._deliver(job.loop, self._flush)
            self._due(now + PATIENCE)

    def _flush(self) -> None:
        """Send the calls that were gathered for workers that are busy."""
        with self._lock:
            self._flush_posted = False
            for worker in self._workers:
                if worker.unsent:
                    self._flush_one(worker)

    def _flush_one(self, worker: WorkerProcess) -> None:
        worker.flush()
        if worker.unsent:
            self._wake()  # the keeper sends the rest when there is room

    def _begin(self, worker: WorkerProcess, now: float) -> None:
        """The first call in line begins about now."""
        job = worker.calls[0]
        job.since = now
        if worker.unsent:
            self._flush_one(worker)
        if job.reason and not worker.ending:  # abandoned while it waited, and too late to be called back
            self._interrupt(worker, now)
        elif job.timeout is not None:
            job.deadline = now + job.timeout + (LOADING if job.announced or not worker.ready else 0.0)
            self._due(job.deadline)

    def _recall(self, worker: WorkerProcess) -> None:
        worker.recalled = worker.seq
        worker.order(wire.RECALL, worker.seq)

    def _interrupt(self, worker: WorkerProcess, now: float) -> None:
        """Stop the call that runs; the worker ends with it."""
        job = worker.calls[0]
        job.deadline = now + POLITE
        worker.ending = True
        worker.order(wire.STOP, job.seq)
        worker.post(wire.END, 0, [])
        self._due(job.deadline)

    def _settle(self, job: Job, answer: Any) -> None:
        """Hand a frame or an error to whoever waits for the job."""
        job.worker = None
        if job.ended is not None:
            self._deliver(job.loop, _finish, job.ended, None)
        elif isinstance(answer, BaseException):
            self._deliver(job.loop, _fail, job.future, answer)
        else:
            self._deliver(job.loop, _finish, job.future, answer)

    def _mailbox(self, loop: asyncio.AbstractEventLoop) -> Mailbox:
        found = self._mailboxes.get(loop)
        if found is None:
            found = self._mailboxes[loop] = Mailbox(loop)
        return found

    def _deliver(self, loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: Any) -> None:
        self._mailbox(loop).put(function, args)

    def _fill(self, now: float) -> None:
        """Give waiting jobs to workers that are free."""
        while self._queue and self._place(self._queue[0], now):
            self._queue.popleft()

    # --- the reader threads ---

    def _read(self, worker: WorkerProcess) -> None:
        reader = worker.reader
        alive = True
        while alive:
            try:
                alive = reader.receive()
            except OSError:
                alive = False
            loose: list[Parcel] = []
            with self._lock:
                now = monotonic()
                for frame in reader.frames():
                    self._hear(worker, frame, now, loose)
                if not alive:
                    self._lose(worker)
                elif self._queue:
                    self._fill(now)
            for parcel in loose:
                _guarded(self._on_log, (parcel,))

    def _hear(self, worker: WorkerProcess, frame: wire.Frame, now: float, loose: list[Parcel]) -> None:
        kind = frame.kind
        if kind == wire.DONE or kind == wire.FAILED:
            job = worker.calls.popleft()
            worker.done += 1
            if job.reason == "timeout":
                self._settle(job, _timeout_error(job))
            else:
                self._settle(job, (frame, worker.pid))
            if worker.calls:
                self._begin(worker, now)
        elif kind == wire.REPORT:
            if worker.calls and not worker.calls[0].reason:
                job = worker.calls[0]
                self._deliver(job.loop, job.context.run, job.on_report, _parcel(frame))
        elif kind == wire.LOG:
            if worker.calls and frame.seq:
                job = worker.calls[0]
                self._deliver(job.loop, job.context.run, self._on_log, _parcel(frame))
            else:
                loose.append(_parcel(frame))  # logged between calls: by a thread that a body left behind
        elif kind == wire.STARTED:
            job = worker.calls[0]
            if job.timeout is not None and not job.reason:
                job.since, job.deadline = now, now + job.timeout
                self._due(job.deadline)
        elif kind == wire.READY:
            worker.ready = True
            if worker.calls:
                self._begin(worker, now)
        elif kind == wire.RETURNED:
            self._take_back(worker, frame.seq, wire.read_number(frame.parts[0]), now)

    def _take_back(self, worker: WorkerProcess, first: int, last: int, now: float) -> None:
        back = [job for job in worker.calls if first <= job.seq <= last]
        for job in reversed(back):
            worker.calls.remove(job)
            self._put_back(job)
        if worker.calls and worker.calls[0].reason and not worker.ending:
            self._interrupt(worker, now)

    def _put_back(self, job: Job) -> None:
        """A job that had not begun waits again, before all others."""
        job.worker = None
        if job.reason:
            self._settle(job, None)
        elif self._ends_at is not None:
            self._settle(job, _stopped_error(job.name))
        else:
            self._queue.appendleft(job)

    def _lose(self, worker: WorkerProcess) -> None:
        """The worker is dead or dying: see to it that it is, and whatever it started."""
        worker.kill()
        if worker in self._workers:
            self._workers.remove(worker)
            self._dying.append(worker)
            self._wake()

    # --- the keeper thread ---

    def _keep(self) -> None:
        over = False
        while not over:
            with self._lock:
                self._sleeps_until = self._next_time()
                pause = None if self._sleeps_until == _NEVER else max(0.0, self._sleeps_until - monotonic())
            ready = self._selector.select(pause)
            with self._lock:
                self._sleeps_until = 0.0
                now = monotonic()
                for key, _ in ready:
                    self._attend(key)
                self._watch_times(now)
                self._send_rest()
                self._reap(now)
                self._fill(now)
                over = self._ends_at is not None and not self._workers and not self._dying
                missing = 0 if over else self._missing()
            for _ in range(missing):
                self._start_worker()
        self._release()

    def _next_time(self) -> float:
        """When something falls due by itself."""
        times = [worker.check_at for worker in self._dying]
        if self._ends_at is not None:
            times.append(self._ends_at)
        for worker in self._workers:
            if worker.calls:
                job = worker.calls[0]
                if job.deadline is not None:
                    times.append(job.deadline)
                if worker.calls[-1].seq > max(worker.recalled, job.seq):
                    times.append(job.since + PATIENCE)
        return min(times, default=_NEVER)

    def _attend(self, key: selectors.SelectorKey) -> None:
        if key.data is None:
            try:
                self._woken_end.recv(4096)
            except OSError:
                pass
        elif key.fd == key.data.exit_fd:
            # It is dead. If a child that it forked holds the stream open, its reader would wait for ever.
            self._selector.unregister(key.fd)
            key.data.end_reading()
        else:
            key.data.flush()

    def _send_rest(self) -> None:
        """Watch for room in the sockets that were full."""
        watched = {key.data for key in self._selector.get_map().values() if key.events == selectors.EVENT_WRITE}
        for worker in self._workers:
            if worker.unsent and worker not in watched:
                self._selector.register(worker.sock, selectors.EVENT_WRITE, worker)
            elif not worker.unsent and worker in watched:
                self._selector.unregister(worker.sock)

    def _watch_times(self, now: float) -> None:
        if self._forgotten and self._ends_at is None:
            self._begin_closing(now + AT_EXIT)
        closing = self._ends_at is not None and now >= self._ends_at
        for worker in self._workers:
            if closing:
                worker.kill()
            if not worker.calls:
                continue
            job = worker.calls[0]
            if job.deadline is not None and now >= job.deadline:
                if job.reason:
                    worker.kill()
                    job.deadline = None
                else:
                    job.reason = "timeout"
                    self._interrupt(worker, now)
            elif worker.calls[-1].seq > max(worker.recalled, job.seq) and now - job.since >= PATIENCE:
                self._recall(worker)
        if closing:
            self._ends_at = now + 1.0  # killed is not yet gone

    def _missing(self) -> int:
        room = self._capacity - len(self._workers) - len(self._dying)
        return min(room, len(self._queue))

    def _start_worker(self) -> None:
        try:
            worker = WorkerProcess(self._read)
        except OSError as error:
            with self._lock:
                if self._queue:
                    job = self._queue.popleft()
                    self._settle(job, _no_start_error(job, error))
            return
        with self._lock:
            self._workers.append(worker)
            if worker.exit_fd is not None:
                self._selector.register(worker.exit_fd, selectors.EVENT_READ, worker)
            if self._ends_at is not None:
                self._end(worker)
            else:
                self._fill(monotonic())
        worker.thread.start()

    def _reap(self, now: float) -> None:
        for worker in [worker for worker in self._dying if worker.is_gone(now)]:
            self._dying.remove(worker)
            for key in list(self._selector.get_map().values()):
                if key.data is worker:
                    self._selector.unregister(key.fileobj)
            worker.close()
            first = worker.calls.popleft() if worker.calls else None
            for job in reversed(worker.calls):
                self._put_back(job)
            if first is not None:
                self._settle_lost(first, worker)

    def _settle_lost(self, job: Job, worker: WorkerProcess) -> None:
        code = worker.process.returncode
        if job.reason == "cancel":
            self._settle(job, None)
        elif job.reason == "timeout":
            self._settle(job, _timeout_error(job))
        elif self._ends_at is not None:
            self._settle(job, _stopped_error(job.name))
        else:
            self._deliver(job.loop, self._on_lost, job.name, code)
            self._settle(job, _broken_error(job, worker.pid, code, started=worker.ready))

    # --- the end ---

    def _begin_closing(self, ends_at: float) -> None:
        if self._ends_at is not None:
            self._ends_at = min(self._ends_at, ends_at)
            return
        self._ends_at = ends_at
        while self._queue:
            job = self._queue.popleft()
            self._settle(job, _stopped_error(job.name))
        for worker in self._workers:
            if not worker.ending:
                self._end(worker)

    @staticmethod
    def _end(worker: WorkerProcess) -> None:
        worker.ending = True
        worker.order(wire.STOP, 0)
        worker.post(wire.END, 0, [])

    def _release(self) -> None:
        self._selector.close()
        self._wake_end.close()
        self._woken_end.close()
        atexit.unregister(self._exit_hook)
        self._closed.set_result(None)

    def join(self, seconds: float) -> None:
        """Wait for the keeper to end."""
        if self._keeper is not None:
            self._keeper.join(seconds)


def _at_exit(ref: weakref.ref[Pool]) -> None:
    pool = ref()
    if pool is not None and pool.pid == os.getpid():
        pool.close(AT_EXIT)
        pool.join(AT_EXIT + 2.0)


# --- what runs on the loops that wait --------------------------------------------------------------------------------


class Mailbox:
    """What is to be done on one loop. While it is busy, things gather here and go there in one call."""

    __slots__ = ("_items", "_loop", "_posted")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._items: deque[Delivery] = deque()
        self._posted = False

    def put(self, function: Callable[..., None], args: tuple[Any, ...]) -> None:
        """Have a function called on the loop."""
        self._items.append((function, args))
        if not self._posted:
            self._posted = True
            loop = self._loop()
            try:
                if loop is not None:
                    loop.call_soon_threadsafe(self._run)
            except RuntimeError:  # the loop was closed: nobody waits there any more
                self._items.clear()

    def _run(self) -> None:
        self._posted = False  # first: what comes from now on may not be seen below
        items = self._items
        while items:
            function, args = items.popleft()
            _guarded(function, args)


def _guarded(function: Callable[..., None], args: tuple[Any, ...]) -> None:
    try:
        function(*args)
    except Exception:
        log.exception("what listens to worker processes failed")


def _finish(future: asyncio.Future[Any], answer: Any) -> None:
    if not future.done():
        future.set_result(answer)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)


def _parcel(frame: wire.Frame) -> Parcel:
    return Parcel(frame.parts[0], frame.parts[1:], bool(frame.flags & wire.PLAIN))


# --- errors ----------------------------------------------------------------------------------------------------------


def _timeout_error(job: Job) -> CallTimeout:
    assert job.timeout is not None
    return CallTimeout(
        f"process {job.name!r} took longer than its timeout of {job.timeout:g} s and was stopped; "
        "nothing of it was committed. Raise timeout=, or add retries= if another attempt may be quicker.",
        process=job.name,
        timeout=job.timeout,
    )


def _stopped_error(process: str) -> EnvironmentBroken:
    return EnvironmentBroken(
        f"process {process!r} did not come to its end in a worker process: the engine was closed. "
        "Nothing of it was committed.",
        environment="worker",
        process=process,
    )


def _no_start_error(job: Job, error: OSError) -> EnvironmentBroken:
    return EnvironmentBroken(
        f"process {job.name!r} did not run: a worker process could not be started ({error}). "
        "The limits of processes, open files or memory may be reached.",
        environment="worker",
        process=job.name,
    )


def _broken_error(job: Job, pid: int, code: int, *, started: bool) -> EnvironmentBroken:
    return EnvironmentBroken(
        f"process {job.name!r} was lost: its worker process {pid} "
        + (f"died ({_how(code)})" if started else f"ended before it was ready ({_how(code)}); see what it printed")
        + ". Nothing of it was committed, but the call may have run in part: only a process with idempotent=True "
        "and retries= is tried again.",
        environment="worker",
        process=job.name,
        exit_code=code,
    )


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}: something in it called os._exit, or a library did"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    likely = {
        "SIGKILL": "the system ran out of memory and killed it, or somebody did",
        "SIGSEGV": "a crash in compiled code",
        "SIGBUS": "a crash in compiled code, or a mapped file that was cut",
        "SIGABRT": "compiled code gave up",
        "SIGFPE": "a crash in compiled code",
        "SIGILL": "a crash in compiled code, perhaps made for another processor",
        "SIGTERM": "somebody ended it",
        "SIGXCPU": "a limit of CPU time",
    }.get(name)
    return f"{name}: {likely}" if likely else name
