"""Context variables that travel with a call.

One can travel if it is the global of a module, so that the far side finds the same one by name, and if its value pickles.
Those of ``decimal`` (rounding, precision) and numpy (what it does about a division by zero) have no name in Python, but
functions that set them.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from contextvars import Context, ContextVar
from typing import Any

from theus.environments.parcel import variable

_OURS = "theus_"  # our own variables say where a call runs; over there that is another place
_DECIMAL = ("decimal", "setcontext")
_NUMPY = ("numpy", "seterr")
_NAMELESS = {"decimal_context": _DECIMAL, "numpy.ufunc.extobj": _NUMPY}
_SETTINGS = ("prec", "rounding", "Emin", "Emax", "capitals", "clamp", "traps")


class Variables:
    """Finds the names of context variables."""

    def __init__(self) -> None:
        self._names: dict[ContextVar[Any], tuple[str, str] | None] = {}

    def name_of(self, variable: ContextVar[Any]) -> tuple[str, str] | None:
        """Module and attribute, or None if it is not the global of a module."""
        try:
            return self._names[variable]
        except KeyError:
            found = self._names[variable] = self._search(variable)
            return found

    def travelling(self, context: Context) -> list[tuple[tuple[str, str], Any]]:
        """The variables that are set in a context and have a name, with their values."""
        found = []
        for key, value in context.items():
            name = self.name_of(key)
            if name == _NUMPY:
                value = context.copy().run(sys.modules["numpy"].geterr)
            if name is not None and not (name == _DECIMAL and _is_default(value)):
                found.append((name, value))
        return found

    @staticmethod
    def _search(variable: ContextVar[Any]) -> tuple[str, str] | None:
        if variable.name.startswith(_OURS):
            return None
        if variable.name in _NAMELESS:
            return _NAMELESS[variable.name]
        for module_name, module in sys.modules.copy().items():
            for attribute, value in getattr(module, "__dict__", {}).copy().items():
                if value is variable:
                    return module_name, attribute
        return None


def _is_default(context: Any) -> bool:
    """Whether a context of ``decimal`` is as whoever only computes with decimals has it; its flags do not count."""
    default = sys.modules["decimal"].DefaultContext
    return all(getattr(context, name) == getattr(default, name) for name in _SETTINGS)


def setter(module: str, attribute: str) -> Callable[[Any], object]:
    """The function that sets the context variable of that name."""
    if (module, attribute) in _NAMELESS.values():
        function = getattr(importlib.import_module(module), attribute)
        return function if attribute == "setcontext" else lambda settings: function(**settings)
    found: ContextVar[Any] = variable(module, attribute)
    return found.set
