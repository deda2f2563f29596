"""What ``import theus`` costs, beside asyncio and concurrent.futures."""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.measure import in_turns, table


def start(code: str) -> float:
    """Milliseconds of an interpreter that runs ``code``."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return (time.perf_counter() - started) * 1e3


def main() -> None:
    codes = {
        "nothing": "pass",
        "import asyncio, concurrent.futures": "import asyncio, concurrent.futures",
        "import theus": "import theus",
        "from theus import Engine, process, flow, each": "from theus import Engine, process, flow, each",
    }
    figures = in_turns({name: (lambda code=code: start(code)) for name, code in codes.items()}, 9)
    bare = figures.pop("nothing")
    figures = {name: value - bare for name, value in figures.items()}
    table(f"Import, without the {bare:.0f} ms of a bare start", figures, "import asyncio, concurrent.futures", "ms")


if __name__ == "__main__":
    main()
