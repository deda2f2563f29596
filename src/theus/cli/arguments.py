"""Values typed on a command line: by the annotation of their parameter where it has one, as JSON where they are, else text."""

from __future__ import annotations

import inspect
import json
import sys
import types
import typing
from collections.abc import Iterable
from typing import Any

from theus import Process, Step
from theus.cli.target import UsageError
from theus.workflow import as_step, first_step

TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def read_arguments(target: Any, value: str | None, named: Iterable[str]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What ``engine.run(target, *args, **kwargs)`` is called with.

    Raises:
        UsageError: ``--arg`` without a name, or a value that is not what its parameter says.
    """
    step = first_step(as_step(target))
    kinds = _annotations(step)
    args: tuple[Any, ...] = ()
    if value is not None:
        text = sys.stdin.read() if value == "-" else value
        name = step.pipe_parameter if isinstance(step, Process) else None
        args = (_read(text, kinds.get(name or ""), name or "value"),)
    kwargs = {}
    for pair in named:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"--arg {pair} is not NAME=VALUE, such as --arg limit=10.")
        if name in kwargs:
            raise UsageError(f"--arg {name}=... is given twice.")
        kwargs[name] = _read(text, kinds.get(name), name)
    return args, kwargs


def _annotations(step: Step[Any, Any]) -> dict[str, Any]:
    """The parameters that are one of the plain kinds; ``int | None`` counts as ``int``."""
    if not isinstance(step, Process):
        return {}
    try:
        hints = typing.get_type_hints(inspect.unwrap(step.fn))
    except Exception:  # a name that is only there for type checkers
        hints = {}
    found = {}
    for name, hint in hints.items():
        if typing.get_origin(hint) in (typing.Union, types.UnionType):
            members = [member for member in typing.get_args(hint) if member is not types.NoneType]
            hint = members[0] if len(members) == 1 else None
        if hint in (int, float, bool, str):
            found[name] = hint
    return found


def _read(text: str, kind: Any, name: str) -> Any:
    if kind is str:
        return text
    if kind is bool:
        if text.lower() in TRUE + FALSE:
            return text.lower() in TRUE
        raise UsageError(f"{name}={text!r} is neither true nor false.")
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise UsageError(f"{name}={text!r} is not {what}.") from None
    try:
        return json.loads(text)
    except ValueError:
        return text
