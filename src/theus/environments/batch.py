"""Many short calls of one process, made at once: packed once, sent in one frame, each answered for itself.

Each is a job of its own in the pool, with its own number in its worker. So what holds for a call holds for each of them:
it is placed, called back and stopped by itself, and a worker that dies takes down only the one that ran.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

    from theus.environments.job import Job


class Batch:
    """Calls that wait for their answers. ``take``: is given each job and its answer, and gives whether to go on."""

    def __init__(self, over: asyncio.Future[None], take: Callable[[int, Job, Any], bool]) -> None:
        self.over = over  #: done when all are answered, or nobody wants the rest
        self.jobs: dict[int, Job] = {}  #: those not answered, by their place in the batch
        self._take = take

    def answered(self, place: int, answer: Any) -> None:
        """A call has ended."""
        go_on = self._take(place, self.jobs.pop(place), answer)
        if not (go_on and self.jobs) and not self.over.done():
            self.over.set_result(None)


class Answer:
    """Where the answer to one call of a batch goes: what a future is to a single call."""

    __slots__ = ("_batch", "_is_done", "_place")

    def __init__(self, batch: Batch, place: int) -> None:
        self._batch = batch
        self._place = place
        self._is_done = False

    def done(self) -> bool:
        """Whether it has come."""
        return self._is_done

    def set_result(self, answer: Any) -> None:
        """It has come."""
        self._is_done = True
        self._batch.answered(self._place, answer)

    set_exception = set_result  #: an error is an answer like others
