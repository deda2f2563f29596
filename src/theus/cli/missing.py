"""What a command needs that is not installed: said in one line, with what to type."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needs(extra: str, *modules: str) -> Iterator[None]:
    """If one of these modules is missing in the block, say how to install it, and leave the block."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in modules:
            raise
        print(f'theus: this needs {error.name}, which is not installed: pip install "theus[{extra}]"', file=sys.stderr)
