"""What a call in a worker may ask of its engine: the wire answers, or this worker itself."""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from theus.environments import wire
from theus.environments.faults import culprit
from theus.environments.parcel import FAULTS, Parcel
from theus.errors import DefinitionError, NotTransferable

if TYPE_CHECKING:
    import asyncio

    from theus.calls import Call
    from theus.environments.far_blocks import FarBlocks
    from theus.environments.far_book import FarBook
    from theus.environments.far_control import Control


class FarHost:
    """The host of the calls in one worker, and the owner of its resources and its loop."""

    def __init__(self, line: wire.Line, book: FarBook, control: Control, blocks: FarBlocks) -> None:
        self.factories: dict[str, Parcel | str] = {}  #: how to make each resource, or why that is not known here
        self._line = line
        self._book = book
        self._control = control
        self._blocks = blocks
        self._making = threading.RLock()  # a factory may ask for another resource
        self._resources: dict[str, Any] = {}
        self._runner: asyncio.Runner | None = None

    def report(self, call: Call, value: Any) -> None:
        """Send a live value at once."""
        try:
            parcel = self._book.pack(value, self._blocks)
        except FAULTS as error:
            what = culprit(value, "the reported value", self._book.pack)
            raise NotTransferable(
                f"process {call.process.name!r} reported what cannot leave its worker: {what}. "
                "Report text, numbers or plain containers.",
                process=call.process.name,
                what=what,
            ) from error
        self._blocks.send(self._line, wire.REPORT, self._control.running, parcel)

    def resource(self, name: str) -> Any:
        """The instance of this worker, made at first use."""
        with self._making:
            if name not in self._resources:
                self._resources[name] = self._make(name)
            return self._resources[name]

    def _make(self, name: str) -> Any:
        factory = self.factories.get(name)
        if factory is None:
            known = ", ".join(sorted(self.factories)) or "none"
            raise DefinitionError(
                f"the engine has no resource {name!r}; it has {known}. Give it: Engine(resources={{{name!r}: make}})."
            )
        if isinstance(factory, str):
            raise NotTransferable(
                f"resource {name!r} cannot be made in a worker: its factory does not cross ({factory}). "
                "Give a function at the top of a module that makes it.",
                process="",
                what=factory,
            )
        return self._book.open(factory)()

    async def off_loop(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a blocking function beside the running loop."""
        import asyncio

        return await asyncio.to_thread(function, *args)

    async def compute(self, call: Call, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Refused: it computes on a core of its own already."""
        raise DefinitionError(
            f"process {call.process.name!r} runs in a worker already, on a core of its own: instead of ctx.compute, "
            f"call the function itself, {getattr(function, '__name__', 'function')}(...)."
        )

    def keep(self, call: Call, key: str, value: Any) -> None:
        """Nothing: what ``ctx.once`` kept comes back with the call's outcome, and is recorded then."""

    async def sleep_until(self, call: Call, label: str, when: float) -> None:
        """Refused: nobody else could use this worker process meanwhile."""
        raise _cannot_wait(call, "sleep_until")

    async def wait_for(self, call: Call, label: str, name: str, timeout: float | None) -> Any:
        """Refused as well."""
        raise _cannot_wait(call, "wait_for")

    def block(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Let a coroutine that does not wait run."""
        return self.loop().run(work)

    def log(self, content: dict[str, Any]) -> None:
        """Send a log record, as plain values."""
        try:
            parcel = self._book.pack(content)
        except FAULTS:
            parcel = self._book.pack({key: self._plain(value) for key, value in content.items()})
        self._blocks.send(self._line, wire.LOG, self._control.running if self._control.in_body else 0, parcel)

    def _plain(self, value: Any) -> Any:
        try:
            self._book.pack(value)
        except FAULTS:
            return repr(value)
        return value

    def loop(self) -> asyncio.Runner:
        """One loop for all ``async def`` calls of this worker: resources stay bound to it."""
        if self._runner is None:
            import asyncio

            self._runner = asyncio.Runner()
        return self._runner

    def flush(self) -> None:
        """Let what was printed be seen before the call ends."""
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:  # noqa: S110 - closed, replaced or broken by the body: its own affair
                pass

    def close(self) -> None:
        """Close the resources, last made first."""
        for name, resource in reversed(self._resources.items()):
            close: Callable[[], Any] | None = getattr(resource, "aclose", None) or getattr(resource, "close", None)
            if close is None:
                continue
            try:
                closing = close()
                if inspect.isawaitable(closing):
                    self.loop().run(_await(closing))
            except Exception:
                # One resource that fails to close must not keep the others open.
                import logging

                logging.getLogger("theus").exception("resource %r failed to close", name)
        if self._runner is not None:
            self._runner.close()
        self.flush()


def _cannot_wait(call: Call, what: str) -> NotTransferable:
    return NotTransferable(
        f"process {call.process.name!r} runs in a worker process, which would be held by ctx.{what}: "
        "wait in a step before it, an async def or a def without nature='cpu'.",
        process=call.process.name,
        what=f"ctx.{what}",
    )


async def _await(value: Any) -> Any:
    return await value
