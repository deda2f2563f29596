"""A dict draft does what a dict does, step by step, and its commit gives the same dict."""

from __future__ import annotations

import collections
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from state_tools import Session, examples

from theus.state.values import plain

keys = st.one_of(st.integers(0, 6), st.sampled_from(["a", "b", "c.d", ""]), st.just((1, 2)), st.none())
leaves = st.one_of(st.integers(), st.text(max_size=2), st.none(), st.booleans())
values = st.one_of(leaves, st.lists(leaves, max_size=2), st.dictionaries(st.sampled_from("xy"), leaves, max_size=2))
dicts = st.dictionaries(keys, values, max_size=6)


def outcome(call: Any) -> Any:
    """What a call gives or raises, comparable."""
    try:
        result = call()
    except Exception as error:
        text = str(error)
        for name in ("Dict", "List", "Set", "Deque"):
            text = text.replace(f"{name}Draft (use plain(...) of it)", name.lower())
        return type(error), "unhashable" if "unhashable" in text else text  # Python 3.14 says for what it was meant
    return plain(result)


def fresh(value: Any) -> Any:
    return plain(value)


class LikeDict(RuleBasedStateMachine):
    big = False

    @initialize(start=dicts)
    def begin(self, start: dict[Any, Any]) -> None:
        if self.big:
            start = {**{f"k{i}": i for i in range(300)}, **start}
        self.model = fresh(start)
        self.session = Session({"d": start})
        self.open()

    def open(self) -> None:
        self.tx = self.session.begin()
        self.draft = self.tx.domain["d"]

    @rule()
    def commit(self) -> None:
        self.session.end(self.tx)
        committed = self.session.state["d"]
        assert list(committed.items()) == list(self.model.items())
        assert committed == self.model
        self.open()

    @rule()
    def give_up(self) -> None:
        self.tx.close()
        self.model = plain(self.session.state["d"])
        self.open()

    @rule()
    def replayed(self) -> None:
        """The operations, replayed into another transaction, give the same."""
        other = self.session.begin()
        other.replay(self.tx.finish()[1])
        assert list(plain(other.domain["d"]).items()) == list(self.model.items())
        other.close()

    def same(self, action: Any) -> None:
        assert outcome(lambda: action(self.draft)) == outcome(lambda: action(self.model))

    @rule(key=keys, value=values)
    def set(self, key: Any, value: Any) -> None:
        self.draft[key] = fresh(value)
        self.model[key] = fresh(value)

    @rule(key=keys)
    def read(self, key: Any) -> None:
        self.same(lambda d: d[key])
        self.same(lambda d: d.get(key))
        self.same(lambda d: d.get(key, 5))
        self.same(lambda d: key in d)

    @rule(key=keys)
    def delete(self, key: Any) -> None:
        self.same(lambda d: d.__delitem__(key))

    @rule(key=keys, default=st.lists(leaves, max_size=1))
    def pop(self, key: Any, default: list[Any]) -> None:
        self.same(lambda d: d.pop(key, *default))

    @rule()
    def popitem(self) -> None:
        self.same(lambda d: d.popitem())

    @rule(key=keys, value=values)
    def setdefault(self, key: Any, value: Any) -> None:
        self.same(lambda d: d.setdefault(key, fresh(value)))

    @rule(other=dicts)
    def update(self, other: Any) -> None:
        self.same(lambda d: d.update(fresh(other), k=1))

    @rule(other=dicts)
    def update_pairs(self, other: Any) -> None:
        self.same(lambda d: d.update(list(fresh(other).items())))

    @rule(other=dicts)
    def ior(self, other: Any) -> None:
        self.draft |= fresh(other)
        self.model |= fresh(other)

    @rule()
    def clear(self) -> None:
        self.same(lambda d: d.clear())

    @rule(key=keys)
    def move_to_end(self, key: Any) -> None:
        def move(d: Any) -> None:
            d[key] = d.pop(key)

        self.same(move)

    @rule(key=keys, value=leaves)
    def change_nested(self, key: Any, value: Any) -> None:
        def change(d: Any) -> None:
            inner = d[key]
            if hasattr(inner, "append"):
                inner.append(value)
            elif hasattr(inner, "keys"):
                inner["x"] = value

        self.same(change)

    @rule(key=keys, other=keys)
    def swap(self, key: Any, other: Any) -> None:
        def change(d: Any) -> None:
            d[key], d[other] = d[other], d[key]

        if key != other and type(self.model.get(key)) is not type(self.model.get(other)):
            self.same(change)

    @rule(key=keys)
    def augmented(self, key: Any) -> None:
        def change(d: Any) -> None:
            d[key] += [1]

        self.same(change)

    @rule(other=dicts, key=keys)
    def looks(self, other: Any, key: Any) -> None:
        self.same(len)
        self.same(list)
        self.same(dict)
        self.same(bool)
        self.same(repr)
        self.same(lambda d: list(reversed(d)))
        self.same(lambda d: list(d.values()))
        self.same(lambda d: list(d.items()))
        self.same(lambda d: list(reversed(d.items())))
        self.same(lambda d: list(reversed(d.values())))
        self.same(lambda d: list(reversed(d.keys())))
        self.same(lambda d: {**d})
        self.same(lambda d: d.copy())
        self.same(lambda d: d | other)
        self.same(lambda d: other | d)
        self.same(lambda d: d == other)
        self.same(lambda d: other == d)
        self.same(lambda d: d != other)
        self.same(lambda d: d == fresh(self.model))
        self.same(lambda d: d.keys() & other.keys())
        self.same(lambda d: d.keys() | other.keys())
        self.same(lambda d: d.keys() - other.keys())
        self.same(lambda d: d.keys() ^ other.keys())
        self.same(lambda d: d.keys() == other.keys())
        self.same(lambda d: d.keys() <= other.keys())
        self.same(lambda d: d.keys().isdisjoint(other.keys()))
        self.same(lambda d: d.keys().__contains__(key))
        self.same(lambda d: len(d.values()))
        self.same(lambda d: 3 in d.values())
        self.same(lambda d: (key, 3) in d.items())
        self.same(lambda d: repr(d.keys()))
        self.same(lambda d: repr(d.items()))
        self.same(lambda d: repr(d.values()))
        self.same(lambda d: d[[]])
        self.same(lambda d: d | 3)
        self.same(lambda d: d.nosuch if False else None)

    @rule(key=keys, value=leaves, position=st.integers(0, 3), remove=st.booleans())
    def iterate_and_change(self, key: Any, value: Any, position: int, remove: bool) -> None:
        def walk(d: Any) -> Any:
            seen = []
            for place, name in enumerate(d):
                seen.append(name)
                if place == position:
                    if remove and key in d:
                        del d[key]
                    else:
                        d[key] = value
            return seen

        self.same(walk)

    @invariant()
    def equal(self) -> None:
        if hasattr(self, "draft"):
            assert list(plain(self.draft).items()) == list(self.model.items())


class LikeBigDict(LikeDict):
    big = True


TestLikeDict = LikeDict.TestCase
TestLikeDict.settings = examples(40)
TestLikeBigDict = LikeBigDict.TestCase
TestLikeBigDict.settings = examples(15)


def test_errors_and_odd_uses() -> None:
    session = Session({"d": {"a": 1}})
    draft = session.begin().domain["d"]
    with pytest.raises(TypeError, match="unhashable"):
        draft[[]] = 1
    with pytest.raises(TypeError, match="unhashable"):
        hash(draft)
    with pytest.raises(KeyError, match="popitem"):
        session.begin().domain["d"].fromkeys([]) or session_empty().popitem()
    match draft:
        case {"a": one, **rest}:
            assert one == 1
            assert rest == {}
        case _:
            pytest.fail("a dict draft is a mapping")


def session_empty() -> Any:
    return Session({"d": {}}).begin().domain["d"]


def test_default_dict_and_counter() -> None:
    session = Session({"groups": collections.defaultdict(list), "counts": collections.Counter("aab")})

    def body(d: Any) -> None:
        d["groups"]["x"].append(1)
        d["groups"]["x"].append(2)
        d["counts"]["a"] += 1
        d["counts"]["new"] += 1
        assert d["counts"]["none"] == 0

    session.run(body)
    state = plain(session.state)
    assert state["groups"] == {"x": [1, 2]}
    assert isinstance(state["groups"], collections.defaultdict)
    assert state["groups"]["y"] == []
    assert state["counts"] == collections.Counter(a=3, b=1, new=1)
    assert isinstance(state["counts"], collections.Counter)
