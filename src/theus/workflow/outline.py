"""The outline of a workflow: what has to be the same when a recorded run goes on with it.

One line for each node: where it stands, as the keys of its calls say it (``*`` for an item or a round), its kind or
name, and what ``bind`` fixed. The bodies of functions are not in it, nor limits, timeouts and the like.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from theus.processes import Process, Step
from theus.workflow.tree import Branch, Each, Repeat, Workflow

LONGEST = 200  #: characters of a bound argument; of a longer one the end is replaced by a digest


def outline(step: Step[Any, Any]) -> list[str]:
    """The lines of a workflow, parents before children."""
    return list(_lines(step, step.name if isinstance(step, Process) else ""))


def digest(lines: Sequence[str]) -> str:
    """A short name for an outline."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def changes(old: Sequence[str], new: Sequence[str], keys: Iterable[str]) -> str:
    """How the nodes that ``keys`` (of calls, without the run) belong to differ now; empty if they do not."""
    needed: set[str] = set()
    for key in keys:
        place = _place(key)
        while place not in needed:
            needed.add(place)
            place = place.rpartition("/")[0]
    now = set(new)
    if all(line in now for line in old if line.partition(": ")[0] in needed):
        return ""
    return difference(old, new)


def difference(old: Sequence[str], new: Sequence[str]) -> str:
    """What differs between two outlines, as a diff."""
    return "\n".join(difflib.unified_diff(old, new, "recorded", "now", lineterm="", n=1))


def _lines(step: Step[Any, Any], where: str) -> Iterator[str]:
    if isinstance(step, Process):
        if step.bound:
            fixed = ", ".join(f"{name}={_shown(value)}" for name, value in sorted(step.bound.items()))
            yield f"{where}: {step.name}({fixed})"
        else:
            yield f"{where}: {step.name}"
        return
    assert isinstance(step, Workflow)
    yield f"{where}: {step.kind}"
    before = f"{where}/" if where else ""
    for number, child in enumerate(step.steps):
        if isinstance(step, Each):
            label = "*"
        elif isinstance(step, Repeat):
            label = f"{child.name}#*"
        elif isinstance(step, Branch):
            label = child.name
        else:
            label = f"{number}.{child.name}"
        yield from _lines(child, before + label)


def _place(key: str) -> str:
    """``1.each(fetch)/17`` -> ``1.each(fetch)/*``"""
    return "/".join("*" if part.isdigit() else re.sub(r"#\d+$", "#*", part) for part in key.split("/"))


def _shown(value: Any) -> str:
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}… {hashlib.sha256(text.encode()).hexdigest()[:12]}"
    return text
