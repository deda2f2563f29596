"""The check at the start of a run: does the target get what it needs?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from theus.errors import DefinitionError
from theus.processes import Process, Step
from theus.workflow.checks import listed, missing_arguments, short
from theus.workflow.tree import Branch, Each, Repeat, Workflow, as_step, first_step


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
                f"{step.name} got {listed(kwargs)} by name, but it begins with {first.name}, which takes the one "
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
            f"{step.name} got a first value, {short(args[0])}, but its first step {first.name!r} has no parameter "
            "left for it; nobody would see it. Leave it out."
        )
    if missing := missing_arguments(first, bool(args), kwargs):
        if not args and first.pipe_parameter in missing:
            more = "".join(f", {name}=..." for name in missing if name != first.pipe_parameter)
            raise DefinitionError(
                f"{step.name} needs a first value: engine.run(workflow, value{more}). Its first step {first.name!r} "
                f"needs {listed(missing)}."
            )
        raise DefinitionError(
            f"{step.name} begins with {first.name!r}, which needs {listed(missing)} as well: "
            f"engine.run(workflow, {'value, ' if args else ''}{', '.join(f'{name}=...' for name in missing)})."
        )


def _check_bound(process: Process[Any, Any], kwargs: Mapping[str, Any]) -> None:
    for name in kwargs:
        if name in process.bound:
            raise DefinitionError(
                f"process {process.name!r} got {name!r}, which bind already fixed to {short(process.bound[name])}. "
                "Leave one of them out."
            )


def _needs_value(step: Step[Any, Any]) -> str:
    """Why this step cannot start without a value; empty if it can."""
    rest = [step]
    while rest:
        step = first_step(rest.pop())
        if isinstance(step, Process):
            if missing := missing_arguments(step, with_value=False):
                return f"Its step {step.name!r} needs {listed(missing)}"
        elif isinstance(step, Each):
            return f"It begins with {step.name}, which takes the items of a list, tuple, set or generator"
        elif isinstance(step, (Branch, Repeat)) and step.arity == 2:
            return f"The predicate of {step.name} looks at the value"
        elif isinstance(step, Workflow):
            rest.extend(reversed(step.steps))
    return ""
