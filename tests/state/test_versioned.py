"""Versioned containers against a list of full copies: every old version stays what it was, order included."""

from __future__ import annotations

import gc
import pickle
import random
import threading
import weakref
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from state_tools import examples

from theus.state.versioned import MISSING, VDict, VList, VSet

keys = st.integers(0, 6)


def content(version: Any) -> Any:
    """All that a version can tell."""
    if isinstance(version, VDict):
        items = version.items()
        assert [key for key, _ in items] == version.keys() == list(version)
        assert [value for _, value in items] == version.values()
        assert len(version) == len(items)
        for key in range(7):
            assert (key in version) == (key in dict(items))
            assert version.get(key, "no") == dict(items).get(key, "no")
        return items
    if isinstance(version, VList):
        assert [version[i] for i in range(len(version))] == list(version)
        return list(version)
    assert len(version) == len(set(version))
    for member in range(7):
        assert (member in version) == (member in set(version))
    return set(version)


class Versions(RuleBasedStateMachine):
    """Keep some old versions, drop others, write on, fork now and then."""

    @initialize(start=st.dictionaries(keys, st.integers(), max_size=5))
    def begin(self, start: dict[int, int]) -> None:
        self.dict, self.dicts = VDict(start), []
        self.list, self.lists = VList(start), []
        self.set, self.sets = VSet(start), []
        self.model: dict[int, int] = dict(start)
        self.keep()

    @rule()
    def keep(self) -> None:
        self.dicts.append((self.dict, content(self.dict)))
        self.lists.append((self.list, content(self.list)))
        self.sets.append((self.set, content(self.set)))

    @rule(place=st.integers(0, 9))
    def drop(self, place: int) -> None:
        for kept in (self.dicts, self.lists, self.sets):
            if place < len(kept):
                del kept[place]

    @rule(changes=st.lists(st.tuples(keys, st.one_of(st.integers(0, 99), st.none())), min_size=1, max_size=4))
    def change_dict(self, changes: list[tuple[int, int | None]]) -> None:
        new = self.dict.edit()
        for key, value in changes:
            if value is not None:
                assert new.put(key, value) == (key not in self.model)
                self.model[key] = value
            elif key in self.model:
                new.remove(key)
                del self.model[key]
        self.dict = new

    @rule(changes=st.lists(st.tuples(keys, st.integers(0, 99)), min_size=1, max_size=4))
    def change_list(self, changes: list[tuple[int, int]]) -> None:
        model = list(self.list)
        new = self.list.edit()
        for index, value in changes:
            if index < len(model):
                new.put(index, value)
                model[index] = value
            else:
                new.extend([value, value])
                model += [value, value]
        self.list = new
        assert list(new) == model

    @rule(changes=st.lists(st.tuples(keys, st.booleans()), min_size=1, max_size=4))
    def change_set(self, changes: list[tuple[int, bool]]) -> None:
        model = set(self.set)
        new = self.set.edit()
        for member, inside in changes:
            if inside:
                assert new.include(member) == (member not in model)
                model.add(member)
            else:
                assert new.discard(member) == (member in model)
                model.discard(member)
        self.set = new
        assert set(new) == model

    @rule()
    def abandon_an_edit(self) -> None:
        """An edit that is never published: the version it came from is no longer the newest, and all is as it was."""
        edit = self.dict.edit()
        edit.put(3, "lost")
        if 1 in edit:
            edit.remove(1)
        lost = self.list.edit()
        lost.extend(["lost"])
        if len(lost) > 1:
            lost.put(0, "lost")
        gone = self.set.edit()
        gone.include("lost")

    @rule(place=st.integers(0, 9))
    def fork(self, place: int) -> None:
        if place < len(self.dicts):
            old, items = self.dicts[place]
            fork = old.edit()
            fork.put("fork", 1)
            assert fork.items() == [*items, ("fork", 1)]

    @invariant()
    def all_versions_are_what_they_were(self) -> None:
        if not hasattr(self, "dict"):
            return
        assert content(self.dict) == list(self.model.items())
        for kept in (self.dicts, self.lists, self.sets):
            for version, expected in kept:
                assert content(version) == expected

    @invariant()
    def what_changed_since_can_be_done_again(self) -> None:
        if not hasattr(self, "dict"):
            return
        for old, items in self.dicts:
            told = self.dict.changes_since(old)
            if told is None:
                assert old._core is not self.dict._core or self.dict._number != self.dict._core.number
                continue
            again = dict(items)
            for key, before, now in told:
                assert again.get(key, MISSING) is before
                if now is MISSING:
                    del again[key]
                else:
                    again[key] = now
            assert list(again.items()) == content(self.dict)
        for old, values in self.lists:
            changes = self.list.changes_since(old)
            if changes is not None:
                longer = [*values, *list(self.list)[len(values) :]]
                for place, before, now in changes:
                    assert longer[place] is before
                    longer[place] = now
                assert longer == content(self.list)
        for old, members in self.sets:
            both = self.set.changes_since(old)
            if both is not None:
                came, went = both
                assert (members | came) - went == content(self.set)
                assert not members & came
                assert went <= members

    @invariant()
    def history_is_bounded_by_what_lives(self) -> None:
        if hasattr(self, "dict"):
            core = self.dict._core
            core.bury()
            assert len(core.log) == sum(len(entries) for entries in core.undo.values())
            assert len(core.log) <= 64 + 2 * len(core.undo) * len(core.live)


TestVersions = Versions.TestCase
TestVersions.settings = examples(80, 40)


class Value:
    """Something whose life can be watched."""


def test_memory_is_freed_with_the_last_old_version() -> None:
    first, watch = Value(), []
    watch.append(weakref.ref(first))
    old = VDict({"a": first, **{i: i for i in range(300)}})
    del first
    new = old
    for _ in range(50):
        value = Value()
        watch.append(weakref.ref(value))
        new = new.edit()
        new.put("a", value)
        del value
    alive = [ref() is not None for ref in watch]
    assert alive[0]
    assert alive[-1]
    assert sum(alive) <= 3, "between the oldest and the newest version nothing is kept"
    del old
    assert [ref() is not None for ref in watch] == [False] * 50 + [True]
    assert not new._core.undo
    assert not new._core.log


def test_a_hot_key_does_not_pile_up_behind_a_held_version() -> None:
    old = VDict({i: i for i in range(300)})
    new = old
    for i in range(1000):
        new = new.edit()
        new.put(5, i)
        new.put(i % 7, i)
    assert sum(len(entries) for entries in new._core.undo.values()) <= 7 * 3
    assert len(new._core.log) <= 7 * 3
    assert old.items() == [(i, i) for i in range(300)]


def test_versions_that_die_in_the_middle_leave_nothing() -> None:
    old = VDict({i: i for i in range(300)})
    versions = [old]
    for i in range(500):
        new = versions[-1].edit()
        new.put(i % 20, i)
        versions.append(new)
    core = old._core
    assert len(core.log) == 500
    del versions[1:-1]
    new = versions[-1].edit()
    new.put(7, "x")
    new = new.edit()
    assert len(core.log) <= 64
    assert old.items() == [(i, i) for i in range(300)]
    assert [versions[-1][i] for i in range(20)] == list(range(480, 500))


def test_two_edits_of_one_list_are_two_lists() -> None:
    start = list(range(300))
    old = VList(start)
    one, two = old.edit(), old.edit()
    one.extend(["one"])
    two.extend(["two", "two"])
    three, four = one.edit(), one.edit()
    three.put(0, "three")
    four.put(1, "four")
    four.extend(["four"])
    three.extend(["three"])
    assert list(old) == start
    assert list(one) == [*start, "one"]
    assert list(two) == [*start, "two", "two"]
    assert list(three) == ["three", *start[1:], "one", "three"]
    assert list(four) == [0, "four", *start[2:], "one", "four"]


def test_what_a_list_had_is_kept_for_all_that_are_as_old() -> None:
    first = Value()
    alive = weakref.ref(first)
    old = VList([first, *range(300)])
    del first
    longer = old.edit()
    longer.extend([1])
    new = longer.edit()
    new.put(0, None)
    assert longer.changes_since(old) == []
    assert old.changes_since(longer) is None
    assert new.changes_since(old) == [(0, alive(), None)]
    del old
    assert longer[0] is alive()
    del longer
    assert alive() is None
    assert not new._core.undo


def test_order_after_deleting_and_moving() -> None:
    old = VDict({"a": 1, "b": 2, "c": 3})
    new = old.edit()
    new.put("a", 9)
    moved = new.edit()
    moved.remove("a")
    moved.put("a", 5)
    moved.put("d", 4)
    last = moved.edit()
    last.remove("b")
    assert old.items() == [("a", 1), ("b", 2), ("c", 3)]
    assert new.items() == [("a", 9), ("b", 2), ("c", 3)]
    assert moved.items() == [("b", 2), ("c", 3), ("a", 5), ("d", 4)]
    assert last.items() == [("c", 3), ("a", 5), ("d", 4)]


def test_pickle_and_small_things() -> None:
    big = VDict({1: 2})
    assert pickle.loads(pickle.dumps(big)).items() == [(1, 2)]
    assert list(pickle.loads(pickle.dumps(VList([1, 2])))) == [1, 2]
    assert set(pickle.loads(pickle.dumps(VSet([1, 2])))) == {1, 2}
    assert not VDict()
    with pytest.raises(KeyError):
        big[5]
    values = VList([1, 2, 3])
    assert values[-1] == 3
    assert values[0:2] == [1, 2]
    with pytest.raises(IndexError):
        values[3]


@pytest.mark.parametrize("seed", range(3))
def test_readers_of_old_versions_while_others_write(seed: int) -> None:
    """Each version holds numbers that sum up to 1000; readers look at whatever version is there, new and old."""
    newest = VDict(dict.fromkeys(range(100), 10))
    published = [newest]
    stop = threading.Event()
    wrong: list[Any] = []

    def read() -> None:
        held: list[VDict] = []
        rng = random.Random(seed)
        while not stop.is_set():
            held.append(published[-1])
            if len(held) > 20:
                del held[rng.randrange(len(held))]
            version = rng.choice(held)
            total = sum(version.get(i, 0) for i in range(100))
            values = version.values()
            if total != 1000 or sum(values) != 1000 or len(values) != len(version):
                wrong.append((total, sum(values), len(version)))
                return

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    rng = random.Random(seed)
    for _ in range(1500):
        edit = published[-1].edit()
        one, two = rng.sample(range(100), 2)
        amount = rng.randrange(5)
        edit.put(one, edit.get(one, 0) - amount)
        if rng.random() < 0.3 and two in edit:
            value = edit.get(two)
            edit.remove(two)
            edit.put(two, value + amount)
        else:
            edit.put(two, edit.get(two, 0) + amount)
        published.append(edit)
        del published[:-3]
    stop.set()
    for reader in readers:
        reader.join()
    assert wrong == []


def test_items_are_of_one_version_while_garbage_is_collected() -> None:
    """Collecting garbage runs code, and lets other threads in: here it writes, as they would."""
    old = newest = VDict({n: n for n in range(300)})

    def write(phase: str, info: dict[str, int]) -> None:
        nonlocal newest
        if not newest._core.lock.locked():
            newest = newest.edit()
            newest.put(newest._number + 1000, 0)

    before = gc.get_threshold()
    gc.callbacks.append(write)
    gc.set_threshold(1)
    try:
        found = [old.items() for _ in range(5)]
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(write)
    assert found == [[(n, n) for n in range(300)]] * 5
