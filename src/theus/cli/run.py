"""``theus run``: a user's workflow with progress, a table of what ran where, and errors that point at his code."""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console
from rich.padding import Padding

from theus import DefinitionError, Engine
from theus.cli.arguments import read_arguments
from theus.cli.codes import FAILED, OK, WRONG
from theus.cli.failure import show_failure
from theus.cli.frames import place_of
from theus.cli.output import show_json, show_result
from theus.cli.tables import PlacesTable
from theus.cli.target import Target, find, store_of
from theus.journal import arguments_of


def run(options: argparse.Namespace) -> int:
    """Carry out the command; gives the exit code."""
    console = Console(stderr=True, highlight=False)
    try:
        target = find(options.target)
        args, kwargs = read_arguments(target.value, options.value, options.arg)
        engine = target.engine(options.engine)
        if options.run_id is not None:
            store_of(engine)  # or the run would end with this command, and nothing be kept
    except DefinitionError as error:
        return wrong(console, error)
    except Exception as error:  # the user's module failed while it was imported
        show_failure(console, error, whole=options.traceback)
        return WRONG
    return _carry_out(console, target, engine, args, kwargs, options, options.run_id)


def resume(options: argparse.Namespace) -> int:
    """Go on with a durable run; gives the exit code."""
    console = Console(stderr=True, highlight=False)
    try:
        target = find(options.target)
        engine = target.engine(options.engine)
        store_of(engine)
        args, kwargs = arguments_of(engine, options.run, target.value)
    except DefinitionError as error:
        return wrong(console, error)
    except Exception as error:
        show_failure(console, error, whole=options.traceback)
        return WRONG
    options.value, options.arg = "", []  # they are recorded
    return _carry_out(console, target, engine, args, kwargs, options, options.run)


def _carry_out(
    console: Console,
    target: Target,
    engine: Engine[Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: argparse.Namespace,
    run_id: str | None,
) -> int:
    progress = not (options.no_progress or options.quiet)
    with engine:
        try:
            result = engine.run(target.value, *args, run_id=run_id, progress=progress, **kwargs)
        except Exception as error:
            if isinstance(error, DefinitionError) and not hasattr(error, "__notes__"):  # nothing has run
                wrong(console, error)
                if options.value is None and not options.arg and " needs " in str(error):
                    hint = f"On the command line: theus run {options.target} VALUE, or --arg NAME=VALUE"
                    console.print(f"[dim]{hint}[/]", soft_wrap=True)
                return WRONG
            _table(console, engine, options)
            show_failure(console, error, whole=options.traceback)
            return FAILED
        _table(console, engine, options)
    _result(console, target, result, options)
    return OK


def wrong(console: Console, error: DefinitionError) -> int:
    """Say what cannot work; where it is in the user's code, if it was found while that was imported."""
    if place := place_of(error):
        console.print(f"[dim]{place}[/]", soft_wrap=True)
    console.print("[bold red]theus:[/] ", end="")
    console.print(str(error), markup=False, soft_wrap=True)
    return WRONG


def _table(console: Console, engine: Engine[object], options: argparse.Namespace) -> None:
    rows = [row for row in engine.profiles().rows if row.calls or row.failures]
    if rows and not options.quiet:
        console.print(Padding(PlacesTable(rows, measured=True), (0, 0, 1, 0)))


def _result(console: Console, target: Target, result: object, options: argparse.Namespace) -> None:
    if not options.json:
        show_result(result)
        return
    for place in show_json(result)[:5]:
        console.print(f"theus: {place} has no word in JSON; it is written as text", soft_wrap=True)
