"""Who hears of a store's commits."""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Lock

from theus.protocols import Committed

log = logging.getLogger("theus")


class Listeners:
    """The listeners of one store. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self.all: tuple[Callable[[Committed], None], ...] = ()

    def add(self, listener: Callable[[Committed], None]) -> Callable[[], None]:
        """Let it hear of each commit from now on; gives how to end that."""
        with self._lock:
            self.all = (*self.all, listener)

        def end() -> None:
            with self._lock:
                self.all = tuple(other for other in self.all if other is not listener)

        return end

    def tell(self, committed: Committed) -> None:
        """A commit is made. What a listener raises is logged: it cannot undo it."""
        for listener in self.all:
            try:
                listener(committed)
            except Exception:
                log.exception("a listener failed on version %d", committed.version)
