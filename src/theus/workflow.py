"""``flow``, ``parallel``, ``each``, ``branch``, ``repeat``: a workflow is an immutable tree of steps.

A tree is built in plain Python, once, and checked while it is built: what can be known to be wrong without
running anything is refused here, with what to write instead. A node only says what belongs together; how a
value goes through it is the matter of ``schedule.py``, how it looks that of ``drawing.py``.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, Protocol, TypeAlias, TypeVar, overload

from theus.errors import DefinitionError
from theus.processes import In, Out, Process, Step as Step, _function, as_process  # noqa: PLC0414 - Step is for both

if TYPE_CHECKING:
    from types import CodeType

MAX_DEPTH = 500  #: levels of nesting; a run goes one coroutine deeper with each, and Python ends near 1000
UNITS = {"s": 1.0, "sec": 1.0, "second": 1.0, "min": 60.0, "minute": 60.0, "h": 3600.0, "hour": 3600.0}
ACCEPTED = "A step is a process, a plain function, a workflow or a list of steps."
_MISSING: Any = object()


# --- the tree --------------------------------------------------------------------------------------------------------


class Workflow(Step[In, Out]):
    """A tree of steps, itself a step. Immutable; equal only to itself; ``print`` draws the tree.

    ``name``: what it is called in events and errors. ``steps``: its children, in order.
    """

    __slots__ = ("depth", "steps")
    kind: ClassVar[str] = "workflow"
    fields: ClassVar[tuple[str, ...]] = ("steps",)  #: what the constructor takes, in order

    steps: tuple[Step[Any, Any], ...]
    depth: int  #: levels of workflows, itself included

    def _fill(self, name: str, steps: tuple[Step[Any, Any], ...], **values: Any) -> None:
        """Set all slots, once."""
        depth = 1 + max((step.depth for step in steps if isinstance(step, Workflow)), default=0)
        if depth > MAX_DEPTH:
            raise DefinitionError(
                f"{self.kind}: steps are nested more than {MAX_DEPTH} levels deep, too deep to run or to draw. Was a "
                "workflow put into another one in a loop? Collect the steps in a list and write flow(*steps); for "
                "rounds, write repeat(...)."
            )
        for slot, value in {"name": f"{self.kind}({name})", "steps": steps, "depth": depth, **values}.items():
            object.__setattr__(self, slot, value)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{self.name}.{name} cannot be set: a workflow is immutable. Build a new one.")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{self.name}.{name} cannot be deleted: a workflow is immutable. Build a new one.")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, field) for field in self.fields)

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

    def _repr_svg_(self) -> str:
        return self.svg()


class Flow(Workflow[In, Out]):
    """Steps one after the other; each gets what the one before returned."""

    __slots__ = ()
    kind: ClassVar[Literal["flow"]] = "flow"

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
        self._fill(_named(children), children)


class Parallel(Workflow[In, Out]):
    """Steps at the same time, all on the same value; gives a tuple of what they returned, in their order."""

    __slots__ = ()
    kind: ClassVar[Literal["parallel"]] = "parallel"

    def __init__(self, steps: Iterable[Any]) -> None:
        children = _children("parallel", steps)
        for step in children:
            _check_inside("parallel", step)
        self._fill(_named(children), children)


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
            _check_limit("each", limit, "how many items are in hand at the same time, or leave it out")
        if on_error not in ("raise", "collect"):
            raise DefinitionError(
                f"each: on_error={on_error!r} is not known. 'raise' ends the run with the first error; 'collect' puts "
                "the errors into the list, in their items' places."
            )
        interval = None if rate is None else _interval(rate)
        self._fill(_named((child,)), (child,), step=child, limit=limit, rate=rate, interval=interval, on_error=on_error)


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
        arity = _arity("branch", "predicate", predicate)
        chosen = (then,) if otherwise is None else (then, otherwise)
        children = _children("branch", chosen)
        for step in children:
            _check_inside("branch", step)
        self._fill(
            _predicate_name(predicate),
            children,
            predicate=predicate,
            arity=arity,
            then=children[0],
            otherwise=children[1] if len(children) > 1 else None,
        )

    def test(self, domain: Any, value: Any) -> bool:
        """Ask the predicate. ``domain``: a read-only view. ``value``: what is in the pipe."""
        return _answer(self, self.predicate(domain) if self.arity == 1 else self.predicate(domain, value))


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
        arity = _arity("repeat", "while_", while_)
        _check_limit("repeat", limit, "the number of rounds that would mean that something is wrong")
        self._fill(_named((child,)), (child,), step=child, while_=while_, arity=arity, limit=limit)

    def test(self, domain: Any, value: Any) -> bool:
        """Ask whether there is another round. ``domain``: a read-only view. ``value``: what is in the pipe."""
        return _answer(self, self.while_(domain) if self.arity == 1 else self.while_(domain, value))


def leaves(step: Step[Any, Any]) -> Iterator[Process[Any, Any]]:
    """All processes of the tree, in order."""
    rest = [step]
    while rest:
        step = rest.pop()
        if isinstance(step, Process):
            yield step
        elif isinstance(step, Workflow):
            rest.extend(reversed(step.steps))


def first_step(step: Step[Any, Any]) -> Step[Any, Any]:
    """What runs first: a process, or a node other than a flow."""
    while isinstance(step, Flow):
        step = step.steps[0]
    return step


# --- what is accepted as a step --------------------------------------------------------------------------------------


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
        raise _not_a_step(value, place)
    if isinstance(step, Process) and step.is_method:
        raise DefinitionError(
            f"{place} is the method {step.name!r} as it stands in its class, without an object for its "
            f"{'self'!r}. Use it from an instance: instance.{step.name}."
        )
    return step


def _not_a_step(value: Any, place: str) -> DefinitionError:
    if isinstance(value, type):
        name = value.__name__
        return DefinitionError(f"{place} is the class {name}. {ACCEPTED} Write def make(value): return {name}(value).")
    if isinstance(value, (str, bytes)):
        return DefinitionError(
            f"{place} is the string {_short(value)}. {ACCEPTED} Write the function itself: not its name, "
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
    what = "None" if value is None else f"{_short(value)}, of type {type(value).__name__}"
    return DefinitionError(
        f"{place} is {what}: {called}. Write the function without (): flow(load), not flow(load()); "
        f"load.bind(...) fixes arguments. {ACCEPTED}"
    )


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def _named(steps: tuple[Step[Any, Any], ...]) -> str:
    """The children in short: ``load, …, summary``."""
    names = [step.kind if isinstance(step, Workflow) else step.name for step in steps]
    return ", ".join(names if len(names) < 3 else [names[0], "…", names[-1]])


# --- checks while building -------------------------------------------------------------------------------------------


def _missing(process: Process[Any, Any], with_value: bool, given: Iterable[str] = ()) -> list[str]:
    """The required arguments that nothing provides: not the pipe value, not ``bind``, not the names ``given``."""
    have = {*process.bound, *given}
    if with_value and process.pipe_parameter:
        have.add(process.pipe_parameter)
    return [name for _, name in process.required if name not in have]


def _check_fed(kind: str, step: Step[Any, Any]) -> None:
    """Refuse a step that the pipe value alone cannot start."""
    first = first_step(step)
    if isinstance(first, Process) and (missing := _missing(first, with_value=True)):
        goes = f"which goes to {first.pipe_parameter!r}" if first.pipe_parameter else "which no parameter takes"
        raise DefinitionError(
            f"{kind}: step {first.name!r} needs {_listed(missing)}, but it only gets the pipe value, {goes}. "
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


def _check_limit(kind: str, limit: object, meaning: str) -> None:
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise DefinitionError(f"{kind}: limit={_short(limit)} is not a whole number of 1 or more. Give {meaning}.")


def _interval(rate: object) -> float:
    """``"100/s"`` -> 0.01 seconds."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*/\s*([a-z]+)\s*", rate) if isinstance(rate, str) else None
    count, unit = (float(match[1]), UNITS.get(match[2])) if match else (0.0, None)
    if not count or unit is None:
        raise DefinitionError(
            f"each: rate={_short(rate)} is not understood. Write how many items start in what time: '100/s', '5/min' "
            "or '1000/h'."
        )
    return unit / count


def _arity(kind: str, option: str, predicate: Any) -> int:
    """How many arguments the predicate takes; everything that cannot be one is refused."""
    name = predicate.name if isinstance(predicate, Step) else _predicate_name(predicate)

    takes = "A predicate is a plain function of (domain) or (domain, value), such as lambda d: d.ready."

    def refuse(what: str, todo: str = takes) -> DefinitionError:
        return DefinitionError(f"{kind}: {option}={what}. {todo}")

    if isinstance(predicate, Process):
        raise refuse(f"{name} is a process")
    if isinstance(predicate, Workflow):
        raise refuse(f"{name} is a workflow", "The predicate comes first: branch(predicate, then, otherwise).")
    if isinstance(predicate, type) or not callable(predicate):
        raise refuse(f"{_short(predicate)} is not a function; it is asked at its turn, not now")
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


def _predicate_name(predicate: Any) -> str:
    while isinstance(predicate, functools.partial):
        predicate = predicate.func
    return str(getattr(predicate, "__name__", None) or type(predicate).__name__)


def _answer(node: Workflow[Any, Any], answer: Any) -> bool:
    if answer is True or answer is False:
        return answer
    if hasattr(type(answer), "__await__"):  # it would be true, always
        if inspect.iscoroutine(answer):
            answer.close()
        raise TypeError(f"the predicate of {node.name} gave a coroutine and cannot wait: wait in a process before it.")
    return bool(answer)


# --- the check at the start of a run ---------------------------------------------------------------------------------


def check_start(step: Step[Any, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Refuse what ``engine.run(step, *args, **kwargs)`` cannot start with.

    A lone process takes all arguments. A workflow takes at most one by position, its first pipe value, and
    others by name only if its first step is a process.

    Raises:
        DefinitionError: too many, unknown, doubled or missing arguments, with how to call it.
    """
    if isinstance(step, Process):
        as_step(step)  # a method without its object
        _check_bound(step, kwargs)
        step.check_arguments(args, {**step.bound, **kwargs} if step.bound else kwargs)
        return
    if len(args) > 1:
        raise DefinitionError(
            f"{step.name} got {len(args)} arguments by position; a workflow takes one, its first value. "
            "Hand several over as one tuple, or by name to a first step that is a process."
        )
    first = first_step(step)
    if not isinstance(first, Process):
        if kwargs:
            raise DefinitionError(
                f"{step.name} got {_listed(kwargs)} by name, but it begins with {first.name}, which takes the one "
                "value only. Put a process first, or hand everything over as the first value."
            )
        if not args and (needs := _needs_value(first)):
            raise DefinitionError(f"{step.name} needs a first value: engine.run(workflow, value). {needs}.")
        return
    first.check_names(kwargs)
    _check_bound(first, kwargs)
    if args and first.pipe_parameter in kwargs:
        raise DefinitionError(
            f"{step.name} got {first.pipe_parameter!r} twice, as its first value and by name. Leave one of them out."
        )
    if args and not first.pipe_parameter and not first.takes_context:
        raise DefinitionError(
            f"{step.name} got a first value, {_short(args[0])}, but its first step {first.name!r} has no parameter "
            "left for it; nobody would see it. Leave it out."
        )
    if missing := _missing(first, bool(args), kwargs):
        if not args and first.pipe_parameter in missing:
            more = "".join(f", {name}=..." for name in missing if name != first.pipe_parameter)
            raise DefinitionError(
                f"{step.name} needs a first value: engine.run(workflow, value{more}). Its first step {first.name!r} "
                f"needs {_listed(missing)}."
            )
        raise DefinitionError(
            f"{step.name} begins with {first.name!r}, which needs {_listed(missing)} as well: "
            f"engine.run(workflow, {'value, ' if args else ''}{', '.join(f'{name}=...' for name in missing)})."
        )


def _check_bound(process: Process[Any, Any], kwargs: Mapping[str, Any]) -> None:
    for name in kwargs:
        if name in process.bound:
            raise DefinitionError(
                f"process {process.name!r} got {name!r}, which bind already fixed to {_short(process.bound[name])}. "
                "Leave one of them out."
            )


def _needs_value(step: Step[Any, Any]) -> str:
    """Why this step cannot start without a value; empty if it can."""
    rest = [step]
    while rest:
        step = first_step(rest.pop())
        if isinstance(step, Process):
            if missing := _missing(step, with_value=False):
                return f"Its step {step.name!r} needs {_listed(missing)}"
        elif isinstance(step, Each):
            return f"It begins with {step.name}, which takes the items of a list, tuple, set or generator"
        elif isinstance(step, (Branch, Repeat)) and step.arity == 2:
            return f"The predicate of {step.name} looks at the value"
        elif isinstance(step, Workflow):
            rest.extend(reversed(step.steps))
    return ""


def _listed(names: Iterable[str]) -> str:
    """``'a', 'b' and 'c'``."""
    *front, last = [repr(name) for name in names]
    return f"{', '.join(front)} and {last}" if front else last


# --- the verbs -------------------------------------------------------------------------------------------------------

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
        return _convert(steps[0], "flow: its step", (), {})  # type: ignore[return-value]  # a list gives a Flow
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

    Options:
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
