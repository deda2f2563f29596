"""``make bench``: every benchmark, one after the other. Names of some as arguments run only those."""

from __future__ import annotations

import importlib
import pkgutil
import sys

import benchmarks


def main() -> None:
    names = sorted(
        module.name for module in pkgutil.iter_modules(benchmarks.__path__) if module.name.startswith("bench_")
    )
    wanted = sys.argv[1:]
    print(f"Python {sys.version.split()[0]}, medians of interleaved rounds; machines differ, so read the ratios (x)")
    for name in names:
        if not wanted or name.removeprefix("bench_") in wanted:
            importlib.import_module(f"benchmarks.{name}").main()


if __name__ == "__main__":
    main()
