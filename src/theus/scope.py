"""Lifetimes: what a call keeps for itself, and for how long.

``local`` lives one attempt of one call. It starts empty and is closed and emptied at the end whatever
happens: first what was entered with ``enter``/``aenter`` closes, in reverse order, then every value goes.
Closing swaps the object's class, so that the check "is it still open?" costs nothing while it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from theus.errors import ScopeError

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

T = TypeVar("T")


class Local:
    """Private values of one attempt, as attributes: ``ctx.local.rows = [...]``."""

    __slots__ = ("__dict__", "__weakref__", "_owner", "_stack")
    _owner: str
    _stack: Any  #: what was entered: an ExitStack, in an async def an AsyncExitStack

    def __init__(self, owner: str, *, is_async: bool) -> None:
        self._owner = owner
        self._stack = None
        if is_async:
            from contextlib import AsyncExitStack  # here: a new worker has no use for it

            self._stack = AsyncExitStack()

    if TYPE_CHECKING:  # any name can be set

        def __setattr__(self, name: str, value: Any) -> None: ...

    def __getattr__(self, name: str) -> Any:
        kept = ", ".join(sorted(self.__dict__)) or "nothing"
        raise AttributeError(
            f"ctx.local has no {name!r} in process {self._owner!r}; it holds {kept}. "
            "It starts empty at each attempt; what should last belongs in ctx.domain."
        )

    def enter(self, manager: AbstractContextManager[T]) -> T:
        """Enter a context manager that closes with this call; gives what it gives."""
        if self._stack is None:
            from contextlib import ExitStack

            self._stack = ExitStack()
        entered: T = self._stack.enter_context(manager)
        return entered

    async def aenter(self, manager: AbstractAsyncContextManager[T]) -> T:
        """Enter an asynchronous context manager that closes with this call; for ``async def`` processes."""
        if not hasattr(self._stack, "enter_async_context"):
            raise TypeError(f"process {self._owner!r} is def: use ctx.local.enter(...), or make it async def.")
        entered: T = await self._stack.enter_async_context(manager)
        return entered

    def __repr__(self) -> str:
        return f"<local of {self._owner}: {', '.join(sorted(self.__dict__)) or 'empty'}>"


class _EndedLocal(Local):
    """What a ``local`` becomes at its end: every use says so."""

    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        if name in ("__class__", "__dict__", "__weakref__"):
            return object.__getattribute__(self, name)
        raise _ended(self)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise _ended(self)

    def __delattr__(self, name: str) -> NoReturn:
        raise _ended(self)

    def __repr__(self) -> str:
        return f"<local of {object.__getattribute__(self, '_owner')}: ended>"


def _ended(local: Local) -> ScopeError:
    owner = object.__getattribute__(local, "_owner")
    return ScopeError(
        f"ctx.local of process {owner!r} was used after its attempt ended; it is empty by then. "
        "Return the value to hand it to the next step, or keep it in ctx.domain.",
        scope="local",
        process=owner,
    )


def close_local(local: Local, error: BaseException | None) -> None:
    """End a ``local`` of a ``def``. Raises what closing raises; what was entered sees ``error``."""
    try:
        stack = local._stack
        if stack is not None:
            stack.__exit__(type(error) if error is not None else None, error, error.__traceback__ if error else None)
    finally:
        _end(local)


async def aclose_local(local: Local, error: BaseException | None) -> None:
    """End a ``local`` of an ``async def``. Raises what closing raises; what was entered sees ``error``."""
    try:
        stack = local._stack
        await stack.__aexit__(type(error) if error is not None else None, error, error.__traceback__ if error else None)
    finally:
        _end(local)


def _end(local: Local) -> None:
    local._stack = None
    local.__dict__.clear()
    local.__class__ = _EndedLocal
