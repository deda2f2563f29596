"""An error as its user wants to see it: the frames of his own code, its notes, and what to do."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import traceback
from pathlib import Path

from rich.console import Console
from rich.text import Text

import theus

HIDDEN = (
    str(Path(theus.__file__).parent),
    str(Path(asyncio.__file__).parent),
    str(Path(concurrent.futures.__file__).parent),
    threading.__file__,
    "<frozen ",
)


def show_failure(console: Console, error: BaseException, *, whole: bool) -> None:
    """Print an error with its traceback. ``whole``: with the frames of Theus and asyncio, too."""
    told = traceback.TracebackException.from_exception(error)
    left_out = 0 if whole else _shorten(told, set())
    text = Text()
    for line in told.format():
        is_frame = line.startswith(("  ", "Traceback"))
        text.append(line, "dim" if is_frame and not line.startswith("  File") else "" if is_frame else "bold red")
    console.print(text, end="", soft_wrap=True)
    if left_out:
        frames = "1 frame" if left_out == 1 else f"{left_out} frames"
        console.print(f"[dim]{frames} of Theus and asyncio left out; --traceback shows them[/]", soft_wrap=True)


def _shorten(told: traceback.TracebackException, seen: set[int]) -> int:
    """Leave out the frames that are not the user's, here and in what caused it; gives how many."""
    if id(told) in seen:
        return 0
    seen.add(id(told))
    kept = [frame for frame in told.stack if not frame.filename.startswith(HIDDEN)]
    left_out = len(told.stack) - len(kept)
    # Without any frame of the user's there is nothing to trace: the message says it all.
    told.stack = traceback.StackSummary.from_list(kept) if kept else None  # type: ignore[assignment]
    for other in (told.__cause__, told.__context__, *(told.exceptions or ())):
        if other is not None:
            left_out += _shorten(other, seen)
    return left_out
