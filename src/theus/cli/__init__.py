"""The command line: ``theus demo``, ``run``, ``graph``, ``explain``, ``profile``; for durable runs ``runs``,
``show``, ``signal``, ``forget``, ``resume``, ``replay`` and ``state``.

Nothing is imported before it is needed: ``theus --version`` answers at once. Results go to stdout; progress,
summaries and errors to stderr. Exit codes: 0 done, 1 the run failed, 2 the command or a definition is wrong,
130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NoReturn

from theus.cli.codes import ENDED, INTERRUPTED, OK, WRONG

PARTS = ("waits", "computes", "cleans")
TRACEBACK: dict[str, Any] = {"action": "store_true", "help": "show the frames of Theus, too, if it fails"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; gives its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    command: Callable[[argparse.Namespace], int] | None = getattr(options, "command", None)
    if command is None:
        parser.print_help()
        return WRONG
    _write_anything("backslashreplace")
    signal.signal(signal.SIGTERM, _end)  # so that everything is closed as with Ctrl-C
    folder = os.getcwd()  # noqa: PTH109 - a plain string, as in sys.path
    if folder not in sys.path:
        sys.path.insert(0, folder)  # like python -m: modules of this folder are found
    try:
        code = command(options)
        sys.stdout.flush()  # here, where a reader that has read enough is no failure
        return code
    except KeyboardInterrupt:
        print("theus: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # who read our output has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


def _write_anything(errors: str) -> None:
    """What stdout's encoding has no sign for must not end the program."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors=errors)


def _end(signal_number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(ENDED)


def _parser() -> argparse.ArgumentParser:
    target = {
        "metavar": "TARGET",
        "help": "module:workflow or path/to/file.py:workflow; without :workflow, the only one there is",
    }
    parser = argparse.ArgumentParser(
        prog="theus", description="Ordinary Python functions as workflows: run them, draw them, ask where they run."
    )
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    demo = commands.add_parser("demo", help="three proofs on real input: it waits, it computes, it cleans up")
    demo.add_argument("part", nargs="*", type=_part, metavar="PART", help=f"only this: {', '.join(PARTS)}")
    demo.add_argument("--quick", action="store_true", help="fewer pages, shorter waits, smaller models")
    demo.set_defaults(command=_demo)

    run = commands.add_parser(
        "run",
        help="run a workflow or a process",
        description="Run a workflow or a process with the Engine of its module, or with one without a domain. "
        "The result goes to stdout; progress and a table of what ran where to stderr.",
        epilog="Exit codes: 0 done, 1 the run failed, 2 the command or a definition is wrong, 130 interrupted.",
    )
    run.add_argument("target", **target)  # type: ignore[arg-type]  # a dict of different types, spread
    run.add_argument("value", nargs="?", help="the first value: JSON if it is, else text; - reads it from stdin")
    run.add_argument(
        "--arg", action="append", default=[], metavar="NAME=VALUE", help="an argument of the first process, by name"
    )
    run.add_argument(
        "--run-id", metavar="RUN", help="the name of a durable run, which needs a store: it goes on if begun"
    )
    run.add_argument("--engine", metavar="NAME", help="the Engine to use, if the module has several")
    run.add_argument("--json", action="store_true", help="print the result as JSON")
    run.add_argument("--no-progress", action="store_true", help="no progress bars")
    run.add_argument("-q", "--quiet", action="store_true", help="no progress bars and no table")
    run.add_argument("--traceback", **TRACEBACK)
    run.set_defaults(command=_run)

    graph = commands.add_parser("graph", help="draw a workflow: as a tree, as Mermaid, as SVG")
    graph.add_argument("target", **target)  # type: ignore[arg-type]  # a dict of different types, spread
    graph.add_argument("--svg", metavar="FILE", help="write it as SVG; - is stdout")
    graph.add_argument("--mermaid", metavar="FILE", help="write it as Mermaid; - is stdout")
    graph.set_defaults(command=_graph)

    explain = commands.add_parser(
        "explain",
        help="say where each process runs, and why",
        description="Say where each process would run, and why; with --run, after one run, with what was measured.",
    )
    explain.add_argument("--run", action="store_true", help="run it first")
    profile = commands.add_parser(
        "profile", help="run once, and say what each process did, where it runs from now on, and why"
    )
    for command in (explain, profile):
        command.add_argument("target", **target)  # type: ignore[arg-type]  # a dict of different types, spread
        command.add_argument("value", nargs="?", help="the first value of the run, as in theus run")
        command.add_argument("--arg", action="append", default=[], metavar="NAME=VALUE", help="an argument, by name")
        command.add_argument("--engine", metavar="NAME", help="the Engine to ask, if the module has several")
        command.add_argument("--traceback", **TRACEBACK)
        command.set_defaults(command=_explain)
    profile.set_defaults(run=True)
    _add_runs(commands, target)
    return parser


def _add_runs(commands: Any, target: dict[str, str]) -> None:
    """The commands for durable runs and the state they work on."""
    where: dict[str, Any] = {
        "metavar": "STORE",
        "help": "as in Engine(store=...): a file (shop.db, sqlite:shop.db), redis://host/0?name=shop or "
        "postgresql://host/database?schema=shop",
    }
    engine = {"metavar": "NAME", "help": "the Engine to use, if the module has several"}
    types = {
        "metavar": "TARGET",
        "help": "module:engine or module:Class of the domain: what gives the state its types; without it, it is shown as "
        "plain values, as far as that goes",
    }

    runs = commands.add_parser("runs", help="list the durable runs of a store")
    runs.add_argument("store", **where)
    runs.set_defaults(command=_command("runs", "runs"))

    show = commands.add_parser("show", help="show what is recorded of a durable run")
    show.add_argument("run", metavar="RUN")
    show.add_argument("--store", required=True, **where)
    show.set_defaults(command=_command("runs", "show"))

    signal = commands.add_parser("signal", help="send a signal to a durable run: what ctx.wait_for(NAME) takes")
    signal.add_argument("run", metavar="RUN")
    signal.add_argument("name", metavar="NAME")
    signal.add_argument("value", nargs="?", metavar="VALUE", help="JSON if it is, else text; without it, null")
    signal.add_argument("--store", required=True, **where)
    signal.set_defaults(command=_command("runs", "send"))

    forget = commands.add_parser("forget", help="let go of what is recorded of a durable run; what it changed stays")
    forget.add_argument("run", metavar="RUN")
    forget.add_argument("--store", required=True, **where)
    forget.set_defaults(command=_command("runs", "drop"))

    resume = commands.add_parser("resume", help="go on with a durable run, with the arguments it was begun with")
    resume.add_argument("run", metavar="RUN")
    resume.add_argument("target", **target)
    resume.add_argument("--engine", **engine)
    resume.add_argument("--json", action="store_true", help="print the result as JSON")
    resume.add_argument("--no-progress", action="store_true", help="no progress bars")
    resume.add_argument("-q", "--quiet", action="store_true", help="no progress bars and no table")
    resume.add_argument("--traceback", **TRACEBACK)
    resume.set_defaults(command=_command("run", "resume"))

    replay = commands.add_parser(
        "replay",
        help="run one call of a durable run again, on the snapshot that it had",
        description="Run one call again with what it got then: the state of that version, its value, what ctx.once kept. "
        "Nothing is committed. A call that failed is not recorded: it runs on the newest state. A breakpoint() in it works.",
    )
    replay.add_argument("run", metavar="RUN")
    replay.add_argument("step", metavar="STEP", help="its key, as theus show says it")
    replay.add_argument("target", **target)
    replay.add_argument("--engine", **engine)
    replay.add_argument("--pdb", action="store_true", help="open the debugger where it raises, with its state")
    replay.add_argument("--traceback", **TRACEBACK)
    replay.set_defaults(command=_command("replay", "replay"))

    state = commands.add_parser("state", help="show, compare, restore and migrate the state in a store")
    verbs = state.add_subparsers(metavar="VERB", required=True)
    shown = verbs.add_parser("show", help="show the state")
    shown.add_argument("store", **where)
    shown.add_argument("--version", type=int, metavar="N", help="as it was then; without it, the newest")
    shown.add_argument("--types", **types)
    shown.add_argument("--json", action="store_true", help="print it as JSON")
    shown.set_defaults(command=_command("state", "show"))
    diff = verbs.add_parser("diff", help="what changed from one version to another")
    diff.add_argument("store", **where)
    diff.add_argument("old", type=int, metavar="OLD")
    diff.add_argument("new", type=int, metavar="NEW")
    diff.add_argument("--types", **types)
    diff.set_defaults(command=_command("state", "diff"))
    restore = verbs.add_parser("restore", help="make the state what it was at a version, in a new commit")
    restore.add_argument("store", **where)
    restore.add_argument("version", type=int, metavar="VERSION")
    restore.add_argument("--types", required=True, **types)
    restore.set_defaults(command=_command("state", "restore"))
    migrate = verbs.add_parser(
        "migrate", help="bring the state to the schema_version of its class, by its @migration functions"
    )
    migrate.add_argument("store", **where)
    migrate.add_argument("--types", required=True, **types)
    migrate.add_argument("--dry-run", action="store_true", help="only say what would change")
    migrate.set_defaults(command=_command("state", "migrate"))


def _command(module: str, name: str) -> Callable[[argparse.Namespace], int]:
    """A command of another module, which is imported when the command is carried out."""

    def command(options: argparse.Namespace) -> int:
        from theus.cli.missing import needing

        def carry_out() -> int:
            found: int = getattr(importlib.import_module(f"theus.cli.{module}"), name)(options)
            return found

        return needing("cli", ("rich",), carry_out)

    return command


def _part(text: str) -> str:
    if text not in PARTS:
        raise argparse.ArgumentTypeError(f"there is no part {text!r}; it has {', '.join(PARTS)}")
    return text


class _Version(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="print the version")

    def __call__(self, parser: argparse.ArgumentParser, *rest: object) -> NoReturn:
        from theus import __version__

        print(f"theus {__version__}")
        parser.exit()


def _demo(options: argparse.Namespace) -> int:
    from theus.cli.missing import needing

    def show() -> int:
        from theus.demo.show import main

        _write_anything("replace")
        return main(options.part or PARTS, quick=options.quick)

    return needing("demo", ("rich", "httpx", "aiohttp", "psutil", "sklearn"), show)


def _run(options: argparse.Namespace) -> int:
    from theus.cli.missing import needing

    def run() -> int:
        from theus.cli.run import run

        return run(options)

    return needing("cli", ("rich",), run)


def _graph(options: argparse.Namespace) -> int:
    from theus.cli.graph import graph

    return graph(options)


def _explain(options: argparse.Namespace) -> int:
    from theus.cli.missing import needing

    def explain() -> int:
        from theus.cli.explain import explain

        return explain(options)

    return needing("cli", ("rich",), explain)
