"""Migrations: functions that bring a stored state from one version of the domain's class to the next.

The class says its version (``schema_version = 2``; without it, 1). Functions that are marked with ``@migration(1, 2)`` stand in
the module of the class. A state that was stored as version 1 goes through them, one after the other, when it is opened.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from theus.errors import DefinitionError

Migrate = Callable[[dict[str, Any]], dict[str, Any] | None]

_MARK = "__theus_migration__"


def migration(before: int, after: int) -> Callable[[Migrate], Migrate]:
    """Mark a function that makes a state of version ``after`` out of one of version ``before``.

    It is called with the state as plain data: dicts, lists, text and numbers, as JSON has them (an object is a dict of its
    fields, a set a list, an enum member its name). It changes that in place, or returns another.

    Raises:
        DefinitionError: ``after`` is not higher than ``before``.
    """
    if not 0 < before < after:
        raise DefinitionError(f"@migration({before}, {after}): give two versions, the older one first, from 1 on.")

    def mark(function: Migrate) -> Migrate:
        setattr(function, _MARK, (before, after))
        return function

    return mark


def schema_of(domain_type: type) -> int:
    """The version that a domain's class has."""
    version = getattr(domain_type, "schema_version", 1)
    if not isinstance(version, int) or version < 1:
        raise DefinitionError(f"{domain_type.__name__}.schema_version = {version!r}: give a whole number from 1 on.")
    return version


def way_to(domain_type: type, stored: int) -> list[Migrate]:
    """The functions that lead from a stored version to the class's, in their order.

    Raises:
        DefinitionError: there is no way, or the stored version is the newer one.
    """
    goal = schema_of(domain_type)
    if stored > goal:
        raise DefinitionError(
            f"the stored state is of version {stored}, but {domain_type.__name__}.schema_version is {goal}: "
            "newer code has written it; use that."
        )
    module = sys.modules.get(domain_type.__module__)
    found = [value for value in vars(module).values() if hasattr(value, _MARK)] if module is not None else []
    way = []
    while stored < goal:
        steps = [function for function in found if getattr(function, _MARK)[0] == stored]
        if not steps:
            raise DefinitionError(
                f"the stored state is of version {stored}, {domain_type.__name__} of {goal}: "
                f"write a function @migration({stored}, {stored + 1}) in the module {domain_type.__module__}."
            )
        step = max(steps, key=lambda function: int(getattr(function, _MARK)[1]))  # the longest way at once
        way.append(step)
        stored = getattr(step, _MARK)[1]
    if stored > goal:
        raise DefinitionError(
            f"the migrations lead to version {stored}, past {domain_type.__name__}.schema_version, which is {goal}."
        )
    return way
