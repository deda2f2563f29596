"""Context variables that travel with a call.

One can travel if it is the global of a module, so that the far side finds the same one by name, and if its value pickles.
That of ``decimal`` has no name in Python, but a function that sets it: rounding and precision are the same there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextvars import Context, ContextVar
from typing import Any

from theus.environments.parcel import variable

_OURS = "theus_"  # our own variables say where a call runs; over there that is another place
_DECIMAL = ("decimal", "setcontext")
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
        found = ((self.name_of(variable), value) for variable, value in context.items())
        return [(name, value) for name, value in found if name and not (name == _DECIMAL and _is_default(value))]

    @staticmethod
    def _search(variable: ContextVar[Any]) -> tuple[str, str] | None:
        if variable.name.startswith(_OURS):
            return None
        if variable.name == "decimal_context":
            return _DECIMAL
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
    if (module, attribute) == _DECIMAL:
        import decimal

        return decimal.setcontext
    found: ContextVar[Any] = variable(module, attribute)
    return found.set
