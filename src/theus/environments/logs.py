"""Log records of the workers, handled here as if they had been logged here, in the context of their call.

The far side knows the levels of the near side, so what nobody wants is not sent. It loads this module, and ``logging``,
only when something there does (``far_logs.py``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

Levels = dict[str, int]  #: of each logger that has one of its own; "" is the root, "*" what is disabled everywhere

_NO_CHANGE_YET = 1  # a level nobody logs at: whether a logger has cached its answer for it tells if levels changed


class LevelWatch:
    """Knows when the levels of loggers have changed, without looking at all of them at each call."""

    def __init__(self) -> None:
        self._logger = logging.getLogger("theus.environments")

    def changed(self) -> bool:
        """Whether any level was set since the last time (True the first time)."""
        # logging empties every logger's cache whenever a level is set anywhere.
        if _NO_CHANGE_YET in getattr(self._logger, "_cache", ()):
            return False
        self._logger.isEnabledFor(_NO_CHANGE_YET)
        return True


def levels() -> Levels:
    """The levels that are set in this process."""
    found = {"": logging.root.level, "*": logging.root.manager.disable}
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and (logger.level or logger.disabled):
            found[name] = logging.CRITICAL + 1 if logger.disabled else logger.level
    return found


def set_levels(wanted: Levels, before: Levels) -> None:
    """Make the loggers of this worker as the near side's."""
    for name in before.keys() - wanted.keys():
        logging.getLogger(name).setLevel(logging.NOTSET)
    for name, level in wanted.items():
        if name == "*":
            logging.disable(level)
        else:
            logging.getLogger(name or None).setLevel(level)


class Courier(logging.Handler):
    """Takes every record of a worker to the wire."""

    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a record over as plain values: text instead of arguments and traceback objects."""
        try:
            content = dict(record.__dict__)
            content["msg"], content["args"] = record.getMessage(), None
            if record.exc_info:
                content["exc_text"] = record.exc_text or logging.Formatter().formatException(record.exc_info)
                content["exc_info"] = None
            self._send(content)
        except Exception:
            self.handleError(record)


def handle(content: Mapping[str, Any]) -> None:
    """Handle a record of the far side as one of our own."""
    record = logging.makeLogRecord(dict(content))
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)
