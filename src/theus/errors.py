"""The errors of Theus: one class for each thing that can happen.

::

    TheusError
    ├── DefinitionError     wrong before anything runs: unknown step, cycle, impossible contract, missing argument
    ├── ContractError       a process touched an undeclared path          .process .path .declared
    ├── ScopeError          a draft, local or pipe used after its end     .scope .process
    ├── ConflictError       between engines on one store, tries exhausted .paths .attempts
    ├── CommitUnknown       may or may not have been applied              .commit_id
    ├── CallTimeout         (also TimeoutError)                           .process .timeout
    ├── NotTransferable     a value cannot cross to a worker process      .process .what .reason .ran
    ├── NotStorable         a value cannot be kept by the store           .process .path .what
    ├── EnvironmentBroken   a worker process died; the call may have run  .environment .process .exit_code
    ├── Overloaded          max_pending reached                           .pending
    ├── LimitExceeded       repeat went over its limit                    .limit
    ├── InvariantViolated   nothing was committed                         .invariant
    ├── RunFenced           another owner has this run                    .run_id
    ├── WorkflowChanged     recorded run, different code                  .diff, .recorded
    └── StoreError
        └── StoreUnavailable

A process's own exception is never wrapped: it keeps its type and traceback and gets a note that
names process, call, environment and attempt. ``KeyboardInterrupt`` and cancellation pass untouched.

Every error survives pickling with its fields, because it may be raised in a worker process.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

Path = tuple[Any, ...]  #: a place in the domain: field names and container keys, from the root down


class TheusError(Exception):
    """Base of every error that Theus itself raises.

    A subclass names its fields in ``fields``; they are keyword arguments of the constructor,
    attributes of the instance, and cross to other processes with it.
    """

    fields: ClassVar[tuple[str, ...]] = ()

    def __init__(self, message: str, **values: Any) -> None:
        super().__init__(message)
        unknown = set(values) - set(self.fields)
        if unknown:
            raise TypeError(f"{type(self).__name__} has no field {sorted(unknown)}")
        for name in self.fields:
            setattr(self, name, values.get(name))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0],), self.__dict__  # the fields, and the notes of where it happened


class DefinitionError(TheusError):
    """Something is wrong with a process, workflow, contract, argument or engine, found before anything ran."""


class ContractError(TheusError):
    """A process read or wrote a path that its contract does not declare.

    ``process``: its name. ``path``: the path, as text. ``declared``: the patterns it may use.
    """

    fields = ("process", "path", "declared")
    process: str
    path: str
    declared: tuple[str, ...]


class ScopeError(TheusError):
    """A domain draft, ``local`` or ``pipe`` was used after the end of the call it belonged to, or where it does not exist.

    ``scope``: ``"domain"``, ``"local"``, ``"pipe"`` or ``"config"``. ``process``: the name of the process it belonged to.
    """

    fields = ("scope", "process")
    scope: str
    process: str


class ConflictError(TheusError):
    """Other engines on the same store kept changing what this call had read. ``paths``: where. ``attempts``: how often it ran."""

    fields = ("paths", "attempts")
    paths: tuple[str, ...]
    attempts: int


class CommitUnknown(TheusError):
    """The store did not answer: the commit may or may not have been applied. ``commit_id``: ask the store with it."""

    fields = ("commit_id",)
    commit_id: str


class CallTimeout(TheusError, TimeoutError):
    """One attempt of a call took longer than its ``timeout`` (seconds) and was stopped; nothing of it was committed."""

    fields = ("process", "timeout")
    process: str
    timeout: float


class NotTransferable(TheusError):
    """A value cannot cross to a worker process, or back.

    ``what``: the place inside the value and its type. ``reason``: the error that says so, as text. ``ran``: whether the
    process had come to its end, so that it is what it gave that cannot cross.
    """

    fields = ("process", "what", "reason", "ran")
    process: str
    what: str
    reason: str | None
    ran: bool | None


class NotStorable(TheusError):
    """A value cannot be kept in the domain by this store. ``path``: where it was written. ``what``: its type, and why."""

    fields = ("process", "path", "what")
    process: str
    path: str
    what: str


class EnvironmentBroken(TheusError):
    """The worker process that ran a call died. The call may have run in part; nothing of it was committed.

    ``exit_code``: as ``subprocess`` reports it, negative for a signal; ``None`` if unknown.
    """

    fields = ("environment", "process", "exit_code")
    environment: str
    process: str
    exit_code: int | None


class Overloaded(TheusError):
    """The engine has ``max_pending`` runs in hand and takes no more. ``pending``: how many."""

    fields = ("pending",)
    pending: int


class LimitExceeded(TheusError):
    """``repeat`` did not end within its ``limit`` of rounds."""

    fields = ("limit",)
    limit: int


class InvariantViolated(TheusError):
    """A commit would have broken an invariant of the engine; it was not made. ``invariant``: the predicate's name."""

    fields = ("invariant",)
    invariant: str


class RunFenced(TheusError):
    """Another engine took over this durable run. ``run_id``: which."""

    fields = ("run_id",)
    run_id: str


class WorkflowChanged(TheusError):
    """A recorded run was started again with different workflow code.

    ``diff``: what changed. ``recorded``: a name for what was recorded, for ``compatible_with``; "" where that is no help.
    """

    fields = ("diff", "recorded")
    diff: str
    recorded: str


class StoreError(TheusError):
    """The store failed."""


class StoreUnavailable(StoreError):
    """The store cannot be reached; nothing was lost, the call may be made again."""


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant."""
    import difflib  # not at the top: a worker would load it for nothing

    return next(iter(difflib.get_close_matches(name, list(known), 1)), None)
