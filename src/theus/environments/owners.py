"""Who reads what a worker says: the loop that used it last, its *owner*, so that an answer wakes one thread, not two.

A thread that reads for all made a call 1.4 times dearer. But a loop can be busy or closed. So where a call of another loop
is in that worker or waits for one, the keeper reads as well, whoever comes first; and before it acts on a time that
fell due, it looks whether there is an answer.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from theus.environments.mailbox import do_all

if TYPE_CHECKING:
    from theus.environments.job import Job
    from theus.environments.keeper import Keeper
    from theus.environments.peer import Peer
    from theus.environments.pool import Pool

_running_loop = asyncio._get_running_loop  # None where there is none


class Owners:
    """Decides who reads. What is not marked is called under the pool's lock."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def choose(self, keeper: Keeper, worker: Peer, job: Job) -> None:
        """The worker was sent a call: its loop takes the worker over if it can, or the keeper reads too."""
        owner = worker.owner
        loop = job.loop
        alone = len(worker.calls) == 1
        if owner is loop:
            if alone and worker.watched:
                keeper.unwatch(worker)
        elif alone and (owner is None or owner.is_closed()) and _running_loop() is loop:
            try:
                loop.add_reader(worker.sock.fileno(), self._read_on, loop, worker)
            except NotImplementedError:  # Windows' usual loop
                keeper.watch(worker)
            else:
                worker.owner = loop
                keeper.unwatch(worker)
        else:
            keeper.watch(worker)

    def _read_on(self, loop: asyncio.AbstractEventLoop, worker: Peer) -> None:
        """On the owner, without the lock: there is something to read."""
        pool = self._pool
        post = pool.post
        with pool.lock:
            post.begin_reading(loop)
            try:
                pool.pull(worker)
            finally:
                to_do = post.end_reading()
            loose = post.take_loose()
            if worker not in pool.workers:
                self._let_go(worker)
        do_all(to_do)
        do_all(loose)

    def part(self, worker: Peer) -> None:
        """The worker has been reaped: have its socket closed where nobody reads it any more."""
        owner = worker.owner
        if owner is not None and owner.is_running():
            self._pool.post.mailbox(owner).put(self._let_go_on, worker)
        else:  # closed, or standing still: then nobody else uses its selector now
            self._let_go(worker)

    def _let_go_on(self, worker: Peer) -> None:
        """On the owner, without the lock."""
        with self._pool.lock:
            self._let_go(worker)

    def _let_go(self, worker: Peer) -> None:
        owner = worker.owner
        if owner is not None:
            worker.owner = None
            if not owner.is_closed():
                owner.remove_reader(worker.sock.fileno())
        if worker not in self._pool.dying:
            worker.sock.close()
