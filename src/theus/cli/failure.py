"""An error as its user wants to see it: the frames of his own code, its notes, and what to do."""

from __future__ import annotations

import traceback

from rich.console import Console
from rich.text import Text

from theus.cli.frames import shorten
from theus.errors import TheusError


def show_failure(console: Console, error: BaseException, *, whole: bool) -> None:
    """Print an error with its traceback. ``whole``: with the frames of Theus and asyncio, too."""
    told = traceback.TracebackException.from_exception(error)
    left_out = 0 if whole else shorten(told, set())
    text = Text()
    for line in told.format():
        is_frame = line.startswith(("  ", "Traceback"))
        text.append(line, "dim" if is_frame and not line.startswith("  File") else "" if is_frame else "bold red")
    console.print(text, end="", soft_wrap=True)
    if left_out and (told.stack or not isinstance(error, TheusError)):  # one of ours that says it all needs no frames
        frames = "1 frame" if left_out == 1 else f"{left_out} frames"
        console.print(f"[dim]{frames} of Theus and asyncio left out; --traceback shows them[/]", soft_wrap=True)
