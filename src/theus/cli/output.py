"""A result on stdout: for people, or as JSON."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import pprint
import sys
from collections.abc import Iterator, Mapping, Set
from pathlib import PurePath
from typing import Any

from rich.console import Console
from rich.pretty import Pretty

MOST = 200  #: items of a container that a terminal shows


def show_result(value: Any) -> None:
    """Text as it is, nothing for None, everything else laid out; on a terminal long containers are cut."""
    if value is None:
        return
    if isinstance(value, str):
        print(value)
        return
    console = Console()
    if console.is_terminal:
        console.print(Pretty(value, max_length=MOST))
    else:
        print(pprint.pformat(value, width=100, compact=True, sort_dicts=False))


def show_json(value: Any) -> list[str]:
    """One JSON value; gives the places that JSON has no word for, which are written as text."""
    unknown: list[str] = []
    indent = 2 if sys.stdout.isatty() else None
    print(json.dumps(_plain(value, "result", unknown), ensure_ascii=False, indent=indent))
    return unknown


def _plain(value: Any, place: str, unknown: list[str]) -> Any:
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, enum.Enum):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name), f"{place}.{f.name}", unknown) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {_key(key): _plain(item, f"{place}[{key!r}]", unknown) for key, item in value.items()}
    if isinstance(value, Set):
        items = list(value)
        return [_plain(item, place, unknown) for item in sorted(items, key=repr)]
    if isinstance(value, (list, tuple, Iterator)):
        return [_plain(item, f"{place}[{number}]", unknown) for number, item in enumerate(value)]
    if isinstance(value, enum.Enum):
        return _plain(value.value, place, unknown)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"
    if hasattr(value, "tolist"):  # an array or a number of numpy's
        return value.tolist()
    unknown.append(f"{place} ({type(value).__name__})")
    return str(value)


def _key(key: Any) -> str:
    return key if isinstance(key, str) else json.dumps(key) if isinstance(key, (int, float, bool)) else str(key)
