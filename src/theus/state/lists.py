"""Drafts of lists and deques.

``ListDraft`` is an overlay as long as the list only gets new values at its indices and grows at its end; then several
processes may append without a conflict. Anything that moves elements (insert, pop, remove, sort, slice assignment, ...)
takes the list over into a list of its own: one read of the whole and one write of the whole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, MutableSequence
from typing import TYPE_CHECKING, Any

from theus.state.access import Grant, Op
from theus.state.dicts import MANY
from theus.state.faces import ListFace
from theus.state.node import KIND_MAKERS, MAKERS, NOTHING, Node
from theus.state.subclasses import face_of
from theus.state.values import DEQUE, FACE, KINDS, LEAVES, LIST, LISTS, MISSING, copy_as, ingest, plain, register
from theus.state.versioned import LIMIT, VList

if TYPE_CHECKING:
    from theus.state.transaction import Transaction


class ListDraft(ListFace, Node):
    """A list of the domain in a transaction."""

    __slots__ = ("_derived", "_known", "_own", "_tail", "_written")

    _known: dict[int, Any]  #: index in the base -> what the user has seen or put there
    _written: dict[int, None]
    _tail: list[Any]  #: what was appended
    _own: Any  #: the list taken over; then the rest above is no longer used
    _derived: bool  #: the list taken over holds what was in the base

    # --- primitives ---

    def _count(self) -> int:
        own = self._own
        return len(own) if own is not None else len(self._base) + len(self._tail)

    def __len__(self) -> int:
        if self._own is None or self._derived:
            self._read_shape()
        return self._count()

    def _get(self, index: int) -> Any:
        own = self._own
        if own is not None:
            if self._derived:
                self._read_deep_again()
            return own[index]
        if index < 0:
            size = len(self)
            if index < -size:
                raise IndexError("list index out of range")
            index += size
        value = self._known.get(index, MISSING)
        return self._load(index) if value is MISSING else value

    def _read_deep_again(self) -> None:
        grant = self._grant
        if grant is not None and not grant.read:
            self._refuse("read")

    def _load(self, index: int) -> Any:
        tx = self._tx
        head = tx._head
        if head is not None and head.version != tx.base:
            tx._extend()
        base = self._base
        size = len(base)
        if index >= size:
            self._read_shape()  # which element of the tail this is depends on the length of the base
            if index - size < len(self._tail):
                return self._tail[index - size]
            raise IndexError("list index out of range")
        value = base[index]
        if type(value) in LEAVES:
            grant = self._grant
            if grant is not None and not grant.may_read(index):
                self._refuse("read", index)
            if self._reads:
                self._reads.add(index)
            else:
                self._reads = {index}
        else:
            value = self._wrap(index, value)
        self._known[index] = value
        return value

    def __iter__(self) -> Iterator[Any]:
        if self._own is None and len(self._base) > MANY and (self._grant is None or self._grant.read):
            self._read_deep()
        return self._walk()

    def _walk(self) -> Iterator[Any]:
        index = 0
        while True:
            if self._own is not None:
                if index >= len(self):
                    return
                value = self._get(index)
            else:
                if index >= self._count():
                    self._read_shape()
                    return
                value = self._known.get(index, MISSING)
                if value is MISSING:
                    value = self._quiet(index) if self._deep else self._load(index)
            yield value
            index += 1

    def _quiet(self, index: int) -> Any:
        """Read an index of a list that is recorded as read as a whole."""
        base = self._base
        if index < len(base):
            value = base[index]
            if type(value) in LEAVES:
                return value
        return self._load(index)

    # --- writing ---

    def _take_over(self) -> Any:
        """Make the list our own. The caller checks what may be written."""
        if self._own is None:
            self._renew()
            base, known = self._base, self._known
            own: list[Any] = []
            for index in range(len(base)):
                value = known.get(index, MISSING)
                if value is MISSING:
                    value = base[index]
                    if type(value) not in LEAVES:
                        value = self._adopt(index, value)
                own.append(value)
            own += self._tail
            self._tx._stay()
            self._own = self._made(own)
            self._derived = self._deep = self._dirty = True
        return self._own

    def _adopt(self, index: int, value: Any) -> Any:
        """The draft of an element, without asking whether it may be read."""
        maker = MAKERS[type(value)]
        if maker is None:
            return value
        return maker(self._tx, self, index, None if self._grant is None else self._grant.child(index), value)

    def _made(self, values: list[Any]) -> Any:
        return values

    def append(self, value: Any) -> None:
        grant = self._grant
        if grant is not None and not grant.write:
            self._refuse("write")
        own = self._own
        (self._tail if own is None else own).append(value)
        self._dirty = True

    def extend(self, values: Iterable[Any]) -> None:
        self._write_whole()
        if self._own is None:
            values = list(values)  # it may read or even take over this very list
        own = self._own
        (self._tail if own is None else own).extend(values if values is not self else list(self))
        self._dirty = True

    def __iadd__(self, values: Any) -> Any:
        self.extend(values)
        return self

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(index, slice):
            self._write_whole()
            value = list(value)  # before taking over: it may read this very list
            self._take_over()[index] = value
            return
        if type(index) is not int:
            if not hasattr(index, "__index__"):
                raise TypeError(f"list indices must be integers or slices, not {type(index).__name__}")
            index = index.__index__()
        if self._own is not None:
            self._write(index)
            self._own[index] = value
            return
        size = len(self._base)
        count = size + len(self._tail)
        if not 0 <= index < size:  # else it stays where it is, whoever appends meanwhile
            self._read_shape_for_write()
        if index < 0:
            index += count
        if not 0 <= index < count:
            raise IndexError("list assignment index out of range")
        if index not in self._written and self._known.get(index, MISSING) is value and KINDS.get(type(value)) == FACE:
            return  # ``draft[0] += [...]`` puts back what is there
        self._write(index)
        if index < size:
            self._written[index] = None
            self._known[index] = value
            self._dirty = True
        else:
            self._tail[index - size] = value

    def _read_shape_for_write(self) -> None:
        if not self._shape:
            self._renew()
            self._shape = True

    def __delitem__(self, index: Any) -> None:
        self._write_whole()
        del self._take_over()[index]

    def insert(self, index: int, value: Any) -> None:
        self._write_whole()
        self._take_over().insert(index, value)

    def pop(self, index: Any = -1) -> Any:
        self._write_whole()
        if self._own is None and index == -1 and self._tail:
            return self._tail.pop()
        own = self._take_over()
        self._read_deep_again()
        return own.pop(index)

    def remove(self, value: Any) -> None:
        self._write_whole()
        self._take_over().remove(value)

    def reverse(self) -> None:
        self._write_whole()
        self._take_over().reverse()

    def sort(self, *, key: Any = None, reverse: bool = False) -> None:
        self._write_whole()
        self._take_over().sort(key=key, reverse=reverse)

    def _become(self, items: Any) -> None:
        """Become what a plain list is."""
        ListDraft.clear(self)
        ListDraft.extend(self, items)

    def clear(self) -> None:
        self._write_whole()
        self._tx._stay()
        self._own = self._made([])
        self._derived = False
        self._dirty = True

    def __imul__(self, count: Any) -> Any:
        self._write_whole()
        own = self._take_over()
        own *= count
        return self

    # --- the end ---

    def _holds(self, key: Any, face: Any) -> bool:
        return self._own is None and self._known.get(key) is face and key not in self._written

    def _emit(self, operations: list[Op]) -> None:
        path, process = self._path(), self._tx._process
        if self._own is not None:
            operations.append(("set", path, self._built()))
            return
        for index in self._written:
            operations.append(("set", (*path, index), ingest(self._known[index], (*path, index), process)))
        if self._tail:
            values = list(self._tail)
            if not LEAVES.issuperset(map(type, values)):
                size = len(self._base)
                values = [ingest(value, (*path, size + place), process) for place, value in enumerate(values)]
            operations.append(("append", path, values))

    def _built(self) -> Any:
        path, process = self._path(), self._tx._process
        if self._own is not None:
            items = [ingest(value, (*path, place), process) for place, value in enumerate(self._own)]
        else:
            kids = self._kids()
            items = []
            for index, value in enumerate(self._base):
                if index in self._written:
                    value = ingest(self._known[index], (*path, index), process)
                elif index in kids:
                    value = kids[index]._current()
                items.append(value)
            items += [ingest(value, (*path, len(items)), process) for value in self._tail]
        if type(self._base) not in LISTS:
            return copy_as(self._base, items)
        return VList(items) if len(items) > LIMIT else items

    def _theus_plain(self) -> Any:
        if self._own is None or self._derived:
            self._read_deep()
            self._read_deep_again()
        if self._own is not None:
            items = [plain(value) for value in self._own]
        else:
            known = self._known
            items = [plain(known.get(index, value)) for index, value in enumerate(self._base)]
            items += [plain(value) for value in self._tail]
        return items if type(self._base) in LISTS else copy_as(self._base, items)

    def _close(self, end: Any) -> None:
        self._tx = end
        self._parent = end
        self._grant = end
        self._base = end
        self._known = end
        self._tail = end
        self._own = end


class DequeDraft(ListDraft):
    """A deque of the domain. Without ``maxlen`` it grows at its end as a list does; anything else takes over."""

    __slots__ = ()
    _theus_class: Any = deque

    @property
    def maxlen(self) -> int | None:
        length: int | None = self._base.maxlen
        return length

    def _made(self, values: list[Any]) -> Any:
        return deque(values, self._base.maxlen)

    def _alike(self) -> tuple[type, ...]:
        return (deque, DequeDraft)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            raise TypeError("sequence index must be integer, not 'slice'")
        return super().__getitem__(index)

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(index, slice):
            raise TypeError("sequence index must be integer, not 'slice'")
        super().__setitem__(index, value)

    def _bounded(self) -> None:
        if self._base.maxlen is not None:
            self._take_over()

    def append(self, value: Any) -> None:
        self._bounded()
        super().append(value)

    def extend(self, values: Iterable[Any]) -> None:
        self._bounded()
        super().extend(values)

    def appendleft(self, value: Any) -> None:
        self._write_whole()
        self._take_over().appendleft(value)

    def extendleft(self, values: Iterable[Any]) -> None:
        self._write_whole()
        self._take_over().extendleft(values if values is not self else list(self))

    def pop(self, *nothing: Any) -> Any:
        self._write_whole()
        own = self._take_over()
        self._read_deep_again()
        return own.pop(*nothing)

    def popleft(self) -> Any:
        self._write_whole()
        own = self._take_over()
        self._read_deep_again()
        return own.popleft()

    def rotate(self, count: int = 1) -> None:
        self._write_whole()
        self._take_over().rotate(count)

    def copy(self) -> Any:
        return deque(self, self.maxlen)

    def __add__(self, other: Any) -> Any:
        return deque(self, self.maxlen) + (deque(other) if isinstance(other, DequeDraft) else other)

    def __mul__(self, count: Any) -> Any:
        return deque(self, self.maxlen) * count

    __rmul__ = __mul__


_new = object.__new__


def _maker(face: Any) -> Any:
    def maker_of(cls: type) -> Any:
        made = face_of(face, cls)

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
            draft._tail = []
            draft._own = None
            draft._derived = False
            return draft

        return make

    return maker_of


MutableSequence.register(ListDraft)
KIND_MAKERS[LIST] = _maker(ListDraft)
KIND_MAKERS[DEQUE] = _maker(DequeDraft)
register(ListDraft)
register(DequeDraft)
