"""The draft of a dict: an overlay over the base, which is never copied while the process runs.

``DictDraft`` keeps what it gave to the user or got from the user per key (``_known``) and, in the order in which
it happened, what has become of the keys that were written (``_written``):

=====  =============================================================================================
SET    got a value; a new key stands after all keys of the base, in the order of this dict
MOVED  was deleted and set again, so it stands at the end too; becomes ``del`` and ``set``
GONE   was deleted
=====  =============================================================================================

Values that the user assigns stay the user's objects until the end (as in plain Python: what is changed through
another name shows here), then they are copied into the form at rest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any

from theus.state.access import Grant, Op
from theus.state.faces import DictFace
from theus.state.node import KIND_MAKERS, NOTHING, Node
from theus.state.subclasses import face_of
from theus.state.values import (
    DICT,
    DICTS,
    FACE,
    KINDS,
    LEAVES,
    MISSING,
    copy_as,
    ingest,
    plain,
    register,
)
from theus.state.versioned import LIMIT, VDict

if TYPE_CHECKING:
    from theus.state.transaction import Transaction

_SET, _MOVED, _GONE = 1, 2, 3

MANY = 1000  #: a walk over more entries than this is recorded as one deep read


class DictDraft(DictFace, Node):
    """A dict of the domain in a transaction."""

    __slots__ = ("_known", "_size", "_whole", "_written")

    _known: dict[Any, Any]
    _written: dict[Any, int]
    _size: int | None  #: kept up to date from the first look at it
    _whole: bool  #: the base was dropped by ``clear``

    # --- primitives ---

    def _at(self, key: Any) -> Any:
        value = self._known.get(key, MISSING)
        return self._load(key) if value is MISSING else value

    def __getitem__(self, key: Any) -> Any:
        value = self._known.get(key, MISSING)
        if value is MISSING:
            value = self._load(key)
            if value is MISSING:
                return self._missing(key)
        return value

    def _load(self, key: Any) -> Any:
        """Read a key for the first time."""
        if self._written and key in self._written:
            return MISSING  # deleted by this process
        tx = self._tx
        head = tx._head
        if head is not None and head.version != tx.base:
            tx._extend()
        value = self._base.get(key, MISSING)
        if value is MISSING:
            if not self._whole:
                self._read_presence(key)
            return MISSING
        if type(value) in LEAVES:
            grant = self._grant
            if grant is not None and not grant.may_read(key):
                self._refuse("read", key)
            if self._reads:
                self._reads.add(key)
            else:
                self._reads = {key}
        else:
            value = self._wrap(key, value)
        self._known[key] = value
        return value

    def _has(self, key: Any) -> bool:
        if key in self._known:
            return True
        if key in self._written:
            return False
        self._renew()
        if not self._whole:
            self._read_presence(key)
        return self._base.get(key, MISSING) is not MISSING

    def _missing(self, key: Any) -> Any:
        base = self._base
        if isinstance(base, defaultdict):
            if base.default_factory is None:
                raise KeyError(key)
            value = base.default_factory()
            self[key] = value
            return value
        missing = getattr(type(base), "__missing__", None)
        if missing is None:
            raise KeyError(key)
        return missing(self, key)

    def __len__(self) -> int:
        if not self._whole:
            self._read_shape()
        return self._count()

    def _count(self) -> int:
        size = self._size
        if size is None:
            base = self._base
            size = len(base)
            for key, state in self._written.items():
                inside = base.get(key, MISSING) is not MISSING
                size += (not inside) if state != _GONE else -1
            self._size = size
        return size

    def _names(self) -> list[Any]:
        base = self._base
        names = list(base)
        written = self._written
        if written:
            names = [name for name in names if written.get(name, _SET) == _SET]
            names += [
                name
                for name, state in written.items()
                if state == _MOVED or (state == _SET and base.get(name, MISSING) is MISSING)
            ]
        return names

    def _walk(self, backwards: bool) -> Iterator[Any]:
        size = len(self)
        names = self._names()
        if backwards:
            names.reverse()
        return self._walk_names(names, size)

    def _walk_names(self, names: list[Any], size: int) -> Iterator[Any]:
        for name in names:
            if self._size != size:
                raise RuntimeError("dictionary changed size during iteration")
            yield name
        if self._size != size:
            raise RuntimeError("dictionary changed size during iteration")

    def _walk_items(self, backwards: bool) -> Iterator[tuple[Any, Any]]:
        size = len(self)
        names = self._names()
        if backwards:
            names.reverse()
        if size > MANY and (self._grant is None or self._grant.read):
            self._read_deep()
        return self._walk_pairs(names, size)

    def _walk_pairs(self, names: list[Any], size: int) -> Iterator[tuple[Any, Any]]:
        for name in names:
            if self._size != size:
                raise RuntimeError("dictionary changed size during iteration")
            value = self._known.get(name, MISSING)
            if value is MISSING and self._deep:
                value = self._base.get(name, MISSING)
                if type(value) in LEAVES:
                    yield name, value
                    continue
            yield name, self._at(name)
        if self._size != size:
            raise RuntimeError("dictionary changed size during iteration")

    # --- writing ---

    def __setitem__(self, key: Any, value: Any) -> None:
        known = self._known
        written = self._written
        state = written.get(key)
        if state is None:
            if known.get(key, MISSING) is value and KINDS.get(type(value)) == FACE:
                return  # ``draft[key] += [...]`` puts back what is there
            grant = self._grant
            if grant is not None and not grant.may_write(key):
                self._refuse("write", key)
            if self._size is not None and self._base.get(key, MISSING) is MISSING:
                self._size += 1
            written[key] = _SET
            self._dirty = True
        else:
            self._write(key)
            if state == _GONE:
                del written[key]
                written[key] = _MOVED
                if self._size is not None:
                    self._size += 1
        known[key] = value

    def __delitem__(self, key: Any) -> None:
        state = self._written.get(key)
        if state == _GONE:
            raise KeyError(key)
        self._write(key)
        inside = self._base.get(key, MISSING) is not MISSING
        if not self._whole:
            if state is None:
                self._renew()
            self._note(key)  # its presence; ``writes`` grants that
        if state is None and not inside:
            raise KeyError(key)
        self._known.pop(key, None)
        self._written.pop(key, None)
        if inside:
            self._written[key] = _GONE
        self._dirty = True
        if self._size is not None:
            self._size -= 1

    def pop(self, key: Any, *default: Any) -> Any:
        if len(default) > 1:
            raise TypeError(f"pop expected at most 2 arguments, got {len(default) + 1}")
        value = self._at(key)
        if value is MISSING:
            if default:
                return default[0]
            raise KeyError(key)
        del self[key]
        return value

    def popitem(self) -> tuple[Any, Any]:
        if not self:
            raise KeyError("popitem(): dictionary is empty")
        key = self._names()[-1]
        return key, self.pop(key)

    def setdefault(self, key: Any, default: Any = None) -> Any:
        value = self._at(key)
        if value is MISSING:
            self[key] = value = default
        return value

    def update(self, *others: Any, **entries: Any) -> None:
        if len(others) > 1:
            raise TypeError(f"update expected at most 1 argument, got {len(others)}")
        for key, value in dict(*others, **entries).items():
            self[key] = value

    def clear(self) -> None:
        self._write_whole()
        self._tx._stay()
        self._base = {} if type(self._base) in DICTS else copy_as(self._base, {})
        self._known.clear()
        self._written.clear()
        self._size = 0
        self._whole = self._dirty = True

    def _become(self, entries: Any) -> None:
        """Become what a plain dict is."""
        DictDraft.clear(self)
        for key, value in entries.items():
            DictDraft.__setitem__(self, key, value)

    def __ior__(self, other: Any) -> Any:
        self.update(other)
        return self

    # --- the end ---

    def _holds(self, key: Any, face: Any) -> bool:
        return self._known.get(key) is face and not self._written.get(key)

    def _emit(self, operations: list[Op]) -> None:
        path = self._path()
        if self._whole:
            operations.append(("set", path, self._built()))
            return
        process = self._tx._process
        for key, state in self._written.items():
            if type(key) not in LEAVES:
                key = plain(key)
            place = path + (key,)  # noqa: RUF005  (half the price)
            if state != _SET:
                operations.append(("del", place))
            if state != _GONE:
                value = self._known[key]
                if type(value) not in LEAVES:
                    value = ingest(value, place, process)
                operations.append(("set", place, value))

    def _built(self) -> Any:
        kids = self._kids()
        path, process = self._path(), self._tx._process
        entries: dict[Any, Any] = {}
        for key in self._names():
            if key in self._written:
                entries[plain(key)] = ingest(self._known[key], (*path, key), process)
            else:
                entries[key] = kids[key]._current() if key in kids else self._base.get(key)
        if type(self._base) not in DICTS:
            return copy_as(self._base, entries)
        return VDict(entries) if len(entries) > LIMIT else entries

    def _theus_plain(self) -> Any:
        if not self._whole:
            self._read_deep()
        known, base = self._known, self._base
        entries = {}
        for key in self._names():
            value = known.get(key, MISSING)
            entries[key] = plain(base.get(key) if value is MISSING else value)
        return entries if type(base) in DICTS else copy_as(base, entries)

    def _close(self, end: Any) -> None:
        self._tx = end
        self._parent = end
        self._grant = end
        self._base = end
        self._known = end
        self._written = end
        self._size = end
        self._whole = end


_new = object.__new__


def _maker(cls: type) -> Any:
    made = face_of(DictDraft, cls)

    # Filled in here and not in an ``__init__``: this is a good part of a small transaction.
    def make(tx: Transaction, parent: Node | None, key: Any, grant: Grant | None, base: Any) -> Any:
        draft = _new(made)
        draft._tx = tx
        draft._parent = parent
        draft._key = key
        draft._grant = grant
        draft._base = base
        draft._reads = NOTHING
        draft._shape = draft._deep = draft._dirty = draft._active = False
        tx._nodes.append(draft)
        draft._known = {}
        draft._written = {}
        draft._size = None
        draft._whole = False
        return draft

    return make


MutableMapping.register(DictDraft)
KIND_MAKERS[DICT] = _maker
register(DictDraft)
