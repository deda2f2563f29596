"""The form on disk: values at rest as bytes and back, by the types that the domain declares.

A document is JSON; if it has frames (arrays, long bytes) a header stands before it and the frames after it::

    0x00 | number of frames, length of the JSON, length of each frame | JSON | frames

JSON never begins with a zero byte. ``untyped.py`` and ``typed.py`` say what stands in the JSON.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import msgspec

from theus.errors import NotStorable, Path, StoreError
from theus.state.access import Ops, show
from theus.state.values import plain
from theus.stores.typed import ANY, Plan, Plans
from theus.stores.untyped import Frames, Undeclared, Unfit, each_of, in_order

_to_json = msgspec.json.Encoder().encode
_from_json = msgspec.json.Decoder().decode
_HEADER = struct.Struct("<BII")


class Codec:
    """Encodes the state, operations on it and single values; each annotation's plan is made once.

    ``domain_type``: the class of the domain, or any annotation (a ``TypedDict``).
    """

    def __init__(self, domain_type: Any) -> None:
        self._plans = Plans()
        self._root = self._plans.of(domain_type)

    def encode_state(self, root: Any) -> bytes:
        """The whole domain at rest."""
        return _encode(lambda frames: self._root.write(root, frames))

    def decode_state(self, data: bytes) -> Any:
        """The domain at rest."""
        return _decode(data, self._root.read)

    def encode_ops(self, ops: Ops, process: str = "") -> bytes:
        """Operations (``state/access.py``); ``process`` made them."""
        return _encode(lambda frames: [self._write_op(op, frames) for op in ops], process)

    def decode_ops(self, data: bytes) -> Ops:
        """Operations with values at rest."""
        return _decode(data, lambda written, frames: [self._read_op(op, frames) for op in written])  # type: ignore[no-any-return]  # _decode gives what the lambda does

    def encode(self, value: Any, hint: Any = None, *, process: str = "", where: str = "") -> bytes:
        """Any value, plain or at rest, as this annotation; None: nobody can annotate it.

        ``where``: what it is, for the words of an error.
        """

        def write(frames: Frames) -> Any:
            try:
                return self._plan(hint).write(value, frames)
            except Undeclared as unfit:
                if hint is None:
                    unfit.advice = unfit.elsewhere
                raise

        return _encode(write, process, where)

    def decode(self, data: bytes, hint: Any = None) -> Any:
        """A plain value."""
        return plain(_decode(data, self._plan(hint).read))

    def _plan(self, hint: Any) -> Plan:
        return ANY if hint is None else self._plans.of(hint)

    def _write_op(self, op: Any, frames: Frames) -> list[Any]:
        kind = op[0]
        plan = self._root
        way: list[Any] = []
        try:
            for key in op[1]:
                keys = plan.keys
                way.append(key if keys is ANY and type(key) is str else keys.write(key, frames))
                plan = plan.at(key)
            if kind == "set":
                return [kind, way, plan.write(op[2], frames)]
            if kind == "del":
                return [kind, way]
            if kind == "add":
                return [kind, way, ANY.write(op[2], frames)]
            items = each_of(op[2], plan.at(0).write, frames)
            return [kind, way, items if kind == "append" else in_order(items)]
        except Unfit as unfit:
            unfit.path[:0] = op[1]
            raise

    def _read_op(self, written: list[Any], frames: Frames) -> tuple[Any, ...]:
        kind = written[0]
        plan = self._root
        path: list[Any] = []
        try:
            for segment in written[1]:
                keys = plan.keys
                key = segment if type(segment) is str and keys is ANY else keys.read(segment, frames)
                path.append(key)
                plan = plan.at(key)
            if kind == "del":
                return kind, tuple(path)
            if kind == "set":
                return kind, tuple(path), plan.read(written[2], frames)
            if kind == "add":
                return kind, tuple(path), ANY.read(written[2], frames)
            items = each_of(written[2], plan.at(0).read, frames)
            return kind, tuple(path), items if kind == "append" else set(items)
        except Unfit as unfit:
            unfit.path[:0] = path
            raise


def _encode(write: Callable[[Frames], Any], process: str = "", where: str = "") -> bytes:
    frames: Frames = []
    try:
        data = write(frames)
        try:
            text = _to_json(data)
        except UnicodeEncodeError:  # half a surrogate pair: text for Python, not for JSON
            text = _to_json(_without_surrogates(data))
    except Unfit as unfit:
        path = tuple(unfit.path)
        raise _not_storable(unfit.what, unfit.advice, path, process, where) from None
    except RecursionError:
        what = "a value that contains itself, or is nested too deep"
        raise _not_storable(
            what, "keep a key or an id of the other object instead of the object", (), process, where
        ) from None
    if not frames:
        return text
    lengths = [len(frame) for frame in frames]
    head = _HEADER.pack(0, len(frames), len(text)) + struct.pack(f"<{len(frames)}Q", *lengths)
    return b"".join([head, text, *frames])


def _not_storable(what: str, advice: str, path: Path, process: str, where: str) -> NotStorable:
    place = " at ".join(filter(None, [where, show(path) if path or not where else ""]))
    return NotStorable(
        f"{f'process {process!r}: ' if process else ''}cannot store {place}: it holds {what}"
        + (f"; {advice}" if advice else ""),
        process=process,
        path=place,
        what=what,
    )


def _decode(data: bytes, read: Callable[[Any, Frames], Any]) -> Any:
    try:
        text, frames = _split(data)
        return read(_from_json(text), frames)
    except Unfit as unfit:
        advice = f"; {unfit.advice}" if unfit.advice else ""
        raise StoreError(
            f"cannot load what is stored at {show(tuple(unfit.path))}: it is {unfit.what}{advice}"
        ) from None
    except (ValueError, TypeError, LookupError, ArithmeticError, struct.error, msgspec.DecodeError) as error:
        raise StoreError(
            f"cannot load what is stored: {type(error).__name__}: {error}; the data are damaged, or the declared type of a"
            " field has changed in a way that needs a migration"
        ) from error


def _split(data: bytes) -> tuple[Any, Frames]:
    """The JSON and the frames of a document."""
    frames: Frames = []
    if data[:1] != b"\0":
        return data, frames
    view = memoryview(data)
    _, count, length = _HEADER.unpack_from(data)
    begin = _HEADER.size + 8 * count + length
    for size in struct.unpack_from(f"<{count}Q", data, _HEADER.size):
        frames.append(view[begin : begin + size])
        begin += size
    begin = _HEADER.size + 8 * count
    return view[begin : begin + length], frames


def _without_surrogates(data: Any) -> Any:
    """The same with each text that is not Unicode marked. A copy: what is shared with the state stays."""
    cls = type(data)
    if cls is str:
        raw = data.encode("utf-8", "surrogatepass")
        return data if _is_text(raw) else {"$text": raw.hex()}
    if cls is list:
        return [_without_surrogates(part) for part in data]
    if cls is not dict:
        return data
    entries = [(_without_surrogates(key), _without_surrogates(part)) for key, part in data.items()]
    if all(type(key) is str for key, _ in entries):
        return dict(entries)
    return {"$dict": [[key, part] for key, part in entries]}


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
