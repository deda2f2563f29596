"""Context variables that travel with a call.

One can travel if it is the global of a module, so that the far side finds the same one by name, and if its value pickles.
"""

from __future__ import annotations

import sys
from contextvars import Context, ContextVar
from typing import Any

_OURS = "theus_"  # our own variables say where a call runs; over there that is another place


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
        return [(name, value) for name, value in found if name is not None]

    @staticmethod
    def _search(variable: ContextVar[Any]) -> tuple[str, str] | None:
        if variable.name.startswith(_OURS):
            return None
        for module_name, module in sys.modules.copy().items():
            for attribute, value in getattr(module, "__dict__", {}).copy().items():
                if value is variable:
                    return module_name, attribute
        return None
