"""The type of what a workflow gives, as far as the annotations of its processes tell; so its result can be kept as one value."""

from __future__ import annotations

import collections.abc
import operator
import typing
from dataclasses import dataclass
from functools import reduce
from typing import Any

from theus.processes import Process, Step
from theus.workflow.tree import Branch, Each, Parallel, Repeat, Workflow


@dataclass(frozen=True)
class Failed:
    """Stands in a kept result for an error that ``on_error="collect"`` put there."""

    error: str


def result_hint(step: Step[Any, Any], given: Any = Any) -> Any:
    """The type of what a step gives for a value of the type ``given``."""
    if isinstance(step, Process):
        return step.hint("return")
    assert isinstance(step, Workflow)
    if isinstance(step, Each):
        item = result_hint(step.step, _item(given))
        item = _either(item, Failed) if step.on_error == "collect" else item
        return list[item]  # type: ignore[valid-type]  # made at run time
    if isinstance(step, Parallel):
        return tuple[tuple(result_hint(child, given) for child in step.steps)]  # type: ignore[misc]  # made at run time
    if isinstance(step, (Branch, Repeat)):
        passes = isinstance(step, Repeat) or step.otherwise is None
        hints = [result_hint(child, given) for child in step.steps]
        return _either(*hints, *([given] if passes else []))
    return reduce(lambda before, child: result_hint(child, before), step.steps, given)


def collects(step: Step[Any, Any]) -> bool:
    """Whether errors may stand in the result."""
    return isinstance(step, Workflow) and (
        (isinstance(step, Each) and step.on_error == "collect") or any(map(collects, step.steps))
    )


def _item(hint: Any) -> Any:
    """The type of the items of a value."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(origin, type) and args:
        if issubclass(origin, tuple) and args[1:] != (...,):
            return _either(*args)
        if issubclass(origin, (collections.abc.Iterable, collections.abc.AsyncIterable)):
            return args[0]
    elif args:  # of a union: the types of the items of each member
        return _either(*map(_item, args))
    return Any


def _either(*hints: Any) -> Any:
    return reduce(operator.or_, hints)
