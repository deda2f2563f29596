"""The far side's book: what this worker was told."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from types import FunctionType
from typing import TYPE_CHECKING, Any

from theus.environments.parcel import FAULTS, Opener, Parcel, open_parcel, pack_parcel

if TYPE_CHECKING:
    from theus.environments.blocks import Placer


class FarBook:
    """The definitions that this worker was told."""

    def __init__(self, variable: Callable[[ContextVar[Any]], tuple[str, str] | None]) -> None:
        self.variable = variable
        self._objects: dict[int, Any] = {}
        self._tokens: dict[int, int] = {}
        self._bodies: dict[int, bytes] = {}

    def learn(self, definitions: Iterable[tuple[int, bytes]], dropped: Iterable[int]) -> None:
        """Take new and changed definitions in. Those that fail are kept and fail again when they are used."""
        for token in dropped:
            self._bodies.pop(token, None)
            self._tokens.pop(id(self._objects.pop(token, None)), None)
        told = list(definitions)
        self._bodies.update(told)
        for token, _ in told:
            if token in self._bodies:
                self._load(token)

    def reference(self, value: Any) -> int | None:
        """The token of a definition, if it came from the near side."""
        return self._tokens.get(id(value))

    def global_token(self, module: str, name: str) -> None:
        """Globals are not sent back: the near side's own are never overwritten."""

    def setting_tokens(self, function: Any) -> Sequence[int]:
        """Nor are the constants of modules."""
        return ()

    def resolve(self, token: int) -> Any:
        """The object of that token."""
        return self._load(token) if token in self._bodies else self._objects[token]

    def make(self, token: int, constructor: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Make an empty definition and know it, so that what it refers to can refer back; a known one is kept."""
        value = self._objects.get(token)
        if value is None:
            value = constructor(*args)
            self._know(token, value)
        elif isinstance(value, FunctionType) and value.__code__ != args[0]:
            value.__code__ = args[0]
        return value

    def pack(self, value: Any, placer: Placer | None = None) -> Parcel:
        """Pickle a value; with a placer what is big goes beside the pickle. Raises whatever pickling it raises."""
        try:
            return pack_parcel(value, self, placer=placer)[1]
        except FAULTS:
            return pack_parcel(value, self, by_value=True, placer=placer)[1]

    def open(self, parcel: Parcel) -> Any:
        """Unpickle what the near side sent."""
        return open_parcel(parcel, self)

    def _know(self, token: int, value: Any) -> None:
        self._objects[token] = value
        self._tokens[id(value)] = token

    def _load(self, token: int) -> Any:
        body = self._bodies.pop(token)  # before it is opened: what it refers to may refer back to it
        try:
            value = Opener(io.BytesIO(body), self).load()
        except BaseException:
            self._bodies[token] = body  # what is half made must not pass for the whole
            raise
        self._know(token, value)
        return value
