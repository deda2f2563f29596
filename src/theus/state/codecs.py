"""Opaque types and how to make bytes of them: said by the user, for stores.

What Theus does not know (a model, a data frame) it keeps as the very object in memory. A store needs bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from theus.errors import DefinitionError


class BytesCodec(NamedTuple):
    """How values of one type become bytes and back. ``name`` stands in the data."""

    name: str
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


#: like an attribute of each type, but also for types that take none
_CODECS: WeakKeyDictionary[type, BytesCodec] = WeakKeyDictionary()


def codec(cls: type, encode: Callable[[Any], bytes], decode: Callable[[bytes], Any]) -> None:
    """Say how stores keep values of an opaque type: ``encode(value) -> bytes``, ``decode(bytes) -> value``.

    ::

        theus.codec(DataFrame, lambda frame: to_parquet(frame), lambda data: from_parquet(data))

    It holds for exactly this type, not for its subclasses, and for all engines of the program: a type has one meaning. The
    data name the type (module and qualified name); a name is looked up among the registered types only, so register
    before the engine opens its store. Registering a type again replaces what was said before.
    """
    if not isinstance(cls, type):
        raise DefinitionError(f"codec() takes a type, not {cls!r}; write codec({type(cls).__name__}, ...)")
    _CODECS[cls] = BytesCodec(f"{cls.__module__}.{cls.__qualname__}", encode, decode)


def codec_of(cls: type) -> BytesCodec | None:
    """What was said for this type."""
    return _CODECS.get(cls)


def codec_named(name: str) -> BytesCodec | None:
    """What was said for the type that the data call by this name."""
    return next((said for said in _CODECS.values() if said.name == name), None)
