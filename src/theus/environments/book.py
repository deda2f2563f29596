"""The near side's book: what was defined in the workers, and when it has to be sent again.

A definition is up to date as long as all that it refers to (closure variables, defaults, class attributes, the value of
a global) is the same object as when it was packed. What is mutable may have changed inside: a definition that
holds some is *volatile*, packed again at each call and sent if the bytes differ. A stale copy would be a wrong result.

Weak references: a function that is forgotten here is forgotten in the workers with the next call they get.
"""

from __future__ import annotations

import pickle
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from itertools import count
from types import FunctionType
from typing import TYPE_CHECKING, Any

from theus.environments.changes import Mark, marks_of, settings_of
from theus.environments.parcel import (
    FAULTS,
    PROTOCOL,
    Global,
    Parcel,
    Setting,
    by_reference,
    home_of,
    open_parcel,
    pack_definition,
    pack_parcel,
)
from theus.processes import Process

if TYPE_CHECKING:
    from theus.environments.blocks import Placer
    from theus.environments.job import Told


class Definition:
    """Something that is sent by value, and how to notice that it changed."""

    __slots__ = ("asked", "body", "imported", "marks", "needs", "ref", "seconds", "token", "version", "volatile")

    def __init__(self, token: int, ref: weakref.ref[Any]) -> None:
        self.token = token
        self.ref = ref
        self.version = 0
        self.body: bytes | None = None
        self.needs: Sequence[int] = ()
        self.marks: Sequence[Mark] = ()
        self.volatile = False
        self.imported: Told | None = None  #: it goes by name and so never changes: what is told of it
        self.seconds: float | None = None  #: of a process: how long its calls took lately
        self.asked: Sequence[str] = ()  #: of a process: the parts of the domain that its last call came to

    def took(self, seconds: float) -> None:
        """A call of this process took so long."""
        before = self.seconds
        self.seconds = seconds if before is None else 0.7 * before + 0.3 * seconds


def told(needs: Needs) -> Told:
    """Definitions as they are now: they may change before the call is sent."""
    return [(found.token, found.version, found.body) for found in needs.values() if found.body is not None]


Needs = dict[int, Definition]  #: by token: all that the other side has to know before it can open a parcel


class Book:
    """The definitions of one environment, on the near side."""

    def __init__(self, variable: Callable[[ContextVar[Any]], tuple[str, str] | None]) -> None:
        self.variable = variable
        self._lock = threading.RLock()
        self._tokens = count(1)
        self._by_id: dict[int, Definition] = {}
        self._by_token: dict[int, Definition] = {}
        self._globals: dict[tuple[str, str], Global] = {}
        self._settings: weakref.WeakKeyDictionary[Any, tuple[Any, Sequence[int]]] = weakref.WeakKeyDictionary()
        #: Tokens whose object is gone. Filled by weak references, so in any thread and at any moment: only appended to.
        self.dropped: deque[int] = deque()

    def reference(self, value: Any) -> int:
        """The token of a definition."""
        return self._definition(value).token

    def global_token(self, module: str, name: str) -> int:
        """The token of a global of ``__main__``."""
        return self._global_token(Global, module, name)

    def setting_tokens(self, function: Any) -> Sequence[int]:
        """The tokens of the constants of imported modules that a function names."""
        function = function.fn if isinstance(function, Process) else function
        code = getattr(function, "__code__", None)
        if code is None:
            return ()
        with self._lock:
            known, tokens = self._settings.get(function, (None, ()))
            if known is not code:
                tokens = [self._global_token(Setting, module, name) for module, name in settings_of(function)]
                self._settings[function] = code, tokens
        return tokens

    def _global_token(self, kind: type[Global], module: str, name: str) -> int:
        found = self._globals.get((module, name))
        if found is None:
            found = self._globals.setdefault((module, name), kind(module, name))
        return self._definition(found).token

    def resolve(self, token: int) -> Any:
        """The object that a worker speaks of."""
        definition = self._by_token.get(token)
        value = None if definition is None else definition.ref()
        if value is None:
            raise LookupError("the function or class it was made with no longer exists here")
        return value

    def make(self, token: int, constructor: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Definitions are made on the far side only."""
        raise LookupError(f"definition {token} came from a worker")

    def seconds(self, process: Process[Any, Any]) -> float | None:
        """How long the calls of a process took lately."""
        definition = self._by_id.get(id(process))
        return None if definition is None or definition.ref() is not process else definition.seconds

    def process(self, process: Process[Any, Any]) -> tuple[Definition, Told]:
        """The definition of a process, up to date, with all that it refers to."""
        definition = self._by_id.get(id(process))
        if definition is not None and definition.imported is not None and definition.ref() is process:
            return definition, definition.imported
        needs: Needs = {}
        with self._lock:
            definition = self._fresh(process, needs)
        return definition, told(needs)

    def pack(self, value: Any, needs: Needs, placer: Placer | None = None) -> Parcel:
        """Pickle a value; what it refers to is put into ``needs``. Raises whatever pickling it raises.

        ``placer``: decides where what is big goes. None: all goes into one piece.
        """
        try:
            return self._pack(value, needs, placer, by_value=False)
        except FAULTS:
            return self._pack(value, needs, placer, by_value=True)

    def open(self, parcel: Parcel) -> Any:
        """Unpickle what a worker sent."""
        return open_parcel(parcel, self)

    def _pack(self, value: Any, needs: Needs, placer: Placer | None, *, by_value: bool) -> Parcel:
        found, parcel = pack_parcel(value, self, by_value=by_value, placer=placer)
        if found:
            with self._lock:
                for token in found:
                    self._fresh(self.resolve(token), needs)
        return parcel

    def _definition(self, value: Any) -> Definition:
        with self._lock:
            definition = self._by_id.get(id(value))
            if definition is None or definition.ref() is not value:
                token, key = next(self._tokens), id(value)

                def gone(
                    _: object, by_id: Any = self._by_id, by_token: Any = self._by_token, drop: Any = self.dropped
                ) -> None:
                    found = by_token.pop(token, None)
                    if found is not None and by_id.get(key) is found:
                        del by_id[key]
                    drop.append(token)

                definition = Definition(token, weakref.ref(value, gone))
                self._by_id[key] = self._by_token[token] = definition
            return definition

    def _fresh(self, value: Any, needs: Needs) -> Definition:
        definition = self._definition(value)
        if definition.token in needs:
            return definition
        needs[definition.token] = definition  # before those it refers to: they may refer back
        try:
            if definition.body is None or definition.volatile or any(mark.changed(value) for mark in definition.marks):
                self._build(definition, value)
            for token in definition.needs:
                other = self._by_token.get(token)
                found = None if other is None else other.ref()
                if found is not None:
                    self._fresh(found, needs)
        except BaseException:
            del needs[definition.token]  # the next try must fail at the same place
            raise
        return definition

    def _build(self, definition: Definition, value: Any) -> None:
        reference = None if isinstance(value, Global) else by_reference(value)
        if reference is not None:
            if definition.body is None:
                definition.body = pickle.dumps(_Reference(*reference), PROTOCOL)
                definition.version = 1
                definition.needs = self.setting_tokens(value)
                if not definition.needs:
                    definition.imported = [(definition.token, 1, definition.body)]
            return
        marks, volatile = marks_of(value, with_globals=isinstance(value, FunctionType) and home_of(value) is None)
        needs, body = pack_definition(value, definition.token, self)
        definition.marks, definition.volatile, definition.needs = marks, volatile, tuple(needs)
        if body != definition.body:
            definition.body = body
            definition.version += 1


class _Reference:
    """An object that the other side imports."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._reduced = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reduced
