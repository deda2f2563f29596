"""A durable run goes on where it stopped: restarts are a second engine on the same store."""

from __future__ import annotations

import asyncio
import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from theus import (
    CommitUnknown,
    DefinitionError,
    Engine,
    NotStorable,
    RunFenced,
    TheusError,
    WorkflowChanged,
    branch,
    each,
    flow,
    parallel,
    process,
    repeat,
)
from theus.journal import forget
from theus.protocols import Store
from theus.stores import open_store
from theus.stores.memory import MemoryStore


@dataclass
class Shop:
    stock: dict[str, int] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    rounds: int = 0


class Trouble(Exception):
    pass


class World:
    """Counts what ran; a call whose name and argument are in ``broken`` fails."""

    def __init__(self) -> None:
        self.ran: Counter[str] = Counter()
        self.broken: set[str] = set()

    def step(self, name: str) -> None:
        self.ran[name] += 1
        if name in self.broken:
            raise Trouble(name)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(params=["memory", "sqlite"])
def store(request, tmp_path) -> Iterator[Store]:
    store = MemoryStore(Shop()) if request.param == "memory" else open_store(tmp_path / "shop.db", Shop())
    yield store
    store.close()


def engine(store: Store) -> Engine[Shop]:
    return Engine(store=store)


def make(world: World):
    """A workflow with every kind of node."""

    @process
    def load(ctx, count: int):
        world.step("load")
        ctx.domain.log.append("load")
        return list(range(count))

    @process
    def work(ctx, item: int):
        world.step(f"work {item}")
        ctx.domain.stock[f"n{item}"] = item
        return item * 10

    @process
    async def left(ctx, items):
        world.step("left")
        ctx.domain.log.append("left")
        return sum(items)

    @process
    def right(ctx, items):
        world.step("right")
        return len(items)

    @process
    def rich(ctx, pair):
        world.step("rich")
        ctx.domain.log.append("rich")
        return list(pair)

    @process
    def poor(ctx, pair):
        world.step("poor")
        return [0, 0]

    @process
    def again(ctx, pair):
        world.step(f"again {ctx.domain.rounds}")
        ctx.domain.rounds += 1
        return [pair[0] + 1, pair[1]]

    @process
    def last(ctx, pair):
        world.step("last")
        ctx.domain.log.append("last")
        return pair

    return flow(
        load,
        each(work),
        parallel(left, right),
        branch(lambda domain, pair: pair[0] > 5 and "rich" not in domain.log, rich, poor),
        repeat(again, while_=lambda domain: domain.rounds < 3, limit=10),
        last,
    )


STEPS = ["load", "work 0", "work 1", "work 2", "left", "right", "rich", "again 0", "again 1", "again 2", "last"]
RESULT = [33, 3]
STATE = Shop({"n0": 0, "n1": 1, "n2": 2}, ["load", "left", "rich", "last"], 3)


@pytest.mark.parametrize("failing", STEPS)
def test_a_failed_run_goes_on_at_the_step_that_failed(store, world, failing):
    world.broken = {failing}
    with engine(store) as first, pytest.raises(Trouble):
        first.run(make(world), 3, run_id="nightly-24")
    world.broken = set()
    with engine(store) as second:
        assert second.run(make(world), 3, run_id="nightly-24") == RESULT
        assert second.state == STATE
    expected = Counter(STEPS) + Counter([failing])
    # An item or branch that was cancelled because a sibling failed begins anew.
    assert set(world.ran) == set(expected)
    assert all(
        world.ran[name] == 1 for name in STEPS if name != failing and not name.startswith(("work", "left", "right"))
    )
    assert world.ran[failing] == 2


def test_a_finished_run_gives_its_result_and_runs_nothing(store, world):
    with engine(store) as first:
        assert first.run(make(world), 3, run_id="nightly-24") == RESULT
    assert world.ran == Counter(STEPS)
    with engine(store) as second:
        version = store.snapshot.version
        assert second.run(make(world), 3, run_id="nightly-24") == RESULT
        assert store.snapshot.version == version
    assert world.ran == Counter(STEPS)


def test_another_run_id_is_another_run(store, world):
    with engine(store) as first:
        first.run(make(world), 3, run_id="one")
        first.run(make(world), 3, run_id="on")
    assert world.ran["load"] == 2


def test_each_goes_on_item_by_item(store, world):
    world.broken = {"work 1"}
    crawl = make(world)
    with Engine(store=store, debug=True) as first, pytest.raises(Trouble):  # in order: item 0 is done, 2 never began
        first.run(crawl, 3, run_id="r")
    assert world.ran == Counter(["load", "work 0", "work 1"])
    world.broken = set()
    with engine(store) as second:
        second.run(crawl, 3, run_id="r")
    assert world.ran == Counter(STEPS) + Counter(["work 1"])


def test_predicates_are_not_asked_again(store, world):
    """What they look at has changed since: asked again, this one would say the opposite."""
    asked = []

    def fresh(domain):
        asked.append(domain.rounds)
        return domain.rounds == 0

    @process
    def mark(ctx):
        ctx.domain.rounds += 1
        return "marked"

    @process
    def then(ctx, value):
        world.step("then")
        return value

    way = flow(branch(fresh, flow(mark, then), lambda: "other way"))
    world.broken = {"then"}
    with engine(store) as first, pytest.raises(Trouble):
        first.run(way, run_id="r")
    world.broken = set()
    with engine(store) as second:
        assert second.run(way, run_id="r") == "marked"
    assert asked == [0]


@pytest.mark.parametrize("door", ["run", "arun"])
def test_a_lone_process(store, world, door):
    @process
    def place(ctx, sku: str, qty: int = 1):
        world.step("place")
        ctx.domain.stock[sku] = qty
        return qty

    def run(**arguments):
        with engine(store) as shop:
            if door == "arun":
                return asyncio.run(shop.arun(place, run_id="order-1", **arguments))
            return shop.run(place, run_id="order-1", **arguments)

    assert run(sku="tea", qty=2) == 2
    assert run(sku="tea", qty=2) == 2
    assert world.ran["place"] == 1
    with pytest.raises(DefinitionError, match=r"begun with \(qty=2, sku='tea'\).* with \(qty=3, sku='tea'\)"):
        run(sku="tea", qty=3)


def test_keywords_of_the_first_step_are_used_up_by_it_even_if_it_is_recorded(store, world):
    @process
    def first(ctx, *, name: str):
        world.step("first")
        return name

    @process
    def second(ctx, value, name: str = "default"):
        world.step("second")
        return [value, name]

    both = flow(first, second)
    world.broken = {"second"}
    with engine(store) as shop, pytest.raises(Trouble):
        shop.run(both, name="given", run_id="r")
    world.broken = set()
    with engine(store) as shop:
        assert shop.run(both, name="given", run_id="r") == ["given", "default"]


def test_a_state_process_and_messages_are_recorded_in_their_commit(store, world):
    @process(nature="state")
    def count(ctx, n=1):
        world.step("count")
        ctx.domain.rounds += n
        return ctx.domain.rounds

    @process
    def send(ctx, value):
        ctx.send(count, n=10)
        return value + 1

    @process
    def last(ctx, value):
        world.step("last")
        return value

    work = flow(count, send, last)
    world.broken = {"last"}
    with engine(store) as shop, pytest.raises(Trouble):
        shop.run(work, run_id="r")
    world.broken = set()
    with engine(store) as shop:
        assert shop.run(work, run_id="r") == 2
        assert shop.state.rounds == 11


def test_collected_errors_stay_what_they_were(store, world):
    @process
    def check(ctx, item):
        world.step(f"check {item}")
        return item

    @process
    def after(ctx, results):
        world.step("after")
        return [str(r) if isinstance(r, Exception) else r for r in results]

    checks = flow(each(check, on_error="collect"), after)
    world.broken = {"check 1", "after"}
    with engine(store) as shop, pytest.raises(Trouble):
        shop.run(checks, [0, 1, 2], run_id="r")
    world.broken = set()
    for _ in range(2):
        with engine(store) as shop:
            assert shop.run(checks, [0, 1, 2], run_id="r") == [0, "Trouble: check 1", 2]
    assert world.ran == Counter({"check 0": 1, "check 1": 1, "check 2": 1, "after": 2})


def test_a_source_is_pulled_again_and_its_items_are_known_by_number(store, world):
    @process
    def lines():
        world.step("lines")
        yield from ["a", "b", "c"]

    @process
    def read(ctx, line):
        world.step(f"read {line}")
        return line.upper()

    @process
    def last(ctx, found):
        world.step("last")
        return found

    work = flow(lines, each(read, limit=1), last)
    world.broken = {"read b"}
    with engine(store) as shop, pytest.raises(Trouble):
        shop.run(work, run_id="r")
    world.broken = {"last"}
    with engine(store) as shop, pytest.raises(Trouble):
        shop.run(work, run_id="r")
    world.broken = set()
    for _ in range(2):
        with engine(store) as shop:
            assert shop.run(work, run_id="r") == ["A", "B", "C"]
    assert world.ran == Counter({"lines": 3, "read a": 1, "read b": 2, "read c": 1, "last": 2})


def test_what_cannot_be_kept_is_refused_and_nothing_is_committed(store):
    @process
    def odd(ctx):
        ctx.domain.rounds += 1
        return object()

    with engine(store) as shop:
        with pytest.raises(NotStorable, match="odd"):
            shop.run(odd, run_id="r")
        assert shop.state.rounds == 0


@pytest.mark.parametrize("domain", [None, Shop()])
def test_without_a_store_a_run_id_is_only_a_name(world, domain):
    @process
    def step(ctx):
        world.step("step")
        return ctx.key

    with Engine(domain) as plain:
        assert plain.run(step, run_id="r") == plain.run(step, run_id="r") == "r/step"
    assert world.ran["step"] == 2


@pytest.mark.parametrize("run_id", ["", "a/b", 5])
def test_run_ids_that_cannot_be(store, run_id):
    with engine(store) as shop, pytest.raises(DefinitionError, match="run_id"):
        shop.run(lambda: 1, run_id=run_id)


# --- owners


def test_a_run_in_hand_is_not_begun_twice_in_one_engine(store):
    @process
    def outer(ctx):
        with pytest.raises(DefinitionError, match="in hand"):
            shop.run(lambda: 1, run_id="r")
        return 1

    with engine(store) as shop:
        assert shop.run(outer, run_id="r") == 1


@pytest.mark.parametrize("completed_by", ["nothing", "an invariant", "a message"])
def test_the_next_starter_takes_over_and_the_older_owner_is_fenced(store, world, completed_by):
    invariants = [lambda shop: shop.rounds >= 0] if completed_by == "an invariant" else []
    other = Engine(store=store, invariants=invariants)

    @process(nature="state")
    def note(ctx):
        ctx.domain.log.append("noted")

    @process
    def first(ctx):
        ctx.domain.rounds += 1
        return 1

    @process(retries=3)
    def second(ctx, value):
        world.step("second")
        ctx.domain.rounds += 1
        if completed_by == "a message":
            ctx.send(note)
        if world.ran["second"] == 1:
            assert other.run(steps, run_id="r") == 2
        ctx.emit("made", value)
        return value + 1

    @process
    def third(ctx, value):
        world.step("third")
        return value

    heard = []
    steps = flow(first, second, third)
    with Engine(store=store, invariants=invariants) as shop, pytest.raises(RunFenced) as caught:
        shop.on("made", heard.append)
        shop.run(steps, run_id="r")
    assert caught.value.run_id == "r"
    assert world.ran["second"] == 2
    assert (world.ran["third"], heard) == (1, [])  # for the older owner it ended there
    assert other.state.rounds == 2
    assert other.run(steps, run_id="r") == 2  # it is done, and stays so


# --- changed code


def test_what_was_not_begun_yet_may_change(store, world):
    @process
    def one(ctx):
        world.step("one")
        return 1

    @process
    def two(ctx, value):
        raise Trouble

    @process
    def three(ctx, value):
        return value + 2

    with engine(store) as shop, pytest.raises(Trouble):
        shop.run(flow(one, two), run_id="r")
    with engine(store) as shop:
        assert shop.run(flow(one, three, three), run_id="r") == 5
    assert world.ran["one"] == 1


def changed_workflows():
    @process
    def pack(ctx, value=0, *, paper: str = "brown"):
        return value

    @process
    def wrap(ctx, value=0):
        return value

    @process
    def fail(ctx, value):
        raise Trouble

    return [
        (flow(pack, fail), flow(wrap, fail), "-0.pack: pack\n"),
        (flow(pack.bind(paper="brown"), fail), flow(pack.bind(paper="white"), fail), "+0.pack: pack(paper='white')"),
        (flow(pack, fail), parallel(pack, fail), "-: flow\n+: parallel"),
        (flow(pack, wrap, fail), flow(pack, fail), "-1.wrap: wrap"),
        (flow(flow(pack, wrap), fail), flow(each(pack), wrap, fail), "-0.flow(pack, wrap)/0.pack: pack"),
    ]


@pytest.mark.parametrize(("before", "after", "shown"), changed_workflows())
def test_a_changed_workflow_is_refused_with_a_diff_and_stays_as_it_is(store, before, after, shown):
    with engine(store) as shop:
        with pytest.raises(Trouble):
            shop.run(before, 0, run_id="r")
        with pytest.raises(WorkflowChanged) as caught:
            shop.run(after, 0, run_id="r")
        assert shown in caught.value.diff
        with pytest.raises(Trouble):
            shop.run(before, 0, run_id="r")


def refused(run):
    """The name of what was recorded, from the refusal."""
    with pytest.raises(WorkflowChanged) as caught:
        run()
    assert f"compatible_with({caught.value.recorded!r})" in str(caught.value)
    return caught.value.recorded


def test_a_changed_workflow_that_says_it_is_compatible_goes_on(store):
    ran = []

    @process
    def pack(ctx, value=0, *, paper: str = "brown"):
        ran.append(f"pack {paper}")
        return value + 1

    @process
    def wrap(ctx, value):
        ran.append("wrap")
        return value + 10

    @process
    def label(ctx, value):
        ran.append("label")
        if "mend" not in ran:
            raise Trouble
        return value + 100

    before = flow(pack.bind(paper="brown"), wrap, label)
    after = flow(pack.bind(paper="white"), label)  # other paper, no wrap, so label stands at another place
    with engine(store) as shop:
        with pytest.raises(Trouble):
            shop.run(before, 0, run_id="r")
        recorded = refused(lambda: shop.run(after, 0, run_id="r"))
        refused(lambda: shop.run(after.compatible_with("0123456789ab"), 0, run_id="r"))
        assert ran == ["pack brown", "wrap", "label"]
        meant = copy.copy(after.compatible_with("0123456789ab", recorded))
        with pytest.raises(Trouble):
            shop.run(meant, 0, run_id="r")
        ran.append("mend")
    with engine(store) as shop:
        assert shop.run(after, 0, run_id="r") == 101  # recorded as such by now
        assert ran == ["pack brown", "wrap", "label", "label", "mend", "label"]
        assert shop.run(before.compatible_with(refused(lambda: shop.run(before, 0, run_id="r"))), 0, run_id="r") == 101


@pytest.mark.parametrize("name", ["", "3f2a", "3F2A90BC51DE", 7, None])
def test_what_cannot_be_a_recorded_version_is_refused(name):
    workflow = changed_workflows()[0][0]
    with pytest.raises(DefinitionError, match="compatible_with"):
        workflow.compatible_with(name)


def test_a_finished_run_is_answered_only_with_the_workflow_it_was(store):
    with engine(store) as shop:
        shop.run(flow(changed_workflows()[0][0].steps[0]), run_id="r")
        with pytest.raises(WorkflowChanged):
            shop.run(changed_workflows()[0][0], run_id="r")


def test_what_was_noted_last_is_recorded_with_the_end(store, world):
    """A predicate, an item's error and a source's end are followed by no step that could carry their records."""

    @process
    def lines():
        yield from ["a", "b"]

    @process
    def check(ctx, line):
        world.step(f"check {line}")
        return line

    checks = flow(lines, each(check, on_error="collect"))
    asked = []
    unchanged = branch(lambda domain, value: asked.append(value), check)
    world.broken = {"check b"}
    for _ in range(2):
        with engine(store) as shop:
            first, error = shop.run(checks, run_id="r")
            assert first == "a"
            assert str(error).endswith("check b")
            assert shop.run(unchanged, "c", run_id="s") == "c"
        world.broken = set()
    assert world.ran == Counter(["check a", "check b"])
    assert asked == ["c"]


def test_a_source_that_gives_another_number_of_items_is_refused(store, world):
    @process
    def lines():
        world.step("lines")
        yield from ["a", "b"] if world.ran["lines"] == 1 else ["a"]

    @process
    def read(ctx, line):
        return line

    @process
    def last(ctx, found):
        world.step("last")
        return found

    work = flow(lines, each(read), last)
    world.broken = {"last"}
    with engine(store) as shop:
        with pytest.raises(Trouble):
            shop.run(work, run_id="r")
        with pytest.raises(WorkflowChanged, match="gave 2 items before, and now 1"):
            shop.run(work, run_id="r")


def test_the_items_of_a_set_have_an_order_of_their_own(store, world):
    """Not that of the set, which another process has otherwise: an item is known by its number."""

    @process
    def work(ctx, item: str):
        world.step(item)
        return item

    names = {f"item {number}" for number in range(10)}
    with engine(store) as shop:
        assert shop.run(each(work, limit=1), names, run_id="r") == sorted(names)
    assert list(world.ran) == sorted(names)


def test_a_step_that_may_start_early_is_not_begun_again(store, world):
    @process(reads=[], writes=["rounds"], idempotent=True)
    async def first(ctx):
        world.step("first")
        ctx.domain.rounds = 1

    @process(reads=[], writes=["log"], idempotent=True)
    async def second(ctx):
        world.step("second")
        ctx.domain.log = ["second"]
        return 2

    work = flow(first, second)
    for _ in range(2):
        with engine(store) as shop:
            assert asyncio.run(shop.arun(work, run_id="r")) == 2
    assert world.ran == Counter(["first", "second"])


@dataclass
class Item:
    name: str


@process
def items() -> list[Item]:
    return [Item("a"), Item("b")]


@process
def named(ctx, name: str) -> Item:
    return Item(name)


@process
def source(ctx) -> Iterator[Item]:
    yield from [Item("a"), Item("b")]


@process
def fail_a(ctx, item: Item) -> Item:
    if item.name == "a":
        raise ValueError(item.name)
    return item


@process
def length(ctx, value: Item) -> int:
    return len(value.name)


@pytest.mark.parametrize(
    ("target", "args"),
    [
        (named, ["x"]),
        (flow(items, length.bind(value=Item("bound"))), []),
        (flow(named, length, lambda n: {n: "n"}), ["x"]),
        (parallel(named, lambda name: (name, 1)), ["x"]),
        (each(parallel(named, lambda name: len(name))), ["x", "yy"]),
        (flow(items, each(branch(lambda _, item: item.name == "a", length))), []),
        (flow(source, each(branch(lambda _, item: item.name == "a", length))), []),
        (flow(named, branch(lambda _, item: False, length)), ["x"]),
        (flow(named, repeat(length, while_=lambda _, value: isinstance(value, Item), limit=3)), ["x"]),
        (flow(named, repeat(length, while_=lambda _: False, limit=3)), ["x"]),
        (flow(items, parallel(each(length), lambda found: found[0].name)), []),
    ],
)
@pytest.mark.parametrize("door", ["run", "arun"])
def test_a_finished_run_keeps_its_result_with_the_types_of_its_processes(store, target, args, door):
    args = [args] if isinstance(target, type(each(length))) else args
    results = []
    for _ in range(2):
        with engine(store) as shop:
            run = shop.run if door == "run" else lambda *a, **k: asyncio.run(shop.arun(*a, **k))
            results.append(run(target, *args, run_id="r"))
    assert results[0] == results[1]
    assert repr(results[0]) == repr(results[1])
    for kind in ("step", "once", "signal"):
        assert store.records(kind) == []


def test_collected_errors_in_a_result_are_kept_as_texts(store):
    work = flow(items, parallel(each(fail_a, on_error="collect"), length.bind(value=Item("zz"))))
    for _ in range(3):
        with engine(store) as shop:
            (error, b), two = shop.run(work, run_id="r")
            assert (str(error).removeprefix("ValueError: "), b, two) == ("a", Item("b"), 2)
    assert str(error) == "ValueError: a"
    assert type(error) is TheusError


def test_what_a_long_run_recorded_goes_by_and_by_and_after_a_crash_in_between(store, monkeypatch):
    """The engine dies after the commit that ends the run; whoever asks for the run again lets the rest go."""
    monkeypatch.setattr("theus.journal._BATCH", 3)

    class Dying:
        def __init__(self, store):
            self._store, self.left = store, 10**9

        def __getattr__(self, name):
            return getattr(self._store, name)

        async def commit(self, commit, *, blocking):
            if self.left == 0:
                raise ConnectionError("the engine died")
            if any(record.kind == "result" for record in commit.records):
                self.left = 1
            self.left -= 1
            return await self._store.commit(commit, blocking=blocking)

    ten = each(named)
    names = [f"n{number}" for number in range(10)]
    with engine(Dying(store)) as shop, pytest.raises(ConnectionError):
        shop.run(ten, names, run_id="r")
    assert len(store.records("step")) == 7
    with engine(store) as shop:
        assert shop.run(ten, names, run_id="r") == [Item(name) for name in names]
    assert store.records("step") == []


def test_letting_go_leaves_a_run_alone_that_was_forgotten_and_begun_anew(store, world, monkeypatch):
    monkeypatch.setattr("theus.journal._BATCH", 3)

    class Meddling:
        """Between the end and the rest of the records somebody forgets the run and begins it again."""

        def __init__(self, store):
            self._store, self.armed = store, False

        def __getattr__(self, name):
            return getattr(self._store, name)

        async def commit(self, commit, *, blocking):
            if self.armed:
                self.armed = False
                forget(self._store, "r")
                world.broken = {"last"}
                with engine(self._store) as other, pytest.raises(Trouble):
                    await asyncio.to_thread(other.run, make(world), 3, run_id="r")
                self.kept = self._store.records("step")
            self.armed = any(record.kind == "result" for record in commit.records)
            return await self._store.commit(commit, blocking=blocking)

    meddling = Meddling(store)
    with engine(meddling) as shop:
        shop.run(make(world), 3, run_id="r")
    assert len(meddling.kept) > 8
    assert store.records("step") == meddling.kept


def test_a_run_that_is_forgotten_leaves_its_changes_and_nothing_else(store, world):
    with engine(store) as shop:
        shop.run(make(world), 3, run_id="r")
        shop.run(make(world), 3, run_id="r2")
        others = [store.records(kind, "r2") for kind in ("run", "owner", "result")]
        forget(store, "r")
        assert [store.records(kind) for kind in ("run", "owner", "result")] == others
        assert len(shop.state.log) == 7
        with pytest.raises(DefinitionError, match="no run"):
            forget(store, "r")


def test_the_owner_of_a_run_that_is_forgotten_meanwhile_is_fenced(store):
    @process
    def body(ctx):
        forget(store, "r")

    with engine(store) as shop, pytest.raises(RunFenced):
        shop.run(body, run_id="r")
    assert store.records("run") == store.records("step") == []


class Speechless:
    """A store that makes a commit of ``silent`` and loses its answer."""

    def __init__(self, store: Store, silent: str) -> None:
        self._store = store
        self._silent = silent

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def commit(self, commit, *, blocking):
        answer = await self._store.commit(commit, blocking=blocking)
        if commit.author == self._silent:
            raise CommitUnknown("no answer", commit_id="1")
        return answer


def test_a_step_whose_commit_was_not_answered_is_not_made_again(store, world):
    @process(retries=3)
    def count(ctx):
        world.step("count")
        ctx.domain.rounds += 1
        return 1

    work = flow(count, lambda value: value + 1)
    with engine(Speechless(store, "count")) as shop, pytest.raises(CommitUnknown):
        shop.run(work, run_id="r")
    with engine(store) as shop:
        assert shop.run(work, run_id="r") == 2
        assert shop.state.rounds == world.ran["count"] == 1
