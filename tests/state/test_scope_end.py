"""After its end nothing of a transaction can be used, and nothing of it is kept alive."""

from __future__ import annotations

import gc
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from state_tools import Session

from theus.errors import ScopeError
from theus.state.fields import Tally
from theus.state.transaction import Transaction
from theus.state.values import detach, plain


@dataclass
class Inner:
    n: int = 0

    def double(self) -> int:
        return self.n * 2


@dataclass
class D:
    n: int = 0
    hits: Tally = 0
    inner: Inner = field(default_factory=Inner)
    items: list[Any] = field(default_factory=lambda: [1, [2], {"k": 3}])
    table: dict[Any, Any] = field(default_factory=lambda: {"a": 1, "b": [2], "c": {"d": 1}})
    tags: set[str] = field(default_factory=lambda: {"x", "y"})
    queue: deque[int] = field(default_factory=lambda: deque([1, 2]))
    pair: tuple[Any, ...] = field(default_factory=lambda: (1, [2]))


def started(iterator: Any) -> Any:
    next(iterator)
    return iterator


TAKEN: list[tuple[str, Callable[[Any], Any], Callable[[Any], Any]]] = [
    ("field", lambda d: d, lambda d: d.n),
    ("field read before", lambda d: (d.n, d)[1], lambda d: d.n),
    ("field set", lambda d: d, lambda d: setattr(d, "n", 1)),
    ("field deleted", lambda d: d, lambda d: delattr(d, "n")),
    ("repr", lambda d: d, repr),
    ("equality", lambda d: d, lambda d: d == D()),
    ("plain", lambda d: d, plain),
    ("detach", lambda d: [d], detach),
    ("method", lambda d: d.inner, lambda x: x.double()),
    ("bound method", lambda d: d.inner.double, lambda f: f()),
    ("tally", lambda d: d.hits, int),
    ("tally add", lambda d: d.hits, lambda h: h.__iadd__(1)),
    ("tally format", lambda d: d.hits, str),
    ("list item", lambda d: d.items, lambda x: x[0]),
    ("list item read before", lambda d: (d.items[0], d.items)[1], lambda x: x[0]),
    ("list append", lambda d: d.items, lambda x: x.append(1)),
    ("list len", lambda d: (len(d.items), d.items)[1], len),
    ("list iteration", lambda d: d.items, list),
    ("list iterator", lambda d: iter(d.items), next),
    ("list iterator, started", lambda d: started(iter(d.items)), next),
    ("list reversed", lambda d: started(reversed(d.items)), next),
    ("list own", lambda d: (d.items.reverse(), d.items)[1], lambda x: x[0]),
    ("list own sort", lambda d: (d.items.reverse(), d.items)[1], lambda x: x.append(1)),
    ("list bool", lambda d: d.items, bool),
    ("list repr", lambda d: d.items, repr),
    ("list eq", lambda d: d.items, lambda x: x == []),
    ("nested list", lambda d: d.items[1], lambda x: x.append(1)),
    ("dict key", lambda d: d.table, lambda x: x["a"]),
    ("dict key read before", lambda d: (d.table["a"], d.table)[1], lambda x: x["a"]),
    ("dict missing", lambda d: d.table, lambda x: x.get("zz")),
    ("dict set", lambda d: d.table, lambda x: x.__setitem__("a", 1)),
    ("dict del", lambda d: d.table, lambda x: x.__delitem__("a")),
    ("dict in", lambda d: d.table, lambda x: "a" in x),
    ("dict len", lambda d: (len(d.table), d.table)[1], len),
    ("dict iterator", lambda d: iter(d.table), next),
    ("dict iterator, started", lambda d: started(iter(d.table)), next),
    ("dict items iterator, started", lambda d: started(iter(d.table.items())), next),
    ("dict values iterator, started", lambda d: started(iter(d.table.values())), next),
    ("dict keys view", lambda d: d.table.keys(), list),
    ("dict keys view in", lambda d: d.table.keys(), lambda x: "a" in x),
    ("dict keys view len", lambda d: d.table.keys(), len),
    ("dict values view", lambda d: d.table.values(), list),
    ("dict items view", lambda d: d.table.items(), list),
    ("dict clear", lambda d: d.table, lambda x: x.clear()),
    ("dict update", lambda d: d.table, lambda x: x.update(a=1)),
    ("dict eq", lambda d: d.table, lambda x: x == {}),
    ("dict copy", lambda d: d.table, lambda x: x.copy()),
    ("dict inside a copy", lambda d: dict(d.table), lambda x: x["b"].append(1)),
    ("set in", lambda d: d.tags, lambda x: "x" in x),
    ("set add", lambda d: d.tags, lambda x: x.add("z")),
    ("set len", lambda d: (len(d.tags), d.tags)[1], len),
    ("set iterator", lambda d: started(iter(d.tags)), next),
    ("set or", lambda d: d.tags, lambda x: x | {1}),
    ("set discard", lambda d: d.tags, lambda x: x.discard("x")),
    ("deque", lambda d: d.queue, lambda x: x.append(1)),
    ("deque popleft", lambda d: d.queue, lambda x: x.popleft()),
    ("in a tuple", lambda d: d.pair[1], lambda x: x.append(1)),
    ("the transaction's own root", lambda d: d._theus_node, lambda x: x._path()),
]


@pytest.mark.parametrize(("name", "take", "use"), TAKEN, ids=[case[0] for case in TAKEN])
@pytest.mark.parametrize("committed", [True, False])
def test_use_after_the_end(name: str, take: Callable[[Any], Any], use: Callable[[Any], Any], committed: bool) -> None:
    session = Session(D())
    tx = session.begin("place")
    taken = take(tx.domain)
    if committed:
        session.end(tx)
    tx.close()
    with pytest.raises(ScopeError, match="was used after process 'place' ended") as caught:
        use(taken)
    assert (caught.value.scope, caught.value.process) == ("domain", "place")
    with pytest.raises(ScopeError):
        tx.domain  # noqa: B018
    with pytest.raises(ScopeError):
        tx.finish()


@pytest.mark.parametrize(("name", "take", "use"), TAKEN, ids=[case[0] for case in TAKEN])
def test_same_uses_before_the_end(name: str, take: Callable[[Any], Any], use: Callable[[Any], Any]) -> None:
    try:
        use(take(Session(D()).begin("place").domain))
    except StopIteration:
        pass


class Big:
    """An unknown object whose life can be watched."""


def test_nothing_is_kept_alive() -> None:
    session = Session(D())
    session.forget()
    big = Big()
    watch = weakref.ref(big)
    session.run(lambda d, value=big: d.table.__setitem__("big", {"x": value}))  # type: ignore[misc]
    del big
    old = weakref.ref(session.head.snapshot)

    gc.collect()
    gc.disable()
    try:
        tx = session.begin("p")
        domain = tx.domain
        held = [domain, domain.table, domain.table["big"], domain.items, domain.tags, iter(domain.items), domain.hits]
        assert held[2]["x"] is watch()
        domain.table["own"] = held[2]
        domain.table["big"]["y"] = domain.items[1]
        session.end(tx)
        drafts = [weakref.ref(domain), weakref.ref(held[1])]
        session.run(lambda d: (d.table.pop("big"), d.table.pop("own")))
        assert old() is None
        assert watch() is None, "drafts that are still held keep nothing of the state"
        del domain, held
        assert [ref() for ref in drafts] == [None, None], "without the help of the cycle collector"
        made = weakref.ref(tx)
        del tx
        assert made() is None
    finally:
        gc.enable()


def test_snapshots_and_drafts_go_by_reference_counts_alone() -> None:
    session = Session({"d": {i: Inner(i) for i in range(400)}, "l": list(range(400))})
    session.forget()
    gc.collect()
    gc.disable()
    try:
        for i in range(400):
            if i == 200:
                session.head._sweep()  # what it keeps for a while is no leak
                before = len(gc.get_objects())
            tx = session.begin()
            tx.domain["d"][i % 7].n += 1
            tx.domain["l"].append(i)
            tx.domain["l"][0] = i
            tx.domain["d"][f"new{i % 3}"] = Inner(1)
            del tx.domain["d"][f"new{i % 3}"]
            tx.view()["d"]
            session.end(tx)
        session.head._sweep()
        assert len(gc.get_objects()) - before < 50
    finally:
        gc.enable()


def test_detached_drafts_write_nothing() -> None:
    session = Session(D())

    def body(d: Any) -> None:
        inner, items = d.inner, d.items
        nested = items[1]
        d.inner = Inner(5)
        inner.n = 9
        del d.table["c"]
        d.items = ["new"]
        nested.append("lost")
        items.append("lost")

    session.run(body)
    assert session.state.inner.n == 5
    assert session.state.items == ["new"]
    assert "c" not in session.state.table


def test_a_draft_of_another_transaction() -> None:
    session = Session(D())
    other = session.begin("other")
    items = other.domain.items
    session.run(lambda d: setattr(d, "n", items[0]) or d.table.__setitem__("copy", items))
    assert session.state.table["copy"] == [1, [2], {"k": 3}]
    other.close()
    tx = session.begin("late")
    tx.domain.table["copy"] = items
    with pytest.raises(ScopeError, match="other"):
        tx.finish()


def test_a_transaction_is_cheap_to_make() -> None:
    session = Session(D())
    assert isinstance(session.begin(), Transaction)
