"""A function that is given anew to each run is recognised; one that may not be where another may is told apart from it."""

from __future__ import annotations

import asyncio
import functools
import marshal
import subprocess
import sys
import time
import types

import pytest

from theus import Engine, each, process
from theus.identity import Remembered, definition, is_lasting
from theus.surroundings import cannot_travel


def plain(value):
    return value + 1


def other(value):
    return value + 2


def adds(number):
    return lambda value: value + number


def collects(out):
    return lambda value: out.append(value)


def collects_by_method(out):
    add = out.append
    return lambda value: add(value)


def calls(fn):
    return lambda value: fn(value)


def collects_by_default(out):
    return lambda value, out=out: out.append(value)


class Called:
    def __call__(self, value):
        return value


def same(one, another, **options):
    return definition(process(one, **options)) == definition(process(another, **options))


def test_a_plain_function_given_anew_to_each_run_is_measured_as_one():
    async def main(engine):
        for _ in range(3):
            assert await engine.arun(each(plain), [1, 2]) == [2, 3]

    with Engine() as engine, Engine() as stranger:
        asyncio.run(main(engine))
        assert [(row.process, row.calls) for row in engine.profiles().rows] == [("plain", 6)]
        assert engine.explain(plain).rows[0].calls == 6
        assert stranger.explain(plain).rows[0].calls == 0


def test_functions_made_anew_are_learned_of_as_one():
    def busy_for(seconds):
        def busy():
            end = time.thread_time() + seconds
            while time.thread_time() < end:
                sum(range(50))

        return busy

    async def main(engine):
        for number in range(1, 30):  # three will do, where nothing else keeps the processors
            await engine.arun(busy_for(0.1 + number / 1000))
            (row,) = engine.profiles().rows
            assert row.calls == number
            if row.environment == "worker":
                return True
        return False

    with Engine() as engine:
        assert asyncio.run(main(engine))


def test_the_same_code_is_the_same_process():
    assert same(plain, plain)
    assert same(adds(1), adds(2))
    assert same(functools.partial(pow, 2), functools.partial(pow, 3))
    assert same(calls(plain), calls(plain))
    assert same(str.strip, str.strip)
    assert same(Called(), Called())
    one = process(plain)
    assert definition(one.bind(value=1)) == definition(one)


@pytest.mark.parametrize(
    ("one", "another"),
    [
        (plain, other),
        (collects([]), collects([])),  # whose is the list?
        (collects_by_method([]), collects_by_method([])),
        (collects_by_default([]), collects_by_default([])),
        (functools.partial(plain, []), functools.partial(plain, [])),
        (calls(plain), calls(other)),
        (calls(plain), calls(len)),
        (calls(len), calls(print)),
        (str.strip, str.upper),
        (lambda value: value in {1, 2}, lambda value: value in {1, 3}),
    ],
)
def test_what_may_do_otherwise_is_told_apart(one, another):
    assert not same(one, another)
    assert same(one, one)


@pytest.mark.parametrize("options", [{"nature": "cpu"}, {"reads": ["a"]}, {"timeout": 1}, {"idempotent": True}])
def test_other_options_make_another_process(options):
    assert definition(process(plain, **options)) != definition(process(plain))
    assert definition(process(plain, **options)) == definition(process(plain, **options))


def test_a_function_outside_of_its_module_is_the_same_only_as_itself():
    code = plain.__code__
    one, another = (types.FunctionType(code, {"__name__": __name__}, "plain") for _ in range(2))
    assert not same(one, another)
    assert not is_lasting(process(one))
    assert is_lasting(process(plain))
    assert not is_lasting(process(collects([])))


@pytest.mark.parametrize("made", [collects, collects_by_method, collects_by_default])
def test_whoever_holds_a_list_stays_with_it(made):
    assert "which would be a copy there" in cannot_travel(made([]))


def test_the_name_is_the_same_in_another_program():
    there = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=marshal.dumps(has_a_set.__code__), capture_output=True, check=True
    )
    assert there.stdout.decode().strip() == definition(process(has_a_set)).replace(__name__, "__main__")


PROGRAM = """
import marshal, sys, types
from theus import process
from theus.identity import definition
print(definition(process(types.FunctionType(marshal.loads(sys.stdin.buffer.read()), globals(), "has_a_set"))))
"""


def has_a_set(value):
    return value in {"a", "b", "c", "d", "e"}


def test_only_so_much_is_remembered():
    remembered = Remembered(2)
    for number in range(5):
        assert remembered.keep(number, str(number)) == str(number)
    remembered.keep(4, "again")
    assert remembered == {3: "3", 4: "again"}
