"""``theus runs``, ``theus show``, ``theus signal``, ``theus forget``: the durable runs of a store, without the code that they run."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from theus import DefinitionError, Engine
from theus.cli.stores import guarded, open_blind
from theus.journal import Entry, entry_of, forget, logged, record_of
from theus.protocols import Record, Store
from theus.records import fields_of, unpack
from theus.stores.replica import Replica

COLOURS = {"done": "green", "failed": "red", "running": "yellow"}
MOST = 60  #: characters of a value that a table shows


def runs(options: argparse.Namespace) -> int:
    """List the runs; gives the exit code."""
    return _with(options.store, _list)


def show(options: argparse.Namespace) -> int:
    """Show what is recorded of a run; gives the exit code."""
    return _with(options.store, lambda store: _show(store, options.run))


def send(options: argparse.Namespace) -> int:
    """Send a signal; gives the exit code."""

    def signal(store: Replica) -> None:
        with Engine[Any](store=store) as engine:
            engine.signal(options.run, options.name, _value(options.value))

    return _with(options.store, signal)


def drop(options: argparse.Namespace) -> int:
    """Forget a run; gives the exit code."""
    return _with(options.store, lambda store: forget(store, options.run))


def _with(url: str, work: Callable[[Replica], None]) -> int:
    def with_store() -> None:
        store = open_blind(url)
        try:
            work(store)
        finally:
            store.close()

    return guarded(with_store)


def _value(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text


def _list(store: Store) -> None:
    table = _table("run", "workflow", "status", "steps", "began", "ended")
    entries = sorted(map(Entry.read, store.records("run")), key=lambda entry: entry.started)
    for entry in entries:
        steps = sum(entry.calls.values()) if entry.status == "done" else _steps(store, entry.run_id)
        table.add_row(
            entry.run_id,
            entry.target,
            _status(store, entry),
            f"{steps:,}",
            _moment(entry.started),
            _moment(entry.ended),
        )
    if entries:
        _print(table)
    else:
        print("no durable run is recorded here")


def _steps(store: Store, run_id: str) -> int:
    return sum("process" in fields_of(record.value or b"") for record in store.records("step", f"{run_id}/"))


def _show(store: Replica, run_id: str) -> None:
    entry = entry_of(store, run_id)
    if entry is None:
        raise DefinitionError(f"there is no run {run_id!r}.")
    result = record_of(store, "result", run_id)
    head = Table.grid(padding=(0, 2, 0, 0))
    given = ", ".join(
        _short(part) if name is None else f"{name}={_short(part)}"
        for name, part in zip(entry.names, entry.arguments, strict=True)
    )
    rows: dict[str, Text | str | None] = {
        "run": run_id,
        "workflow": entry.target,
        "begun with": f"({given})",
        "status": _status(store, entry),
        "began": _moment(entry.started),
        "ended": _moment(entry.ended),
        "error": entry.error,
        "gave": None if result is None else _short(result.value or b""),
    }
    for name, value in rows.items():
        if value:
            head.add_row(Text(name, "bold"), value if isinstance(value, Text) else Text(value))
    _print(head)
    if entry.calls:
        calls = _table("process", "calls")
        for process, count in entry.calls.items():
            calls.add_row(process, f"{count:,}")
        print()
        _print(calls)
    past = [record for _, record in logged(store.past(), run_id).values()] if entry.status == "done" else []
    for kind, title in (
        ("step", "recorded" if not past else "in the log, and can be replayed"),
        ("once", "kept"),
        ("signal", "signals not taken"),
        ("outbox", "not delivered"),
    ):
        records = store.records(kind, f"{run_id}/") or [record for record in past if record.kind == kind]
        if records:
            print()
            _print(_records(kind, title, records, len(run_id) + 1))


def _records(kind: str, title: str, records: list[Record], start: int) -> Table:
    if kind == "step":
        table = _table(title, "ran on version", "attempt", "at", "gave")
        found = [(record, *unpack(record.value or b"")) for record in records]
        for record, fields, parts in sorted(found, key=lambda one: one[1].get("at", 0.0)):
            if "process" in fields:
                when = _moment(fields["at"])
                table.add_row(record.key[start:], str(fields["base"]), str(fields["attempt"]), when, _short(parts[0]))
        for record, fields, _ in found:
            if "process" not in fields:
                table.add_row(Text(record.key[start:], "dim"), "", "", "", str(next(iter(fields.values()))))
        return table
    table = _table(title, "value")
    for record in records:
        value = record.value or b""
        if kind == "signal":
            text = _short(value)
        else:
            fields, (kept,) = unpack(value)
            text = _waited(fields["key"], kept) if kind == "once" else f"{fields['topic']}: {_short(kept)}"
        table.add_row(record.key[start:], text)
    return table


def _waited(label: str, kept: bytes) -> str:
    """What ``ctx.once`` kept as it is; what a wait kept, in words."""
    if label.startswith("sleep_until #"):
        return f"until {_moment(json.loads(kept))}"
    if label.startswith("wait_for("):
        if kept.startswith(b'{"until":'):
            until = json.loads(kept)["until"]
            return "waits" if until is None else f"waits until {_moment(until)}"
        if kept == b"{}":
            return "did not come in time"
        if kept.startswith(b'{"value":'):
            return f"took {_short(kept[9:-1])}"
    return _short(kept)


def _status(store: Store, entry: Entry) -> Text:
    text = Text(entry.status, COLOURS[entry.status])
    if entry.status != "done":
        for record in store.records("once", f"{entry.run_id}/"):
            fields, (value,) = unpack(record.value or b"")
            if fields["key"].startswith("wait_for(") and b'"until"' in value:
                text.append(f", waits: {fields['key'].rpartition(' ')[0]}", "dim")
    return text


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for column in columns:
        right = column in ("steps", "calls", "ran on version", "attempt")
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    return table


def _print(table: Table) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200  # a log or a pipe has no width: nothing is cut
    console.print(table)


def _short(data: bytes) -> str:
    """A value as it is written, without its types."""
    text = f"{len(data):,} bytes" if data[:1] == b"\0" else data.decode(errors="replace")
    return text if len(text) <= MOST else text[: MOST - 1] + "…"


def _moment(seconds: float | None) -> str:
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
