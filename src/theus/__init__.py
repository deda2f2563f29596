"""Theus: ordinary functions as workflows over shared state.

Names are loaded when first used, so that importing this package costs nothing, also on the far side.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from theus.context import Context as Context
    from theus.engine import Engine as Engine
    from theus.errors import (
        CallTimeout as CallTimeout,
        CommitUnknown as CommitUnknown,
        ConflictError as ConflictError,
        ContractError as ContractError,
        DefinitionError as DefinitionError,
        EnvironmentBroken as EnvironmentBroken,
        InvariantViolated as InvariantViolated,
        LimitExceeded as LimitExceeded,
        NotStorable as NotStorable,
        NotTransferable as NotTransferable,
        Overloaded as Overloaded,
        RunFenced as RunFenced,
        ScopeError as ScopeError,
        StoreError as StoreError,
        StoreUnavailable as StoreUnavailable,
        TheusError as TheusError,
        WorkflowChanged as WorkflowChanged,
    )
    from theus.processes import Process as Process, Step as Step, process as process
    from theus.run import Run as Run
    from theus.state.codecs import codec as codec
    from theus.state.fields import Tally as Tally
    from theus.state.migrations import migration as migration
    from theus.state.values import plain as plain
    from theus.workflow import (
        Workflow as Workflow,
        branch as branch,
        each as each,
        flow as flow,
        parallel as parallel,
        repeat as repeat,
    )

_HOMES = {
    "context": ("Context",),
    "engine": ("Engine",),
    "errors": (
        "CallTimeout",
        "CommitUnknown",
        "ConflictError",
        "ContractError",
        "DefinitionError",
        "EnvironmentBroken",
        "InvariantViolated",
        "LimitExceeded",
        "NotStorable",
        "NotTransferable",
        "Overloaded",
        "RunFenced",
        "ScopeError",
        "StoreError",
        "StoreUnavailable",
        "TheusError",
        "WorkflowChanged",
    ),
    "workflow": ("Workflow", "branch", "each", "flow", "parallel", "repeat"),
    "processes": ("Process", "Step", "process"),
    "run": ("Run",),
    "state.codecs": ("codec",),
    "state.fields": ("Tally",),
    "state.migrations": ("migration",),
    "state.values": ("plain",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)  # noqa: PLE0605 - a list of strings, computed
__version__ = "3.0.0a1"


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'theus' has no attribute {name!r}")
    value = getattr(import_module(f"theus.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
