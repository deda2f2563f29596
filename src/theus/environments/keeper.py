"""The keeper: the one thread of a pool. It does what is rare, and waits for it in one selector.

It starts the workers, watches times, reads and sends where no loop does, and buries the dead.
"""

from __future__ import annotations

import logging
import selectors
import socket
import threading
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING

from theus.environments.forked_process import STARTING, Template

if TYPE_CHECKING:
    from theus.environments.peer import Peer
    from theus.environments.pool import Pool

PATIENCE = 0.01  #: seconds after which calls are taken back from behind one that was expected to be short
AT_EXIT = 0.25  #: seconds that calls still running have when the program ends
_NEVER = float("inf")
log = logging.getLogger("theus.environments")


class Keeper:
    """A thread that lives as long as the workers. What is not marked is called under the pool's lock."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._selector = selectors.DefaultSelector()
        self._wake_end, self._woken_end = socket.socketpair()
        self._wake_end.setblocking(False)
        self._woken_end.setblocking(False)
        self._selector.register(self._woken_end, selectors.EVENT_READ)
        self._sleeps_until = 0.0
        # A daemon, because Python waits for other threads before it calls what was registered for its exit.
        self._thread = threading.Thread(target=self._run, name="theus-workers", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Have it look at everything. From anywhere, without the lock."""
        try:
            self._wake_end.send(b"\0")
        except OSError:  # full: it is about to wake up anyway; closed: there is nobody to wake
            pass

    def due(self, moment: float) -> None:
        """Have it look at that moment."""
        if moment < self._sleeps_until:
            self._sleeps_until = moment
            self.wake()

    def watch(self, worker: Peer) -> None:
        """Read for this worker, too."""
        if not worker.watched and worker in self._pool.workers:
            worker.watched = True
            self._select(worker)

    def unwatch(self, worker: Peer) -> None:
        """Its owner alone reads, if the death of the process is seen without reading."""
        if worker.watched and worker.exit_fd is not None:
            worker.watched = False
            self._select(worker)

    def drop(self, worker: Peer) -> None:
        """It is dead: see to its end."""
        worker.watched = False
        worker.unsent = []
        self._select(worker)
        self.wake()

    def _select(self, worker: Peer) -> None:
        events = worker.watched * selectors.EVENT_READ | bool(worker.unsent) * selectors.EVENT_WRITE
        if events == worker.events:
            return
        if not worker.events:
            self._selector.register(worker.sock, events, worker)
        elif events:
            self._selector.modify(worker.sock, events, worker)
        else:
            self._selector.unregister(worker.sock)
        worker.events = events
        if not isinstance(self._selector, _LIVE):
            self.wake()

    def join(self, seconds: float) -> None:
        """Wait for the end. Without the lock."""
        self._thread.join(seconds)

    def close(self) -> None:
        """Close what it waits with."""
        self._selector.close()
        self._wake_end.close()
        self._woken_end.close()

    # --- the thread ---

    def _run(self) -> None:
        try:
            while not self._round():
                pass
        except Exception:  # a fault of ours; nobody may wait for ever because of it
            log.exception("the keeper of workers failed; they are ended")
            with self._pool.lock:
                self._pool.give_up()
        self.close()
        self._pool.release()

    def _round(self) -> bool:
        """Wait for something to do and do it. Gives whether all is over."""
        pool = self._pool
        with pool.lock:
            for template in pool.templates.alive:
                if template.exit_fd is not None and template.exit_fd not in self._selector.get_map():
                    self._selector.register(template.exit_fd, selectors.EVENT_READ, template)
            self._sleeps_until = self._next_time()
            pause = None if self._sleeps_until == _NEVER else max(0.0, self._sleeps_until - monotonic())
        ready = self._selector.select(pause)
        with pool.lock:
            self._sleeps_until = 0.0
            for key, events in ready:
                self._attend(key, events)
            now = monotonic()
            self._watch_times(now)
            for worker in pool.workers:
                self._select(worker)  # what is unsent may have changed
            self._reap(now)
            pool.tidy()
            pool.fill(now)
            workers = len(pool.workers) + len(pool.dying) + len(pool.starting)
            if pool.ends_at is not None and not workers and pool.templates.end(now):
                return True
            room = max(0, pool.capacity - workers)
            missing = min(room, sum(job.left for job in islice(pool.queue, room)))
        pool.handle_loose()
        for _ in range(missing):
            self._start_worker()
        return False

    def _next_time(self) -> float:
        """When something falls due by itself."""
        pool = self._pool
        times = [worker.check_at for worker in pool.dying]
        times += [worker.check_at for worker in pool.starting]
        times += [moment for moment in (pool.ends_at, pool.templates.ends_at) if moment is not None]
        for worker in pool.workers:
            if worker.calls:
                job = worker.calls[0]
                if job.deadline is not None:
                    times.append(job.deadline)
                if worker.calls[-1].last > max(worker.recalled, job.seq):
                    times.append(job.since + PATIENCE)
        return min(times, default=_NEVER)

    def _attend(self, key: selectors.SelectorKey, events: int) -> None:
        worker: Peer | Template | None = key.data
        if worker is None:
            try:
                self._woken_end.recv(4096)
            except OSError:
                pass
        elif isinstance(worker, Template):
            if worker.is_gone():
                self._selector.unregister(key.fd)
                self._pool.templates.bury(worker)
        elif worker in self._pool.starting:
            self._end_start(worker, worker.failed_to_start())
        elif key.fd == worker.exit_fd:
            self._selector.unregister(key.fd)
            worker.close_exit_fd()
            self._pool.pull(worker, to_the_end=True)
        else:
            if events & selectors.EVENT_WRITE:
                worker.flush()
            if events & selectors.EVENT_READ:
                self._pool.pull(worker)

    def _watch_times(self, now: float) -> None:
        pool = self._pool
        if pool.forgotten and pool.ends_at is None:
            pool.begin_closing(now + AT_EXIT)
        closing = pool.ends_at is not None and now >= pool.ends_at
        if closing and not pool.workers:  # what is still there waits for its template to reap it
            pool.templates.kill()
        for worker in list(pool.starting):
            if pool.ends_at is not None:
                self._end_start(worker, "it is not needed")
            elif now >= worker.check_at:
                self._end_start(worker, f"it has not answered for {STARTING:g} s")
        for worker in list(pool.workers):
            if closing:
                worker.kill()
            if not self._is_late(worker, now):
                continue
            pool.pull(worker)  # its owner may have been too busy to read the answer
            if worker in pool.workers and self._is_late(worker, now):
                job = worker.calls[0]
                if job.deadline is None or now < job.deadline:
                    pool.recall(worker)
                elif job.reason:
                    worker.kill()
                    job.deadline = None
                else:
                    job.reason = "timeout"
                    pool.interrupt(worker, now)
        if closing:
            pool.ends_at = now + 1.0  # killed is not yet gone

    @staticmethod
    def _is_late(worker: Peer, now: float) -> bool:
        if not worker.calls:
            return False
        job = worker.calls[0]
        return (job.deadline is not None and now >= job.deadline) or (
            worker.calls[-1].last > max(worker.recalled, job.seq) and now - job.since >= PATIENCE
        )

    def _start_worker(self) -> None:
        pool = self._pool
        try:
            worker = pool.new_worker()
        except OSError as error:
            with pool.lock:
                pool.fail_first(error)
            return
        with pool.lock:
            if worker.carrier.start_fd is None:
                self._take_on(worker)
            else:
                worker.check_at = monotonic() + STARTING
                pool.starting.append(worker)
                self._selector.register(worker.carrier.start_fd, selectors.EVENT_READ, worker)

    def _end_start(self, worker: Peer, failure: str) -> None:
        """A worker that was asked of a template is there, or is not."""
        pool = self._pool
        pool.starting.remove(worker)
        assert worker.carrier.start_fd is not None
        self._selector.unregister(worker.carrier.start_fd)
        if failure:
            worker.disown()
            pool.templates.give_up(failure)
        else:
            self._take_on(worker)

    def _take_on(self, worker: Peer) -> None:
        """It has been started."""
        pool = self._pool
        pool.workers.append(worker)
        if worker.exit_fd is not None:
            self._selector.register(worker.exit_fd, selectors.EVENT_READ, worker)
        self.watch(worker)
        if pool.ends_at is not None:
            worker.end(0)
        else:
            pool.fill(monotonic())

    def _reap(self, now: float) -> None:
        for worker in [worker for worker in self._pool.dying if worker.is_gone(now)]:
            if worker.exit_fd is not None:
                self._selector.unregister(worker.exit_fd)
                worker.close_exit_fd()
            self._pool.bury(worker)


_LIVE = tuple(
    kind for name in ("EpollSelector", "KqueueSelector") if (kind := getattr(selectors, name, None)) is not None
)  # these notice what is registered while they wait
