"""What a command needs that is not installed: said in one line, with what to type."""

from __future__ import annotations

import sys
from collections.abc import Callable

from theus.cli.codes import WRONG


def needing(extra: str, modules: tuple[str, ...], command: Callable[[], int]) -> int:
    """Carry out a command that needs these modules; if one is missing, say how to install it."""
    try:
        return command()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in modules:
            raise
        print(f'theus: this needs {error.name}, which is not installed: pip install "theus[{extra}]"', file=sys.stderr)
        return WRONG
