"""What crosses to a worker process and back, and stays what it is."""

import asyncio
import contextvars
import copy
import decimal
import functools
import gc
import logging
import sys
import textwrap
import threading
import time
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import engine_bodies
import import_bodies
import msgspec
import pytest
import setting_bodies as settings
import value_bodies as bodies
from value_bodies import Basket, Color, Point
from worker_tools import call, nothing_left, run_program, workers

from theus.environments.book import Book
from theus.environments.meter import Meter
from theus.environments.near_blocks import Blocks
from theus.environments.variables import Variables
from theus.environments.worker import WorkerEnvironment
from theus.errors import ContractError, NotTransferable
from theus.processes import Process, process
from theus.state.head import Head
from theus.surroundings import cannot_travel
from theus.testing.environment_world import RESOURCES, EngineStub, Shop, make_call


@pytest.fixture(autouse=True, scope="module")
def clean():
    with nothing_left():
        yield


@pytest.fixture(scope="module")
def run(clean):
    """Run a coroutine function with a worker environment: the one for all tests, or with options one of its own."""
    shared = WorkerEnvironment(1, resources=RESOURCES)

    def run(main, **options):
        async def whole():
            if not options:
                return await main(shared)
            async with workers(1, **options) as environment:
                return await main(environment)

        return asyncio.run(whole())

    yield run
    asyncio.run(shared.stop(2.0))


def test_every_kind_of_function(run):
    async def main(environment):
        async def gives(function, *args):
            return await call(environment, function, *args)

        assert await gives(bodies.add, 1, 2) == 3
        assert await gives(bodies.add_ten, 1) == 11
        assert await gives(bodies.scale, 2) == 6
        assert await gives(bodies.double, 4) == 8
        assert await gives(functools.partial(bodies.double, 5)) == 10
        assert await gives(lambda x: x + 1, 1) == 2
        assert await gives(bodies.make_adder(5), 1) == (6, 1)
        assert await gives(bodies.make_adder(6), 1) == (7, 2)
        assert await gives(bodies.count_calls) == 3
        assert await gives(bodies.make_recursive(), 7) is False
        assert await gives(Basket({"tea": 2}).add, "tea") == Basket({"tea": 3})
        assert await gives(Basket.of, "tea") == Basket({"tea": 1})
        outcome = await environment.run(make_call(Basket({"tea": 2}).total, 5))
        assert outcome.value == 7

    run(main)


def test_values_are_the_same_and_of_the_same_class(run):
    local = bodies.make_class()

    async def main(environment):
        shared = [1]
        for value in (
            *(None, True, 1 << 80, 1.5, "é", b"x", 3j, (1, [2, {3}]), frozenset({1}), {"a": {(1, 2): None}}, range(3)),
            *(Color.RED, Point(1, 2), Basket({"tea": 1}), local(5), Basket, local, Color, bodies.add, bodies.USER),
            *(b"x" * 300_000, bytearray(300_000), [b"y" * 70_000] * 3, "z" * 200_000),
        ):
            found = await call(environment, bodies.echo, value)
            assert found == value
            assert type(found) is type(value)
        twin = await call(environment, bodies.echo, [shared, shared])
        assert twin[0] is twin[1]
        assert await call(environment, bodies.kind, local(1)) is local
        function = bodies.make_adder(1)
        assert await call(environment, bodies.echo, function) is function
        host = EngineStub()
        reporter = Process(lambda ctx, value: ctx.report(value))
        await environment.run(make_call(reporter, local(7), host=host))
        assert host.reports == [local(7)]
        (outcome,) = [await environment.run(make_call(Process(lambda ctx: ctx.pipe), pipe=local(8)))]
        assert outcome.value == local(8)

    run(main)


def test_what_is_made_there_comes_back_by_value(run):
    async def main(environment):
        function, there = await call(environment, bodies.make_there)
        assert function(1) == 2
        assert type(there).__name__ == "There"
        assert there.pid == environment.workers()[0].pid

    run(main)


def test_classes_that_go_by_value_keep_their_slots(run):
    class Plain:
        __slots__ = ("x", "y")

    class Private:
        __slots__ = ("__hidden", "__weakref__")

        def __init__(self):
            self.__hidden = 1

        def seen(self):
            return self.__hidden

    class Below(Plain):
        __slots__ = ("z",)

    class WithDict(Plain):
        __slots__ = ("__dict__", "z")

    @dataclass(slots=True)
    class Row:
        x: int
        y: list = field(default_factory=list)

    class Pair(NamedTuple):
        x: int
        y: int = 2

    plain, below, with_dict = Plain(), Below(), WithDict()
    plain.x = 1
    below.x = below.z = 2
    with_dict.y = with_dict.z = with_dict.other = 3

    async def main(environment):
        async def back(value):
            found, has_dict = await call(environment, bodies.and_whether_it_has_a_dict, value)
            assert type(found) is type(value)
            assert has_dict is hasattr(value, "__dict__")
            return found

        found = await back(plain)
        assert found.x == 1
        assert not hasattr(found, "y")
        found = await back(below)
        assert (found.x, found.z) == (2, 2)
        found = await back(with_dict)
        assert (found.y, found.z, found.other) == (3, 3, 3)
        assert (await back(Private())).seen() == 1
        assert await back(Row(1, [2])) == Row(1, [2])
        assert await call(environment, bodies.and_again, Pair(1)) == (Pair(1), Pair(1))

    run(main)


def test_models_of_msgspec_go_by_value(run):
    class Base(msgspec.Struct, kw_only=True, tag=True):
        number: int = 1

    class Item(Base, rename="camel", dict=True, forbid_unknown_fields=True):
        item_name: str
        below: list["Item"] = []  # noqa: RUF012 - msgspec copies it
        more: dict[str, int] = msgspec.field(default_factory=dict, name="rest")
        kind: ClassVar[str] = "item"

        def __post_init__(self):
            if not self.item_name:
                raise ValueError("no name")
            self.seen = True

        def shout(self):
            return self.item_name.upper()

    class Special(Item, kw_only=True, order=True):
        number: int
        below: list["Item"] = msgspec.field(default_factory=lambda: [Item("made")])

    class Frozen(msgspec.Struct, frozen=True, array_like=True):
        x: int
        y: int = 2

    def look(value):
        kind = type(value)
        options = {
            name: getattr(kind.__struct_config__, name) for name in dir(kind.__struct_config__) if name[0] != "_"
        }
        return value, msgspec.json.encode(value), options, kind.__struct_fields__, kind.__match_args__

    def make(name):
        item = Item(name)
        return item, item.shout(), item.kind, item.seen, Special(item_name=name, number=3).below[0].seen

    async def main(environment):
        for value in (Item("tea", [Item("milk")]), Special(item_name="tea", number=2), Frozen(1)):
            found = await call(environment, look, value)
            assert type(found[0]) is type(value)
            assert found == look(value)
        assert await call(environment, make, "tea") == (Item("tea"), "TEA", "item", True, True)
        with pytest.raises(ValueError, match="no name"):
            await call(environment, make, "")

    run(main)


def test_arrays_cross_out_of_band(run):
    numpy = pytest.importorskip("numpy")

    async def main(environment):
        for shape in ((10,), (400, 500), (3, 200_000)):
            array = numpy.arange(numpy.prod(shape), dtype=float).reshape(shape)
            assert await call(environment, bodies.total, array) == array.sum()
            twice = await call(environment, bodies.twice, array)
            assert (twice == array * 2).all()
            twice += 1  # writable
            both = await call(environment, bodies.echo, [array, array.T])
            assert (both[1] == array.T).all()

    run(main)


def test_the_cpu_is_measured_for_a_call_that_asks_for_it(run):
    async def main(environment):
        plain = await environment.run(make_call(process(bodies.echo), 1))
        measured = await environment.run(make_call(process(bodies.echo), 1, meter=Meter()))
        assert (plain.value, plain.cpu) == (1, None)
        assert measured.value == 1
        assert measured.cpu > 0

    run(main)


def test_a_frame_has_only_so_many_buffers(monkeypatch):
    numpy = pytest.importorskip("numpy")
    monkeypatch.setattr("theus.environments.parcel.MOST_BUFFERS", 3)
    many = [numpy.full(20_000, n) for n in range(5)]
    book = Book(lambda variable: None)
    blocks = Blocks(lambda: None)
    parcel = book.pack(many, {}, blocks)
    assert len(parcel.buffers) == 3
    assert all((a == b).all() for a, b in zip(book.open(parcel), many, strict=True))


def test_a_function_that_changed_is_sent_again(run):
    factor = 2
    table = {"plus": 1}

    def scaled(x):
        return x * factor + table["plus"] + helper(x)

    def helper(x):
        return offset

    offset = 10

    async def main(environment):
        nonlocal factor, offset, helper
        assert await call(environment, scaled, 3) == 17
        factor = 3
        assert await call(environment, scaled, 3) == 20
        table["plus"] = 2
        assert await call(environment, scaled, 3) == 21
        offset = 20
        assert await call(environment, scaled, 3) == 31

        def helper(x):
            return 0

        assert await call(environment, scaled, 3) == 11

    run(main)


def test_definitions_are_sent_once_and_dropped_with_their_function(run):
    async def main(environment):
        pool, book = environment._pool, environment._book
        for n in range(50):
            assert await call(environment, lambda x, n=n: x + n, 1) == 1 + n
        gc.collect()  # a process refers to itself
        await call(environment, bodies.echo, 1)
        known = pool.workers[0].known
        assert len(book._by_token) <= 4
        assert len(known) <= 6

        def same(x):
            return x

        target = Process(same)
        await environment.run(make_call(target, 1))
        before = book._definition(target).version
        for n in range(5):
            await environment.run(make_call(target, n))
        assert book._definition(target).version == before == 1

    run(main)


def test_only_what_the_contract_names_crosses(run):
    class Unpicklable:
        def __reduce__(self):
            raise TypeError("must not cross")

    @process(reads=["stock.{item}"], writes=["hits"])
    def look(ctx, item):
        ctx.domain.hits += 1
        return ctx.domain.stock[item]

    @process(reads=["stock"])
    def nosy(ctx):
        return ctx.domain.orders

    @process
    def undeclared(ctx):
        return len(ctx.domain.orders)

    async def main(environment):
        domain = Shop(stock={"tea": 3}, orders=["a"])
        head = Head(domain)
        outcome = await environment.run(make_call(look, "tea", snapshot=head.snapshot))
        assert outcome.value == 3
        assert (await environment.run(make_call(undeclared, snapshot=head.snapshot))).value == 1
        error = (await environment.run(make_call(nosy, snapshot=head.snapshot))).error
        assert type(error) is ContractError
        object.__setattr__(head.snapshot.root, "orders", Unpicklable())
        fresh = copy.copy(head.snapshot.root)
        from theus.state.snapshot import Snapshot

        assert (await environment.run(make_call(look, "tea", snapshot=Snapshot(1, fresh)))).value == 3
        with pytest.raises(NotTransferable, match=r"the domain\.orders: a .*Unpicklable"):
            await environment.run(make_call(undeclared, snapshot=Snapshot(1, fresh)))

    run(main)


def test_the_place_that_cannot_cross_is_named(run):
    lock = threading.Lock()

    def closes_over():
        return lock

    @process
    def keeps(ctx, value):
        ctx.domain.stock["tea"] = value()

    @process
    def emits(ctx):
        ctx.emit("done", {"x": threading.Lock()})

    @process
    def reports(ctx):
        ctx.report([threading.Lock()])

    async def main(environment):
        async def what(target, *args, **options):
            with pytest.raises(NotTransferable) as failure:
                outcome = await environment.run(make_call(target, *args, **options))
                raise outcome.error
            assert failure.value.what in str(failure.value)
            return failure.value.what

        assert "closure variable 'lock' of" in await what(Process(closes_over))
        assert await what(Process(bodies.add), 1, kwargs={"b": {"k": [lock]}}) == "argument 'b'['k'][0]: a _thread.lock"
        assert (
            await what(Process(bodies.echo).bind(value=lock), kwargs={"value": lock})
            == "argument 'value': a _thread.lock"
        )
        assert await what(Process(bodies.echo), Basket({"x": lock})) == "argument 'value'.items['x']: a _thread.lock"
        assert await what(Process(lambda ctx: 1), pipe=[lock]) == "the pipe value[0]: a _thread.lock"
        assert await what(emits) == "what was emitted for 'done'['x']: a _thread.lock"
        assert await what(reports) == "the reported value[0]: a _thread.lock"
        loop = [1]
        loop.append((loop, lock))
        assert await what(Process(bodies.echo), loop) == "argument 'value'[1][1]: a _thread.lock"
        big = [[n] for n in range(100_000)]
        big[70_000].append(lock)
        assert await what(Process(bodies.echo), big) == "argument 'value'[70000][1]: a _thread.lock"

    run(main)


def test_context_variables_cross_if_they_can(run):
    bodies.USER.set("ann")

    async def main(environment):
        for value in ("ann", Basket({"tea": 1}), [1, 2], None):
            bodies.USER.set(value)
            assert await call(environment, bodies.users) == (value, "nothing")
            assert (await environment.run(make_call(bodies.users_async))).value == (value, "nothing")
        bodies.USER.set(threading.Lock())  # cannot travel, so the default holds there
        assert await call(environment, bodies.users) == ("nobody", "nothing")

    run(main)


def test_decimals_are_rounded_there_as_here(run):
    async def main(environment):
        assert await call(environment, bodies.third) == decimal.Decimal(1) / 3
        with decimal.localcontext(prec=5, rounding=decimal.ROUND_UP):
            assert str(await call(environment, bodies.third)) == "0.33334"
        assert await call(environment, bodies.third) == decimal.Decimal(1) / 3

    run(main)


def test_numpy_is_as_strict_there_as_here(run):
    numpy = pytest.importorskip("numpy")

    async def main(environment):
        with numpy.errstate(divide="raise"), pytest.raises(FloatingPointError):
            await call(environment, bodies.divided)
        with numpy.errstate(divide="ignore"):
            assert await call(environment, bodies.divided) == float("inf")

    run(main)


def test_a_plain_context_of_decimal_is_not_sent():
    def travelling():
        decimal.getcontext()
        return Variables().travelling(contextvars.copy_context())

    assert contextvars.Context().run(travelling) == []


def test_an_engine_of_an_imported_module_is_not_taken_for_the_programs():
    with engine_bodies.engine as engine:
        engine.run(engine_bodies.bump)
        for step in (engine_bodies.look, engine_bodies.write):
            with pytest.raises(NotTransferable, match=r"is in the program that calls, not here: .* ctx\.domain"):
                engine.run(step)
        with pytest.raises(NotTransferable, match=r"'engine' .*: a theus\.engine\.Engine \("):
            engine.run(process(nature="cpu")(lambda: engine.state))
        assert engine.run(engine_bodies.through_context) == 1
        assert engine.run(engine_bodies.own_engine) == 6  # one that a body makes for itself
        assert engine.state == {"n": 1}


SETTINGS = [
    (settings.limit, settings, "LIMIT"),
    (settings.through_another, settings, "LIMIT"),
    (settings.of_a_class, settings.Rates, "tax"),
    (settings.of_a_module, bodies, "SETTING"),
    (lambda: bodies.SETTING, bodies, "SETTING"),
    (lambda: settings.through_another(), settings, "LIMIT"),
]


@pytest.mark.parametrize(("body", "owner", "name"), SETTINGS, ids=range(len(SETTINGS)))
def test_what_the_program_sets_in_a_module_holds_there(run, monkeypatch, body, owner, name):
    async def main(environment):
        for value in (5, "five", None, (5, "five"), Color.RED):
            monkeypatch.setattr(owner, name, value)
            assert await call(environment, body) == value
        monkeypatch.setattr(owner, name, threading.Lock())  # no constant: left alone there
        assert await call(environment, body) == Color.RED

    run(main)


def test_what_a_module_sets_by_itself_is_the_workers_own(run, monkeypatch):
    monkeypatch.setattr(settings, "LOADED", True)

    async def main(environment):
        assert await call(environment, settings.load) == 3

    run(main)


def test_what_is_a_copy_there_by_way_of_a_module_stays_here():
    assert cannot_travel(settings.table) == "the value_bodies.PRICES it uses is a dict, which would be a copy there"
    assert cannot_travel(settings.of_a_module) is None


class _Records(logging.Handler):
    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append((record, bodies.USER.get()))


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO, logging.ERROR])
def test_log_records_arrive_here(level, run):
    handler = _Records()
    bodies.log.addHandler(handler)

    async def main(environment):
        bodies.USER.set("ann")
        await call(environment, bodies.log_some, 1)
        bodies.log.setLevel(level)
        handler.records.clear()
        await call(environment, bodies.log_some, 7)

    try:
        run(main)
    finally:
        bodies.log.removeHandler(handler)
        bodies.log.setLevel(logging.NOTSET)
    records = [record for record, _ in handler.records]
    wanted = {logging.DEBUG: ["detail 7", "counted 7", "it failed"], logging.INFO: ["counted 7", "it failed"]}
    assert [r.getMessage() for r in records] == wanted.get(level, ["it failed"])
    assert {user for _, user in handler.records} == {"ann"}  # in the context of the call
    assert "ValueError: inside" in records[-1].exc_text
    assert "log_some" in records[-1].exc_text
    if level <= logging.INFO:
        assert records[-2].theus_n == 7
        assert "lock" in records[-2].odd_one


def test_logging_is_loaded_when_a_body_asks_for_it(caplog, run):
    rare = ("logging", "traceback", "asyncio", "decimal", "uuid", "difflib")

    async def main(environment):
        assert await call(environment, import_bodies.has_loaded, *rare) == []
        assert await call(environment, import_bodies.log_late, logging.INFO) == logging.WARNING
        assert await call(environment, import_bodies.log_late, logging.ERROR) == logging.WARNING
        assert (await environment.run(make_call(process(import_bodies.log_with_context)))).error is None
        with caplog.at_level(logging.DEBUG, "late"):
            assert await call(environment, import_bodies.log_late, logging.DEBUG) == logging.DEBUG
        assert await call(environment, import_bodies.log_late, logging.INFO) == logging.WARNING

    with caplog.at_level(logging.WARNING):
        contextvars.Context().run(run, main, resources={})  # no variable travels, whose module may load anything
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("ERROR", "late"),
        ("ERROR", "with context"),
        ("DEBUG", "late"),
    ]


def test_paths_and_directory_follow(tmp_path, monkeypatch, run):
    (tmp_path / "answer_module.py").write_text("ANSWER = 42")

    async def main(environment):
        assert (await call(environment, bodies.where, "answer_module.py"))[0] is False
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
        assert await call(environment, bodies.where, "answer_module.py") == (True, str(tmp_path))
        assert await call(environment, bodies.import_by_name, "answer_module") == 42

    run(main)


def test_environment_variables_follow(monkeypatch, run):
    monkeypatch.setenv("THEUS_TEST_FIRST", "1")

    async def main(environment):
        both = ("THEUS_TEST_FIRST", "THEUS_TEST_LATER")
        assert await call(environment, bodies.variables, both) == ["1", None]
        monkeypatch.setenv("THEUS_TEST_FIRST", "2")
        monkeypatch.setenv("THEUS_TEST_LATER", "é")
        assert await call(environment, bodies.variables, both) == ["2", "é"]
        monkeypatch.delenv("THEUS_TEST_FIRST")
        assert await call(environment, bodies.variables, both) == [None, "é"]

    run(main)


def test_the_time_zone_follows(monkeypatch, run):
    async def main(environment):
        for zone in ("Asia/Tokyo", "Europe/Berlin", "UTC"):
            with monkeypatch.context() as patch:
                patch.setenv("TZ", zone)
                time.tzset()
                assert await call(environment, bodies.local_time, 0) == time.localtime(0)

    try:
        run(main)
    finally:
        time.tzset()


def test_the_limits_of_the_interpreter_follow(run):
    depth, digits = sys.getrecursionlimit(), sys.get_int_max_str_digits()

    async def main(environment):
        with pytest.raises(RecursionError):
            await call(environment, bodies.depth, 2 * depth)
        with pytest.raises(ValueError, match="digits"):
            await call(environment, bodies.digits, 2 * digits)
        sys.setrecursionlimit(4 * depth)
        sys.set_int_max_str_digits(4 * digits)
        assert await call(environment, bodies.depth, 2 * depth) == 2 * depth
        assert await call(environment, bodies.digits, 2 * digits) == 2 * digits

    try:
        run(main)
    finally:
        sys.setrecursionlimit(depth)
        sys.set_int_max_str_digits(digits)


def test_print_and_warnings_reach_the_terminal(capfd, run):
    async def main(environment):
        await call(environment, bodies.warn)

    run(main, resources={})  # one that has this test's stdout
    out, err = capfd.readouterr()
    assert "printed in the worker" in out
    assert "UserWarning: from the worker" in err


def test_resources_that_cannot_cross(run):
    lock = threading.Lock()

    async def main(environment):
        user = Process(lambda ctx, name: ctx.resource(name).next())
        assert (await environment.run(make_call(user, "counter"))).value == 1
        error = (await environment.run(make_call(user, "guard"))).error
        assert type(error) is NotTransferable
        assert "guard" in str(error)
        error = (await environment.run(make_call(user, "unknown"))).error
        assert "counter" in str(error)

    from theus.testing.environment_world import Counter

    run(main, resources={"counter": Counter, "guard": lambda: lock})


# --- whole programs: what stands in __main__ -------------------------------------------------------------------------


def test_a_script_without_a_guard(tmp_path):
    out = run_program(
        tmp_path,
        textwrap.dedent(
            """
            import functools
            from contextvars import ContextVar
            from dataclasses import dataclass, field
            from enum import Enum
            from theus.state.fields import Tally

            print("top level runs once")
            Names = list
            WHO = ContextVar("who", default="default")
            FACTOR = 2

            class Refused(Exception):
                def __init__(self, item, left):
                    super().__init__(f"{left} of {item}")
                    self.left = left

            class Color(Enum):
                RED = 1

            @dataclass
            class Shop:
                stock: dict[str, int] = field(default_factory=dict)
                orders: Names[str] = field(default_factory=list)
                hits: Tally = 0

                def left(self, item):
                    return self.stock[item]

                @functools.cached_property
                def sum(self):
                    self.orders.append("summed up")
                    return sum(self.stock.values())

            @process(reads=["stock"], writes=["stock", "orders", "hits"])
            def order(ctx, item):
                if ctx.domain.left(item) < 1:
                    raise Refused(item, 0)
                ctx.domain.stock[item] -= 1
                ctx.domain.orders.append(item)
                ctx.domain.hits += 1
                ctx.report(Color.RED)
                ctx.send(count, n=1)
                return Shop({"copy": FACTOR})

            @process(nature="state")
            def count(ctx, n):
                ctx.domain.hits += n

            def fact(n):
                return 1 if n < 2 else n * fact(n - 1)

            def even(n):
                return n == 0 or odd(n - 1)

            def odd(n):
                return n != 0 and even(n - 1)

            @functools.lru_cache(maxsize=50)
            def fibonacci(n):
                return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

            def fibonacci_and_hits(n):
                return fibonacci(n), fibonacci.cache_info().hits, fibonacci.cache_info().maxsize

            counter = 0

            def bump():
                global counter
                counter += 1
                return counter

            def read_counter():
                return counter

            def who():
                return WHO.get()

            async def main():
                global FACTOR, Shop
                environment = WorkerEnvironment(1)
                host = EngineStub()
                head = Head(Shop({"tea": 1}))
                outcome = await environment.run(make_call(order, "tea", snapshot=head.snapshot, host=host))
                if outcome.error: raise outcome.error
                assert isinstance(outcome.value, Shop) and outcome.value == Shop({"copy": 2}), outcome.value
                assert host.reports == [Color.RED] and host.reports[0] is Color.RED
                assert outcome.messages[0][0] is count
                outcome = await environment.run(make_call(order, "tea", snapshot=Head(Shop({"tea": 0})).snapshot))
                assert type(outcome.error) is Refused and outcome.error.left == 0
                import traceback
                assert "raise Refused(item, 0)" in "".join(traceback.format_exception(outcome.error))
                FACTOR = 5
                outcome = await environment.run(make_call(order, "tea", snapshot=head.snapshot))
                assert outcome.value == Shop({"copy": 5})
                assert await call(environment, fact, 5) == 120
                assert await call(environment, even, 10) is True
                assert await call(environment, fibonacci_and_hits, 40) == (102334155, 38, 50)
                assert await call(environment, fibonacci_and_hits, 40) == (102334155, 39, 50)  # it remembers
                assert await call(environment, fibonacci, 30) == 832040
                assert await call(environment, lambda shop: (shop.sum, shop.sum, shop.orders), Shop({"a": 2})) == (2, 2, ["summed up"])
                assert await call(environment, bump) == 1
                assert await call(environment, bump) == 2
                assert await call(environment, read_counter) == 2 and counter == 0
                WHO.set("ann")
                assert await call(environment, who) == "ann"
                assert await call(environment, lambda: sorted(vars(sys.modules["__main__"]).get("__file__", "-"))) == ["-"]
                old = Shop

                @dataclass
                class Shop:
                    stock: dict = field(default_factory=dict)
                    extra: int = 7

                new = Shop
                found = await call(environment, lambda a: a, [old(), new()])
                assert type(found[0]) is old and type(found[1]) is new
                outcome = await environment.run(make_call(process(lambda ctx: ctx.domain.extra), snapshot=Head(new()).snapshot))
                assert outcome.value == 7, outcome
                assert await call(environment, lambda: Shop().extra) == 7
                await environment.stop(1)
                print("done")

            asyncio.run(main())
            """
        ),
    )
    assert out.splitlines() == ["top level runs once", "done"]


def test_an_error_of_the_main_script_prints_its_lines(tmp_path):
    from worker_tools import start_program

    program = start_program(
        tmp_path,
        textwrap.dedent(
            """
            def inner(n):
                raise ValueError(f"bad {n}")

            def outer(n):
                inner(n)  # the way there

            async def main():
                environment = WorkerEnvironment(1)
                try:
                    await call(environment, outer, 3)
                finally:
                    await environment.stop(1)

            asyncio.run(main())
            """
        ),
    )
    _, err = program.communicate(timeout=20)
    assert "inner(n)  # the way there" in err
    assert 'raise ValueError(f"bad {n}")' in err
    assert err.strip().endswith("ValueError: bad 3")
    assert "in outer" in err
    assert "far.py" not in err


def test_an_open_text_file_is_not_sent_as_a_copy(run, tmp_path):
    async def main(environment):
        with (tmp_path / "some.txt").open() as file:
            with pytest.raises(NotTransferable, match=r"argument 'file': a _io\.TextIOWrapper"):
                await call(environment, lambda file: file.read(), file)
            assert file.read() == "hello"

    (tmp_path / "some.txt").write_text("hello")
    run(main)


SERVICE = """
import os, sys, threading
from pathlib import Path
from theus import Engine, process

engine = Engine({{"n": 3}}, store="shop.db", workers=1)
asked = threading.Event()

def deliver(value):
    with Path("delivered").open("a") as file:
        file.write(f"{{value}} in {{os.getpid()}}\\n")
    asked.wait()

engine.on("sold", deliver)

@process
def sell(ctx):
    ctx.emit("sold", "tea", durable=True)

@process(environment={environment!r})
def look(ctx):
    loaded = sorted(name for name in ("msgspec", "sqlite3") if name in sys.modules)
    following = any(thread.name == "theus-follower" for thread in threading.enumerate())
    return ctx.domain["n"], loaded, following, Path("delivered").read_text().count("tea")

@process(environment={environment!r})
def use():
    return engine.state["n"]
"""
MAIN = """
import os
from pathlib import Path
from theus import NotTransferable
import service

if __name__ == "__main__":
    with service.engine as engine:
        engine.run(service.sell)
        while not Path("delivered").exists() or not Path("delivered").read_text():
            pass
        print(*engine.run(service.look))
        try:
            print(engine.run(service.use))
        except NotTransferable as error:
            print(error)
        service.asked.set()
    print(Path("delivered").read_text() == f"tea in {os.getpid()}\\n")
"""


@pytest.mark.parametrize(
    ("environment", "used"),
    [
        ("worker", "3"),
        pytest.param(
            "interpreter",
            "an engine on the store 'shop.db' cannot be used in this worker",
            marks=pytest.mark.skipif(sys.version_info < (3, 14), reason="sub-interpreters need Python 3.14"),
        ),
    ],
)
def test_a_durable_engine_of_an_imported_module_stays_closed_until_it_is_used(tmp_path, environment, used):
    """What it delivers is delivered by the program, not by a worker that imports the module as well."""
    (tmp_path / "service.py").write_text(SERVICE.format(environment=environment))
    looked, *said, delivered = run_program(tmp_path, MAIN).splitlines()
    assert looked == "3 [] False 1"
    assert used in "".join(said)
    assert delivered == "True"
