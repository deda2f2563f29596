"""A store named on the command line, opened without the user's code or with the types that it gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from theus import Engine
from theus.cli.target import UsageError, find_types
from theus.errors import StoreError
from theus.state.access import Ops
from theus.stores import driver_of
from theus.stores.codec import Codec
from theus.stores.replica import Replica


class Blind(Codec):
    """For who looks at records only: the state and its changes are passed over, so no types are needed."""

    def __init__(self) -> None:
        super().__init__(Any)

    def decode_state(self, data: bytes) -> Any:
        return {}

    def decode_ops(self, data: bytes) -> Ops:
        return ()

    def encode_state(self, root: Any) -> bytes:
        raise StoreError("who does not know the state keeps no snapshot of it")


class Untyped(Codec):
    """For who only looks at the state: as plain values, whatever they are declared as."""

    def __init__(self) -> None:
        super().__init__(Any)

    def encode_state(self, root: Any) -> bytes:
        raise StoreError("who does not know the types keeps no snapshot of the state")


def open_blind(url: str) -> Replica:
    """The store, for its records."""
    return _open(url, Blind())


def open_engine(url: str, types: str | None) -> Engine[Any]:
    """An engine on the store, with the types that a module gives; without, with plain values to look at."""
    store = _open(url, Untyped() if types is None else Codec(find_types(types)))
    try:
        store.open()
    except (AttributeError, TypeError, LookupError, StoreError) as failure:
        store.close()
        if types is not None:
            raise
        raise UsageError(
            f"{url} holds what only the class of its domain tells apart ({failure}): --types module:engine or module:Class"
        ) from None
    return Engine(store=store)


def _open(url: str, codec: Codec) -> Replica:
    make = driver_of(url)
    path = getattr(make(), "path", None)
    if path is not None and not Path(path).is_file():
        raise UsageError(f"there is no store {url!r}.")  # opened, it would be made
    return Replica(make, codec, None)
