"""Who reads what a worker says: the loop that used it last, its *owner*, so that an answer wakes one thread, not two.

A thread that reads for all made a call 1.4 times dearer. But a loop can be busy or closed. So where a call of another loop
is in that worker or waits for one, the keeper reads as well, whoever comes first; and before it acts on a time that
fell due, it looks whether there is an answer.

While a worker has more than enough to do, its owner rests from reading: it takes many answers at once, of all workers that
it rests from, instead of being woken for each. A loop that wakes takes a core from a worker, and what both had in that core's
caches: that is dearer than what it has to do. The answers are in the socket meanwhile, so nothing is lost with a worker that dies.
"""

from __future__ import annotations

import asyncio
import weakref
from typing import TYPE_CHECKING, NamedTuple

from theus.environments.mailbox import do_all

if TYPE_CHECKING:
    from theus.environments.keeper import Keeper
    from theus.environments.peer import Peer
    from theus.environments.pool import Pool

REST = 0.003  #: seconds
_WORTH_IT = 0.002  #: of work: a rest is half of it, and loops wait for whole milliseconds

_running_loop = asyncio._get_running_loop  # None where there is none


class Rest(NamedTuple):
    """A loop does not read what some workers say until a moment."""

    timer: asyncio.TimerHandle
    workers: list[Peer]


class Owners:
    """Decides who reads. What is not marked is called under the pool's lock."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        #: Workers from which a loop rests. Only that loop looks at its own.
        self._resting: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Rest] = weakref.WeakKeyDictionary()

    def choose(self, keeper: Keeper, worker: Peer, loop: asyncio.AbstractEventLoop, *, alone: bool) -> None:
        """The worker was sent calls of this loop: that takes the worker over if it can, or the keeper reads too.

        ``alone``: the worker has no others.
        """
        owner = worker.owner
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
                worker.rests = False
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
            elif worker.owner is loop:
                self._rest(loop, worker)
        do_all(to_do)
        do_all(loose)

    def _rest(self, loop: asyncio.AbstractEventLoop, worker: Peer) -> None:
        """Read no more for a moment if the worker is busy for longer; else read when there is something."""
        busy = worker.seconds_left()
        if busy > _WORTH_IT:
            if not worker.rests:
                loop.remove_reader(worker.sock.fileno())
                worker.rests = True
            rest = self._resting.get(loop)
            until = loop.time() + min(REST, busy / 2)  # there must be time to give it more
            if rest is None or until < rest.timer.when():
                if rest is not None:
                    rest.timer.cancel()
                rest = Rest(loop.call_at(until, self._read_again, loop), [] if rest is None else rest.workers)
                self._resting[loop] = rest
            rest.workers.append(worker)
        elif worker.rests:
            worker.rests = False
            loop.add_reader(worker.sock.fileno(), self._read_on, loop, worker)

    def _read_again(self, loop: asyncio.AbstractEventLoop) -> None:
        """On the owner, without the lock: the rest is over."""
        for worker in self._resting.pop(loop).workers:
            if worker.owner is loop:
                self._read_on(loop, worker)

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
            worker.rests = False
            if not owner.is_closed():
                owner.remove_reader(worker.sock.fileno())
        if worker not in self._pool.dying:
            worker.sock.close()
