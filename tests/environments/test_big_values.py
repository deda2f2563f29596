"""Arrays, bytes and the like of any size: they arrive as they were, nobody disturbs anybody, and nothing is left behind."""

import asyncio
import gc
import os
import pickle
import sys
import weakref
from array import array

import big_bodies as bodies
import pytest
import view_bodies
from big_bodies import Deadly, Holder, Raw
from hypothesis import given, settings, strategies as st
from worker_tools import call, nothing_left, until, workers

from theus.environments import near_blocks, parcel
from theus.environments.blocks import LEAST
from theus.environments.interpreter import InterpreterEnvironment
from theus.environments.parcel import OUT_OF_BAND
from theus.environments.shared import share
from theus.environments.witness import Witness
from theus.environments.worker import WorkerEnvironment
from theus.errors import DefinitionError, EnvironmentBroken, NotTransferable
from theus.processes import Process, as_process
from theus.state.head import Head
from theus.testing.environment_world import EngineStub, make_call

np = pytest.importorskip("numpy")
pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="without memfd all goes through the socket")

BIG = 3 * LEAST // 8  # floats: 3 MB


@pytest.fixture(autouse=True)
def clean():
    with nothing_left():
        yield
        gc.collect()
    assert not bodies.blocks()


def run(main, capacity=1):
    async def whole():
        async with workers(capacity) as environment:
            return await main(environment)

    return asyncio.run(whole())


def frozen(array):
    array.setflags(write=False)
    return array


async def both(environment, function, *args):
    """A call in each of two workers."""
    return await asyncio.gather(call(environment, function, *args), call(environment, function, *args))


# --- they arrive as they were ----------------------------------------------------------------------------------------

DTYPES = ["?", "i1", "<i4", ">i8", "f2", "f8", "c16", "S5", "U3", "V4", "M8[ns]", "m8[s]", "i4,f8"]


@st.composite
def arrays(draw):
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=3)))
    size = int(np.prod(shape)) * dtype.itemsize
    array = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), "u1").copy()
    if dtype.kind == "?":
        array &= 1
    if dtype.kind == "U":
        array[:] = 0
    array = array.view(dtype).reshape(shape) if size else np.zeros(shape, dtype)
    how = draw(st.sampled_from(["C", "F", "slice", "reversed", "transposed", "read-only"]))
    if how == "F":
        array = np.asfortranarray(array)
    elif how == "slice" and array.ndim:
        array = array[::2]
    elif how == "reversed" and array.ndim:
        array = array[::-1]
    elif how == "transposed":
        array = array.T
    elif how == "read-only":
        array = frozen(array)
    return array


@pytest.fixture
def lowered():
    """A worker environment that uses blocks for everything."""
    before = parcel.OUT_OF_BAND, near_blocks.LEAST
    parcel.OUT_OF_BAND = near_blocks.LEAST = 1
    environment = WorkerEnvironment(1)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(call(environment, bodies.lower))
    yield lambda *arguments: loop.run_until_complete(call(environment, *arguments))
    loop.run_until_complete(environment.stop(1.0))
    loop.close()
    parcel.OUT_OF_BAND, near_blocks.LEAST = before


def test_any_array_arrives_as_it_was(lowered):
    values = arrays() | st.binary(max_size=50) | st.text(max_size=20) | st.builds(bytearray, st.binary(max_size=50))

    @settings(max_examples=150, deadline=None)
    @given(st.lists(values, max_size=4), st.booleans())
    def check(values, nested):
        value = {"a": Holder("x", values), "b": (values, [values])} if nested else values
        found = lowered(bodies.echo, value)
        if nested:
            assert found["a"].array is found["b"][0] is found["b"][1][0]
            found = found["b"][0]
        for one, other in zip(found, values, strict=True):
            assert type(one) is type(other)
            other = pickle.loads(pickle.dumps(other, 5))  # numpy makes some arrays native that are not contiguous
            if isinstance(other, np.ndarray):
                assert (one.dtype, one.shape) == (other.dtype, other.shape)
                assert one.tobytes() == other.tobytes()
                if other.flags.writeable:
                    assert one.flags.writeable
            else:
                assert one == other

    check()


@pytest.mark.parametrize("border", [OUT_OF_BAND, LEAST, 65536])
def test_sizes_around_each_border(border):
    async def main(environment):
        for size in (border - 1, border, border + 1, border + 65536):
            text = os.urandom(size)
            array = np.frombuffer(bytearray(text), "u1")
            value = [
                text,
                bytearray(text),
                {"s": "é" * (size // 2)},
                Holder("x", array),
                frozen(array.copy()),
                Raw(text),
            ]
            found = await call(environment, bodies.echo, value)
            assert found[:3] == value[:3]
            assert [type(one) for one in found] == [type(one) for one in value]
            for one in (found[3].array, found[4]):
                assert one.tobytes() == text
            assert found[3].array.flags.writeable
            assert not found[4].flags.writeable
            assert found[5] == value[5]
            again = await call(environment, bodies.echo, found)
            assert again[3].array.tobytes() == again[0] == text

    run(main)


def test_more_big_values_than_a_frame_has_room_for():
    async def main(environment):
        many = [np.full(LEAST // 8, n, dtype=float) for n in range(70)]
        found = await call(environment, bodies.echo, many)
        assert [float(one[-1]) for one in found] == list(range(70))
        assert (
            sum(type(one) is bytes for one in await call(environment, bodies.echo, [b"x" * OUT_OF_BAND] * 1200)) == 1200
        )

    run(main)


def test_what_occurs_twice_is_one_and_a_part_stays_right():
    async def main(environment):
        found = await call(environment, bodies.make_both, BIG)
        assert found["whole"] is found["again"][0]
        assert found["part"].sum() == 10
        back = await call(environment, bodies.echo, found)
        assert back["whole"] is back["again"][0]
        assert back["part"].sum() == 10

    run(main)


def test_errors_and_reports_carry_big_values():
    async def main(environment):
        array = np.ones(BIG)
        with pytest.raises(ValueError, match="big") as failure:
            await call(environment, bodies.fail_with, array)
        assert failure.value.array.sum() == BIG
        host = EngineStub()
        await environment.run(make_call(Process(bodies.report), array, host=host))
        assert host.reports[0].sum() == BIG

    run(main)


def test_frames_and_tables():
    pandas = pytest.importorskip("pandas")
    arrow = pytest.importorskip("pyarrow")

    async def main(environment):
        frame = pandas.DataFrame({"a": np.arange(BIG), "b": np.ones(BIG), "c": ["x", "y", "z"] * (BIG // 3)})
        for _ in range(2):
            frame = await call(environment, bodies.echo, frame)
        assert frame["a"].sum() == BIG * (BIG - 1) // 2
        assert list(frame.columns) == ["a", "b", "c"]
        frame.loc[0, "a"] = 5
        table = arrow.table({"n": np.arange(BIG), "t": ["x"] * BIG})
        assert (await call(environment, bodies.echo, table)).equals(table)

    run(main)


# --- nobody disturbs anybody -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, OUT_OF_BAND // 8, BIG])
def test_what_a_worker_writes_into_its_argument_is_its_own(size):
    async def main(environment):
        array = np.ones(size)
        await both(environment, bodies.total, array)
        for _ in range(2):
            assert await both(environment, bodies.spoil, array) == [(size, -size)] * 2
        assert array.sum() == size
        result = await call(environment, bodies.make, size, 1.0)
        assert await both(environment, bodies.spoil, result) == [(size, -size)] * 2
        assert result.sum() == size

    run(main, 2)


def test_what_changed_in_place_is_seen():
    async def main(environment):
        array = np.ones(BIG)
        view = frozen(array[:])
        passed = await call(environment, bodies.make, BIG, 1.0)
        for n in range(1, 4):
            array[0] = passed[-1] = n
            assert await both(environment, bodies.total, array) == [BIG - 1 + n] * 2
            assert await both(environment, bodies.total, view) == [BIG - 1 + n] * 2
            assert await both(environment, bodies.total, passed) == [BIG - 1 + n] * 2

    run(main, 2)


def test_arrays_of_the_domain_cannot_be_written_to():
    async def main(environment):
        for size in (10, OUT_OF_BAND // 8, BIG):
            snapshot = Head({"array": np.ones(size)}).snapshot
            outcome = await environment.run(make_call(bodies.spoil_domain, snapshot=snapshot))
            assert outcome.value == "read-only"

    run(main)


def test_nobody_can_cut_or_write_to_what_was_lent():
    async def main(environment):
        refused = await call(environment, bodies.tamper, np.ones(BIG))
        assert len(refused) >= 2
        assert all(refused)
        result = await call(environment, bodies.make, BIG, 1.0)
        assert all(bodies.tamper(result))
        assert result.sum() == BIG

    run(main)


def test_memory_that_is_still_read_is_not_written_to():
    async def main(environment):
        for n in range(3):
            assert await call(environment, bodies.keep, np.full(BIG, n, dtype=float)) == n * BIG
            assert await call(environment, bodies.total, np.full(BIG, 100.0)) == 100 * BIG
        assert await call(environment, bodies.kept) == [0, BIG, 2 * BIG]

    run(main)


def test_memory_that_a_forked_child_reads_is_not_written_to():
    async def main(environment):
        await call(environment, bodies.fork_and_keep, np.ones(BIG))
        for n in range(3):
            await call(environment, bodies.total, np.full(BIG, n + 10.0))
        assert await call(environment, bodies.ask_child) == BIG

    run(main)


# --- once is enough --------------------------------------------------------------------------------------------------


def test_what_cannot_change_is_written_and_mapped_once():
    async def main(environment):
        array = frozen(np.ones(BIG))
        seen = {tuple(await call(environment, bodies.blocks, array)) for _ in range(6)}
        for found in await both(environment, bodies.blocks, array):
            seen.add(tuple(found))
        assert len(seen) == 1
        assert len(next(iter(seen))) == 1
        snapshot = Head({"array": array, "n": 1}).snapshot
        outcome = await environment.run(make_call(bodies.total_of_domain, snapshot=snapshot))
        assert outcome.value == (BIG, list(next(iter(seen))))

    run(main, 2)


def test_a_value_that_is_gone_is_let_go_of_everywhere():
    async def main(environment):
        array = frozen(np.ones(BIG))
        await both(environment, bodies.total, array)
        ref = weakref.ref(array)
        del array
        gc.collect()
        assert ref() is None
        await until(lambda: not any(w.ledger._lent for w in environment._pool.workers), "what was lent is back")
        assert await both(environment, bodies.blocks) == [[], []]

    run(main, 2)


def test_bytes_are_written_once_for_calls_at_the_same_time():
    async def main(environment):
        text = b"x" * (3 * LEAST)
        before = sys.getrefcount(text)
        jobs = [environment._pack(make_call(as_process(bodies.echo), text)) for _ in range(3)]
        blocks = {lot.block for job in jobs for lot in job.payload.parcel.data if hasattr(lot, "block")}
        assert len(blocks) == 1
        del jobs, blocks
        assert await both(environment, bodies.echo, text) == [text, text]
        await both(environment, bodies.blocks)  # what comes before their answers gives the blocks back
        await until(lambda: sys.getrefcount(text) == before, "the text is let go of")  # one may have done both

    run(main, 2)


def test_a_result_is_passed_on_without_a_copy():
    async def main(environment):
        result = await call(environment, bodies.make, BIG, 1.0)
        mine = bodies.blocks()
        assert await both(environment, bodies.blocks, result) == [mine, mine]
        back = await call(environment, bodies.echo, result)
        assert bodies.blocks() == mine * 2
        result[0] = 5  # now it is another value
        assert await call(environment, bodies.total, result) == BIG + 4
        assert back.sum() == BIG
        assert mine[0] not in await call(environment, bodies.blocks, result)

    run(main, 2)


def test_a_result_lies_in_the_domain_without_a_copy():
    from theus import Engine

    with Engine({"array": None, "n": 0}, workers=2) as engine:
        engine.run(bodies.write_domain, size=BIG, value=2.0)
        mine = bodies.blocks()
        assert len(mine) == 1
        assert not engine.state["array"].flags.writeable
        assert np.shares_memory(engine.state["array"], engine.state["array"])
        for _ in range(4):
            assert engine.run(bodies.total_of_domain) == (2.0 * BIG, mine)
            with engine.transaction() as domain:
                domain["n"] += 1
        with pytest.raises(ValueError, match="read-only"):
            engine.state["array"][0] = 1
        engine.run(bodies.write_domain, size=10, value=3.0)
        with engine.transaction() as domain, pytest.raises(ValueError, match="read-only"):
            domain["array"][0] = 1


def test_memory_is_written_to_again():
    async def main(environment):
        seen = set()
        for n in range(6):
            seen |= set(await call(environment, bodies.blocks, np.full(BIG, float(n))))
            await until(lambda: not environment._pool.workers[0].ledger._lent, "what was lent is back")
        assert len(seen) == 1

    run(main)


def test_what_was_lent_twice_is_free_when_it_came_back_twice():
    blocks = near_blocks.Blocks(lambda: None)
    ledger = near_blocks.Ledger(blocks)
    descriptors = []
    lot = blocks.place(memoryview(bytearray(LEAST)))
    ledger.lend(lot, descriptors)
    number, *_ = ledger.lend(lot, descriptors)
    lent = lot.block.fd
    assert descriptors == [lent, lent]
    del lot
    ledger.take_back([number], as_new=True)
    other = blocks.place(memoryview(bytearray(LEAST)))
    assert other.block.fd != lent
    ledger.take_back([number], as_new=True)
    again = blocks.place(memoryview(bytearray(LEAST)))
    assert again.block.fd == lent
    del other, again
    blocks.close()


def test_only_so_much_free_memory_is_kept(monkeypatch):
    monkeypatch.setattr(near_blocks, "SPARE", 4 * LEAST)

    async def main(environment):
        await call(environment, bodies.blocks, [np.full(LEAST // 8, n, dtype=float) for n in range(10)])
        blocks = environment._pool.blocks
        await until(lambda: len(bodies.blocks()) == 4, "the rest is free")
        assert len(blocks._spare) == 4

    run(main)


# --- shared memory ---------------------------------------------------------------------------------------------------


def test_four_workers_fill_four_parts_of_one_output():
    from theus import Engine, flow, parallel

    size, part = BIG, BIG // 4
    source = frozen(np.arange(size, dtype=float))
    with Engine(workers=4) as engine:
        out = engine.share(np.zeros(size))
        assert len(bodies.blocks()) == 1
        square = bodies.square.bind(out=out, source=source)
        quarters = [square.bind(start=n * part, end=(n + 1) * part) for n in range(4)]
        engine.run(flow(parallel(*quarters)))
        assert (out == source**2).all()
        out[:] = 0
        fill = [bodies.fill.bind(view=out[n * part : (n + 1) * part], value=n) for n in range(4)]
        engine.run(flow(parallel(*fill)))
        assert [out[n * part : (n + 1) * part].mean() for n in range(4)] == [0, 1, 2, 3]
    del fill, square, quarters
    assert out.sum() == 6 * part


def test_any_view_of_shared_memory_is_a_view_there():
    out = share(np.zeros((40, 50)))

    async def main(environment):
        views = [
            out,
            out[3],
            out[:, 7],
            out[::2, ::3],
            out[::-1, 5:9],
            out.T,
            out[4:5, 6].reshape(1, 1),
            out[2:2],
            out[1, 1:2][0:1],
        ]
        for n, view in enumerate(views, 1):
            back = await call(environment, bodies.fill, view, n)
            assert (view == n).all()
            assert back is None
        echoed = await call(environment, bodies.echo, [out[:, 7], out])
        echoed[0][:] = 77
        assert (out[:, 7] == 77).all()
        assert echoed[1].sum() == out.sum()
        looked = frozen(out[:])
        with pytest.raises(ValueError, match="read-only"):
            await call(environment, bodies.fill, looked, 5)
        assert await call(environment, bodies.total, looked) == out.sum()
        small = share(np.zeros(3, "M8[s]").view("i8"))
        await call(environment, bodies.fill, small, 4)
        assert list(small) == [4, 4, 4]

    run(main)


def test_shared_memory_and_results_go_from_one_environment_to_another():
    out, second = share(np.zeros(BIG)), share(np.zeros(BIG))

    async def main(environment):
        result = await call(environment, bodies.make, BIG, 2.0)
        async with workers(1) as other:
            for _ in range(2):
                await call(environment, bodies.fill, out[:10], 1)
                await call(other, bodies.fill, out[10:20], 2)
                assert out.sum() == 30
                await call(environment, bodies.fill, second[:10], 3)
                await call(other, bodies.fill, second[10:20], 4)
                assert (out.sum(), second.sum()) == (30, 70)
                assert await call(other, bodies.total, result) == 2 * BIG
                assert await call(other, bodies.spoil, result) == (2 * BIG, -BIG)
            inodes = bodies.blocks()
            assert set(await call(other, bodies.blocks, out, result)) <= set(inodes)
            del result
            gc.collect()
        assert out.sum() == 30

    run(main)


def test_shared_memory_ends_with_its_last_array():
    out = share(np.zeros(BIG))

    async def main(environment):
        nonlocal out
        await both(environment, bodies.fill, out, 1)
        part = out[5:6]
        del out
        gc.collect()
        assert len(bodies.blocks()) == 1
        del part
        gc.collect()
        await until(lambda: not any(w.ledger._lent for w in environment._pool.workers), "what was lent is back")
        assert await both(environment, bodies.blocks) == [[], []]
        assert bodies.blocks() == []

    run(main, 2)


def test_shared_memory_is_there_to_be_written_to():
    out, own = share(np.zeros(10)), np.zeros(10)
    witness = Witness(make_call(bodies.fill, out, own))
    out[0] = 1
    assert witness.changed() is None
    own[0] = 1
    assert witness.changed() == ("argument 'value'", np.ndarray)


def test_shared_memory_as_a_global_is_refused():
    out = share(np.zeros(10))

    def writes_past():
        out[0] = 1

    async def main(environment):
        with pytest.raises(NotTransferable, match="given to a process as an argument"):
            await call(environment, writes_past)
        assert out[0] == 0

    run(main)


def test_what_cannot_be_shared_is_refused():
    for value in ([1, 2], np.array([object()]), np.zeros(0), np.zeros((5, 5))[::2, ::2]):
        with pytest.raises(DefinitionError, match=r"engine\.share takes an array"):
            share(value)


def test_sharing_without_memfd(monkeypatch):
    monkeypatch.delattr(os, "memfd_create")
    out = share(np.zeros(BIG))

    async def main(environment):
        await call(environment, bodies.fill, out[5:10], 1)
        assert out.sum() == 5

    run(main)


def test_shared_frames():
    pandas = pytest.importorskip("pandas")
    frame = share(pandas.DataFrame({"a": np.zeros(BIG), "b": np.ones(BIG)}))

    async def main(environment):
        for found in await both(environment, bodies.blocks, frame):
            assert found
            assert set(found) <= set(bodies.blocks())

    run(main, 2)


# --- nothing is left behind ------------------------------------------------------------------------------------------


def test_a_hundred_rounds_leave_nothing():
    async def main(environment):
        await both(environment, bodies.echo, np.ones(BIG))
        for n in range(100):
            array = np.full(LEAST // 8 + n, float(n))
            await both(environment, bodies.echo, [array, frozen(array.copy()), b"x" * LEAST])
        del array
        gc.collect()
        await both(environment, bodies.blocks)
        pool = environment._pool
        await until(lambda: not any(w.ledger._lent for w in pool.workers), "what was lent is back")
        assert await both(environment, bodies.blocks) == [[], []]
        pool.blocks.tidy()
        assert len(bodies.blocks()) == len(pool.blocks._spare) <= near_blocks._MOST_SPARE
        assert not pool.blocks._fixed

    run(main, 2)


def test_a_result_outlives_its_environment():
    result = run(lambda environment: call(environment, bodies.make, BIG, 3.0))
    result += 1
    assert result.sum() == 4 * BIG


def test_a_worker_dies_with_what_was_lent():
    async def main(environment):
        array = frozen(np.ones(BIG))
        for _ in range(3):
            assert await both(environment, bodies.total, array) == [BIG] * 2
            with pytest.raises(EnvironmentBroken):
                await call(environment, bodies.echo, [array, np.ones(BIG), b"x" * LEAST, Deadly()])
        assert array.sum() == BIG
        assert await both(environment, bodies.total, array) == [BIG] * 2

    run(main, 2)


def test_calls_that_are_cancelled_leave_nothing():
    async def main(environment):
        for _ in range(5):
            tasks = [asyncio.create_task(call(environment, bodies.echo, np.ones(BIG))) for _ in range(4)]
            await until(lambda: environment._pool.workers, "a worker")
            for task in tasks[1:]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert await call(environment, bodies.total, np.ones(BIG)) == BIG

    run(main)


@pytest.mark.parametrize("where", ["near", "far"])
def test_without_memfd_all_goes_through_the_socket(where, monkeypatch):
    async def main(environment):
        if where == "near":
            monkeypatch.delattr(os, "memfd_create")
        else:
            await call(environment, bodies.without_memfd)
        array = np.ones(BIG)
        assert await call(environment, bodies.blocks, array) == [] or where == "far"
        result = await call(environment, bodies.make, BIG, 2.0)
        assert bool(bodies.blocks()) == (where == "near") or where == "far"
        result += 1
        value = [array, frozen(array.copy()), b"x" * 3_000_000]
        found = await call(environment, bodies.echo, value)
        assert (found[0].sum(), found[1].sum(), found[2]) == (BIG, BIG, value[2])
        snapshot = Head({"array": array}).snapshot
        assert (await environment.run(make_call(bodies.spoil_domain, snapshot=snapshot))).value == "read-only"

    run(main)


def test_without_descriptors_all_goes_through_the_socket(monkeypatch):
    def none_left(*_):
        raise OSError("too many open files")

    async def main(environment):
        await call(environment, bodies.total, np.ones(10))
        monkeypatch.setattr(near_blocks, "new_memory", none_left)
        assert await call(environment, bodies.total, np.ones(BIG)) == BIG
        assert await call(environment, bodies.echo, b"x" * BIG) == b"x" * BIG

    run(main)


def test_numpy_is_not_loaded_for_those_who_do_not_use_it():
    assert run(lambda environment: call(environment, bodies.loaded)) is False


# --- views -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [WorkerEnvironment, *([InterpreterEnvironment] if sys.version_info >= (3, 14) else [])]
)
def test_a_view_crosses_as_memory_that_both_map(kind):
    """Also into a sub-interpreter, where numpy does not load."""

    async def main():
        environment = kind(1)
        try:
            for memory in (b"ab" * LEAST, bytearray(b"ab" * LEAST)):
                readonly = isinstance(memory, bytes)
                found = await call(environment, view_bodies.look, memoryview(memory))
                assert found == ("Mapped", readonly, "B", (2 * LEAST,), b"abab")
            numbers = array("d", range(6))
            rows = memoryview(numbers).cast("B").cast("d", (2, 3))
            back = await call(environment, view_bodies.give, rows)
            assert (back.format, back.shape, back.tolist()) == ("d", (2, 3), rows.tolist())
            turned = np.arange(6.0).reshape(2, 3).T
            assert (await call(environment, view_bodies.give, memoryview(turned))).tolist() == turned.tolist()
            assert (await call(environment, view_bodies.give, memoryview(b""))).tobytes() == b""
            result = await call(environment, view_bodies.give, memoryview(b"ab" * LEAST))
            assert type(result.obj).__name__ == "Mapped"
            assert result == b"ab" * LEAST
            del result, back
        finally:
            await environment.stop(2.0)

    asyncio.run(main())
