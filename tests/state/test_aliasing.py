"""Nothing outside can change committed state: not the owner of an assigned object, not a view, not a returned value."""

from __future__ import annotations

import itertools
import pickle
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from state_tools import Session

from theus.errors import NotStorable, ScopeError
from theus.state.snapshot import Snapshot, readonly
from theus.state.values import detach, plain
from theus.stores.memory import MemoryStore


@dataclass
class Inner:
    items: list[Any] = field(default_factory=list)
    n: int = 0

    def add(self) -> None:
        self.n += 1


@dataclass
class D:
    inner: Inner = field(default_factory=Inner)
    table: dict[Any, Any] = field(default_factory=dict)
    items: list[Any] = field(default_factory=list)
    tags: set[Any] = field(default_factory=set)
    queue: deque[Any] = field(default_factory=deque)
    pair: tuple[Any, ...] = ()


def test_the_initial_domain_is_copied() -> None:
    mine = D(table={"a": [1]}, items=[[1]], tags={1}, pair=([1],))
    session = Session(mine)
    mine.table["a"].append(2)
    mine.items[0].append(2)
    mine.tags.add(2)
    mine.pair[0].append(2)
    mine.inner.n = 5
    assert plain(session.state) == D(table={"a": [1]}, items=[[1]], tags={1}, pair=([1],))


def test_assigned_objects_are_copied() -> None:
    session = Session(D())
    mine = Inner([[1]], 1)
    table = {i: [i] for i in range(400)}
    tags = set(range(400))
    groups = defaultdict(list, {"a": [1]})

    def body(d: Any) -> None:
        d.inner = mine
        d.items.append(mine)
        d.table["big"] = table
        d.table["groups"] = groups
        d.tags = tags
        d.pair = (mine, [mine])
        d.queue = deque([[1]])
        mine.n = 7  # still the owner's object: shows up to the end of the process, as in plain Python

    session.run(body)
    mine.n = 99
    mine.items[0].append(99)
    table[5].append(99)
    tags.add("x")
    groups["a"].append(99)
    state = session.state
    assert state.inner.n == 7
    assert state.items[0] == Inner([[1]], 7)
    assert state.inner.items == [[1]]
    assert state.table["big"][5] == [5]
    assert "x" not in state.tags
    assert state.table["groups"]["a"] == [1]
    assert state.pair[1][0].n == 7
    # One object at two places became two: state is a tree.
    session.run(lambda d: setattr(d.inner, "n", 1))
    assert session.state.items[0].n == 7


def test_returned_values_are_apart() -> None:
    session = Session(D(table={"a": [1]}, inner=Inner([1])))
    tx = session.begin()
    d = tx.domain
    d.table["b"] = [2]
    result = detach({"t": d.table, "pair": (d.inner, 5), "list": [d.items], "n": 1})
    whole = plain(d)
    session.end(tx)
    for made in (result["t"]["a"], result["t"]["b"], result["pair"][0].items, result["list"][0], whole.table["a"]):
        made.append("mine")
    assert session.state.table == {"a": [1], "b": [2]}
    assert session.state.inner.items == [1]
    mine = plain(session.state)
    mine.table["a"].append(3)
    assert session.state.table["a"] == [1]


def test_detach_gives_the_same_object_if_there_is_nothing_to_do() -> None:
    tx = Session(D()).begin()
    loop: list[Any] = [1]
    loop.append(loop)
    for value in (None, 1, "x", [1, {"a": (1, 2)}], {"a": Inner([1])}, Inner(), object(), loop, b"x", (1, [2])):
        assert detach(value) is value
        assert detach([tx.domain], False)[0] is tx.domain
    shared = [1]
    out = detach({"a": shared, "b": shared, "c": tx.domain.items})
    assert out["a"] is shared
    assert out["b"] is shared
    both = [tx.domain.items]
    out = detach((both, both))
    assert out == ([[]], [[]])
    assert out[0] is out[1]
    assert detach(Inner([tx.domain.inner])).items == [Inner()]
    assert type(detach(defaultdict(list, a=tx.domain.items))) is defaultdict


def refused(view: Any, change: Any, scope: str = "domain") -> None:
    with pytest.raises(ScopeError, match="read-only") as caught:
        change(view)
    assert caught.value.scope == scope


def test_views_cannot_change_anything() -> None:
    session = Session(
        D(
            table={"a": [1], **{i: i for i in range(300)}},
            items=[[1], {"k": 1}],
            tags={1},
            pair=([1],),
            queue=deque([1]),
        )
    )
    before = plain(session.state)
    view = session.state
    for change in (
        lambda v: setattr(v, "items", []),
        lambda v: delattr(v, "items"),
        lambda v: v.inner.add(),
        lambda v: setattr(v, "nosuch", 1),
        lambda v: v.items.append(1),
        lambda v: v.items.__setitem__(0, 1),
        lambda v: v.items.__delitem__(0),
        lambda v: v.items.sort(),
        lambda v: v.items[0].append(1),
        lambda v: v.items[1].update(a=1),
        lambda v: v.items.__iadd__([1]),
        lambda v: v.table.__setitem__("a", 1),
        lambda v: v.table.pop("a"),
        lambda v: v.table.clear(),
        lambda v: v.table.setdefault("q", 1),
        lambda v: v.table.__ior__({}),
        lambda v: v.table["a"].append(1),
        lambda v: next(iter(v.table.values())).append(1),
        lambda v: v.tags.add(2),
        lambda v: v.tags.__isub__({1}),
        lambda v: v.pair[0].append(1),
        lambda v: v.queue.popleft(),
    ):
        refused(view, change)
    copied = view.items.copy()
    copied.append(1)
    assert plain(session.state) == before


def test_views_read_like_the_value() -> None:
    value = D(Inner([1, 2], 3), {"a": {"b": 1}}, [1, [2], 3], {1, 2}, deque([1, 2]), ([1], 2))
    view = Session(value).state
    assert view == value
    assert value == view
    assert repr(view) == repr(value)
    assert isinstance(view, D)
    assert view.inner == Inner([1, 2], 3)
    assert view.inner is view.inner
    assert dict(view.table) == {"a": {"b": 1}}
    assert list(view.items) == [1, [2], 3]
    assert view.items[-1] == 3
    assert view.items[0:2] == [1, [2]]
    assert list(reversed(view.items)) == [3, [2], 1]
    assert [2] in view.items
    assert view.tags | {3} == {1, 2, 3}
    assert view.tags == {1, 2}
    assert 1 in view.tags
    assert len(view.items) == 3
    assert "a" in view.table
    assert view.table.get("zz", 5) == 5
    assert list(view.table.items()) == [("a", {"b": 1})]
    assert list(reversed(view.table)) == ["a"]
    assert view.table | {"c": 1} == {"a": {"b": 1}, "c": 1}
    assert view.queue == deque([1, 2])
    assert view.pair == ([1], 2)
    assert sorted(view.items, key=str) == sorted(value.items, key=str)
    with pytest.raises(KeyError):
        view.table["zz"]
    with pytest.raises(IndexError):
        view.items[9]
    assert pickle.loads(pickle.dumps(view)) == value
    assert type(pickle.loads(pickle.dumps(view.items))) is list
    match view:
        case D(inner=Inner(n=n), items=[first, *_]):
            assert (n, first) == (3, 1)
        case _:
            pytest.fail("views match")


def test_a_view_stays_what_it_was() -> None:
    session = Session(D(table={i: i for i in range(300)}, items=list(range(300))))
    old = session.state
    items = old.items

    def body(d: Any) -> None:
        d.table[5] = "new"
        del d.table[7]
        d.items.append("new")
        d.items[0] = "new"

    session.run(body)
    assert old.table[5] == 5
    assert len(old.table) == 300
    assert list(old.table) == list(range(300))
    assert list(items) == list(range(300))
    assert session.state.table[5] == "new"
    assert len(session.state.items) == 301


def test_snapshots_travel_without_their_head() -> None:
    session = Session(D(table={i: i for i in range(300)}, items=list(range(300)), tags=set(range(300))))
    snapshot = session.head.snapshot
    there: Snapshot = pickle.loads(pickle.dumps(snapshot))
    assert there.head is None
    assert there.version == snapshot.version
    assert there.view() == session.state


def test_config() -> None:
    config = {"rates": [1, 2], "inner": Inner([1])}
    view = readonly(config)
    assert view["rates"] == [1, 2]
    refused(view, lambda v: v["rates"].append(1), "config")
    refused(view, lambda v: setattr(v["inner"], "n", 1), "config")
    refused(view, lambda v: v.update(a=1), "config")
    assert readonly(None) is None
    thing = object()
    assert readonly(thing) is thing
    assert readonly(5) == 5
    assert readonly(Inner([1])).items == [1]
    session = Session(D())
    session.run(lambda d: d.items.append(view["rates"]))
    config["rates"].append(3)  # type: ignore[union-attr]
    assert session.state.items == [[1, 2]]


def test_a_view_of_the_state_can_be_the_next_domain() -> None:
    session = Session(D(items=[1]))
    again = Session(session.state)
    again.run(lambda d: d.items.append(2))
    assert session.state.items == [1]
    assert again.state.items == [1, 2]


def test_containers_grow_into_big_ones() -> None:
    session = Session(D())

    def body(d: Any) -> None:
        for i in range(300):
            d.table[i] = [i]
            d.items.append(i)
            d.tags.add(i)

    session.run(body)
    root = session.head.snapshot.root
    assert [type(part).__name__ for part in (root.table, root.items, root.tags)] == ["VDict", "VList", "VSet"]
    session.run(lambda d: (d.table[5].append(1), d.table.__setitem__("new", 1)))
    assert session.state.table[5] == [5, 1]
    session.run(lambda d: setattr(d, "pair", ({i: i for i in range(300)},)))
    session.run(lambda d: d.pair[0].__setitem__("k", 1))
    assert len(session.state.pair[0]) == 301


def drive(coroutine: Any) -> Any:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waited")


def test_memory_store() -> None:
    from theus.protocols import Commit, Committed, Conflict

    store = MemoryStore(D())
    assert store.open().version == 0
    heard: list[Committed] = []
    end = store.tail(heard.append)
    ops = [("append", ("items",), [1])]
    made = drive(store.commit(Commit(0, (), ops, "a"), blocking=True))
    assert made == Committed(1, ops)
    stale = Commit(0, [((), {"items"}, False, False), (("items",), (), True, False)], ops, "b")
    assert drive(store.commit(stale, blocking=True)) == Conflict(("items",), "a")
    assert store.snapshot.view().items == [1]
    end()
    drive(store.commit(Commit(1, (), ops, "a"), blocking=True))
    assert heard == [made]
    store.close()


def test_memory_store_keeps_records() -> None:
    from theus.protocols import Commit, Committed, Record, Refused

    store = MemoryStore(D())
    mine, other, gone = Record("run", "a", b"1"), Record("run", "b", b"2"), Record("run", "a", None)

    def commit(records: list[Record], expected: list[Record], ops: Any = ()) -> Any:
        return drive(store.commit(Commit(0, (), ops, "r", records=records, expected=expected), blocking=True))

    assert commit([mine, other], [gone]) == Committed(0, (), [mine, other])
    assert store.records("run") == [mine, other]
    assert store.records("run", "b") == [other]
    assert store.records("step") == []
    ops = [("append", ("items",), [1])]
    assert commit([gone], [Record("run", "a", b"0")], ops) == Refused(mine)  # nothing of it was done
    assert store.records("run") == [mine, other]
    assert store.snapshot.view().items == []
    assert commit([gone], [mine], ops) == Committed(1, ops, [gone])
    assert store.records("run") == [other]


async def _coroutine() -> None:
    pass


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: map(str, [1]), r"x was given a map, .* list"),
        (lambda: (n for n in [1]), "a generator"),
        (lambda: zip([1], [2], strict=True), "a zip"),
        (lambda: iter([1]), "a list_iterator"),
        (lambda: itertools.chain([1]), "a chain"),
        (lambda: {"a": 1}.keys(), "a dict_keys"),
        (lambda: {"a": 1}.items(), "a dict_items"),
        (_coroutine, r"x was given the coroutine _coroutine\(\.\.\.\), which has not run; an await is missing"),
    ],
)
def test_what_is_used_up_or_changes_with_another_is_no_value(make: Callable[[], Any], words: str) -> None:
    session = Session({"l": [], "d": {"a": 1}})
    given = make()

    def use(d: Any) -> None:
        d["x"] = given

    with pytest.raises(NotStorable, match=words):
        session.run(use)
    with pytest.raises(NotStorable, match=r"l\.0 was given"):
        session.run(lambda d: d["l"].append(given))
    with pytest.raises(NotStorable):
        Session({"x": [given]})
    with pytest.raises(NotStorable, match="DictKeys"):
        session.run(lambda d: d.update(x=d["d"].keys()))
    assert session.state == {"l": [], "d": {"a": 1}}
    if hasattr(given, "close"):
        given.close()
