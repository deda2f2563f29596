"""Where a process runs, and why, in words. Pure: decides from what is known, does nothing.

The user's word wins; then what the signature says. Measured placement is the subject of `nature.py` and
grows here.
"""

from __future__ import annotations

import functools
import types
from dataclasses import dataclass
from enum import Enum
from typing import Any

from theus.processes import Process


@dataclass(frozen=True, slots=True)
class Placement:
    """An environment's name and the reason for it."""

    environment: str
    reason: str


def place(process: Process[Any, Any], *, blocking: bool, debug: bool) -> Placement:
    """Choose the environment of a process.

    Args:
        process: what is to run.
        blocking: the whole run is driven in the thread of a caller who waits for it, one step after the other.
        debug: the engine runs everything in order, in the caller's thread.
    """
    if debug:
        return (
            Placement("loop", "debug: in order") if process.is_async else Placement("inline", "debug: inline, in order")
        )
    if process.environment is not None:
        return Placement(process.environment, f"environment={process.environment!r} was asked for")
    if process.nature == "state":
        return Placement("inline", "nature='state': runs in the commit, on the newest state")
    if process.nature == "cpu":
        return Placement("worker", "nature='cpu': computes, so on another core")
    if process.is_async:
        return Placement("loop", "async def: waits, so on the event loop")
    if process.timeout is not None:
        if process.nature == "io":
            return Placement(
                "thread", "nature='io' with timeout=: waits, so in a thread, which is let go of when it is over"
            )
        hindrance = cannot_travel(process.fn)
        if hindrance is None:
            return Placement("worker", "def with timeout=: only a worker process can be stopped whatever it does")
        return Placement("thread", f"def with timeout=, but it cannot go to a worker process: {hindrance}")
    if blocking:
        return Placement("inline", "def, and its caller waits for it: runs in the caller's thread")
    return Placement("thread", "def that may wait: off the loop, in a thread")


FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.ModuleType, type, Process)
IMMUTABLE = (type(None), bool, int, float, complex, str, bytes, range, Enum, *FUNCTIONS)


@functools.lru_cache(maxsize=4096)
def cannot_travel(fn: Any) -> str | None:
    """Why a function must not run on a copy of its surroundings; None if it may.

    On the far side a function sees copies of what it closes over and of its module's globals. That is safe
    if those are modules, functions, classes or immutable constants; a closure that does ``out.append(x)``
    would lose data.
    """
    while isinstance(fn, functools.partial):
        hindrance = next(
            (_mutable(v, "argument of the partial") for v in (*fn.args, *fn.keywords.values()) if _mutable(v, "")), None
        )
        if hindrance:
            return hindrance
        fn = fn.func
    if isinstance(fn, types.MethodType):
        return f"it is a method of {type(fn.__self__).__name__}, and the object would be copied"
    if not isinstance(fn, types.FunctionType):
        return f"it is a {type(fn).__name__}, not a function"
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        if hindrance := _mutable(_content(cell), f"variable {name!r} it closes over"):
            return hindrance
    for name in _global_names(fn.__code__):
        if name in fn.__globals__ and (hindrance := _mutable(fn.__globals__[name], f"global {name!r} it uses")):
            return hindrance
    return None


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet: a function that calls itself before its definition is over
        return None


def _global_names(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _global_names(constant)
    return names


def _mutable(value: Any, what: str) -> str | None:
    if isinstance(value, IMMUTABLE):
        return None
    if isinstance(value, (tuple, frozenset)):
        return next((hindrance for item in value if (hindrance := _mutable(item, what))), None)
    return f"the {what} is a {type(value).__name__}, which would be a copy there" if what else "mutable"
