"""A stored state of an older version of the domain: how it is read without its class, and made into one of today.

What a state is, is written before it: ``{"domain":"Shop","schema":1}`` and a line feed. A migration is an entry of the log
as any other: it sets the whole state, and a record says its version. So it is made once, whoever comes first, and engines
that still run the older code see it in the log and stop.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from theus.errors import DefinitionError, StoreError
from theus.protocols import Record
from theus.state.access import Op
from theus.state.migrations import Migrate, schema_of, way_to

if TYPE_CHECKING:
    from theus.stores.driver import Entry, Loaded

_KIND, _KEY = "store", "schema"


@dataclass(frozen=True, slots=True)
class Migration:
    """What opening a store would change. ``old`` and ``new``: versions. ``before`` and ``after``: the state, as plain data."""

    old: int
    new: int
    steps: tuple[str, ...]
    before: dict[str, Any]
    after: dict[str, Any]


def sealed(name: str, schema: int, state: bytes) -> bytes:
    """A state, and before it what it is."""
    return json.dumps({"domain": name, "schema": schema}).encode() + b"\n" + state


def unsealed(data: bytes) -> tuple[str, int, bytes]:
    """Name and version of the domain that was stored, and the state."""
    head, _, state = data.partition(b"\n")
    try:
        about = json.loads(head)
        return about["domain"], about["schema"], state
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            "the stored state does not say what it is; the store is damaged, or not one of Theus."
        ) from error


def mark(schema: int) -> Record:
    """The record that comes with a migration."""
    return Record(_KIND, _KEY, str(schema).encode())


def unmarked(schema: int) -> Record:
    """The record as it is before it: none, or an older one. ``schema``: the stored version."""
    return Record(_KIND, _KEY, None) if schema == 1 else mark(schema)


def marked(entry: Entry) -> int | None:
    """The version that an entry brings the state to, if it is a migration."""
    for record in entry.records:
        if (record.kind, record.key) == (_KIND, _KEY):
            return int(record.value or b"1")
    return None


@dataclass(frozen=True, slots=True)
class Stored:
    """What was loaded, told apart: of which version it is, and from which entry on."""

    name: str
    schema: int
    start: int  #: the entry that made it so, in ``entries``; -1: the snapshot
    state: bytes
    entries: Sequence[Entry]


def told_apart(loaded: Loaded, domain_type: type | None) -> Stored:
    """Raises DefinitionError if it is another domain, or a newer one. ``domain_type``: None takes what is there."""
    name, schema, state = unsealed(loaded.state)
    start = -1
    for number, entry in enumerate(loaded.entries):
        newer = marked(entry)
        if newer is not None:
            schema, start = newer, number
    if domain_type is not None and not way_to(domain_type, schema) and name != domain_type.__qualname__ and start < 0:
        raise DefinitionError(
            f"the store holds a {name}, the engine was made with a {domain_type.__qualname__}: give it a store of its own, "
            f"or a {domain_type.__qualname__}.schema_version and a @migration that makes the one of the other."
        )
    return Stored(name, schema, start, state, loaded.entries)


def migrated(stored: Stored, domain_type: type) -> Migration:
    """The stored state, read without its class, and what the migrations make of it."""
    from theus.stores.codec import Codec

    codec = Codec(dict)
    state: Any = codec.decode_state(stored.state)
    for entry in stored.entries[max(stored.start, 0) :]:
        for op in codec.decode_ops(entry.ops):
            state = _apply(state, op)
    state = _plain(state)
    way = way_to(domain_type, stored.schema)
    after = copy.deepcopy(state)
    for step in way:
        after = _done(step, after)
    names = tuple(getattr(step, "__name__", repr(step)) for step in way)
    return Migration(stored.schema, schema_of(domain_type), names, state, after)


def typed(after: dict[str, Any], decode: Callable[[bytes], Any]) -> Any:
    """The state at rest, in the declared types."""
    from theus.stores.codec import Codec

    return decode(Codec(dict).encode_state(after))


def _done(step: Migrate, state: dict[str, Any]) -> dict[str, Any]:
    made = step(state)
    return state if made is None else made


def _plain(value: Any) -> Any:
    from theus.state.values import plain

    return plain(value)


def _apply(root: Any, op: Op) -> Any:
    """One operation on plain data, in place; where a type was declared, it stands as JSON has it."""
    kind, path = op[0], op[1]
    if not path:
        return _plain(op[2])
    container = root
    for key in path[:-1]:
        container = container[_found(container, key)]
    last = _found(container, path[-1])
    if kind == "set":
        container[last] = _plain(op[2])
    elif kind == "del":
        del container[last]
    elif kind == "add":
        container[last] += op[2]
    elif kind == "append":
        container[last].extend(_plain(op[2]))
    else:
        _change_members(container, last, kind, _plain(op[2]))
    return root


def _found(container: Any, key: Any) -> Any:
    """The key as it stands: that of a ``dict[int, ...]`` is text in JSON."""
    if isinstance(container, dict) and type(key) is int and key not in container:
        if container and all(type(other) is str and other.lstrip("-").isdigit() for other in container):
            return str(key)
    return key


def _change_members(container: Any, key: Any, kind: str, members: set[Any]) -> None:
    there = container[key]
    if isinstance(there, set):
        there.update(members) if kind == "include" else there.difference_update(members)
    elif kind == "include":  # a list in JSON
        there.extend(member for member in members if member not in there)
    else:
        container[key] = [member for member in there if member not in members]
