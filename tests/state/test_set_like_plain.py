"""A set draft does what a set does, step by step, and its commit gives the same set."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from state_tools import Session, examples
from test_dict_like_plain import outcome

from theus.state.values import plain

members = st.one_of(st.integers(0, 8), st.sampled_from(["a", "b"]), st.just((1,)), st.none())
sets = st.sets(members, max_size=6)


class LikeSet(RuleBasedStateMachine):
    big = False

    @initialize(start=sets)
    def begin(self, start: set[Any]) -> None:
        if self.big:
            start = start | {f"m{i}" for i in range(300)}
        self.model = set(start)
        self.session = Session({"s": start})
        self.open()

    def open(self) -> None:
        self.tx = self.session.begin()
        self.draft = self.tx.domain["s"]

    @rule()
    def commit(self) -> None:
        self.session.end(self.tx)
        assert self.session.state["s"] == self.model
        assert len(self.session.state["s"]) == len(self.model)
        self.open()

    @rule()
    def give_up(self) -> None:
        self.tx.close()
        self.model = plain(self.session.state["s"])
        self.open()

    @rule()
    def replayed(self) -> None:
        other = self.session.begin()
        other.replay(self.tx.finish()[1])
        assert plain(other.domain["s"]) == self.model
        other.close()

    def same(self, action: Any) -> None:
        assert outcome(lambda: action(self.draft)) == outcome(lambda: action(self.model))

    @rule(member=members, name=st.sampled_from(["add", "discard", "remove", "__contains__"]))
    def one(self, member: Any, name: str) -> None:
        self.same(lambda s: getattr(s, name)(member))

    @rule()
    def pop(self) -> None:
        try:
            member = self.draft.pop()
        except KeyError:
            assert not self.model
        else:
            self.model.remove(member)

    @rule()
    def clear(self) -> None:
        self.same(lambda s: s.clear())

    @rule(
        other=sets,
        name=st.sampled_from(
            [
                "update",
                "difference_update",
                "intersection_update",
                "symmetric_difference_update",
                "union",
                "intersection",
                "difference",
                "symmetric_difference",
                "issubset",
                "issuperset",
                "isdisjoint",
            ]
        ),
    )
    def with_other(self, other: Any, name: str) -> None:
        self.same(lambda s: getattr(s, name)(other))
        self.same(lambda s: getattr(s, name)(list(other)))
        if "symmetric" not in name and not name.startswith("is"):
            self.same(lambda s: getattr(s, name)())
            self.same(lambda s: getattr(s, name)(other, [1]))

    @rule(other=sets)
    def in_place(self, other: Any) -> None:
        self.draft |= other
        self.model |= other
        self.draft -= {1, "a"}
        self.model -= {1, "a"}
        self.draft ^= other
        self.model ^= other

    @rule(other=sets)
    def iand(self, other: Any) -> None:
        self.draft &= other | {"b", 3}
        self.model &= other | {"b", 3}

    @rule(other=sets)
    def looks(self, other: Any) -> None:
        for action in (
            len,
            set,
            bool,
            lambda s: sorted(s, key=repr),
            lambda s: s.copy(),
            lambda s: s | other,
            lambda s: other | s,
            lambda s: s & other,
            lambda s: other & s,
            lambda s: s - other,
            lambda s: other - s,
            lambda s: s ^ other,
            lambda s: other ^ s,
            lambda s: s == other,
            lambda s: other == s,
            lambda s: s != other,
            lambda s: s <= other,
            lambda s: other <= s,
            lambda s: s < other,
            lambda s: s >= other,
            lambda s: s > other,
            lambda s: s | frozenset(other),
            lambda s: s == dict.fromkeys(other).keys(),
            lambda s: 3 in s,
            lambda s: [] in s,
            lambda s: {1} in s,
            lambda s: s.remove({1, 2, 3}) if frozenset({1, 2, 3}) not in s else None,
        ):
            self.same(action)

    @rule(member=members, position=st.integers(0, 3))
    def iterate_and_change(self, member: Any, position: int) -> None:
        def walk(s: Any) -> Any:
            count = 0
            for place, _ in enumerate(s):
                count += 1
                if place == position:
                    s.add(member)
            return count

        self.same(walk)

    @invariant()
    def equal(self) -> None:
        if hasattr(self, "draft"):
            assert plain(self.draft) == self.model


class LikeBigSet(LikeSet):
    big = True


TestLikeSet = LikeSet.TestCase
TestLikeSet.settings = examples(40)
TestLikeBigSet = LikeBigSet.TestCase
TestLikeBigSet.settings = examples(12)


def test_errors() -> None:
    draft = Session({"s": {1}}).begin().domain["s"]
    model = {1}
    for action in (
        lambda s: s.add([]),
        lambda s: s | [1],
        lambda s: s.remove(7),
        lambda s: s < [1],
        hash,
    ):
        assert outcome(lambda action=action: action(draft)) == outcome(lambda action=action: action(model))  # type: ignore[misc]
