"""The blocking door: driving a run without a loop, and a word of warning on somebody else's loop."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def drive(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never really waits, without a loop: everything in it that waits, blocks."""
    answer: list[T] = []

    async def collect() -> None:
        answer.append(await work)

    drive_to_end(collect())
    return answer[0]


def drive_to_end(work: Coroutine[Any, Any, None]) -> None:
    """The same for one that gives nothing. Then no ``StopIteration`` has to carry it, which is a part of a short call."""
    if next(work.__await__(), _END) is not _END:
        work.close()
        raise AssertionError("a run without a loop has waited for one; this is a bug in Theus, please report it")


_END: Any = object()


def warn_about_loop() -> None:
    """Say once per place that a blocking call holds up the caller's loop; a notebook cell has no better way."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("theus."):
        frame = frame.f_back
    if "ipykernel" in sys.modules or "IPython" in sys.modules and frame.f_globals.get("__name__") == "__main__":
        return
    warnings.warn_explicit(
        "engine.run(...) blocks the event loop that runs here; in async code write: await engine.arun(...)",
        RuntimeWarning,
        frame.f_code.co_filename,
        frame.f_lineno,
        registry=frame.f_globals.setdefault("__warningregistry__", {}),
    )
