"""Resources: one instance for each engine and loop, made when first asked for, closed where it lives.

An HTTP client or a connection pool belongs to the event loop it was made on, so each loop gets its own; a
``def`` process in a thread shares the one that belongs to no loop. (A worker process makes its own, too.)
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import threading
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

from theus.errors import DefinitionError, closest

log = logging.getLogger("theus")


class Resources:
    """The resources of one engine. Safe to use from any thread and loop."""

    def __init__(self, factories: Mapping[str, Callable[[], Any]]) -> None:
        for name, factory in factories.items():
            if not callable(factory):
                raise DefinitionError(
                    f"resources[{name!r}] is {factory!r}; give what makes it, a class or a function: "
                    f"resources={{{name!r}: make_{name}}}."
                )
        self.factories = dict(factories)
        self._lock = threading.RLock()  # a factory may ask for another resource
        self._made: dict[tuple[asyncio.AbstractEventLoop | None, str], Any] = {}
        self.made_at = -math.inf  #: when the last one was ready, by ``perf_counter``; infinite while one is being made

    def get(self, name: str, *, on_loop: bool) -> Any:
        """The instance of this loop (``on_loop``), or the one for threads."""
        key = (asyncio.get_running_loop() if on_loop else None, name)
        with self._lock:
            if key not in self._made:
                factory = self.factories.get(name)
                if factory is None:
                    close = closest(name, self.factories)
                    known = f" Did you mean {close!r}?" if close else f" It has {sorted(self.factories) or 'none'}."
                    raise DefinitionError(
                        f"the engine has no resource {name!r}.{known} Give it: Engine(resources={{{name!r}: make}})."
                    )
                self.made_at = math.inf
                try:
                    self._made[key] = factory()
                finally:
                    self.made_at = perf_counter()
            return self._made[key]

    def loops(self) -> set[asyncio.AbstractEventLoop]:
        """The loops that have instances open."""
        with self._lock:
            return {loop for loop, _ in self._made if loop is not None}

    @property
    def has_open(self) -> bool:
        """Whether anything is left to close."""
        return bool(self._made)

    async def aclose(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Close the instances of one loop (on that loop), or those for threads, last made first."""
        with self._lock:
            mine = [(key, value) for key, value in self._made.items() if key[0] is loop]
            for key, _ in mine:
                del self._made[key]
        for (_, name), value in reversed(mine):
            close = getattr(value, "aclose", None) or getattr(value, "close", None)
            if close is None:
                continue
            try:
                closing = close()
                if inspect.isawaitable(closing):
                    await closing
            except Exception:
                # One resource that fails to close must not keep the others open.
                log.exception("resource %r failed to close", name)
