"""The draft of a set: an overlay of what was included and what was discarded.

A member is one or the other, never both, so the order of the two does not matter at the commit, and several processes
may include and discard without a conflict. To ask for a member, to count or to iterate is a read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableSet
from typing import TYPE_CHECKING, Any

from theus.state.access import Grant, Op
from theus.state.faces import SetFace, is_set
from theus.state.node import KIND_MAKERS, NOTHING, Node
from theus.state.subclasses import face_of
from theus.state.values import SET, SETS, copy_as, plain, register
from theus.state.versioned import LIMIT, VSet

if TYPE_CHECKING:
    from theus.state.transaction import Transaction


class SetDraft(SetFace, Node):
    """A set of the domain in a transaction: what was included and what was discarded, never both."""

    __slots__ = ("_discarded", "_included", "_size", "_whole")

    _included: dict[Any, None]
    _discarded: dict[Any, None]
    _size: int | None
    _whole: bool  #: the base was dropped

    def __contains__(self, member: Any) -> bool:
        if isinstance(member, (set, SetFace)):
            member = frozenset(member)
        if member in self._included:
            return True
        if member in self._discarded:
            return False
        if not self._whole:
            self._renew()
            grant = self._grant
            if grant is not None and not grant.may_read(member):
                self._refuse("read", member)
            self._note(member)
        return member in self._base

    def __len__(self) -> int:
        if not self._whole:
            self._read_shape()
        if self._size is None:
            self._size = len(self._now())
        return self._size

    def _now(self) -> set[Any]:
        base = self._base
        now = set(base)
        now.difference_update(self._discarded)
        now.update(self._included)
        return now

    def __iter__(self) -> Iterator[Any]:
        size = len(self)
        return self._walk(self._now(), size)

    def _walk(self, members: set[Any], size: int) -> Iterator[Any]:
        for member in members:
            if self._size != size:
                raise RuntimeError("Set changed size during iteration")
            yield member
        if self._size != size:
            raise RuntimeError("Set changed size during iteration")

    # --- writing ---

    def _inside(self, member: Any) -> bool:
        """Membership as a fact for our own book-keeping, not as a read."""
        return member in self._included or (member not in self._discarded and member in self._base)

    def add(self, member: Any) -> None:
        hash(member)
        self._write(member)
        if self._size is not None and not self._inside(member):
            self._size += 1
        self._discarded.pop(member, None)
        self._included[member] = None
        self._dirty = True

    def discard(self, member: Any) -> None:
        if isinstance(member, (set, SetFace)):
            member = frozenset(member)
        self._write(member)
        if self._size is not None and self._inside(member):
            self._size -= 1
        self._included.pop(member, None)
        self._discarded[member] = None
        self._dirty = True

    def remove(self, member: Any) -> None:
        asked = member
        if isinstance(member, (set, SetFace)):
            member = frozenset(member)
        self._write(member)
        if member not in self._included and not self._whole:
            self._renew()
            self._note(member)  # its presence; ``writes`` grants that
        if not self._inside(member):
            raise KeyError(asked)
        self.discard(member)

    def pop(self) -> Any:
        if not self:
            raise KeyError("pop from an empty set")
        member = next(iter(self._now()))
        self.discard(member)
        return member

    def clear(self) -> None:
        self._write_whole()
        self._tx._stay()
        self._base = set() if type(self._base) in SETS else copy_as(self._base, ())
        self._included.clear()
        self._discarded.clear()
        self._size = 0
        self._whole = self._dirty = True

    def _become(self, members: Any) -> None:
        """Become what a plain set is."""
        SetDraft.clear(self)
        for member in members:
            SetDraft.add(self, member)

    def update(self, *others: Iterable[Any]) -> None:
        for other in others:
            for member in list(other):
                self.add(member)

    def difference_update(self, *others: Iterable[Any]) -> None:
        for other in others:
            for member in list(other):
                self.discard(member)

    def intersection_update(self, *others: Iterable[Any]) -> None:
        keep = set(self).intersection(*others)
        for member in set(self) - keep:
            self.discard(member)

    def symmetric_difference_update(self, other: Iterable[Any]) -> None:
        for member in set(other):
            if member in self:
                self.discard(member)
            else:
                self.add(member)

    def __ior__(self, other: Any) -> Any:
        return self._apply(other, self.update)

    def __isub__(self, other: Any) -> Any:
        return self._apply(other, self.difference_update)

    def __iand__(self, other: Any) -> Any:
        return self._apply(other, self.intersection_update)

    def __ixor__(self, other: Any) -> Any:
        return self._apply(other, self.symmetric_difference_update)

    def _apply(self, other: Any, how: Any) -> Any:
        if not is_set(other):
            return NotImplemented
        how(other)
        return self

    # --- the end ---

    def _holds(self, key: Any, face: Any) -> bool:
        return False

    def _emit(self, operations: list[Op]) -> None:
        path = self._path()
        if self._whole:
            operations.append(("set", path, self._built()))
            return
        if self._included:
            operations.append(("include", path, {plain(member) for member in self._included}))
        if self._discarded:
            operations.append(("discard", path, {plain(member) for member in self._discarded}))

    def _built(self) -> Any:
        members = {plain(member) for member in self._now()}
        if type(self._base) not in SETS:
            return copy_as(self._base, members)
        return VSet(members) if len(members) > LIMIT else members

    def _theus_plain(self) -> Any:
        if not self._whole:
            self._read_deep()
        members = self._now()
        return members if type(self._base) in SETS else copy_as(self._base, members)

    def _close(self, end: Any) -> None:
        self._tx = self._parent = self._grant = self._base = end
        self._included = self._discarded = self._size = self._whole = end


_new = object.__new__


def _maker(cls: type) -> Any:
    made = face_of(SetDraft, cls)

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
        draft._included = {}
        draft._discarded = {}
        draft._size = None
        draft._whole = False
        return draft

    return make


MutableSet.register(SetDraft)
KIND_MAKERS[SET] = _maker
register(SetDraft)
