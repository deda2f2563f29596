"""The pages name everything that there is: public names and events in the reference, modules in the architecture."""

from __future__ import annotations

import re

import pytest
from pages import ROOT

import theus
from theus import events
from theus.testing import __all__ as testing_names

REFERENCE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
EVENTS = [name for name, value in vars(events).items() if isinstance(value, type) and issubclass(value, events.Event)]
MODULES = sorted(
    path.stem for path in (ROOT / "src" / "theus").iterdir() if not path.name.startswith(("_", ".", "py.typed"))
)


def is_named(name: str, page: str) -> bool:
    return re.search(rf"\b{name}\b", page) is not None


@pytest.mark.parametrize("name", [name for name in theus.__all__ if not name.startswith("_")])
def test_a_public_name_is_in_the_reference(name: str) -> None:
    assert is_named(name, REFERENCE)


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_is_in_the_reference(name: str) -> None:
    assert is_named(name, REFERENCE)


def test_the_tools_for_tests_are_in_the_reference() -> None:
    assert testing_names
    assert "::: theus.testing\n" in REFERENCE  # with all that it exports


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_in_the_architecture(name: str) -> None:
    assert is_named(name, ARCHITECTURE)
