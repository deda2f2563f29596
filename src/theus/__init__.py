"""Theus: ordinary functions as workflows over shared state.

Names are loaded when first used, so that importing this package costs nothing, also on the far side.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from theus.context import Context as Context
    from theus.engine import Engine as Engine
    from theus.errors import CallTimeout as CallTimeout
    from theus.errors import CommitUnknown as CommitUnknown
    from theus.errors import ConflictError as ConflictError
    from theus.errors import ContractError as ContractError
    from theus.errors import DefinitionError as DefinitionError
    from theus.errors import EnvironmentBroken as EnvironmentBroken
    from theus.errors import InvariantViolated as InvariantViolated
    from theus.errors import LimitExceeded as LimitExceeded
    from theus.errors import NotStorable as NotStorable
    from theus.errors import NotTransferable as NotTransferable
    from theus.errors import Overloaded as Overloaded
    from theus.errors import RunFenced as RunFenced
    from theus.errors import ScopeError as ScopeError
    from theus.errors import StoreError as StoreError
    from theus.errors import StoreUnavailable as StoreUnavailable
    from theus.errors import TheusError as TheusError
    from theus.errors import WorkflowChanged as WorkflowChanged
    from theus.workflow import Workflow as Workflow
    from theus.workflow import branch as branch
    from theus.workflow import each as each
    from theus.workflow import flow as flow
    from theus.workflow import parallel as parallel
    from theus.workflow import repeat as repeat
    from theus.processes import Process as Process
    from theus.processes import Step as Step
    from theus.processes import process as process
    from theus.run import Run as Run
    from theus.state.fields import Tally as Tally
    from theus.state.values import plain as plain

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
    "state.fields": ("Tally",),
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
