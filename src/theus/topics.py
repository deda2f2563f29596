"""Topics: who wants to hear what processes emit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from theus.errors import DefinitionError
from theus.portal import Portal

log = logging.getLogger("theus")


class Topics:
    """The handlers of one engine's emits, in the order in which they came."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal
        self._handlers: dict[str, list[Callable[[Any], Any]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def on(self, topic: str, handler: Callable[[Any], Any]) -> None:
        """Call ``handler`` with each value of a topic."""
        if not callable(handler):
            raise DefinitionError(f"engine.on({topic!r}, ...) takes a function of the value, not {handler!r}.")
        self._handlers.setdefault(topic, []).append(handler)

    def deliver(self, topic: str, value: Any) -> None:
        """Hand a value on. Its commit is made: what a handler raises is logged, not raised."""
        for handler in self._handlers.get(topic, ()):
            try:
                answer = handler(value)
            except Exception:
                log.exception("a handler of %r failed", topic)
            else:
                if isinstance(answer, Coroutine):
                    self._finish(answer)

    def _finish(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run an ``async def`` handler on the loop that is here, or on the engine's own."""
        loop = asyncio._get_running_loop()
        if loop is None:
            self._portal.spawn(_logged(work))
        else:
            task = loop.create_task(_logged(work))
            self._tasks.add(task)  # a loop keeps only weak references to its tasks
            task.add_done_callback(self._tasks.discard)


async def _logged(work: Coroutine[Any, Any, Any]) -> None:
    try:
        await work
    except Exception:
        log.exception("a handler failed")
