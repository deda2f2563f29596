"""The records of a call: what an environment is given, and what it gives back.

A module of its own, because a worker loads it before its first call, and nothing else of ``protocols.py``: to make a
dataclass takes half a millisecond.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from theus.errors import ContractError
    from theus.processes import Process
    from theus.protocols import Host, Measured, Meter, Version
    from theus.state.access import Ops, Reads
    from theus.state.snapshot import Snapshot


class NotYet:
    """Stands for the pipe value of an attempt that is made before its turn: nobody knows it yet.

    The class itself is the mark; so it is the same one in every process.
    """


@dataclass(slots=True, eq=False)
class Call:
    """One attempt to run a process: everything an environment needs."""

    process: Process[Any, Any]
    args: tuple[Any, ...]  #: positional arguments after ``ctx``
    kwargs: dict[str, Any]
    snapshot: Snapshot | None  #: None: the engine has no domain
    config: Any  #: a read-only view
    pipe: Any  #: what the previous step returned; ``NotYet`` if it has not
    attempt: int  #: counts executions of this call from 1
    key: object  #: ``str(key)`` is run, step, item and round; equal across attempts
    deadline: float | None  #: when this attempt has to end, in the clock's seconds
    host: Host
    strict: bool = True  #: False: what breaks the contract is let through and reported
    kept: dict[str, Any] | None = None  #: results of ``ctx.once``, from attempt to attempt
    holds_ticket: bool = False  #: others may be waiting for this call to end
    meter: Meter | None = None  #: measures this attempt; clocks cost more than a short call, so only some are


@dataclass(slots=True, eq=False)
class Outcome:
    """What became of one attempt. Nothing of it has happened until it is committed."""

    value: Any = None
    error: BaseException | None = None
    base: Version = 0  #: the version that ``reads`` were made on (the snapshot may have moved forward)
    reads: Reads = ()
    ops: Ops = ()
    messages: Sequence[tuple[Process[Any, Any], dict[str, Any]]] = ()  #: messages to state, in order
    emits: Sequence[tuple[str, Any, bool]] = ()  #: (topic, value, whether it is durable), delivered after the commit
    wall: float = 0.0  #: seconds
    cpu: float | None = None  #: seconds of the thread's CPU; None: not measured this time
    place: str = ""  #: where exactly it ran: a thread's name, a worker's process id
    violations: Sequence[ContractError] = ()  #: what broke the contract, if that is let through
    kept: dict[str, Any] | None = None  #: results of ``ctx.once``
    measured: Measured | None = None
