"""The nodes of a workflow: immutable, checked when they are made."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import combinations, combinations_with_replacement
from typing import Any, ClassVar, Literal, NoReturn, Self, TypeVar

from theus.errors import DefinitionError
from theus.processes import In, Out, Process, Step, as_process
from theus.workflow.ambiguities import Ambiguity, meeting
from theus.workflow.checks import (
    ACCEPTED,
    arity_of,
    as_answer,
    check_limit,
    listed,
    missing_arguments,
    not_a_step,
    predicate_name,
    seconds_between,
)

W = TypeVar("W", bound="Workflow[Any, Any]")

MAX_DEPTH = 500  #: levels of nesting; a run goes one coroutine deeper with each, and Python ends near 1000


class Workflow(Step[In, Out]):
    """A tree of steps, itself a step. Immutable; equal only to itself; ``print`` draws the tree.

    ``name``: what it is called in events and errors. ``steps``: its children, in order. ``compatible``: see ``compatible_with``.
    """

    __slots__ = ("compatible", "depth", "steps")
    kind: ClassVar[str] = "workflow"
    fields: ClassVar[tuple[str, ...]] = ("steps",)  #: what the constructor takes, in order

    steps: tuple[Step[Any, Any], ...]
    depth: int  #: levels of workflows, itself included
    compatible: tuple[str, ...]

    def _fill(self, name: str, steps: tuple[Step[Any, Any], ...], **values: Any) -> None:
        """Set all slots, once."""
        depth = 1 + max((step.depth for step in steps if isinstance(step, Workflow)), default=0)
        if depth > MAX_DEPTH:
            raise DefinitionError(
                f"{self.kind}: steps are nested more than {MAX_DEPTH} levels deep, too deep to run or to draw. Was a "
                "workflow put into another one in a loop? Collect the steps in a list and write flow(*steps); for "
                "rounds, write repeat(...)."
            )
        values |= {"name": f"{self.kind}({name})", "steps": steps, "depth": depth, "compatible": ()}
        for slot, value in values.items():
            object.__setattr__(self, slot, value)

    def compatible_with(self, *recorded: str) -> Self:
        """The same workflow, that may go on with runs which were recorded with other versions of it.

        A durable run is refused when its workflow differs from what was recorded, where it has been already. This says
        that for these versions it is meant: a step whose place and name are as before keeps what it gave, though its bound
        arguments be others; all other steps run, also one that did so under another name or at another place.

        Args:
            recorded: the names of those versions, as ``WorkflowChanged`` says them.
        """
        for name in recorded:
            if not (isinstance(name, str) and re.fullmatch("[0-9a-f]{12}", name)):
                raise DefinitionError(
                    f"{self.name}.compatible_with({name!r}): give what WorkflowChanged says, such as '3f2a90bc51de'."
                )
        return _built(type(self), self._given(), (*self.compatible, *recorded))

    def _given(self) -> tuple[Any, ...]:
        return tuple(getattr(self, field) for field in self.fields)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{self.name}.{name} cannot be set: a workflow is immutable. Build a new one.")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{self.name}.{name} cannot be deleted: a workflow is immutable. Build a new one.")

    def __reduce__(self) -> tuple[Any, ...]:
        return _built, (type(self), self._given(), self.compatible)

    def __str__(self) -> str:
        from theus.drawing.text import tree

        return tree(self)

    __repr__ = __str__

    def mermaid(self) -> str:
        """The workflow as the text of a Mermaid flowchart."""
        from theus.drawing.chart import mermaid

        return mermaid(self)

    def svg(self) -> str:
        """The workflow as one self-contained SVG, for light and dark."""
        from theus.drawing.picture import svg

        return svg(self)

    def ambiguities(self) -> list[Ambiguity]:
        """Pairs of steps that meet, by their contracts, and whose order only time or their place in the list decides.

        In ``parallel`` and ``each`` those that finish first commit first. In a ``flow`` the order is that of the list,
        even where steps start early. Steps without a contract are not looked at.
        """
        found = list(self._unordered())
        for step in self.steps:
            if isinstance(step, Workflow):
                found += step.ambiguities()
        return list(dict.fromkeys(found))

    def _unordered(self) -> Iterator[Ambiguity]:
        """Those that stand in this very node."""
        return iter(())

    def _repr_svg_(self) -> str:
        return self.svg()


def _built(kind: type[W], given: tuple[Any, ...], compatible: tuple[str, ...]) -> W:
    made = kind(*given)
    object.__setattr__(made, "compatible", compatible)
    return made


class Flow(Workflow[In, Out]):
    """Steps one after the other; each gets what the one before returned."""

    __slots__ = ("may_overlap",)
    kind: ClassVar[Literal["flow"]] = "flow"

    may_overlap: bool  #: some step might start before its turn

    def __init__(self, steps: Iterable[Any]) -> None:
        children = _children("flow", steps)
        for step, after in zip(children, [*children[1:], None], strict=True):
            if isinstance(step, Process) and step.is_source and not isinstance(after, Each):
                raise DefinitionError(
                    f"flow: {step.name!r} is a generator, a source of items, so each(...) has to come right after it; "
                    + (f"here comes {after.name!r}. " if after else "here it is the last step. ")
                    + f"Write flow({step.name}, each(...)), or let it return a list."
                )
        for step in children[1:]:  # the first may get arguments from run: see check_start
            _check_fed("flow", step)
        self._fill(_named(children), children, may_overlap=any(map(can_start_early, children[1:])))

    def _unordered(self) -> Iterator[Ambiguity]:
        processes = [step for step in self.steps if isinstance(step, Process)]
        for a, b in combinations(processes, 2):
            if can_start_early(b):
                yield from meeting(a, b, self.name, "list position")


class Parallel(Workflow[In, Out]):
    """Steps at the same time, all on the same value; gives a tuple of what they returned, in their order."""

    __slots__ = ()
    kind: ClassVar[Literal["parallel"]] = "parallel"

    def __init__(self, steps: Iterable[Any]) -> None:
        children = _children("parallel", steps)
        for step in children:
            _check_inside("parallel", step)
        self._fill(_named(children), children)

    def _unordered(self) -> Iterator[Ambiguity]:
        for one, other in combinations(self.steps, 2):
            for a in leaves(one):
                for b in leaves(other):
                    yield from meeting(a, b, self.name, "timing")


class Each(Workflow[In, Out]):
    """One step for every item of the incoming value; gives a list of what it returned, in the order of the items."""

    __slots__ = ("interval", "limit", "on_error", "rate", "step")
    kind: ClassVar[Literal["each"]] = "each"
    fields = ("step", "limit", "rate", "on_error")

    step: Step[Any, Any]
    limit: int | None  #: items in hand at the same time; None: all
    rate: str | None  #: as it was written, ``"100/s"``
    interval: float | None  #: seconds between the starts of two items; None: no pause
    on_error: Literal["raise", "collect"]

    def __init__(self, step: Any, limit: object = None, rate: object = None, on_error: object = "raise") -> None:
        (child,) = _children("each", (step,))
        _check_inside("each", child)
        if limit is not None:
            check_limit("each", limit, "how many items are in hand at the same time, or leave it out")
        if on_error not in ("raise", "collect"):
            raise DefinitionError(
                f"each: on_error={on_error!r} is not known. 'raise' ends the run with the first error; 'collect' puts "
                "the errors into the list, in their items' places."
            )
        interval = None if rate is None else seconds_between(rate)
        self._fill(_named((child,)), (child,), step=child, limit=limit, rate=rate, interval=interval, on_error=on_error)

    def _unordered(self) -> Iterator[Ambiguity]:
        first = first_step(self.step)
        for a, b in combinations_with_replacement(leaves(self.step), 2):
            yield from meeting(a, b, self.name, "timing", first if isinstance(first, Process) else None)


class Branch(Workflow[In, Out]):
    """One of two steps, as the predicate says; with no step for its answer, the value passes unchanged."""

    __slots__ = ("arity", "otherwise", "predicate", "then")
    kind: ClassVar[Literal["branch"]] = "branch"
    fields = ("predicate", "then", "otherwise")

    predicate: Callable[..., Any]
    arity: int  #: 1: the predicate takes ``(domain)``, 2: ``(domain, value)``
    then: Step[Any, Any]
    otherwise: Step[Any, Any] | None

    def __init__(self, predicate: Any, then: Any, otherwise: Any = None) -> None:
        arity = arity_of("branch", "predicate", predicate)
        chosen = (then,) if otherwise is None else (then, otherwise)
        children = _children("branch", chosen)
        for step in children:
            _check_inside("branch", step)
        self._fill(
            predicate_name(predicate),
            children,
            predicate=predicate,
            arity=arity,
            then=children[0],
            otherwise=children[1] if len(children) > 1 else None,
        )

    def test(self, domain: Any, value: Any) -> bool:
        """Ask the predicate. ``domain``: a read-only view. ``value``: what is in the pipe."""
        return as_answer(self, self.predicate(domain) if self.arity == 1 else self.predicate(domain, value))


class Repeat(Workflow[In, Out]):
    """A step again and again while the predicate holds, at most ``limit`` times; it gets its own result."""

    __slots__ = ("arity", "limit", "step", "while_")
    kind: ClassVar[Literal["repeat"]] = "repeat"
    fields = ("step", "while_", "limit")

    step: Step[Any, Any]
    while_: Callable[..., Any]
    arity: int  #: 1: the predicate takes ``(domain)``, 2: ``(domain, value)``
    limit: int  #: rounds; one more raises LimitExceeded

    def __init__(self, step: Any, while_: Any, limit: Any) -> None:
        (child,) = _children("repeat", (step,))
        _check_inside("repeat", child)
        arity = arity_of("repeat", "while_", while_)
        check_limit("repeat", limit, "the number of rounds that would mean that something is wrong")
        self._fill(_named((child,)), (child,), step=child, while_=while_, arity=arity, limit=limit)

    def test(self, domain: Any, value: Any) -> bool:
        """Ask whether there is another round. ``domain``: a read-only view. ``value``: what is in the pipe."""
        return as_answer(self, self.while_(domain) if self.arity == 1 else self.while_(domain, value))


def leaves(step: Step[Any, Any]) -> Iterator[Process[Any, Any]]:
    """All processes of the tree, in order."""
    rest = [step]
    while rest:
        step = rest.pop()
        if isinstance(step, Process):
            yield step
        elif isinstance(step, Workflow):
            rest.extend(reversed(step.steps))


def can_start_early(step: Step[Any, Any]) -> bool:
    """Whether a step of a flow may run before its turn: it may run twice, and needs nothing but the state."""
    return (
        isinstance(step, Process)
        and step.idempotent
        and step.pipe_parameter is None
        and step.nature != "state"
        and not step.is_source
        and not step.contract.exclusive
    )


def first_step(step: Step[Any, Any]) -> Step[Any, Any]:
    """What runs first: a process, or a node other than a flow."""
    while isinstance(step, Flow):
        step = step.steps[0]
    return step


# --- what is accepted as a step, and where


def as_step(value: Any) -> Step[Any, Any]:
    """A process or workflow as it is, a list of steps as a flow, a plain function as a process without options.

    Raises:
        DefinitionError: it is something else; says what it got, and what to write.
    """
    return _convert(value, "the target", (), {})


def _children(kind: str, values: Iterable[Any]) -> tuple[Step[Any, Any], ...]:
    given = tuple(values)
    if not given:
        raise DefinitionError(f"{kind} got no steps. {ACCEPTED}")
    made: dict[int, Process[Any, Any]] = {}
    place = f"{kind}: its step" if len(given) == 1 else f"{kind}: step {{}}"
    return tuple(_convert(value, place.format(n), (), made) for n, value in enumerate(given, 1))


def _convert(value: Any, place: str, inside: tuple[int, ...], made: dict[int, Process[Any, Any]]) -> Step[Any, Any]:
    """``inside``: the lists that this value is in. ``made``: the processes made of plain functions so far."""
    if isinstance(value, (Process, Workflow)):
        step: Step[Any, Any] = value
    elif isinstance(value, (list, tuple)):
        if id(value) in inside:
            raise DefinitionError(
                f"{place} is a list that contains itself. A workflow is a tree; for rounds write repeat."
            )
        if not value:
            raise DefinitionError(f"{place} is an empty {type(value).__name__}. {ACCEPTED}")
        if len(inside) == MAX_DEPTH:
            raise DefinitionError(f"a list of steps is nested more than {MAX_DEPTH} levels deep. Write it flatter.")
        within = (*inside, id(value))
        items = []
        for number, item in enumerate(value, 1):
            items.append(_convert(item, f"{place}, item {number}" if len(inside) < 5 else place, within, made))
        return Flow(items)
    elif callable(value) and not isinstance(value, type):
        step = made.get(id(value)) or made.setdefault(id(value), as_process(value))
    else:
        raise not_a_step(value, place)
    if isinstance(step, Process) and step.is_method:
        raise DefinitionError(
            f"{place} is the method {step.name!r} as it stands in its class, without an object for its "
            f"{'self'!r}. Use it from an instance: instance.{step.name}."
        )
    return step


def _named(steps: tuple[Step[Any, Any], ...]) -> str:
    """The children in short: ``load, …, summary``."""
    names = [step.kind if isinstance(step, Workflow) else step.name for step in steps]
    return ", ".join(names if len(names) < 3 else [names[0], "…", names[-1]])


def _check_fed(kind: str, step: Step[Any, Any]) -> None:
    """Refuse a step that the pipe value alone cannot start."""
    first = first_step(step)
    if isinstance(first, Process) and (missing := missing_arguments(first, with_value=True)):
        goes = f"which goes to {first.pipe_parameter!r}" if first.pipe_parameter else "which no parameter takes"
        raise DefinitionError(
            f"{kind}: step {first.name!r} needs {listed(missing)}, but it only gets the pipe value, {goes}. "
            f"Write {first.name}.bind({', '.join(f'{name}=...' for name in missing)}), or give "
            f"{'it a default' if len(missing) == 1 else 'them defaults'}."
        )


def _check_inside(kind: str, step: Step[Any, Any]) -> None:
    """Refuse what cannot stand in any node but a flow: a source, or a step that needs more than the pipe value."""
    if isinstance(step, Process) and step.is_source:
        raise DefinitionError(
            f"{kind}: {step.name!r} is a generator, a source of items, which only stands in a flow, with each(...) "
            f"right after it. Write flow({step.name}, each(...)), or let it return a list."
        )
    _check_fed(kind, step)
