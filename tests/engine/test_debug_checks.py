"""``Engine(debug=True)`` finds what was changed in place and must not be."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import pytest

from theus import Context, Engine, flow, process
from theus.errors import ScopeError


class Model:
    """Opaque to the state: no dataclass."""

    def __init__(self) -> None:
        self.weights = [0.0]


class Locked(Model):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()  # cannot be pickled


@dataclass
class Lab:
    model: Any = field(default_factory=Model)
    others: dict[str, Any] = field(default_factory=dict)
    pair: tuple[int, Any] = field(default_factory=lambda: (1, Model()))
    count: int = 0


@process
def train(ctx: Context[Lab]) -> None:
    ctx.domain.model.weights.append(1.0)


@process
async def atrain(ctx: Context[Lab]) -> None:
    ctx.domain.model.weights.append(1.0)


@process
def train_other(ctx: Context[Lab], name: str) -> None:
    ctx.domain.others[name].weights.append(1.0)


@process
def train_pair(ctx: Context[Lab]) -> None:
    ctx.domain.pair[1].weights.append(1.0)


@process
def replace(ctx: Context[Lab]) -> None:
    model = Model()
    model.weights = [*ctx.domain.model.weights, 1.0]
    ctx.domain.model = model
    ctx.domain.others["new"] = Model()


@process
def look(ctx: Context[Lab]) -> int:
    ctx.domain.count += 1
    return len(ctx.domain.model.weights)


@pytest.mark.parametrize("step", [train, atrain])
def test_an_opaque_value_changed_in_place_is_found(step: Any) -> None:
    with Engine(Lab(), debug=True) as engine:
        with pytest.raises(ScopeError, match=rf"{step.name!r}: the Model at model was changed in place"):
            engine.run(step)
        assert engine.run(look) == 2  # said once
        assert engine.state.count == 1
    with Engine(Lab()) as engine:
        engine.run(step)  # nobody looks


def test_it_is_found_wherever_it_stands() -> None:
    with Engine(Lab(others={"a": Model()}), debug=True) as engine:
        with pytest.raises(ScopeError, match=r"the Model at others\.a was"):
            engine.run(train_other, name="a")
        with pytest.raises(ScopeError, match=r"the Model at pair\.1 was"):
            engine.run(train_pair)


def test_what_came_later_is_watched_too() -> None:
    with Engine(Lab(), debug=True) as engine:
        engine.run(replace)
        with pytest.raises(ScopeError, match=r"the Model at others\.new was"):
            engine.run(train_other, name="new")
        with pytest.raises(ScopeError, match="the Model at model was"):
            engine.run(train)


def test_what_others_do_to_it_is_found_by_the_next_reader() -> None:
    model = Model()
    with Engine(Lab(model), debug=True) as engine:
        assert engine.run(look) == 1
        model.weights.append(2.0)
        with pytest.raises(ScopeError, match="by this process or by whoever else holds it"):
            engine.run(look)


def test_replacing_and_what_cannot_be_pickled_pass() -> None:
    with Engine(Lab(Locked()), debug=True) as engine:
        engine.run(train)
        engine.run(replace)
        assert engine.run(look) == 3


@process
def spoil(ctx: Context[Lab], first: Any, second: Any = None) -> None:
    for value in (first, second):
        if value is not None:
            value.append(1)


def test_arguments_and_pipe_values_changed_in_place_are_found() -> None:
    @process
    def source() -> list[int]:
        return [0]

    @process
    def spoil_pipe(ctx: Context[Lab]) -> None:
        ctx.pipe.append(1)

    with Engine(Lab(), debug=True) as engine:
        with pytest.raises(ScopeError, match=r"'spoil' has changed its argument 'first' \(list\) in place"):
            engine.run(spoil, [1])
        with pytest.raises(ScopeError, match=r"argument 'second' \(list\)"):
            engine.run(spoil, None, second=[1])
        with pytest.raises(ScopeError, match=r"argument 'first' \(list\)"):
            engine.run(flow(source, spoil))
        with pytest.raises(ScopeError, match=r"'spoil_pipe' has changed its ctx\.pipe \(list\)") as caught:
            engine.run(flow(source, spoil_pipe))
        assert caught.value.scope == "pipe"
    with Engine(Lab()) as engine:
        engine.run(spoil, [1])


def test_an_error_of_the_body_comes_first() -> None:
    @process
    def breaks(ctx: Context[Lab], items: list[int]) -> None:
        items.append(1)
        raise KeyError("mine")

    with Engine(Lab(), debug=True) as engine, pytest.raises(KeyError, match="mine"):
        engine.run(breaks, [])
