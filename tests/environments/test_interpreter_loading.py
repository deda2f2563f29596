"""What does not load in a sub-interpreter is found out before it runs, and said."""

import asyncio
import functools
import sys

import import_bodies
import pytest
import unloadable_bodies
from worker_tools import call, workers

from theus import DefinitionError, Engine, process
from theus.environments.changes import imports_in
from theus.environments.far_interpreter import try_imports
from theus.environments.faults import does_not_load
from theus.errors import NotTransferable
from theus.processes import Process
from theus.state.head import Head
from theus.testing.environments import make_call

new_enough = pytest.mark.skipif(sys.version_info < (3, 14), reason="sub-interpreters need Python 3.14")


def refusal():
    return ImportError("module spam does not support loading in subinterpreters")


def wrapped(error, **how):
    try:
        try:
            raise error
        except ImportError as first:
            if how:
                raise RuntimeError("spam is not well") from first
            raise RuntimeError("spam is not well")  # noqa: B904 - as its context
    except RuntimeError as found:
        return found


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (refusal(), True),
        (wrapped(refusal(), cause=True), True),
        (wrapped(refusal()), True),
        (ModuleNotFoundError("No module named 'spam'", name="spam"), False),
        (ImportError("cannot import name 'egg' from 'spam'", name="spam", path="spam.py"), False),
        (wrapped(ModuleNotFoundError("No module named 'spam'", name="spam"), cause=True), False),
        (MemoryError(), False),
    ],
)
def test_what_does_not_load_is_told_apart(error, expected):
    assert does_not_load(error) is expected


def test_imports_of_a_body_are_found():
    def found(function):
        return list(imports_in(function.__code__))

    assert found(import_bodies.in_the_middle) == [("numpy", None, 0)]
    assert found(import_bodies.relative) == [("package", ("name", "other"), 2), ("", ("sibling",), 1)]
    assert [name for name, *_ in found(import_bodies.prepared_for_anything)] == [
        "a_module_that_nobody_has",
        "json",
        "xml.etree",
    ]


def test_all_kinds_of_functions_are_looked_into(monkeypatch):
    def refuse(name, *rest):
        if name == "numpy":
            raise refusal()
        return __import__(name, *rest)

    monkeypatch.setitem(try_imports.__globals__, "__import__", refuse)

    class Model:
        def fit(self):
            import numpy

            return numpy

    @functools.wraps(Model.fit)
    def around():
        pass

    for function in (Model().fit, functools.partial(Model.fit, 1), around):
        with pytest.raises(ImportError, match="spam"):
            try_imports(function)
    try_imports(len)
    try_imports(import_bodies.prepared_for_anything)


def in_an_interpreter(call):
    from theus.environments.interpreter import InterpreterEnvironment

    async def main():
        environment = InterpreterEnvironment(1)
        try:
            return await environment.run(call)
        finally:
            await environment.stop(1.0)

    return asyncio.run(main())


@new_enough
def test_a_module_that_does_not_load():
    with pytest.raises(NotTransferable, match=r"has not run: .*numpy.*environment='worker'"):
        in_an_interpreter(make_call(Process(unloadable_bodies.total), [1, 2]))

    async def elsewhere():
        async with workers(1) as environment:
            assert await call(environment, unloadable_bodies.total, [1, 2]) == 3.0

    asyncio.run(elsewhere())


@new_enough
def test_an_import_in_the_body(tmp_path):
    mark = tmp_path / "mark"
    with pytest.raises(NotTransferable, match="numpy"):
        in_an_interpreter(make_call(Process(import_bodies.in_the_middle), str(mark)))
    assert not mark.exists()


@new_enough
def test_a_body_that_is_prepared_for_what_is_missing():
    outcome = in_an_interpreter(make_call(Process(import_bodies.prepared_for_anything)))
    assert outcome.value == (None, None, "xml.etree.ElementTree")


@new_enough
def test_the_class_of_the_domain():
    snapshot = Head(unloadable_bodies.Weights()).snapshot
    with pytest.raises(NotTransferable, match="numpy") as found:
        in_an_interpreter(make_call(Process(import_bodies.change_count), snapshot=snapshot))
    assert "the domain" in found.value.what


@new_enough
def test_a_function_sent_by_value_whose_module_does_not_load():
    from theus.environments.interpreter import InterpreterEnvironment

    by_value = Process(lambda: 1)  # this very module imports psutil and numpy

    async def main():
        environment = InterpreterEnvironment(1)
        for _ in range(2):  # what was half made by the first call must not serve the second
            with pytest.raises(NotTransferable, match="does not load"):
                await environment.run(make_call(by_value))
        await environment.stop(1.0)

    asyncio.run(main())


@new_enough
def test_an_engine_runs_there_what_asks_for_it():
    refused = process(environment="interpreter")(unloadable_bodies.total)
    with Engine({"count": 4}) as engine:
        adds = process(environment="interpreter")(import_bodies.add_one)
        assert [engine.run(adds) for _ in range(3)] == [5, 6, 7]
        assert engine.state == {"count": 7}
        (row,) = engine.explain(adds).rows
        assert (row.environment, row.places[0].split()[0]) == ("interpreter", "interpreter")
        with pytest.raises(NotTransferable, match="environment='worker'"):
            engine.run(refused, [1.0])


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="here it works")
def test_older_pythons_say_so():
    with Engine() as engine, pytest.raises(DefinitionError, match=r"needs Python 3.14.*environment='worker'"):
        engine.run(process(environment="interpreter")(import_bodies.prepared_for_anything))
