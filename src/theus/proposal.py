"""Contracts proposed from what was observed: ``Engine(strict=False)`` notes, ``engine.contracts()`` writes.

A segment that equals an argument of the call becomes ``{argument}``. A place where several different keys were
seen becomes ``*``. What lies inside a list is granted with the list, since an index means nothing the next time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from theus.errors import Path

if TYPE_CHECKING:
    from theus.processes import Process
    from theus.protocols import Call, Outcome

MOST_KEYS = 3  #: so many different keys in one place may be named one by one
MOST_PATHS = 1000  #: remembered for each process; a wider use than that is a star anyway

Tree = dict[str, "Tree"]


class Touched:
    """The paths that one process was seen to read and write, as trees of pattern segments."""

    __slots__ = ("_known", "_reads", "_writes", "calls")

    def __init__(self) -> None:
        self._reads: Tree = {}
        self._writes: Tree = {}
        self._known: set[str] = set()
        self.calls = 0

    def first_time(self, path: str) -> bool:
        """Whether a path breaks the contract for the first time."""
        new = path not in self._known and len(self._known) < MOST_PATHS
        self._known.add(path)
        return new

    def add(self, call: Call, outcome: Outcome) -> None:
        """Note what an attempt read and wrote."""
        self.calls += 1
        arguments = call.process.arguments(call.args, call.kwargs)
        for path, keys, shape, deep in outcome.reads:
            if shape or deep:
                _plant(self._reads, path, arguments)
            else:
                for key in keys:
                    _plant(self._reads, (*path, key), arguments)
        for op in outcome.ops:
            _plant(self._writes, op[1], arguments)

    def writes(self) -> tuple[str, ...]:
        """The patterns of what was seen to be written."""
        return tuple(_patterns(self._writes))

    def proposal(self, process: Process[Any, Any]) -> str:
        """One line of source, or nothing if the process never touched the domain."""
        if not self._reads and not self._writes:
            return ""
        options = [
            f"{name}={_patterns(tree)!r}" for name, tree in (("reads", self._reads), ("writes", self._writes)) if tree
        ]
        return f"@process({', '.join(options)})  # {process.name}, {self.calls} calls seen"


def _plant(tree: Tree, path: Path, arguments: dict[str, Any]) -> None:
    for segment in path:
        text = _text(segment, arguments)
        if text is None:
            return
        tree = tree.setdefault(text, {})


def _text(segment: Any, arguments: dict[str, Any]) -> str | None:
    """How a pattern spells a segment; None: it cannot, the container is granted as a whole."""
    for name, value in arguments.items():
        if type(value) is type(segment) and value == segment:
            return f"{{{name}}}"
    if not isinstance(segment, str):
        return "*" if not isinstance(segment, int) else None
    return segment if segment and not set(".*{}[]'\"") & set(segment) else repr(segment)


def _patterns(tree: Tree, before: str = "") -> list[str]:
    if len(tree) > MOST_KEYS and before:
        merged: Tree = {}
        for below in tree.values():
            merged.update(below)
        tree = {"*": merged}
    found: list[str] = []
    for text, below in sorted(tree.items()):
        here = f"{before}.{text}" if before else text
        found += _patterns(below, here) if below else [here]
    return found
