"""What the traceback of a failed run shows, and what it keeps alive."""

from __future__ import annotations

import traceback

MACHINERY = {"theus", "asyncio", "concurrent", "threading"}  #: packages between a caller and the process it runs


def begin_at_body(error: BaseException) -> None:
    """Leave out how the engine came to the user's function: the traceback begins there, if it has a frame of the user's.

    What the user's function called stays whole, whoever wrote it.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] in MACHINERY:
        trace = trace.tb_next
    if trace is not None:
        error.__traceback__ = trace


def forget_frames(error: BaseException) -> None:
    """Let go of what the frames of a stored traceback see, so that a kept error keeps no big variables alive."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        error_here = waiting.pop()
        if error_here is None or id(error_here) in seen:
            continue
        seen.add(id(error_here))
        traceback.clear_frames(error_here.__traceback__)
        waiting += [error_here.__cause__, error_here.__context__]
