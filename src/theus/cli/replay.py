"""``theus replay``: one call of a durable run again, with a debugger if one is wanted."""

from __future__ import annotations

import argparse
import pdb  # noqa: T100 - the user asks for it

from rich.console import Console

from theus import DefinitionError
from theus.cli.codes import FAILED, OK, WRONG
from theus.cli.failure import show_failure
from theus.cli.output import show_result
from theus.cli.run import wrong
from theus.cli.target import find, store_of
from theus.replay import Replayed, replay as replay_call
from theus.schedule import NOTHING
from theus.state.access import show


def replay(options: argparse.Namespace) -> int:
    """Carry out the command; gives the exit code."""
    console = Console(stderr=True, highlight=False)
    debugged: list[BaseException] = []

    def debug(error: BaseException) -> None:
        """If the body raised it, the call still stands: its state can be looked at."""
        show_failure(console, error, whole=options.traceback)
        pdb.post_mortem(error.__traceback__)
        debugged.append(error)

    try:
        target = find(options.target)
        engine = target.engine(options.engine)
        store_of(engine)
        with engine:
            found = replay_call(engine, options.run, options.step, target.value, debug if options.pdb else None)
    except DefinitionError as error:
        return wrong(console, error)
    except Exception as error:  # the user's module failed while it was imported
        show_failure(console, error, whole=options.traceback)
        return WRONG
    raised = found.outcome.error
    if raised is not None and raised not in debugged:
        debug(raised) if options.pdb else show_failure(console, raised, whole=options.traceback)
    return _tell(console, found)


def _tell(console: Console, found: Replayed) -> int:
    outcome, known = found.outcome, found.recorded is not NOTHING
    said = "" if known else "; it is not recorded, so that is the newest state"
    console.print(f"[dim]on version {found.version}{said}; nothing is committed[/]", soft_wrap=True)
    if outcome.error is not None:
        return FAILED
    changed = ", ".join(dict.fromkeys(show(op[1]) for op in outcome.ops))
    if changed:
        console.print(f"it would change {changed}", markup=False, soft_wrap=True)
    if known and not found.same:
        console.print(f"it gave something else then: {found.recorded!r}", markup=False, soft_wrap=True)
    show_result(outcome.value)
    return OK
