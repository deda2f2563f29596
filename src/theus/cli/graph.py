"""``theus graph``: a workflow as a tree of text, as Mermaid, as SVG."""

from __future__ import annotations

import argparse
import sys
import traceback
from pathlib import Path

from theus import DefinitionError
from theus.cli.codes import OK, WRONG
from theus.cli.frames import place_of, shorten
from theus.cli.target import find
from theus.workflow import Workflow, as_step, flow


def graph(options: argparse.Namespace) -> int:
    """Carry out the command; gives the exit code."""
    try:
        target = find(options.target)
        step = as_step(target.value)
    except DefinitionError as error:
        print(*filter(None, (place_of(error), f"theus: {error}")), sep="\n", file=sys.stderr)
        return WRONG
    except Exception as error:  # the user's module failed while it was imported
        told = traceback.TracebackException.from_exception(error)
        shorten(told, set())
        print(*told.format(), sep="", end="", file=sys.stderr)
        return WRONG
    workflow = step if isinstance(step, Workflow) else flow(step)
    if options.svg is None and options.mermaid is None:
        print(step if isinstance(step, Workflow) else workflow, workflow.mermaid(), sep="\n\n", end="")
        return OK
    for place, text in ((options.svg, workflow.svg), (options.mermaid, workflow.mermaid)):
        if place == "-":
            print(text(), end="")
        elif place is not None:
            try:
                Path(place).write_text(text(), encoding="utf-8")
            except OSError as error:
                print(f"theus: cannot write {place}: {error.strerror}", file=sys.stderr)
                return WRONG
            print(f"theus: wrote {place}", file=sys.stderr)
    return OK
