"""A store named on the command line, opened without the user's code or with the types that it gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from theus import DefinitionError, Engine
from theus.cli.codes import FAILED, OK
from theus.cli.run import wrong
from theus.cli.target import UsageError, find_types
from theus.errors import StoreError
from theus.state.access import Ops
from theus.stores import driver_of
from theus.stores.codec import Codec
from theus.stores.replica import Replica

T = TypeVar("T")


class Blind(Codec):
    """For who looks at records only: the state and its changes are passed over, so no types are needed."""

    def __init__(self) -> None:
        super().__init__(Any)

    def decode_state(self, data: bytes) -> Any:
        return {}

    def decode_ops(self, data: bytes) -> Ops:
        return [("set", (), {})]

    def encode_state(self, root: Any) -> bytes:
        raise StoreError("who does not know the state keeps no snapshot of it")


class Untyped(Codec):
    """For who only looks at the state: as plain values, whatever they are declared as."""

    def __init__(self) -> None:
        super().__init__(Any)

    def decode_state(self, data: bytes) -> Any:
        return _untyped(super().decode_state, data)

    def decode_ops(self, data: bytes) -> Ops:
        return _untyped(super().decode_ops, data)

    def encode_state(self, root: Any) -> bytes:
        raise StoreError("who does not know the types keeps no snapshot of the state")


def _untyped(decode: Callable[[bytes], T], data: bytes) -> T:
    try:
        return decode(data)
    except StoreError as failure:
        raise _types_needed(failure) from None


def guarded(work: Callable[[], None]) -> int:
    """Do it, and say in words what the store or a definition does not allow; gives the exit code."""
    console = Console(stderr=True, highlight=False)
    try:
        work()
    except DefinitionError as error:
        return wrong(console, error)
    except StoreError as error:
        console.print(f"theus: {error}", markup=False, soft_wrap=True)
        return FAILED
    return OK


def open_blind(url: str) -> Replica:
    """The store, for its records."""
    return _open(url, Blind(), None)


def open_engine(url: str, types: str | None) -> Engine[Any]:
    """An engine on the store, with the types that a module gives; without, with plain values to look at."""
    if types is not None:
        store = open_typed(url, types)
        if (pending := store.pending()) is not None:
            store.close()
            raise UsageError(
                f"{url} was stored as version {pending.old}, the class is of version {pending.new}: "
                f"theus state migrate {url} --types {types}"
            )
        return Engine(store=store)
    store = _open(url, Untyped(), None)
    try:
        store.open()
    except (AttributeError, TypeError, LookupError) as failure:  # a change does not fit what the state seems to be
        store.close()
        raise _types_needed(failure) from None
    return Engine(store=store)


def _types_needed(failure: Exception) -> UsageError:
    return UsageError(
        f"the store holds what only the class of its domain tells apart ({failure}): --types module:engine or module:Class"
    )


def open_typed(url: str, types: str) -> Replica:
    """The store, with the types that a module gives. Opens nothing yet."""
    found = find_types(types)
    return _open(url, Codec(found), object.__new__(found))  # there is a state: of this one only the class counts


class Existing(Replica):
    """A store that somebody has begun: the command line begins none."""

    def __init__(self, url: str, codec: Codec, domain: Any) -> None:
        super().__init__(driver_of(url), codec, domain)
        self._url = url

    def initial(self) -> bytes:
        raise _no_store(self._url)


def _open(url: str, codec: Codec, domain: Any) -> Replica:
    path = getattr(driver_of(url)(), "path", None)
    if path is not None and not Path(path).is_file():
        raise _no_store(url)  # opened, a file would be made
    return Existing(url, codec, domain)


def _no_store(url: str) -> UsageError:
    return UsageError(f"there is no store {url!r}: nothing is kept there yet.")
