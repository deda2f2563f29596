"""The engine chooses sub-interpreters for what only computes, and takes them back where that does not work."""

import asyncio
import os
import sys
import warnings

import computing_bodies as bodies
import loading_bodies
import msgspec
import pytest

from theus import Engine, EnvironmentBroken, NotTransferable, each, flow, process
from theus.placement import Known, place
from theus.processes import Process
from theus.surroundings import needs_a_process, package_of

CORE = "interpreter" if sys.version_info >= (3, 14) else "worker"
new_enough = pytest.mark.skipif(CORE == "worker", reason="sub-interpreters need Python 3.14")
MANY = 20_000_000  #: rounds that take about a second


def reason(function, known=None, **options):
    chosen = place(Process(function, nature="cpu", **options), blocking=False, debug=False, known=known)
    return f"{chosen.environment}: {chosen.reason}"


# --- what is seen


@pytest.mark.parametrize(
    "function",
    [
        bodies.spin,
        bodies.parses,
        bodies.measures,
        bodies.helps,
        bodies.counts,
        bodies.prints,
        bodies.partial_spin,
        loading_bodies.adds,  # that is not seen, but tried
    ],
)
def test_what_only_computes(function):
    assert needs_a_process(function) is None


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (bodies.forks, "it uses os"),
        (bodies.helps_to_fork, "it uses os"),
        (bodies.starts, "it uses threading"),
        (bodies.runs, "it uses subprocess"),
        (bodies.matches, "the global 'WORD' it uses is of re"),
        (bodies.reads, "it uses open"),
        (bodies.evaluates, "it uses eval"),
        (bodies.asks, "it uses resource"),
        (bodies.imports_inside, "it imports socket"),
        (bodies.helps_itself, "it uses os"),
        (bodies.Point(1).length, "it is a method, not a function"),
        (loading_bodies.adds_arrays, "it uses numpy"),
        (lambda: pytest, "it uses pytest"),
    ],
)
def test_what_does_more(function, why):
    assert needs_a_process(function) == why


def test_what_the_module_of_a_function_has():
    def here():
        return 1

    assert needs_a_process(here).startswith("its module has ")


def test_where_classes_are_from():
    class Sealed(pytest.ExitCode.__mro__[0]._member_type_):  # an int
        pass

    assert package_of(Sealed) == ""
    assert package_of(type("Own", (pytest.Item,), {})) == "_pytest"


# --- what is decided


@new_enough
def test_the_reason_is_given():
    assert "sub-interpreter: it only computes" in reason(bodies.spin)
    assert reason(bodies.spin).startswith("interpreter")
    assert "worker process: it uses os" in reason(bodies.forks)
    assert "worker process: only a process can be stopped by its timeout=" in reason(bodies.spin, timeout=1)
    assert "worker process: it is an async def" in reason(bodies.waits)
    assert "worker process: it did not load" in reason(bodies.spin, Known(refused={"interpreter": "it did not load"}))
    assert "worker process: so said the engine" in reason(bodies.spin, Known(processes_only="so said the engine"))


@pytest.mark.skipif(CORE == "interpreter", reason="here they are chosen")
def test_without_them_it_is_a_worker_process():
    assert reason(bodies.spin) == "worker: nature='cpu': computes, so on another core"


# --- what happens


def cpu(function, **options):
    return process(nature="cpu", **options)(function)


def results(door, engine, function):
    """What a process gives, by one of the doors; and its row of ``explain``."""
    computes = cpu(function)

    @process
    async def asks(ctx):
        return await ctx.compute(function, 10)

    if door == "run":
        found = [engine.run(computes, 10)]
    elif door == "arun":
        found = [asyncio.run(engine.arun(computes, 10))]
    elif door == "each":
        found = engine.run(each(computes), [10] * 40)
    elif door == "overlap":
        found = [asyncio.run(engine.arun(flow(cpu(bodies.counts).bind(number=3), computes.bind(number=10))))]
    else:
        found = [engine.run(asks)]
    (row,) = engine.explain(computes).rows
    return set(found), row


DOORS = ["run", "arun", "each", "overlap", "compute"]


@new_enough
@pytest.mark.parametrize("door", DOORS)
def test_it_runs_there_by_every_door(door):
    with Engine(bodies.Shop()) as engine:
        found, row = results(door, engine, bodies.spin)
    assert found == {bodies.spin(10)}
    assert row.environment == "interpreter"
    assert all(where.startswith("interpreter ") for where in row.places)


@new_enough
@pytest.mark.parametrize("door", DOORS)
def test_what_does_not_load_goes_to_a_worker_process_in_the_same_call(door):
    with Engine(bodies.Shop()) as engine:
        found, row = results(door, engine, loading_bodies.adds)
    assert found == {45}
    assert row.environment == "worker"
    assert "numpy" in row.reason
    assert row.failures == 0
    assert all(where.startswith("pid ") for where in row.places)


@new_enough
def test_a_process_that_is_recognised_goes_there_too():
    computes = process(bodies.spin)

    async def main():
        async with Engine() as engine:
            while engine.explain(computes).rows[0].environment != "interpreter":
                await engine.arun(computes, 200_000)
            assert await engine.arun(computes, 200_000) == bodies.spin(200_000)
            assert any(where.startswith("interpreter ") for where in engine.explain(computes).rows[0].places)

    asyncio.run(main())


@new_enough
def test_a_result_that_cannot_cross_is_no_reason_to_run_it_again():
    computes = cpu(bodies.gives_what_cannot_cross)
    with Engine() as engine:
        with pytest.raises(NotTransferable, match="the result") as found:
            engine.run(computes)
        assert found.value.ran
        (row,) = engine.explain(computes).rows
        assert (row.environment, row.calls) == ("interpreter", 1)


@new_enough
def test_what_the_engine_knows_beforehand():
    class Model(msgspec.Struct):
        count: int = 0

    counts = cpu(bodies.counts)
    with Engine(Model()) as engine:
        engine.run(counts, number=3)
        assert "the domain is of msgspec" in engine.explain(counts).rows[0].reason
    with Engine(bodies.Shop(), max_worker_rss=2**40) as engine:
        engine.run(counts, number=3)
        assert "max_worker_rss=" in engine.explain(counts).rows[0].reason
    with Engine(bodies.Shop()) as engine:
        engine.run(counts, number=3)
        assert engine.state.count > 0
        assert engine.explain(counts).rows[0].environment == "interpreter"


@new_enough
def test_a_program_that_forks():
    """The child lives; what ran in a sub-interpreter by our choice runs again in a worker process; nothing else is lost."""
    chosen, said = cpu(bodies.spin), process(environment="interpreter")(bodies.spin)

    async def main():
        async with Engine(workers=2) as engine:
            await engine.arun(said, 10)
            ours = asyncio.ensure_future(engine.arun(chosen, MANY))
            theirs = asyncio.ensure_future(engine.arun(said, MANY))
            behind = asyncio.ensure_future(engine.arun(said, 10))
            environment = engine.environments["interpreter"]
            while sum(worker.state == "running" for worker in environment.workers()) < 2:
                await asyncio.sleep(0.001)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # a fork in a program with threads
                child = os.fork()
            if child == 0:
                os._exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
            with pytest.raises(EnvironmentBroken, match="the program forked"):
                await theirs
            assert await ours == bodies.spin(MANY)
            assert await behind == bodies.spin(10)
            assert engine.explain(chosen).rows[0].environment == "worker"

    asyncio.run(main())
