"""The form of a record's value: a line of JSON for what Theus says itself, then values as the codec wrote them."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from theus.stores.codec import Codec


class Values:
    """How values are written into records. What does it is loaded at the first need, because that takes a while."""

    @cached_property
    def _codec(self) -> Codec:
        from theus.stores.codec import Codec

        return Codec(Any)

    def encode(self, value: Any, hint: Any = None, *, process: str = "", where: str = "") -> bytes:
        """A value as bytes, written as its annotation says; None: nobody can annotate it. Raises NotStorable."""
        return self._codec.encode(value, hint, process=process, where=where)

    def decode(self, data: bytes, hint: Any = None) -> Any:
        """The value back."""
        return self._codec.decode(data, hint)


def pack(fields: dict[str, Any], *parts: bytes) -> bytes:
    """The fields, and the parts as they are."""
    from msgspec.json import encode  # loaded at the first need

    return b"%b\n%b" % (encode([fields, *map(len, parts)]), b"".join(parts))


def fields_of(data: bytes) -> dict[str, Any]:
    """The fields of ``pack`` alone."""
    from msgspec.json import decode

    fields: dict[str, Any] = decode(data.partition(b"\n")[0])[0]
    return fields


def unpack(data: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """The fields and the parts of ``pack``."""
    from msgspec.json import decode

    line, _, rest = data.partition(b"\n")
    fields, *sizes = decode(line)
    parts = []
    for size in sizes:
        parts.append(rest[:size])
        rest = rest[size:]
    return fields, parts
