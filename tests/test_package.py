"""The package as a whole: its names, what importing it costs, its errors."""

import importlib
import inspect
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

import theus
from theus import errors

SRC = Path(theus.__file__).parent
MODULES = sorted(
    ".".join(file.relative_to(SRC.parent).with_suffix("").parts).removesuffix(".__init__")
    for file in SRC.rglob("*.py")
    if file.name != "__main__.py"
)
ERRORS = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, errors.TheusError)]
PUBLIC = {
    "process",
    "flow",
    "parallel",
    "each",
    "branch",
    "repeat",
    "Engine",
    "Context",
    "plain",
    "Tally",
    "migration",
    "codec",
}
LATER = {"migration", "codec"}  # part of the page, not of this version
OPTIONAL = {
    "redis",
    "psycopg",
    "ray",
    "dask",
    "distributed",
    "opentelemetry",
}  # installed by no extra of ours


def fresh(code: str) -> str:
    """What a new interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout


# --- names


def test_the_public_names_are_those_of_the_api_page() -> None:
    assert set(theus.__all__) - {kind.__name__ for kind in ERRORS} - {"__version__"} >= PUBLIC - LATER


@pytest.mark.parametrize("name", theus.__all__)
def test_a_public_name_is_there(name: str) -> None:
    value = getattr(theus, name)
    assert value is not None
    assert name in dir(theus)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert inspect.getdoc(value), f"{name} has no docstring"


def test_every_error_is_public() -> None:
    assert {kind.__name__ for kind in ERRORS} <= set(theus.__all__)


def test_public_names_are_listed_once() -> None:
    assert len(theus.__all__) == len(set(theus.__all__))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"theus.*no_such_name"):
        _ = theus.no_such_name  # type: ignore[attr-defined]


def test_a_star_import_gives_all_names() -> None:
    assert fresh("from theus import *; import theus; print(set(theus.__all__) <= set(globals()))").strip() == "True"


@pytest.mark.parametrize("name", MODULES)
def test_a_module_loads(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in OPTIONAL:
            raise


# --- importing


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a statement loads in a new interpreter, beyond those that start-up loads."""
    return set(fresh(f"import sys; before = set(sys.modules); {statement}; print(*set(sys.modules) - before)").split())


def test_importing_theus_loads_nothing_from_third_parties() -> None:
    names = {name.partition(".")[0] for name in loaded_by("import theus")}
    assert names - sys.stdlib_module_names == {"theus"}


def test_importing_theus_does_not_load_asyncio() -> None:
    assert not {"asyncio", "concurrent", "multiprocessing", "logging"} & loaded_by("import theus")


def test_a_new_worker_loads_little() -> None:
    late = {"asyncio", "logging", "cloudpickle", "theus.protocols", "theus.environments.far_parts", "theus.state.draft"}
    assert not late & loaded_by("import theus.environments.far")


def test_all_public_names_need_only_cloudpickle() -> None:
    names = {
        name.partition(".")[0] for name in loaded_by("import theus; [getattr(theus, name) for name in theus.__all__]")
    }
    assert names - sys.stdlib_module_names - {"cloudpickle"} == {"theus"}


@pytest.mark.skipif(sys.version_info < (3, 14), reason="concurrent.interpreters is new in Python 3.14")
def test_all_public_names_load_in_a_sub_interpreter() -> None:
    code = "import theus; [getattr(theus, name) for name in theus.__all__]"
    assert (
        fresh(f"from concurrent import interpreters; interpreters.create().exec({code!r}); print('loaded')").strip()
        == "loaded"
    )


# --- errors


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_survives_pickling_with_its_fields(kind: type[errors.TheusError]) -> None:
    error = kind("what happened; then what to do", **{name: (name, 1) for name in kind.fields})
    error.add_note("in process place")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    assert again.__notes__ == error.__notes__
    assert {name: getattr(again, name) for name in kind.fields} == {name: (name, 1) for name in kind.fields}


def drawn() -> dict[str, tuple[str | None, tuple[str, ...]]]:
    """The tree in the docstring of ``theus.errors``: class -> parent and fields."""
    tree: dict[str, tuple[str | None, tuple[str, ...]]] = {}
    parents: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"    ([ │├└─]*)([A-Z]\w+)(.*)$", line):
            depth, name = len(match[1]), match[2]
            parents = [parent for parent in parents if parent[0] < depth]
            tree[name] = (parents[-1][1] if parents else None, tuple(re.findall(r"(?:^|\s)\.(\w+)", match[3])))
            parents.append((depth, name))
    return tree


def test_the_errors_are_drawn_in_their_docstring() -> None:
    assert set(drawn()) == {kind.__name__ for kind in ERRORS}


@pytest.mark.parametrize("kind", [kind for kind in ERRORS if kind is not errors.TheusError])
def test_the_drawing_of_an_error_is_true(kind: type[errors.TheusError]) -> None:
    parent, fields = drawn()[kind.__name__]
    assert parent == kind.__bases__[0].__name__
    assert fields == kind.fields
