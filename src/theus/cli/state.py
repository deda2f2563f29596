"""``theus state show|diff|restore|migrate``: the state in a store, as it is and as it was."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from theus import Engine, plain
from theus.cli.output import show_json, show_result
from theus.cli.stores import guarded, open_engine, open_typed

MOST = 60  #: characters of a value


def show(options: argparse.Namespace) -> int:
    """Show the state; gives the exit code."""

    def work(engine: Engine[Any]) -> None:
        store = engine.store
        assert store is not None
        newest = store.snapshot
        snapshot = newest if options.version is None else store.history.snapshot_at(options.version, newest)
        value = plain(snapshot.view())
        show_json(value) if options.json else show_result(value)

    return _with(options, work)


def diff(options: argparse.Namespace) -> int:
    """What changed between two versions; gives the exit code."""

    def work(engine: Engine[Any]) -> None:
        for difference in engine.diff(options.old, options.new):
            print(difference)

    return _with(options, work)


def restore(options: argparse.Namespace) -> int:
    """Make the state what it was; gives the exit code."""
    return _with(options, lambda engine: print(f"version {engine.restore(options.version)}"))


def migrate(options: argparse.Namespace) -> int:
    """Bring the state to the version of its class, or only say what that would do; gives the exit code."""

    def work() -> None:
        store = open_typed(options.store, options.types)
        try:
            pending = store.pending()
            if pending is None:
                print("nothing to do: the state is of the version of its class")
                return
            print(f"version {pending.old} to {pending.new}: {', '.join(pending.steps)}")
            for name, old in pending.before.items():
                if name not in pending.after:
                    print(f"{name}: {_short(old)} goes")
                elif old != (new := pending.after[name]):
                    print(f"{name}: {_short(old)} -> {_short(new)}")
            for name, new in pending.after.items():
                if name not in pending.before:
                    print(f"{name}: new, {_short(new)}")
            if options.dry_run:
                print("nothing was written")
            else:
                store.open()
                print(f"the state is of version {pending.new} now")
        finally:
            store.close()

    return guarded(work)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MOST else text[: MOST - 1] + "…"


def _with(options: argparse.Namespace, work: Callable[[Engine[Any]], None]) -> int:
    def with_engine() -> None:
        engine = open_engine(options.store, options.types)
        try:
            work(engine)
        finally:
            engine.close()
            assert engine.store is not None
            engine.store.close()

    return guarded(with_engine)
