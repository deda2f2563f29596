"""A list draft does what a list does, step by step, and its commit gives the same list. The same for deque."""

from __future__ import annotations

import collections
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from state_tools import Session, examples
from test_dict_like_plain import leaves, outcome, values

from theus.state.values import plain

lists = st.lists(values, max_size=5)
indices = st.integers(-7, 7)
bounds = st.one_of(st.none(), st.integers(-4, 6))
slices = st.builds(slice, bounds, bounds, st.one_of(st.none(), st.sampled_from([-2, -1, 1, 2])))


class LikeList(RuleBasedStateMachine):
    big = False

    @initialize(start=lists)
    def begin(self, start: list[Any]) -> None:
        if self.big:
            start = [*range(300), *start]
        self.model = plain(start)
        self.session = Session({"l": start})
        self.open()

    def open(self) -> None:
        self.tx = self.session.begin()
        self.draft = self.tx.domain["l"]

    @rule()
    def commit(self) -> None:
        self.session.end(self.tx)
        assert self.session.state["l"] == self.model
        self.open()

    @rule()
    def give_up(self) -> None:
        self.tx.close()
        self.model = plain(self.session.state["l"])
        self.open()

    @rule()
    def replayed(self) -> None:
        other = self.session.begin()
        other.replay(self.tx.finish()[1])
        assert plain(other.domain["l"]) == self.model
        other.close()

    def same(self, action: Any) -> None:
        assert outcome(lambda: action(self.draft)) == outcome(lambda: action(self.model))

    @rule(index=indices)
    def get(self, index: int) -> None:
        self.same(lambda x: x[index])

    @rule(part=slices)
    def get_slice(self, part: slice) -> None:
        self.same(lambda x: x[part])

    @rule(index=indices, value=values)
    def set(self, index: int, value: Any) -> None:
        self.same(lambda x: x.__setitem__(index, plain(value)))

    @rule(part=slices, new=lists)
    def set_slice(self, part: slice, new: Any) -> None:
        self.same(lambda x: x.__setitem__(part, plain(new)))

    @rule(index=st.one_of(indices, slices))
    def delete(self, index: Any) -> None:
        self.same(lambda x: x.__delitem__(index))

    @rule(value=values)
    def append(self, value: Any) -> None:
        self.same(lambda x: x.append(plain(value)))

    @rule(new=lists)
    def extend(self, new: Any) -> None:
        self.same(lambda x: x.extend(plain(new)))
        self.same(lambda x: x.extend(value for value in plain(new)))

    @rule(new=st.lists(leaves, max_size=2))
    def iadd(self, new: Any) -> None:
        self.draft += new
        self.model += new

    @rule(index=indices, value=values)
    def insert(self, index: int, value: Any) -> None:
        self.same(lambda x: x.insert(index, plain(value)))

    @rule(index=st.lists(indices, max_size=1))
    def pop(self, index: list[int]) -> None:
        self.same(lambda x: x.pop(*index))

    @rule(value=values)
    def remove(self, value: Any) -> None:
        self.same(lambda x: x.remove(value))

    @rule()
    def reverse(self) -> None:
        self.same(lambda x: x.reverse())

    @rule(reverse=st.booleans())
    def sort(self, reverse: bool) -> None:
        self.same(lambda x: x.sort(key=repr, reverse=reverse))

    @rule()
    def sort_plainly(self) -> None:
        if all(isinstance(value, int) for value in self.model):
            self.same(lambda x: x.sort())

    @rule()
    def clear(self) -> None:
        self.same(lambda x: x.clear())

    @rule(count=st.integers(-1, 2))
    def imul(self, count: int) -> None:
        if len(self.model) < 400 and all(not isinstance(value, (list, dict)) for value in self.model):
            self.draft *= count
            self.model *= count

    @rule()
    def extend_itself(self) -> None:
        if len(self.model) < 400 and all(not isinstance(value, (list, dict)) for value in self.model):
            self.same(lambda x: x.extend(x))

    @rule(index=indices, value=leaves)
    def change_nested(self, index: int, value: Any) -> None:
        def change(x: Any) -> None:
            inner = x[index]
            if hasattr(inner, "append"):
                inner.append(value)
            elif hasattr(inner, "keys"):
                inner["x"] = value

        self.same(change)

    @rule(index=indices)
    def augmented(self, index: int) -> None:
        def change(x: Any) -> None:
            x[index] += [1]

        self.same(change)

    @rule(other=lists, value=leaves)
    def looks(self, other: Any, value: Any) -> None:
        for action in (
            len,
            list,
            tuple,
            bool,
            repr,
            lambda x: list(reversed(x)),
            lambda x: x.copy(),
            lambda x: x + other,
            lambda x: other + x,
            lambda x: x.__add__((1,)),
            lambda x: x * 2,
            lambda x: 2 * x,
            lambda x: x == other,
            lambda x: other == x,
            lambda x: x != other,
            lambda x: x < other,
            lambda x: x >= other,
            lambda x: value in x,
            lambda x: x.count(value),
            lambda x: x.index(value),
            lambda x: x.index(value, 1),
            lambda x: x.index(value, -2, 5),
            lambda x: sorted(x, key=repr),
            lambda x: x["a"],
            lambda x: x[1.5],
            lambda x: [*x],
        ):
            self.same(action)

    @rule(position=st.integers(0, 4), value=leaves, kind=st.integers(0, 3))
    def iterate_and_change(self, position: int, value: Any, kind: int) -> None:
        def walk(x: Any) -> Any:
            seen = []
            for place, each in enumerate(x):
                seen.append(plain(each))
                if place == position:
                    if kind == 0:
                        x.append(value)
                    elif kind == 1:
                        x.pop()
                    elif kind == 2:
                        x.insert(0, value)
                    else:
                        x[0] = value
            return seen

        self.same(walk)

    @invariant()
    def equal(self) -> None:
        if hasattr(self, "draft"):
            assert plain(self.draft) == self.model


class LikeBigList(LikeList):
    big = True


TestLikeList = LikeList.TestCase
TestLikeList.settings = examples(40)
TestLikeBigList = LikeBigList.TestCase
TestLikeBigList.settings = examples(12)


class LikeDeque(RuleBasedStateMachine):
    @initialize(start=st.lists(leaves, max_size=5), maxlen=st.one_of(st.none(), st.integers(1, 6)))
    def begin(self, start: list[Any], maxlen: int | None) -> None:
        self.model = collections.deque(start, maxlen)
        self.session = Session({"q": collections.deque(start, maxlen)})
        self.open()

    def open(self) -> None:
        self.tx = self.session.begin()
        self.draft = self.tx.domain["q"]

    @rule()
    def commit(self) -> None:
        self.session.end(self.tx)
        kept = plain(self.session.state["q"])
        assert kept == self.model
        assert kept.maxlen == self.model.maxlen
        self.open()

    def same(self, action: Any) -> None:
        assert outcome(lambda: action(self.draft)) == outcome(lambda: action(self.model))

    @rule(value=leaves, name=st.sampled_from(["append", "appendleft", "remove", "count", "index"]))
    def one(self, value: Any, name: str) -> None:
        try:
            expected = getattr(self.model, name)(value)
        except ValueError:
            with pytest.raises(ValueError):
                getattr(self.draft, name)(value)
        else:
            assert getattr(self.draft, name)(value) == expected

    @rule(name=st.sampled_from(["pop", "popleft", "reverse", "clear", "rotate", "copy"]))
    def none(self, name: str) -> None:
        self.same(lambda q: getattr(q, name)())

    @rule(new=st.lists(leaves, max_size=3), name=st.sampled_from(["extend", "extendleft", "__iadd__"]))
    def many(self, new: Any, name: str) -> None:
        self.same(lambda q: plain(getattr(q, name)(new)))

    @rule(index=indices, value=leaves)
    def at(self, index: int, value: Any) -> None:
        if -len(self.model) <= index < len(self.model):
            self.same(lambda q: q[index])
            self.same(lambda q: q.__setitem__(index, value))
        else:
            with pytest.raises(IndexError):
                self.draft[index]

    @rule(other=st.lists(leaves, max_size=3))
    def looks(self, other: Any) -> None:
        for action in (len, list, bool, repr, lambda q: q.maxlen, lambda q: q == collections.deque(other)):
            self.same(action)

    @invariant()
    def equal(self) -> None:
        if hasattr(self, "draft"):
            assert plain(self.draft) == self.model


TestLikeDeque = LikeDeque.TestCase
TestLikeDeque.settings = examples(30)


def test_match_and_hash() -> None:
    draft = Session({"l": [1, 2, 3]}).begin().domain["l"]
    match draft:
        case [first, *rest]:
            assert (first, rest) == (1, [2, 3])
        case _:
            pytest.fail("a list draft is a sequence")
    with pytest.raises(TypeError, match="unhashable"):
        hash(draft)
