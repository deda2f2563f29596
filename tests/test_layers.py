"""A module imports its own or lower layers, in no cycle; what a worker loads is standard library and cloudpickle."""

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src"
LAYERS: list[set[str]] = [
    {"calls", "errors", "events", "protocols", "clock", "tracebacks"},
    {"state"},
    {"processes", "context", "scope", "resources", "workflow", "drawing"},
    {"stores", "environments"},
    {"identity", "nature", "overlap", "placement", "proposal", "schedule", "surroundings", "tickets", "watchdog"},
    {
        "attempt",
        "completion",
        "compute",
        "doors",
        "engine",
        "journal",
        "learned",
        "moves",
        "portal",
        "outbox",
        "records",
        "replay",
        "run",
        "topics",
        "transaction_block",
        "waits",
    },
    {
        "observe",
        "cli",
        "ui",
        "testing",
        "demo",
        "__main__",
        "",
    },  # "": the public names, as in `from theus import Engine`
]
APART = {("stores", "environments"), ("environments", "stores")}  # a commit happens in one place
LAZY = {("theus.engine", "theus.observe.progress")}  # loaded on first use: the one exception
FAR = {"theus.environments"} | {
    f"theus.environments.{name}"
    for name in (
        "runner",
        "far",
        "blocks",
        "far_blocks",
        "far_book",
        "far_control",
        "far_host",
        "far_parts",
        "far_template",
        "parts",
        "far_interpreter",
        "faults",
        "parcel",
        "changes",
        "classes",
        "variables",
        "far_logs",
        "logs",
        "wire",
    )
}  # with layers 0 to 2, what a worker loads
NEAR = {"theus.events"}  # but not these
NEWER = {"annotationlib", "_interpreters", "_interpqueues"}  # standard library after Python 3.11


def name_of(file: Path) -> str:
    """``src/theus/state/draft.py`` -> ``theus.state.draft``."""
    parts = file.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(file): file for file in sorted(SRC.rglob("*.py"))}


def imports(module: str, tree: ast.AST, lazy: bool = False) -> Iterator[tuple[int, str, bool]]:
    """Line, absolute name and whether inside a function, for every import but those under ``if TYPE_CHECKING``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for child in node.orelse:
                yield from imports(module, ast.Module([child], []), lazy)
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".") if MODULES[module].name == "__init__.py" else module.split(".")[:-1]
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *filter(None, [node.module])])
            for alias in node.names:  # `from . import errors` means the module, `from theus import Engine` the package
                whole = f"{origin}.{alias.name}"
                yield node.lineno, whole if whole in MODULES else origin, lazy
        else:
            yield from imports(
                module, node, lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            )


FOUND = [
    (module, f"{file.relative_to(SRC.parent)}:{line}", target, lazy)
    for module, file in MODULES.items()
    if module != "theus"  # lazy, names only
    for line, target, lazy in imports(module, ast.parse(file.read_text(), str(file)))
]
OURS = [
    found
    for found in FOUND
    if found[2].partition(".")[0] == "theus" and (found[0], found[2], found[3]) not in {(*pair, True) for pair in LAZY}
]


def part(module: str) -> str:
    """``theus.state.draft`` -> ``state``, the name in ``LAYERS``."""
    return module.partition("theus")[2].lstrip(".").partition(".")[0]


def layer(module: str) -> int:
    return next((number for number, names in enumerate(LAYERS) if part(module) in names), -1)


def check(faults: list[str]) -> None:
    if faults:
        pytest.fail("\n".join(["", *dict.fromkeys(faults)]), pytrace=False)


def test_every_module_has_its_layer() -> None:
    check(
        [
            f"{file.relative_to(SRC.parent)}: put {part(module)!r} into LAYERS"
            for module, file in MODULES.items()
            if layer(module) < 0
        ]
    )
    check([f"{where}: {a} imports {b}, which does not exist" for a, where, b, _ in OURS if b not in MODULES])


def test_no_module_imports_a_higher_layer() -> None:
    check(
        [
            f"{where}: {a} (layer {layer(a)}) imports {b} (layer {layer(b)})"
            for a, where, b, _ in OURS
            if layer(b) > layer(a)
        ]
    )


def test_stores_and_environments_never_meet() -> None:
    check(
        [
            f"{where}: {a} imports {b}: stores and environments are apart"
            for a, where, b, _ in OURS
            if (part(a), part(b)) in APART
        ]
    )


def test_no_cycle() -> None:
    graph: dict[str, set[str]] = {module: set() for module in MODULES}
    for a, _, b, _ in OURS:
        graph[a] |= {b} - {a}
    try:
        TopologicalSorter(graph).prepare()
        steps = set()
    except CycleError as error:
        steps = set(pairwise(error.args[1][::-1]))
    check([f"{where}: {a} imports {b}, in a cycle" for a, where, b, _ in OURS if (a, b) in steps])


def test_nothing_that_is_stored_goes_through_pickle() -> None:
    """Reading it could run what somebody has written into the store."""
    keep = {"stores", "journal", "outbox", "records", "learned", "replay", "waits"}
    runs = {"pickle", "cloudpickle", "marshal", "shelve", "copyreg"}
    check([f"{where}: {a} imports {b}" for a, where, b, _ in FOUND if part(a) in keep and b.partition(".")[0] in runs])


def test_what_a_worker_loads_is_the_standard_library_and_cloudpickle() -> None:
    far = {module for module in MODULES if layer(module) <= 2} - NEAR | FAR
    allowed = {*sys.stdlib_module_names, *NEWER, "cloudpickle", "theus"}
    check(
        [
            f"{where}: {a} imports {b}, which a sub-interpreter may lack"
            for a, where, b, _ in FOUND
            if a in far and b.partition(".")[0] not in allowed
        ]
    )
    check(
        [
            f"{where}: {a} imports {b}, which no worker loads"
            for a, where, b, lazy in OURS
            if a in far and b not in far and not (lazy and b in NEAR)
        ]
    )


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("theus.engine", "import theus.errors", [(1, "theus.errors", False)]),
        ("theus.engine", "from .errors import TheusError", [(1, "theus.errors", False)]),
        ("theus.engine", "from . import errors", [(1, "theus.errors", False)]),
        ("theus.state", "from .. import errors", [(1, "theus.errors", False)]),
        ("theus.engine", "from theus import Engine", [(1, "theus", False)]),
        ("theus.engine", "def f():\n    if 1:\n        import json", [(3, "json", True)]),
        (
            "theus.engine",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import json\nelse:\n    import ast",
            [(1, "typing", False), (5, "ast", False)],
        ),
    ],
)
def test_imports_are_found(module: str, source: str, expected: list[tuple[int, str, bool]]) -> None:
    assert list(imports(module, ast.parse(source))) == expected
