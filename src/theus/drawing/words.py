"""What the pictures of a workflow say: names, marks and options in short."""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from theus.processes import Process, Step
from theus.workflow.checks import predicate_name

if TYPE_CHECKING:
    from theus.workflow import Branch, Each, Flow, Parallel, Repeat

    Node: TypeAlias = Flow[Any, Any] | Parallel[Any, Any] | Each[Any, Any] | Branch[Any, Any] | Repeat[Any, Any]

PARALLEL_ENVIRONMENTS = ("interpreter", "worker", "ray", "dask")


def title(process: Process[Any, Any]) -> str:
    """The process's name; of a lambda, what it says."""
    return (printable(process.name) if process.name != "<lambda>" else condition(process.fn)) or "process"


def condition(function: Any) -> str:
    """A function in short: its name; of a lambda, the text of its body."""
    name = predicate_name(function)
    return printable(name if name != "<lambda>" else _body(function) or "lambda")


def _body(function: Any) -> str | None:
    """The text of a lambda's body, if its source can still be read."""
    import ast
    import linecache

    code = getattr(getattr(function, "func", function), "__code__", None)
    if code is None:
        return None
    spots = [
        (first, last, start, end)
        for first, last, start, end in code.co_positions()
        if first and last and start is not None and end is not None and (first, start) != (last, end)
    ]
    if not spots:
        return None
    (top, left), (bottom, right) = min((s[0], s[2]) for s in spots), max((s[1], s[3]) for s in spots)
    lines = [linecache.getline(code.co_filename, number).encode() for number in range(top, bottom + 1)]
    lines[-1] = lines[-1][:right]  # columns count bytes
    lines[0] = lines[0][left:]
    text = " ".join(b" ".join(lines).decode(errors="replace").split())
    try:  # the file may have changed since; a piece of something else is worse than nothing
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError):
        return None
    names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    names |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    return text if names >= {*code.co_names, *code.co_freevars} else None


def marks(process: Process[Any, Any]) -> list[str]:
    """What is special about a process, in the order in which one would say it."""
    found = []
    if process.is_async:
        found.append("async")
    if process.is_source:
        found.append("source")
    if process.nature:
        found.append(process.nature)
    if process.environment:
        found.append(f"environment={process.environment}")
    if process.timeout is not None:
        found.append(f"timeout={process.timeout:g}s")
    if process.retries:
        found.append(f"retries={process.retries}")
    if process.idempotent:
        found.append("idempotent")
    return found


_shortener = reprlib.Repr()
_shortener.maxstring = _shortener.maxother = 24
_shortener.maxlevel = 2


def bound(process: Process[Any, Any]) -> list[str]:
    """The arguments that ``bind`` fixed, shortened."""
    return [printable(f"{name}={_shortener.repr(value)}") for name, value in process.bound.items()]


def options(node: Each[Any, Any]) -> list[str]:
    """The options of ``each`` as they are written."""
    found = [] if node.limit is None else [f"limit={node.limit}"]
    if node.rate is not None:
        found.append(f"rate={node.rate!r}")
    if node.on_error != "raise":
        found.append(f"on_error={node.on_error!r}")
    return found


def printable(text: str) -> str:
    """The text on one line, without what no reader shows and no XML holds."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))


def short(text: str, most: int) -> str:
    """At most that many characters of the text."""
    return text if len(text) <= most else text[: most - 1] + "…"


def colour(process: Process[Any, Any]) -> str:
    """The class that gives the box its colours."""
    if process.nature == "state":
        return "state"
    if process.nature == "cpu" or process.environment in PARALLEL_ENVIRONMENTS:
        return "computes"
    return "waits" if process.is_async or process.nature == "io" else "plain"


def each_header(node: Each[Any, Any]) -> str:
    """What stands on top of the items' container."""
    words = ["each" if node.limit is None else f"each ×{node.limit}"]
    if node.rate is not None:
        words.append(node.rate)
    if node.on_error == "collect":
        words.append("collects errors")
    return " · ".join(words)


def kind(step: Step[Any, Any]) -> str:
    """Which sort of step it is, in one word."""
    return "process" if isinstance(step, Process) else cast("Node", step).kind
