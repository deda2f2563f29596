"""A workflow as an indented tree of text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from theus.drawing.words import bound, condition, marks, options, short, title
from theus.processes import Process, Step

if TYPE_CHECKING:
    from theus.drawing.words import Node


def tree(step: Step[Any, Any]) -> str:
    """The steps as an indented tree, one on a line."""
    lines: list[str] = []
    rest = [("", "", "", step)]
    while rest:
        lead, below, label, step = rest.pop()
        lines.append(lead + label + _line(step))
        children = _labelled(step)
        for number in range(len(children) - 1, -1, -1):
            last = number == len(children) - 1
            answer, child = children[number]
            rest.append((below + ("└── " if last else "├── "), below + ("    " if last else "│   "), answer, child))
    return "\n".join(lines)


def _line(step: Step[Any, Any]) -> str:
    if isinstance(step, Process):
        words = ["(async)" if mark == "async" else mark for mark in marks(step)]
        fixed = f"({', '.join(bound(step))})" if step.bound else ""
        return short(title(step), 60) + fixed + ("  " + " ".join(words) if words else "")
    node = cast("Node", step)
    if node.kind == "each":
        given = ", ".join(options(node))
        return f"each({given})" if given else "each"
    if node.kind == "branch":
        return f"branch({short(condition(node.predicate), 60)})"
    if node.kind == "repeat":
        return f"repeat(while {short(condition(node.while_), 60)}, limit={node.limit})"
    return node.kind


def _labelled(step: Step[Any, Any]) -> list[tuple[str, Step[Any, Any]]]:
    if isinstance(step, Process):
        return []
    node = cast("Node", step)
    if node.kind == "branch":
        return list(zip(("yes: ", "no: "), node.steps, strict=False))
    return [("", child) for child in node.steps]
