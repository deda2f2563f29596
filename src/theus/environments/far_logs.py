"""The far side's log records. ``logging`` takes longer to load than all of ours, so it is not loaded until a body asks for it.

``FarLogs`` stands in the import system's way for that one moment: right after ``logging`` has been loaded, by whatever
and in whatever thread, it hears of the levels and hands over its records.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

    from theus.environments.logs import Levels


class FarLogs:
    """Takes every record of a worker to ``send``, as plain values, and sets the levels that the near side has."""

    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        self._send = send
        self._wanted: Levels = {}
        self._set: Levels = {}
        self._connected = False

    def start(self) -> None:
        """Begin, now or when ``logging`` is loaded."""
        if "logging" in sys.modules:
            self._connect()
        else:
            sys.meta_path.insert(0, self)

    def set_levels(self, levels: Levels) -> None:
        """The near side's levels, from now on."""
        self._wanted = levels
        if self._connected:
            self._apply()

    def _connect(self) -> None:
        import logging

        from theus.environments.logs import Courier

        self._connected = True
        logging.root.addHandler(Courier(self._send))
        self._apply()

    def _apply(self) -> None:
        from theus.environments.logs import set_levels

        set_levels(self._wanted, self._set)
        self._set = self._wanted

    # --- a finder of modules (``importlib.abc.MetaPathFinder``) ---

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Where ``logging`` is; loading it connects us."""
        if name != "logging":
            return None
        sys.meta_path.remove(self)
        from importlib.machinery import PathFinder  # it loads ``warnings``

        spec = PathFinder.find_spec(name)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_connect(module: ModuleType) -> None:
                load(module)
                self._connect()

            spec.loader.exec_module = load_and_connect  # type: ignore[method-assign]  # that is how one hears of the end of an import
        return spec
