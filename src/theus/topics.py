"""Topics: who wants to hear what processes emit."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from theus.errors import DefinitionError
from theus.portal import Portal

log = logging.getLogger("theus")

Handler = Callable[[Any, str], Any]  #: gets a value and its id


class Topics:
    """The handlers of one engine's emits, in the order in which they came."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal
        self._handlers: dict[str, list[Handler]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def on(self, topic: str, handler: Callable[..., Any]) -> None:
        """Call ``handler`` with each value of a topic, and with its id if it takes two arguments."""
        if not callable(handler):
            raise DefinitionError(f"engine.on({topic!r}, ...) takes a function of the value, not {handler!r}.")
        self._handlers.setdefault(topic, []).append(_of_two(handler))

    def handlers(self, topic: str) -> list[Handler]:
        """Who is to get the values of a topic."""
        return list(self._handlers.get(topic, ()))

    def deliver(self, emit_id: str, topic: str, value: Any) -> None:
        """Hand a value on. Its commit is made: what a handler raises is logged, not raised."""
        for handler in self._handlers.get(topic, ()):
            try:
                answer = handler(value, emit_id)
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


def _of_two(handler: Callable[..., Any]) -> Handler:
    """The handler as a function of value and id; one that does not ask for two arguments gets the value only."""
    try:
        parameters = inspect.signature(handler).parameters.values()
    except (ValueError, TypeError):  # a builtin that does not tell
        parameters = {}.values()
    places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if sum(p.kind in places and p.default is p.empty for p in parameters) == 2:
        return handler
    return lambda value, _: handler(value)


async def _logged(work: Coroutine[Any, Any, Any]) -> None:
    try:
        await work
    except Exception:
        log.exception("a handler failed")
