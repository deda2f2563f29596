"""Big containers that keep their old versions readable: ``VDict``, ``VList``, ``VSet``.

A container of more than 256 entries is not copied when it changes. All its versions share one *core*: the
newest content in an ordinary dict or list, and per key a short list of undo entries. A version is a small
immutable handle ``(core, number)``::

    core.data    {"a": 3, "b": 7}                       the newest content
    core.undo    {"a": [(5, 1), (9, 2)]}                before change 5 "a" was 1, before change 9 it was 2
    handle 7     reads "a": first entry with a number > 7 -> 2;  "b": no entry -> as it is in data

So writing one key of a million costs what it costs with ten, and reading an old version costs a look-up and a
binary search, however many commits behind it is. (Baker's rerooting arrays, as in Conchon & Filliatre, "A
persistent union-find data structure", are as fast to write, but a read there walks one step per commit.)

**Order.** Changing a value keeps its place, so old versions iterate like the newest. A deleted (or moved) key
leaves its place; to know where it stood each key then needs a serial number. Numbers are made at the first
deletion that an older version can see: once, and then kept up to date.

**Lists that grow.** No version looks beyond its own length, so versions of a list that differ in nothing else share a
number, and an append leaves nothing to keep.

**Memory.** A number that no handle has any more is given back. An undo entry that no live version needs is dropped when
its key is written again, when the oldest version dies, or when there are twice as many as could be needed: n old
versions keep at most about 2 n entries of a key, and without old versions there are none.

**Threads.** Writers of one core take its lock. Readers take none: a writer first raises the core's number,
then publishes the undo entry, then changes the data; a reader first reads the data, then looks if its number
is still the newest and otherwise for an undo entry. Whatever the interleaving it finds its own value. This
needs single operations of dict and list to be atomic, which both the GIL and the per-object locks of
free-threaded builds give.

Writing goes through ``edit()``, which gives the next handle; until that is published nobody else knows it.
Who edits a handle that is not the newest writes to a copy of the whole (nobody does that in normal operation).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from threading import Lock
from typing import Any

LIMIT = 256  #: containers up to this size are plain and copied on commit


class _Missing:
    __slots__ = ()

    def __repr__(self) -> str:
        return "<missing>"

    def __reduce__(self) -> str:
        return "MISSING"


MISSING: Any = _Missing()  #: no such key


Entry = tuple[int, Any, int]  #: (change, value before it, serial before it)


_FEW = 64  #: so many undo entries are not worth looking at
_MANY = 10_000  #: so many are not looked through to find what changed


class _Core:
    """The content that all versions of one container share. ``live`` and what follows are used with the lock held."""

    __slots__ = (
        "data",
        "dead",
        "live",
        "lock",
        "log",
        "number",
        "ordered",
        "serials",
        "undo",
        "upcoming",
    )

    def __init__(self, data: Any, ordered: bool) -> None:
        self.data = data
        self.ordered = ordered
        self.number = 0  #: of the newest handle
        self.undo: dict[Any, list[Entry]] = {}
        self.dead: deque[int] = deque()  #: numbers of handles that died since the lock was last held
        self.lock = Lock()
        self.live: list[int] = [0]  #: numbers of the handles that exist, ascending
        self.log: deque[tuple[int, Any]] = deque()  #: (change, key): one record for each undo entry
        self.serials: dict[Any, int] | None = None  #: key -> place; made when first needed
        self.upcoming = 0  #: the next serial

    def save(self, key: Any, change: int, value: Any) -> None:
        """Keep what ``key`` was before ``change``, unless that is kept already or no older version can see it."""
        entries = self.undo.get(key)
        serial = self.serials.get(key, -1) if self.serials is not None else -1
        if entries is None:
            self.undo[key] = [(change, value, serial)]
        else:
            last = entries[-1][0]
            if last == change:
                return
            # The last entry serves the versions from the entry before it up to itself. If none of them lives, the new
            # entry takes its place (and its record in the log). Readers may hold the old list, so it is not changed.
            if not self._lives(entries[-2][0] if len(entries) > 1 else 0, last):
                self.undo[key] = [*entries[:-1], (change, value, serial)]
                return
            self.undo[key] = [*entries, (change, value, serial)]
        self.log.append((change, key))

    def number_places(self) -> dict[Any, int]:
        """Before the first removal that an older version can see: give every key its serial number."""
        if self.serials is None:
            self.serials = {key: place for place, key in enumerate(self.data)}
            self.upcoming = len(self.serials)
            for key, entries in self.undo.items():
                self.undo[key] = [(change, value, self.serials.get(key, -1)) for change, value, _ in entries]
        return self.serials

    def _lives(self, low: int, high: int) -> bool:
        """Whether a handle with low <= number < high exists."""
        place = bisect_left(self.live, low)
        return place < len(self.live) and self.live[place] < high

    def bury(self) -> None:
        """Take the dead off the list of the living and drop the undo entries that only they needed."""
        live, dead, undo = self.live, self.dead, self.undo
        while dead:
            del live[bisect_left(live, dead.popleft())]  # each number is in it once
        if not undo:
            return
        if not live or live[0] == self.number:
            undo.clear()
            self.log.clear()
            return
        log = self.log
        oldest = live[0]
        while log and log[0][0] <= oldest:
            _, key = log.popleft()
            entries = undo[key]
            if entries[0][0] > oldest:  # it took the place of an older one: its own turn comes later
                log.append((entries[0][0], key))
            elif len(entries) == 1:
                del undo[key]
            else:
                undo[key] = entries[1:]
        if len(log) > _FEW and len(log) > 2 * len(undo) * (len(live) - 1):
            self._compact()

    def _compact(self) -> None:
        """Drop the entries between two neighbouring live versions: those in the middle have died since."""
        for key, entries in list(self.undo.items()):
            changes = [0, *(entry[0] for entry in entries)]
            kept = [entry for before, entry in zip(changes, entries, strict=False) if self._lives(before, entry[0])]
            if kept:
                self.undo[key] = kept
            else:
                del self.undo[key]
        self.log = deque(
            sorted(((entry[0], key) for key, entries in self.undo.items() for entry in entries), key=_first)
        )

    def seen(self, key: Any, number: int, value: Any) -> Any:
        """What version ``number`` has at ``key``, if ``value`` was read from the data before this was called."""
        if number == self.number:
            return value
        entries = self.undo.get(key)
        if entries is not None:
            for change, before, _ in entries:
                if change > number:
                    return before
        return value


def _first(record: tuple[int, Any]) -> int:
    return record[0]


_new = object.__new__


class _Life:
    """A number of a core, given back at the end. A version of a dict is one itself; those of a list may share one."""

    __slots__ = ("_core", "_number")

    def __init__(self, core: _Core, number: int) -> None:
        self._core = core
        self._number = number

    def __del__(self) -> None:
        try:
            core = self._core
        except AttributeError:  # it never came to be
            return
        core.dead.append(self._number)
        if core.undo and core.lock.acquire(False):
            try:
                core.bury()
            finally:
                core.lock.release()


class _Handle:
    """One version of a container."""

    __slots__ = ()

    _core: _Core
    _number: int
    _size: int

    def __len__(self) -> int:
        return self._size

    def __bool__(self) -> bool:
        return self._size > 0

    def _entries_since(self, old: _Handle) -> Iterator[tuple[Any, Entry]]:
        """The keys written since an older version that lives, each with the entry that says what it had there."""
        number = old._number
        for key, entries in self._core.undo.items():
            if entries[-1][0] > number:
                yield key, next(entry for entry in entries if entry[0] > number)

    def _can_tell(self, old: _Handle) -> bool:
        """Whether what changed since another version is known; called with the lock held."""
        return old._core is self._core and old._number <= self._number and len(self._core.undo) <= _MANY


class VDict(_Handle, _Life):
    """An immutable version of a big dict, in insertion order."""

    __slots__ = ("_size",)

    def __init__(self, entries: Any = (), *, ordered: bool = True) -> None:
        data = dict(entries)
        self._core = _Core(data, ordered)
        self._number = 0
        self._size = len(data)

    def __reduce__(self) -> tuple[Any, ...]:
        return VDict, (dict(self.items()),)

    def get(self, key: Any, default: Any = None) -> Any:
        core = self._core
        value = core.data.get(key, MISSING)
        if self._number != core.number:
            value = core.seen(key, self._number, value)
        return default if value is MISSING else value

    def __getitem__(self, key: Any) -> Any:
        value = self.get(key, MISSING)
        if value is MISSING:
            raise KeyError(key)
        return value

    def __contains__(self, key: Any) -> bool:
        return self.get(key, MISSING) is not MISSING

    def __iter__(self) -> Iterator[Any]:
        return iter(self.keys())

    def keys(self) -> list[Any]:
        core = self._core
        keys = list(core.data)
        if self._number == core.number:
            return keys
        with core.lock:
            return [key for key, _ in self._old_items()]

    def values(self) -> list[Any]:
        core = self._core
        values = list(core.data.values())
        if self._number == core.number:
            return values
        return [value for _, value in self.items()]

    def items(self) -> list[tuple[Any, Any]]:
        core = self._core
        # Not ``list(core.data.items())``: before Python 3.12, making its tuples may collect garbage, which lets others in.
        keys, values = list(core.data), list(core.data.values())
        if self._number == core.number:
            return list(zip(keys, values, strict=True))
        with core.lock:
            return self._old_items()

    def _old_items(self) -> list[tuple[Any, Any]]:
        core = self._core
        before: dict[Any, Entry] = {}
        for key, entries in core.undo.items():
            for entry in entries:
                if entry[0] > self._number:
                    before[key] = entry
                    break
        serials = core.serials
        if serials is None:
            items = [
                (key, before[key][1]) if key in before else (key, value)
                for key, value in core.data.items()
                if key not in before or before[key][1] is not MISSING
            ]
            if not core.ordered:  # what was removed since stands anywhere
                items += [
                    (key, value)
                    for key, (_, value, _) in before.items()
                    if value is not MISSING and key not in core.data
                ]
            return items
        # Those that kept their place, and those that have left it since, merged by place.
        stayed = [
            (serials[key], key, before[key][1] if key in before else value)
            for key, value in core.data.items()
            if key not in before or (before[key][1] is not MISSING and before[key][2] == serials[key])
        ]
        left = [
            (serial, key, value)
            for key, (_, value, serial) in before.items()
            if value is not MISSING and serials.get(key) != serial
        ]
        if left:
            stayed += left
            stayed.sort(key=_place)
        return [(key, value) for _, key, value in stayed]

    def changes_since(self, old: VDict) -> list[tuple[Any, Any, Any]] | None:
        """What leads here from an older version: (key, value there, value here), ``MISSING`` where there is none.

        In an order in which it can be done again: what got a new place comes last, in its order. None: it cannot be
        told.
        """
        core = self._core
        with core.lock:
            serials = core.serials
            if not self._can_tell(old) or (serials is not None and self._number != core.number):
                return None
            stayed: list[tuple[Any, Any, Any]] = []
            placed: dict[Any, Any] = {}
            for key, (_, before, serial) in self._entries_since(old):
                now = core.seen(key, self._number, core.data.get(key, MISSING))
                moved = core.ordered and serials is not None and serials.get(key) != serial
                if before is not MISSING and (now is MISSING or moved):
                    stayed.append((key, before, MISSING))
                elif before is not MISSING and now is not before:
                    stayed.append((key, before, now))
                if now is not MISSING and (before is MISSING or moved):
                    placed[key] = now
            order = list(placed)
            if serials is not None:
                order.sort(key=serials.__getitem__)
            elif core.ordered:  # nothing that an older version could see was removed: the new keys are the last
                newest = (key for key in reversed(core.data) if key in placed)
                order = list(islice(newest, len(placed)))[::-1]
        return [*stayed, *((key, MISSING, placed[key]) for key in order)]

    def edit(self) -> VDict:
        """The next version, for writing; nobody else knows it until it is published."""
        core = self._core
        with core.lock:
            if self._number != core.number:
                return VDict(self._old_items(), ordered=core.ordered)
            if core.dead:
                core.bury()
            handle: VDict = _new(VDict)
            handle._core = core
            handle._size = self._size
            number = core.number + 1
            handle._number = number
            core.number = number
            core.live.append(number)
            return handle

    def put(self, key: Any, value: Any) -> bool:
        """Set ``key``; True if it is new."""
        core = self._core
        data = core.data
        with core.lock:
            old = data.get(key, MISSING)
            if len(core.live) > 1:
                core.save(key, self._number, old)
            data[key] = value
            if old is not MISSING:
                return False
            self._size += 1
            if core.serials is not None:
                core.serials[key] = core.upcoming
                core.upcoming += 1
            return True

    def remove(self, key: Any) -> None:
        core = self._core
        with core.lock:
            old = core.data[key]
            if len(core.live) > 1:
                if core.ordered:
                    core.number_places()
                core.save(key, self._number, old)
            del core.data[key]
            self._size -= 1
            if core.serials is not None:
                del core.serials[key]


def _place(entry: tuple[int, Any, Any]) -> int:
    return entry[0]


class VList(_Handle):
    """An immutable version of a big list. It grows at its end and takes new values; anything else makes a new list.

    No version looks beyond its own length, so those that differ in nothing else have one number and one life.
    """

    __slots__ = ("_core", "_life", "_number", "_owns", "_size")

    _owns: bool  #: the number is that of this version alone

    def __init__(self, values: Iterable[Any] = ()) -> None:
        data = list(values)
        self._core = _Core(data, False)
        self._number = 0
        self._size = len(data)
        self._life = _Life(self._core, 0)
        self._owns = True

    def __reduce__(self) -> tuple[Any, ...]:
        return VList, (list(self),)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return list(self)[index]
        size = self._size
        place = index if index >= 0 else index + size
        if not 0 <= place < size:
            raise IndexError("list index out of range")
        core = self._core
        value = core.data[place]
        return value if self._number == core.number else core.seen(place, self._number, value)

    def __iter__(self) -> Iterator[Any]:
        core = self._core
        values = core.data[: self._size]
        if self._number != core.number:
            with core.lock:
                values = self._values()
        return iter(values)

    def _values(self) -> list[Any]:
        core = self._core
        values: list[Any] = core.data[: self._size]
        for place in core.undo:
            if place < self._size:
                values[place] = core.seen(place, self._number, values[place])
        return values

    def changes_since(self, old: VList) -> list[tuple[int, Any, Any]] | None:
        """What leads here from an older version, besides new values at the end: (index, value there, value here).

        None: it cannot be told.
        """
        core = self._core
        with core.lock:
            if not self._can_tell(old) or old._size > self._size:
                return None
            found = [
                (place, before, core.seen(place, self._number, core.data[place]))
                for place, (_, before, _) in self._entries_since(old)
                if place < old._size
            ]
        return [(place, before, now) for place, before, now in found if now is not before]

    def edit(self) -> VList:
        """The next version, for writing; nobody else knows it until it is published."""
        handle: VList = _new(VList)
        handle._core = self._core
        handle._number = self._number
        handle._size = self._size
        handle._life = self._life
        handle._owns = False
        return handle

    def put(self, index: int, value: Any) -> None:
        with self._core.lock:
            core = self._newest()
            if not self._owns:
                if core.dead:
                    core.bury()
                core.number = self._number = core.number + 1
                core.live.append(core.number)
                self._life = _Life(core, core.number)
                self._owns = True
            if len(core.live) > 1:
                core.save(index, self._number, core.data[index])
            core.data[index] = value

    def extend(self, values: Iterable[Any]) -> None:
        with self._core.lock:
            data = self._newest().data
            data.extend(values)
            self._size = len(data)

    def _newest(self) -> _Core:
        """Where to write: in a copy, if another version was written first. Called with the lock held."""
        core = self._core
        if self._number != core.number or self._size != len(core.data):
            VList.__init__(self, self._values())
        return self._core


class VSet:
    """An immutable version of a big set."""

    __slots__ = ("_members",)

    def __init__(self, members: Iterable[Any] = ()) -> None:
        self._members = members if isinstance(members, VDict) else VDict(dict.fromkeys(members), ordered=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return VSet, (set(self),)

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, member: Any) -> bool:
        return member in self._members

    def __iter__(self) -> Iterator[Any]:
        return iter(self._members)

    def edit(self) -> VSet:
        return VSet(self._members.edit())

    def changes_since(self, old: VSet) -> tuple[set[Any], set[Any]] | None:
        """What came and what went since an older version. None: it cannot be told."""
        changes = self._members.changes_since(old._members)
        if changes is None:
            return None
        return {key for key, before, _ in changes if before is MISSING}, {
            key for key, _, now in changes if now is MISSING
        }

    def include(self, member: Any) -> bool:
        """Add; True if it is new."""
        return self._members.put(member, None)

    def discard(self, member: Any) -> bool:
        """Take away; True if it was there."""
        if member not in self._members:
            return False
        self._members.remove(member)
        return True
