"""A workflow as a Mermaid flowchart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from theus.drawing.words import bound, colour, condition, each_header, marks, short, title
from theus.processes import Process, Step

if TYPE_CHECKING:
    from theus.drawing.words import Node

MERMAID_CLASSES = """\
    classDef plain fill:#f6f8fa,stroke:#8c959f,color:#1f2328
    classDef waits fill:#ddf4ff,stroke:#54aeff,color:#0a3069
    classDef computes fill:#fff1e5,stroke:#fb8f44,color:#762c00
    classDef state fill:#dafbe1,stroke:#4ac26b,color:#044f1e
    classDef question fill:#fbefff,stroke:#c297ff,color:#512a97
    classDef point fill:#6e7781,stroke:#6e7781,color:#6e7781
    classDef many fill:none,stroke:#8c959f,stroke-dasharray:5 4"""


def mermaid(step: Step[Any, Any]) -> str:
    """The text of a Mermaid flowchart (version 10 and later, as on GitHub and in notebooks)."""
    chart = _Chart()
    start = chart.node('(["start"])', "plain")
    ends = chart.add(step, [(start, "")])
    chart.join(ends, chart.node('(["end"])', "plain"))
    groups = [f"    class {','.join(chart.groups)} many"] if chart.groups else []
    return "\n".join(["flowchart TD", *chart.lines, *chart.links, *groups, MERMAID_CLASSES]) + "\n"


class _Chart:
    """The lines of a flowchart as they grow. An *end* is a node that leads on, and the answer that does."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.links: list[str] = []  # after all nodes: a link inside a subgraph would pull its other node in
        self.groups: list[str] = []  # the names of the subgraphs
        self.count = 0
        self.inside = 1  # levels of indentation

    def write(self, line: str) -> None:
        self.lines.append("    " * min(self.inside, 40) + line)

    def name(self) -> str:
        self.count += 1
        return f"n{self.count}"

    def node(self, shape: str, kind: str) -> str:
        name = self.name()
        self.write(f"{name}{shape}:::{kind}")
        return name

    def join(self, ends: Sequence[tuple[str, str]], to: str) -> None:
        for name, answer in ends:
            self.links.append(f'    {name} -->|"{answer}"| {to}' if answer else f"    {name} --> {to}")

    def add(self, step: Step[Any, Any], ends: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Draw the step after ``ends``; gives its own."""
        if isinstance(step, Process):
            words = [short(title(step), 60), *([", ".join(bound(step))] if step.bound else []), *_caption(step)]
            name = self.node(f'["{"<br/>".join(map(_quoted, words))}"]', colour(step))
            self.join(ends, name)
            return [(name, "")]
        node = cast("Node", step)
        if node.kind == "flow":
            for child in node.steps:
                ends = self.add(child, ends)
            return ends
        if node.kind == "parallel":
            fork = self.node('((" "))', "point")
            self.join(ends, fork)
            ends = []
            for child in node.steps:
                ends = ends + self.add(child, [(fork, "")])
            join = self.node('((" "))', "point")
            self.join(ends, join)
            return [(join, "")]
        if node.kind == "each":
            name = self.name()
            self.write(f'subgraph {name} ["{_quoted(each_header(node))}"]')
            self.join(ends, name)
            self.inside += 1
            self.write("direction TB")
            ends = self.add(node.step, [])
            if len(ends) > 1 or ends[0][1]:  # they meet before they leave
                self.join(ends, self.node('((" "))', "point"))
            self.inside -= 1
            self.write("end")
            self.groups.append(name)
            return [(name, "")]
        if node.kind == "branch":
            question = self.node(f'{{"{_quoted(short(condition(node.predicate), 60))}"}}', "question")
            self.join(ends, question)
            ends = self.add(node.then, [(question, "yes")])
            return ends + (self.add(node.otherwise, [(question, "no")]) if node.otherwise else [(question, "no")])
        question = self.node(f'{{"while {_quoted(short(condition(node.while_), 60))}"}}', "question")
        self.join(ends, question)
        ends = self.add(node.step, [(question, "yes")])
        self.join([(name, answer or f"again, at most {node.limit}×") for name, answer in ends], question)
        return [(question, "no")]


def _quoted(text: str) -> str:
    """Text inside the quotes of a Mermaid label: what has a meaning there becomes an entity code."""
    return "".join(f"#{ord(c)};" if c in '"#&<>`\\%;|*~' else c for c in text)


def _caption(process: Process[Any, Any]) -> list[str]:
    found = marks(process)
    return [" · ".join(found)] if found else []
