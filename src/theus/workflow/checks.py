"""What can be known to be wrong with steps, options and predicates before anything runs, and the words for it."""

from __future__ import annotations

import functools
import inspect
import operator
import re
from collections.abc import Iterable
from typing import Any

from theus.errors import DefinitionError
from theus.processes import Process, Step, _function

UNITS = {"s": 1.0, "sec": 1.0, "second": 1.0, "min": 60.0, "minute": 60.0, "h": 3600.0, "hour": 3600.0}
ACCEPTED = "A step is a process, a plain function, a workflow or a list of steps."


# --- steps


def not_a_step(value: Any, place: str) -> DefinitionError:
    """The error for something that stands where a step should: what it is, and what was probably meant."""
    if isinstance(value, type):
        name = value.__name__
        return DefinitionError(f"{place} is the class {name}. {ACCEPTED} Write def make(value): return {name}(value).")
    if isinstance(value, (str, bytes)):
        return DefinitionError(
            f"{place} is the string {short(value)}. {ACCEPTED} Write the function itself: not its name, "
            "not what it returns."
        )
    called = "it looks like you called it"
    if inspect.iscoroutine(value) or inspect.isgenerator(value) or inspect.isasyncgen(value):
        what = "coroutine" if inspect.iscoroutine(value) else "running generator"
        name = value.__name__
        if inspect.iscoroutine(value) and inspect.getcoroutinestate(value) == inspect.CORO_CREATED:
            value.close()  # it will not run: no warning that it was never awaited beside this error
        if name == "<genexpr>":
            return DefinitionError(f"{place} is a generator expression. Unpack it: flow(*[...]), parallel(*[...]).")
        return DefinitionError(
            f"{place} is a {what} of {name!r}: {called}. Write {name} without (); {name}.bind(...) fixes arguments."
        )
    what = "None" if value is None else f"{short(value)}, of type {type(value).__name__}"
    return DefinitionError(
        f"{place} is {what}: {called}. Write the function without (): flow(load), not flow(load()); "
        f"load.bind(...) fixes arguments. {ACCEPTED}"
    )


def missing_arguments(process: Process[Any, Any], with_value: bool, given: Iterable[str] = ()) -> list[str]:
    """The required arguments that nothing provides: not the pipe value, not ``bind``, not the names ``given``."""
    have = {*process.bound, *given}
    if with_value and process.pipe_parameter:
        have.add(process.pipe_parameter)
    return [name for _, name in process.required if name not in have]


# --- options


def check_limit(kind: str, limit: object, meaning: str) -> None:
    """Refuse what is no whole number of 1 or more."""
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise DefinitionError(f"{kind}: limit={short(limit)} is not a whole number of 1 or more. Give {meaning}.")


def seconds_between(rate: object) -> float:
    """``"100/s"`` -> 0.01 seconds."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*/\s*([a-z]+)\s*", rate) if isinstance(rate, str) else None
    count, unit = (float(match[1]), UNITS.get(match[2])) if match else (0.0, None)
    if not count or unit is None:
        raise DefinitionError(
            f"each: rate={short(rate)} is not understood. Write how many items start in what time: '100/s', '5/min' "
            "or '1000/h'."
        )
    return unit / count


# --- predicates


def arity_of(kind: str, option: str, predicate: Any) -> int:
    """How many arguments the predicate takes; everything that cannot be one is refused."""
    name = predicate.name if isinstance(predicate, Step) else predicate_name(predicate)

    takes = "A predicate is a plain function of (domain) or (domain, value), such as lambda d: d.ready."

    def refuse(what: str, todo: str = takes) -> DefinitionError:
        return DefinitionError(f"{kind}: {option}={what}. {todo}")

    if isinstance(predicate, Process):
        raise refuse(f"{name} is a process")
    if isinstance(predicate, Step):
        raise refuse(f"{name} is a workflow", "The predicate comes first: branch(predicate, then, otherwise).")
    if isinstance(predicate, type) or not callable(predicate):
        raise refuse(f"{short(predicate)} is not a function; it is asked at its turn, not now")
    if isinstance(predicate, (operator.attrgetter, operator.itemgetter, operator.methodcaller)):
        return 1  # before Python 3.13 they do not tell
    function = _function(predicate)
    is_async = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
    if is_async or inspect.isgeneratorfunction(function):
        raise refuse(
            f"{name} is {'async def' if is_async else 'a generator'}",
            "A predicate is asked in one short read-only transaction and cannot wait: wait in a process before it.",
        )
    try:
        parameters = inspect.signature(predicate).parameters.values()
    except (ValueError, TypeError):
        raise refuse(f"{name} does not tell its parameters", f"Wrap it: lambda d: {name}(d).") from None
    kinds = inspect.Parameter
    places = [p for p in parameters if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
    required = sum(p.default is p.empty for p in places)
    by_name = [p.name for p in parameters if p.kind is kinds.KEYWORD_ONLY and p.default is p.empty]
    if by_name or required > 2 or not (places or any(p.kind is kinds.VAR_POSITIONAL for p in parameters)):
        raise refuse(f"{name} takes {inspect.signature(predicate)}")
    if places and places[0].name == "ctx":
        raise refuse(f"{name} takes ctx, but a predicate gets the domain itself")
    if required < 2 <= len(places):
        extra = places[1].name
        raise refuse(
            f"{name} has a default for {extra!r}: is that the pipe's value?",
            f"Write (domain, value) without a default, or keep a constant by name: lambda d, *, {extra}={extra}: ...",
        )
    return max(required, 1)


def predicate_name(predicate: Any) -> str:
    """The function's name, behind partials."""
    while isinstance(predicate, functools.partial):
        predicate = predicate.func
    return str(getattr(predicate, "__name__", None) or type(predicate).__name__)


def as_answer(node: Step[Any, Any], answer: Any) -> bool:
    """What a predicate gave, as a boolean."""
    if answer is True or answer is False:
        return answer
    if hasattr(type(answer), "__await__"):  # it would be true, always
        if inspect.iscoroutine(answer):
            answer.close()
        raise TypeError(f"the predicate of {node.name} gave a coroutine and cannot wait: wait in a process before it.")
    return bool(answer)


# --- words


def short(value: Any) -> str:
    """The value's repr on one line of at most 60 characters, whatever its ``__repr__`` does."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # its own __repr__ raises, and the message must not
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 60 else text[:57] + "..."


def listed(names: Iterable[str]) -> str:
    """``'a', 'b' and 'c'``."""
    *front, last = [repr(name) for name in names]
    return f"{', '.join(front)} and {last}" if front else last
