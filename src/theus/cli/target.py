"""``module:workflow`` or ``path/to/file.py:workflow``: find it, and the engine that goes with it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from theus import DefinitionError, Engine, Process, Step, Workflow
from theus.errors import closest
from theus.protocols import Store


class UsageError(DefinitionError):
    """The command names something that is not there."""


@dataclass(frozen=True)
class Target:
    """What a command is about. ``name``: as it was asked for."""

    name: str
    module: ModuleType
    value: Any

    def engine(self, name: str | None) -> Engine[Any]:
        """The module's engine of that name, or its only one; an engine without a domain if it has none."""
        engines = {key: value for key, value in vars(self.module).items() if isinstance(value, Engine)}
        if name is not None:
            if name not in engines:
                raise UsageError(f"{self.module.__name__} has no Engine {name!r}.{_hint(name, engines)}")
            return engines[name]
        if not engines:
            return Engine()
        if len(set(engines.values())) == 1:
            return next(iter(engines.values()))
        if "engine" in engines:
            return engines["engine"]
        raise UsageError(f"{self.module.__name__} has several engines: {', '.join(engines)}. Choose: --engine NAME")


def store_of(engine: Engine[Any]) -> Store:
    """The store in which an engine keeps its runs."""
    if engine.store is None or not engine.keeps_runs:
        raise UsageError(
            "the module has no engine with a store, so no run is kept. Write at its top level, not under a function or an if: "
            'engine = Engine(Shop(), store="shop.db").'
        )
    return engine.store


def find(text: str) -> Target:
    """Import the module, and get the workflow, process or function out of it.

    Raises:
        UsageError: there is no such file, module or name; says what was probably meant.
    """
    place, name = _split(text)
    module = _load(place)
    if not name:
        name = _only_one(module, text)
    value = _named(module, place, name, _runnable(module))
    if not (isinstance(value, (Step, list, tuple)) or callable(value)) or isinstance(value, type):
        raise UsageError(
            f"{place}:{name} is {type(value).__name__}, which cannot run: give a workflow, a process or a function."
            f"{_hint(name, _runnable(module))}"
        )
    return Target(f"{place}:{name}", module, value)


def find_types(text: str) -> type:
    """The class of the domain: named itself, or that of an Engine.

    Raises:
        UsageError: there is no such thing.
    """
    place, name = _split(text)
    module = _load(place)
    classes = [
        name
        for name, value in vars(module).items()
        if isinstance(value, Engine) or (isinstance(value, type) and value.__module__ == module.__name__)
    ]
    value = _named(module, place, name or "engine", classes)
    found = value.domain_type if isinstance(value, Engine) else value
    if not isinstance(found, type):
        raise UsageError(f"{text} is {type(value).__name__}: give an Engine that has a domain, or the domain's class.")
    return found


def _load(place: str) -> ModuleType:
    is_file = place.endswith(".py") or os.sep in place or "/" in place
    return _load_file(place) if is_file else _load_module(place)


def _named(module: ModuleType, place: str, name: str, known: Iterable[str]) -> Any:
    value: Any = module
    for part in name.split("."):
        try:
            value = getattr(value, part)
        except AttributeError:
            raise UsageError(f"{place} has no {name!r}.{_hint(name, known)}") from None
    return value


def _split(text: str) -> tuple[str, str]:
    """``shop.py:crawl`` -> ``shop.py`` and ``crawl``; a drive letter stays with its path."""
    place, colon, name = text.rpartition(":")
    if not colon or "/" in name or "\\" in name:
        return text, ""
    return place, name


def _load_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise  # something that it imports itself
    here = [path.stem for path in Path().glob("*.py")] + [path.parent.name for path in Path().glob("*/__init__.py")]
    raise UsageError(
        f"there is no module {name!r}.{_hint(name, here)} A file is named with its ending: {name}.py"
    ) from None


def _load_file(text: str) -> ModuleType:
    path = Path(text)
    if not path.is_file():
        others = path.parent.glob("*.py") if path.parent.is_dir() else ()
        raise UsageError(f"there is no file {text!r}.{_hint(text, [str(other) for other in others])}")
    # Part of a package: imported under its full name, so that its relative imports work.
    parts, folder = [path.stem], path.resolve().parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))  # like python file.py; worker processes look there, too
    if len(parts) > 1:
        return importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    name = re.sub(r"\W", "_", path.stem)
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _runnable(module: ModuleType) -> list[str]:
    """The names of the module's workflows and processes, workflows first."""
    steps = {name: value for name, value in vars(module).items() if isinstance(value, Step)}
    return sorted(steps, key=lambda name: not isinstance(steps[name], Workflow))


def _only_one(module: ModuleType, text: str) -> str:
    names = _runnable(module)
    for kind in (Workflow, Process):
        found = [name for name in names if isinstance(getattr(module, name), kind)]
        if len(found) == 1:
            return found[0]
        if found:
            raise UsageError(f"{text} has several; say which: {', '.join(f'{text}:{name}' for name in found[:8])}")
    raise UsageError(f"{text} defines no workflow and no process; a function is named: {text}:function")


def _hint(name: str, known: Iterable[str]) -> str:
    known = list(known)
    close = closest(name, known)
    if close:
        return f" Did you mean {close!r}?"
    return f" It has: {', '.join(known[:8])}{', …' if len(known) > 8 else ''}." if known else ""
