"""``flow``, ``parallel``, ``each``, ``branch``, ``repeat``: a workflow is an immutable tree of steps.

A tree is built in plain Python, once, and checked while it is built: what can be known to be wrong without
running anything is refused here, with what to write instead. A node only says what belongs together; how a
value goes through it is the matter of ``schedule.py``, how it looks that of ``drawing``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar, overload

from theus.errors import DefinitionError
from theus.processes import Step
from theus.workflow.start import check_start
from theus.workflow.tree import (
    Branch,
    Each,
    Flow,
    Parallel,
    Repeat,
    Workflow,
    as_step,
    can_start_early,
    first_step,
    leaves,
)

if TYPE_CHECKING:
    from types import CodeType

__all__ = [
    "Branch", "Each", "Flow", "Parallel", "Repeat", "Step", "Workflow", "as_step", "branch", "can_start_early",
    "check_start", "each", "first_step", "flow", "leaves", "parallel", "repeat",
]  # fmt: skip

_MISSING: Any = object()

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")
F = TypeVar("F")
G = TypeVar("G")
H = TypeVar("H")
J = TypeVar("J")


if TYPE_CHECKING:

    class PlainFunction(Protocol):
        """A function that is no process: what a checker can tell apart from one."""

        @property
        def __code__(self) -> CodeType: ...
        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    #: A step whose values no checker follows. No process is one, so a wrong chain of processes finds no overload.
    Plain: TypeAlias = PlainFunction | functools.partial[Any] | list[Any] | tuple[Any, ...]
    Some: TypeAlias = Step[Any, Any] | Plain
    Predicate: TypeAlias = Callable[[Any], object] | Callable[[Any, Any], object]
    S: TypeAlias = Step[Any, Any]


# fmt: off
@overload
def flow(a: Step[A, B], /) -> Workflow[A, B]: ...
@overload
def flow(a: Step[A, B], b: Step[B, C], /) -> Workflow[A, C]: ...
@overload
def flow(a: Step[A, B], b: Step[B, C], c: Step[C, D], /) -> Workflow[A, D]: ...
@overload
def flow(a: Step[A, B], b: Step[B, C], c: Step[C, D], d: Step[D, E], /) -> Workflow[A, E]: ...
@overload
def flow(a: Step[A, B], b: Step[B, C], c: Step[C, D], d: Step[D, E], e: Step[E, F], /) -> Workflow[A, F]: ...
@overload
def flow(a: Step[A, B], b: Step[B, C], c: Step[C, D], d: Step[D, E], e: Step[E, F], f: Step[F, G],
         /) -> Workflow[A, G]: ...
@overload
def flow(a: Step[A, B], b: Step[B, C], c: Step[C, D], d: Step[D, E], e: Step[E, F], f: Step[F, G],
         g: Step[G, H], /) -> Workflow[A, H]: ...
@overload
def flow(a: Step[A, B], b: Step[B, C], c: Step[C, D], d: Step[D, E], e: Step[E, F], f: Step[F, G],
         g: Step[G, H], h: Step[H, J], /) -> Workflow[A, J]: ...
@overload  # from here on: a step that is no process, at each of the places, or more than eight steps
def flow(a: Plain, /, *more: Some) -> Workflow[Any, Any]: ...
@overload
def flow(a: S, b: Plain, /, *more: Some) -> Workflow[Any, Any]: ...
@overload
def flow(a: S, b: S, c: Plain, /, *more: Some) -> Workflow[Any, Any]: ...
@overload
def flow(a: S, b: S, c: S, d: Plain, /, *more: Some) -> Workflow[Any, Any]: ...
@overload
def flow(a: S, b: S, c: S, d: S, e: Plain, /, *more: Some) -> Workflow[Any, Any]: ...
@overload
def flow(a: S, b: S, c: S, d: S, e: S, f: Plain, /, *more: Some) -> Workflow[Any, Any]: ...
@overload
def flow(a: S, b: S, c: S, d: S, e: S, f: S, g: Plain, /, *more: Some) -> Workflow[Any, Any]: ...
@overload
def flow(a: S, b: S, c: S, d: S, e: S, f: S, g: S, h: Plain, /, *more: Some) -> Workflow[Any, Any]: ...
@overload
def flow(a: S, b: S, c: S, d: S, e: S, f: S, g: S, h: S, i: Some, /, *more: Some) -> Workflow[Any, Any]: ...
# fmt: on
def flow(*steps: Any) -> Workflow[Any, Any]:
    """Steps one after the other: each gets what the one before returned; gives what the last returned.

    ``flow(load, each(fetch), summary)``; one list of steps is taken as the steps.

    Raises:
        DefinitionError: no steps, something that is no step, or a step that cannot stand where it is.
    """
    if len(steps) == 1 and isinstance(steps[0], (list, tuple)):
        return Flow(steps[0])
    return Flow(steps)


@overload
def parallel(a: Step[A, B], /) -> Workflow[A, tuple[B]]: ...
@overload
def parallel(a: Step[A, B], b: Step[A, C], /) -> Workflow[A, tuple[B, C]]: ...
@overload
def parallel(a: Step[A, B], b: Step[A, C], c: Step[A, D], /) -> Workflow[A, tuple[B, C, D]]: ...
@overload
def parallel(a: Step[A, B], b: Step[A, C], c: Step[A, D], d: Step[A, E], /) -> Workflow[A, tuple[B, C, D, E]]: ...
@overload
def parallel(
    a: Step[A, B], b: Step[A, C], c: Step[A, D], d: Step[A, E], e: Step[A, F], /
) -> Workflow[A, tuple[B, C, D, E, F]]: ...
@overload
def parallel(
    a: Step[A, B], b: Step[A, C], c: Step[A, D], d: Step[A, E], e: Step[A, F], f: Step[A, G], /
) -> Workflow[A, tuple[B, C, D, E, F, G]]: ...
@overload
def parallel(*steps: Some) -> Workflow[Any, tuple[Any, ...]]: ...
def parallel(*steps: Any) -> Workflow[Any, Any]:
    """Steps at the same time, each on the same value; gives a tuple of what they returned, in the order written.

    Raises:
        DefinitionError: no steps, something that is no step, or a step that cannot stand here.
    """
    if len(steps) == 1 and isinstance(steps[0], (list, tuple)):
        raise DefinitionError(
            "parallel got one list. For its items at the same time, write parallel(*steps); for one after the other, "
            "leave parallel out."
        )
    return Parallel(steps)


@overload
def each(
    step: Step[A, B], *, limit: int | None = None, rate: str | None = None, on_error: Literal["raise"] = "raise"
) -> Workflow[Iterable[A], list[B]]: ...
@overload
def each(
    step: Step[A, B], *, limit: int | None = None, rate: str | None = None, on_error: Literal["collect"]
) -> Workflow[Iterable[A], list[B | Exception]]: ...
@overload
def each(
    step: Plain, *, limit: int | None = None, rate: str | None = None, on_error: Literal["raise", "collect"] = "raise"
) -> Workflow[Iterable[Any], list[Any]]: ...
def each(step: Any, *, limit: Any = None, rate: Any = None, on_error: Any = "raise") -> Workflow[Any, Any]:
    """One step for every item of the incoming value; gives a list of the results, in the order of the items.

    Args:
        limit: how many items are in hand at the same time; None: all at once.
        rate: how many start in what time: ``"100/s"``, ``"5/min"``, ``"1000/h"``.
        on_error: ``"raise"`` ends the run with the first error, ``"collect"`` puts errors into the list.

    Raises:
        DefinitionError: something that is no step, or an option that cannot be.
    """
    return Each(step, limit, rate, on_error)


@overload
def branch(predicate: Predicate, then: Step[A, B], otherwise: Step[A, C]) -> Workflow[A, B | C]: ...
@overload
def branch(predicate: Predicate, then: Step[A, B], otherwise: None = None) -> Workflow[A, A | B]: ...
@overload
def branch(predicate: Predicate, then: Plain, otherwise: Some | None = None) -> Workflow[Any, Any]: ...
@overload
def branch(predicate: Predicate, then: Step[Any, Any], otherwise: Plain) -> Workflow[Any, Any]: ...
def branch(predicate: Any, then: Any, otherwise: Any = None) -> Workflow[Any, Any]:
    """``then`` if the predicate holds, else ``otherwise``; without it, the value passes unchanged.

    The predicate takes ``(domain)`` or ``(domain, value)``; the domain is a read-only view.

    Raises:
        DefinitionError: something that is no step, or a predicate that cannot be asked.
    """
    return Branch(predicate, then, otherwise)


@overload
def repeat(step: Step[A, A], *, while_: Predicate, limit: int) -> Workflow[A, A]: ...
@overload
def repeat(step: Plain, *, while_: Predicate, limit: int) -> Workflow[Any, Any]: ...
def repeat(step: Any, *, while_: Any = _MISSING, limit: Any = _MISSING) -> Workflow[Any, Any]:
    """A step again and again while the predicate holds; each round gets the result of the one before.

    ``repeat(improve, while_=lambda domain: domain.loss > 0.1, limit=1000)``. Zero rounds pass the value through;
    a round more than ``limit`` raises ``LimitExceeded``.

    Raises:
        DefinitionError: something that is no step, a predicate that cannot be asked, or no limit.
    """
    if while_ is _MISSING:
        raise DefinitionError("repeat needs while_=, the condition of another round: while_=lambda d: not d.done.")
    if limit is _MISSING:
        raise DefinitionError(
            "repeat needs limit=, the number of rounds that would mean that something is wrong: going over it is an "
            "error, so that no run goes round for ever."
        )
    return Repeat(step, while_, limit)
