"""Subclasses of dict, list, set and deque behave in a draft as they do by themselves."""

from __future__ import annotations

import copy
import json
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any

import pytest
from state_tools import Session

from theus.errors import ContractError, ScopeError
from theus.state.access import Contract
from theus.state.fields import Tally
from theus.state.transaction import Transaction
from theus.state.values import plain


class Bag(dict[str, int]):
    def total(self) -> int:
        return sum(self.values())

    def put(self, key: str) -> Bag:
        self[key] = self.get(key, 0) + 1
        return self

    @property
    def first(self) -> str:
        return next(iter(self))


class Lower(dict[str, int]):
    def __setitem__(self, key: str, value: int) -> None:
        super().__setitem__(key.lower(), value)


class Stack(list[Any]):
    def push(self, item: Any) -> int:
        self.append(item)
        return len(self)

    def rename(self) -> None:
        self[0]["name"] = "new"


class Tags(set[str]):
    def add(self, tag: str) -> None:
        super().add(tag.strip())


class Ring(deque[int]):
    def turn(self) -> None:
        self.rotate(1)


def _add(count: Any) -> None:
    count += Counter("ab")


def _take(count: Any) -> None:
    count -= Counter("a")


def _set(value: Any) -> None:
    value["UPPER"] = 1


CASES: list[tuple[Any, Callable[[Any], Any]]] = [
    (Counter("aab"), lambda it: it.update("ab")),
    (Counter("aab"), lambda it: it.update({"a": 5})),
    (Counter("aab"), lambda it: it.update(c=1)),
    (Counter("aab"), lambda it: it.subtract("a")),
    (Counter("aab"), lambda it: it.most_common(1)),
    (Counter("aab"), lambda it: (it == {"a": 2, "b": 1}, it != {"a": 2, "b": 1}, it == 5)),
    (Counter("aab"), lambda it: it | {"c": 1}),
    (Counter("aab"), lambda it: it == Counter("aab")),
    (Counter("aab"), lambda it: sorted(it.elements())),
    (Counter("aab"), lambda it: it.total()),
    (Counter("aab"), lambda it: it + Counter("z")),
    (Counter("aab"), lambda it: it["nowhere"]),
    (Counter("aab"), lambda it: it == Counter("aab")),
    (Counter("aab"), _add),
    (Counter("aab"), _take),
    (OrderedDict(a=1, b=2), lambda it: it.move_to_end("a")),
    (OrderedDict(a=1, b=2), lambda it: it.popitem(last=False)),
    (OrderedDict(a=1, b=2), lambda it: it.popitem()),
    (OrderedDict(a=1, b=2), lambda it: list(it)),
    (defaultdict(list), lambda it: it["x"].append(1)),
    (defaultdict(list), lambda it: it.default_factory),
    (Bag(a=1), lambda it: it.total()),
    (Bag(a=1), lambda it: it.first),
    (Bag(a=1), lambda it: it.put("a").put("b").total()),
    (Bag(a=1), lambda it: it.nowhere),
    (Lower(), _set),
    (Stack([1]), lambda it: it.push(2)),
    (Stack([{"name": "old"}]), lambda it: it.rename()),
    (Tags({"a"}), lambda it: it.add(" b ")),
    (Ring([1, 2], 3), lambda it: it.turn()),
]


def _did(use: Callable[[Any], Any], value: Any) -> str:
    try:
        return repr(plain(use(value)))
    except Exception as error:
        return type(error).__name__


@pytest.mark.parametrize(("value", "use"), CASES)
def test_a_method_of_the_subclass_does_what_it_does_by_itself(value: Any, use: Callable[[Any], Any]) -> None:
    mine = copy.deepcopy(value)
    expected = _did(use, mine)
    done: list[str] = []
    session = Session({"it": value})
    session.run(lambda d: done.append(_did(use, d["it"])))
    after = plain(session.state["it"])
    assert (done, after, type(after)) == ([expected], mine, type(mine))
    assert isinstance(after, set) or list(after) == list(mine)


def test_it_reads_the_whole_and_writes_it_only_if_it_changed_it() -> None:
    session = Session({"count": Counter("aab")})
    reads, ops = session.observe(lambda d: d["count"].most_common())
    assert (list(reads), list(ops)) == ([(("count",), frozenset(), False, True)], [])
    _, ops = session.observe(lambda d: d["count"].update("a"))
    assert [op[:2] for op in ops] == [("set", ("count",))]
    tx = Transaction(session.head.snapshot, grant=Contract.parse(["count"], [], [], (), "p").grant({}))
    with pytest.raises(ContractError, match="wrote count"):
        tx.domain["count"].update("a")


def test_views_have_the_methods_too_and_refuse_to_change() -> None:
    session = Session({"count": Counter("aab"), "bag": Bag(a=1), "stack": Stack([1])})
    state = session.state
    assert state["count"].most_common(1) == [("a", 2)]
    assert (state["bag"].total(), state["bag"].first) == (1, "a")
    for change in (lambda: state["count"].update("a"), lambda: state["bag"].put("x"), lambda: state["stack"].push(1)):
        with pytest.raises(ScopeError, match="read-only"):
            change()
    assert plain(state) == {"count": Counter("aab"), "bag": {"a": 1}, "stack": [1]}


def test_after_the_end_they_are_refused() -> None:
    session = Session({"count": Counter("aab")})
    tx = session.begin("p")
    count = tx.domain["count"]
    tx.close()
    for use in (lambda: count.most_common(), lambda: count.nowhere):
        with pytest.raises(ScopeError, match="ended"):
            use()


def test_c_code_that_cannot_take_a_draft_says_what_to_do() -> None:
    numpy = pytest.importorskip("numpy")
    session = Session({"l": [1], "d": {"a": 1}, "s": {1}, "q": deque([1])})

    def use(d: Any) -> None:
        for name in d:
            with pytest.raises(TypeError, match=r"Draft \(use plain\(\.\.\.\) of it\) is not JSON serializable"):
                json.dumps(d[name])
            json.dumps(list(plain(d[name])))
        for name in ("d", "s"):
            with pytest.raises(TypeError, match=r"array of a \w+Draft \(use plain\(\.\.\.\) of it\)"):
                numpy.array(d[name])
        assert numpy.array(d["l"]).tolist() == [1]

    session.run(use)
    with pytest.raises(TypeError, match=r"ListView \(use plain\(\.\.\.\) of it\)"):
        json.dumps(session.state["l"])


def test_a_tally_that_c_code_cannot_take_says_what_to_do() -> None:
    from dataclasses import dataclass

    @dataclass
    class Shop:
        hits: Tally = 0

    def use(d: Any) -> None:
        assert isinstance(d.hits, int)
        with pytest.raises(TypeError, match=r"int \(a Tally: use int\(\.\.\.\) of it\) is not JSON serializable"):
            json.dumps({"hits": d.hits})
        assert json.dumps({"hits": int(d.hits)}) == '{"hits": 0}'

    Session(Shop()).run(use)
