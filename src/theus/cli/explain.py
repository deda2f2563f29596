"""``theus explain``: where each process of a workflow would run, and why. ``theus profile``: the same after one run."""

from __future__ import annotations

import argparse

from rich.console import Console

from theus import DefinitionError
from theus.cli.arguments import read_arguments
from theus.cli.codes import FAILED, OK, WRONG
from theus.cli.failure import show_failure
from theus.cli.run import wrong
from theus.cli.tables import FiguresTable, PlacesTable
from theus.cli.target import find


def explain(options: argparse.Namespace) -> int:
    """Carry out the command; gives the exit code."""
    errors = Console(stderr=True, highlight=False)
    code = OK
    try:
        target = find(options.target)
        args, kwargs = read_arguments(target.value, options.value, options.arg)
        with target.engine(options.engine) as engine:
            if options.run:
                try:
                    engine.run(target.value, *args, **kwargs)
                except DefinitionError:
                    raise
                except Exception as error:  # what ran until then is worth a look
                    show_failure(errors, error, whole=options.traceback)
                    code = FAILED
            rows = engine.explain(target.value).rows
    except DefinitionError as error:
        return wrong(errors, error)
    except Exception as error:  # the user's module failed while it was imported
        show_failure(errors, error, whole=options.traceback)
        return WRONG
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200  # a log or a pipe has no width: no reason is cut
    console.print(PlacesTable(rows, measured=options.run))
    if options.run:
        console.print(FiguresTable(rows))
    return code
