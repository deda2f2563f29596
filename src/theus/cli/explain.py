"""``theus explain``: where each process of a workflow would run, and why."""

from __future__ import annotations

import argparse

from rich.console import Console

from theus import DefinitionError
from theus.cli.codes import OK
from theus.cli.run import wrong
from theus.cli.tables import PlacesTable
from theus.cli.target import find


def explain(options: argparse.Namespace) -> int:
    """Carry out the command; gives the exit code."""
    try:
        target = find(options.target)
        with target.engine(options.engine) as engine:
            rows = engine.explain(target.value).rows
    except DefinitionError as error:
        return wrong(Console(stderr=True, highlight=False), error)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200  # a log or a pipe has no width: no reason is cut
    console.print(PlacesTable(rows, measured=False))
    return OK
