"""Which frames of an error are the user's own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import traceback
from pathlib import Path

import theus
from theus.cli.target import UsageError

HIDDEN = (
    str(Path(theus.__file__).parent),
    str(Path(asyncio.__file__).parent),
    str(Path(concurrent.futures.__file__).parent),
    threading.__file__,
    "<frozen ",
)


def shorten(told: traceback.TracebackException, seen: set[int]) -> int:
    """Leave out the frames that are not the user's, here and in what caused it; gives how many."""
    if id(told) in seen:
        return 0
    seen.add(id(told))
    kept = [frame for frame in told.stack if not frame.filename.startswith(HIDDEN)]
    left_out = len(told.stack) - len(kept)
    # Without any frame of the user's there is nothing to trace: the message says it all.
    told.stack = traceback.StackSummary.from_list(kept) if kept else None  # type: ignore[assignment]  # None: format() then shows no stack
    for other in (told.__cause__, told.__context__, *(told.exceptions or ())):
        if other is not None:
            left_out += shorten(other, seen)
    return left_out


def place_of(error: BaseException) -> str:
    """The innermost line that is the user's, with its file; nothing if there is none, or only the command is wrong."""
    if isinstance(error, UsageError):
        return ""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((*HIDDEN, "<"))]
    frames = [f for f in frames if "importlib" not in f.filename]
    return f"{frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}" if frames else ""
