"""What a process receives as ``ctx``: the four scopes, and a way to talk while it runs.

Making a context is on the path of every call, so it fills a few slots; the draft, ``local`` and the logger are
made when they are first asked for. At the end the draft and ``local`` close themselves and the call is replaced
by the process's name, so every later use raises and says what ended.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from theus.errors import ContractError, DefinitionError, ScopeError
from theus.protocols import NotYet
from theus.scope import Local
from theus.state.transaction import Transaction
from theus.state.values import detach

if TYPE_CHECKING:
    import asyncio
    from datetime import datetime

    from theus.processes import Process
    from theus.protocols import Call, Host, Outcome
    from theus.state.access import Grant

D = TypeVar("D")

#: The call that runs here, if any: a process that calls the engine is recognised by it.
current: ContextVar[Context[Any] | None] = ContextVar("theus_current_call", default=None)


class Context(Generic[D]):
    """The one argument that the engine gives to a process."""

    __slots__ = ("__weakref__", "_call", "_domain", "_local", "_log", "_outcome", "_transaction", "_waits")

    _call: Call | str  #: the process's name once it ended
    _outcome: Outcome
    _domain: Any
    _transaction: Transaction | None
    _local: Local | None
    _log: logging.LoggerAdapter[logging.Logger] | None
    _waits: int  #: how often this attempt has waited; there only once it has

    def __init__(self, call: Call, outcome: Outcome) -> None:
        _set_call(self, call)
        _set_outcome(self, outcome)
        _set_domain(self, None)
        _set_transaction(self, None)
        _set_local(self, None)
        _set_log(self, None)

    # --- the four scopes ---

    @property
    def domain(self) -> D:
        """The shared state as a draft: read it, change it; all of it is committed at the end, or nothing."""
        domain = self._domain
        return self._open_domain() if domain is None else domain

    @property
    def config(self) -> Any:
        """The engine's configuration, read-only: it never changes."""
        return self._open("config").config

    @property
    def pipe(self) -> Any:
        """The one value that the previous step returned."""
        call = self._open("pipe")
        if call.pipe is NotYet:
            self._stop_early(call, "reads ctx.pipe")
        return call.pipe

    @property
    def local(self) -> Local:
        """Private to this attempt; closed and emptied at its end."""
        local = self._local
        if local is None:
            process = self._open("local").process
            local = Local(process.name, is_async=process.is_async)
            _set_local(self, local)
        return local

    # --- this call ---

    @property
    def attempt(self) -> int:
        """Counts executions of this call from 1."""
        return self._open("attempt").attempt

    @property
    def key(self) -> str:
        """Run, step, item and round; equal across attempts: an idempotency key for outside effects."""
        return str(self._open("key").key)

    @property
    def deadline(self) -> float | None:
        """When this attempt has to end, in the engine clock's seconds; None without ``timeout=``."""
        return self._open("deadline").deadline

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger named after the process; its records know process, attempt and key."""
        log = self._log
        if log is None:
            call = self._open("log")
            # Bare names such as "process" are taken: a log record has its own.
            extra = {"theus_process": call.process.name, "theus_attempt": call.attempt, "theus_key": str(call.key)}
            log = logging.LoggerAdapter(logging.getLogger(f"theus.process.{call.process.name}"), extra)
            _set_log(self, log)
        return log

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"ctx has no {name!r}; it has {', '.join(sorted(_names()))}.")

    def __setattr__(self, name: str, value: object) -> NoReturn:
        if name == "domain":
            raise AttributeError("ctx.domain cannot be replaced: write its fields, ctx.domain.name = value.")
        if name in _names():
            raise AttributeError(f"ctx.{name} cannot be set: it is given by the engine.")
        raise AttributeError(f"ctx has no {name!r}: keep it in ctx.local.")

    def __repr__(self) -> str:
        call = self._call
        return f"<context of {call} (ended)>" if isinstance(call, str) else f"<context of {call.process.name}>"

    def _open(self, scope: str) -> Call:
        """The call, or the error that it has ended."""
        call = self._call
        if isinstance(call, str):
            raise ScopeError(
                f"ctx.{scope} of process {call!r} was used after the call ended. "
                "Return what should be handed on, or keep it in ctx.domain.",
                scope=scope,
                process=call,
            )
        return call

    # --- talking ---

    def report(self, value: Any) -> None:
        """Hand a live value to whoever listens (``engine.stream``, progress), at once and whatever becomes of the call."""
        call = self._open("report")
        call.host.report(call, detach(value))

    def emit(self, topic: str, value: Any) -> None:
        """Hand ``value`` to ``engine.on(topic, ...)`` after this call's commit, once; never if it fails."""
        self._open("emit")
        outcome = self._outcome
        outcome.emits = [*outcome.emits, (topic, detach(value))]

    def send(self, process: Process[Any, Any], /, **arguments: Any) -> None:
        """Send a message to the state: ``process`` (nature="state") runs in this call's commit, on the newest state.

        Messages run in order, after this call's own writes, each under its own contract; if one raises, this
        call fails with that error and nothing is committed.

        Raises:
            DefinitionError: ``process`` is not a state process, or an argument is wrong.
        """
        self._open("send")
        if getattr(process, "nature", None) != "state":
            raise DefinitionError(
                f"ctx.send takes a process with nature='state', not {process!r}: "
                "a message runs in the commit itself, so it must be short and never wait."
            )
        given = {**process.bound, **{name: detach(value) for name, value in arguments.items()}}
        process.check_arguments((), given)
        outcome = self._outcome
        outcome.messages = [*outcome.messages, (process, given)]

    def once(self, key: str, function: Callable[..., Any], /, *args: Any) -> Any:
        """Run ``function(*args)`` once in this call and keep its result across attempts: ask the model once, charge once.

        In a ``def`` it gives the result. In an ``async def`` it gives an awaitable; a ``def`` function runs off the loop.
        A function that raises keeps nothing and is run again. Outside effects stay as certain as they are: if the
        program dies between the effect and its return, it may happen again.

        Args:
            key: names the result within this call.
        """
        call = self._open("once")
        if call.kept is None:
            call.kept = {}
        if call.process.is_async:
            return self._once(call, call.kept, key, function, args)
        if key not in call.kept:
            if inspect.iscoroutinefunction(function):
                raise DefinitionError(
                    f"ctx.once({key!r}, ...) in process {call.process.name!r}, a def, cannot wait for the async def "
                    f"{function.__name__!r}: make the process async def, or give a def."
                )
            value = detach(function(*args))
            call.host.keep(call, key, value)
            call.kept[key] = value
        return call.kept[key]

    async def _once(
        self, call: Call, kept: dict[str, Any], key: str, function: Callable[..., Any], args: tuple[Any, ...]
    ) -> Any:
        while isinstance(running := kept.get(key), _Running):  # another task of this call asked for it just before
            await running.end.wait()
        if key not in kept:
            import asyncio

            kept[key] = running = _Running(asyncio.Event())
            try:
                if inspect.iscoroutinefunction(function):
                    result = await function(*args)
                else:
                    result = await call.host.off_loop(function, *args)
                result = detach(result)
                if (recording := call.host.keep(call, key, result)) is not None:
                    await recording
                kept[key] = result
            finally:
                if kept[key] is running:
                    del kept[key]
                running.end.set()
        return kept[key]

    def sleep_until(self, when: datetime) -> Any:
        """Wait until a moment has come: ``await`` it in an ``async def``; in a ``def`` it blocks.

        In a durable run the moment is recorded: a run that is begun again waits for the same one, and no longer.

        Args:
            when: with a time zone, such as ``datetime.now(UTC) + timedelta(hours=8)``.
        """
        if getattr(when, "tzinfo", None) is None:
            raise DefinitionError(
                f"ctx.sleep_until({when!r}): give a datetime with its time zone, "
                "such as datetime.now(UTC) + timedelta(hours=8)."
            )
        call, number = self._wait("sleep_until")
        return self._waiting(call, call.host.sleep_until(call, f"sleep_until #{number}", when.timestamp()))

    def wait_for(self, name: str, timeout: float | None = None) -> Any:
        """Wait for a signal, ``engine.signal(run_id, name, value)``, and give its value: ``await`` it in an ``async def``.

        A signal that came before is taken at once; each is taken by one wait, the oldest first. In a durable run
        what was taken is recorded, and ``ctx.once`` results before it stay: a run that is begun again goes on waiting.

        Args:
            name: of the signal.
            timeout: seconds; then TimeoutError is raised. In a durable run they count from the first time it waits.
        """
        call, number = self._wait("wait_for")
        return self._waiting(call, call.host.wait_for(call, f"wait_for({name!r}) #{number}", name, timeout))

    def _wait(self, what: str) -> tuple[Call, int]:
        """The call, and how manieth wait of this attempt comes now."""
        call = self._open(what)
        process = call.process
        if process.nature == "state" or process.is_source:
            kind = (
                "runs in a commit, for which all others wait" if process.nature == "state" else "is a source of items"
            )
            raise DefinitionError(
                f"process {process.name!r} {kind}, so it cannot use ctx.{what}: wait in a step before it."
            )
        number = getattr(self, "_waits", 0) + 1
        _set_waits(self, number)
        return call, number

    def _waiting(self, call: Call, work: Coroutine[Any, Any, Any]) -> Any:
        return work if call.process.is_async else call.host.block(work)

    def resource(self, name: str) -> Any:
        """The engine's resource of that name: one instance for each engine and loop, and for each worker process.

        Raises:
            DefinitionError: the engine has no resource of that name.
        """
        return self._open("resource").host.resource(name)

    def _open_domain(self) -> D:
        call = self._open("domain")
        process = call.process
        if call.snapshot is None:
            raise ScopeError(
                f"process {process.name!r} uses ctx.domain, but the engine was made without one: Engine(Shop(), ...).",
                scope="domain",
                process=process.name,
            )
        if process.is_source:
            raise ScopeError(
                f"process {process.name!r} is a generator, a source of items, and may not touch ctx.domain: "
                "it stays open over many commits. Read the domain in a step before it and pass the value on.",
                scope="domain",
                process=process.name,
            )
        transaction = self._transaction
        if transaction is None:
            transaction = Transaction(call.snapshot, process.name, grant_of(call), self._tolerated(call))
            _set_transaction(self, transaction)
        domain: D = transaction.domain
        _set_domain(self, domain)
        return domain

    def _tolerated(self, call: Call) -> list[ContractError] | None:
        """Where what breaks the contract is noted; None: it is raised."""
        if call.strict:
            return None
        violations: list[ContractError] = []
        self._outcome.violations = violations
        return violations

    # --- for the engine ---

    @property
    def call(self) -> Call | None:
        """The attempt that this belongs to; None once it ended."""
        call = self._call
        return None if isinstance(call, str) else call

    @property
    def host(self) -> Host | None:
        """Who runs this call; None once it ended."""
        call = self._call
        return None if isinstance(call, str) else call.host

    def _stop_early(self, call: Call, what: str) -> NoReturn:
        """End an attempt that was made before its turn and needs what is known only then; the engine makes another."""
        self._outcome.error = ScopeError(  # whatever the body makes of it
            f"process {call.process.name!r} {what}, but it was started before its turn (idempotent=True); "
            "this attempt ends here, and it runs again at its turn.",
            scope="pipe",
            process=call.process.name,
        )
        raise self._outcome.error

    def check_nested_run(self) -> None:
        """Refuse to call the engine from a process that has written, or for which others wait."""
        call = self._open("domain")
        if call.pipe is NotYet:
            self._stop_early(call, "calls the engine")
        written = self._transaction is not None and self._transaction.has_written
        if written or call.holds_ticket:
            done = "has written to ctx.domain" if written else "holds its turn for a contended path"
            raise ScopeError(
                f"process {call.process.name!r} {done} and then calls the engine: that run would be a commit of its own, "
                "which cannot see what is not committed yet. Call the engine before the first write, "
                "or call the other process as a function, other(ctx, ...), to join this transaction.",
                scope="domain",
                process=call.process.name,
            )

    # --- for the runner ---

    def hand_over(self, value: Any) -> None:
        """Put what the body returned, read and wrote into the outcome."""
        outcome = self._outcome
        transaction = self._transaction
        if transaction is None:
            outcome.value = value
        else:
            outcome.value = detach(value)
            outcome.reads, outcome.ops = transaction.finish()
            outcome.base = transaction.base

    def join(self, transaction: Transaction) -> None:
        """Work on a part of a commit that is being made: for a message to state."""
        call = self._open("domain")
        _set_transaction(
            self,
            transaction.nested(process=call.process.name, grant=grant_of(call), violations=self._tolerated(call)),
        )

    def close(self) -> None:
        """End the call: whoever still holds the context, a draft or the local gets an error that says so."""
        call = self._call
        if not isinstance(call, str):
            _set_call(self, call.process.name)
            # Or error -> traceback -> body's frame -> ctx -> outcome -> error would be a cycle.
            _set_outcome(self, None)
            if self._transaction is not None:
                self._transaction.close()


class _Running:
    """The place of a result that is on its way."""

    def __init__(self, end: asyncio.Event) -> None:
        self.end = end


def grant_of(call: Call) -> Grant | None:
    """What this call may read and write: the contract with its ``{arguments}`` filled in."""
    contract = call.process.contract
    if not contract.declared:
        return None
    return contract.grant(call.process.arguments(call.args, call.kwargs) if contract.is_bound else {})


def _names() -> set[str]:
    hidden = {"call", "check_nested_run", "close", "hand_over", "host", "join"}
    return {name for name in vars(Context) if not name.startswith("_")} - hidden


_set_call = Context.__dict__["_call"].__set__
_set_outcome = Context.__dict__["_outcome"].__set__
_set_domain = Context.__dict__["_domain"].__set__
_set_transaction = Context.__dict__["_transaction"].__set__
_set_local = Context.__dict__["_local"].__set__
_set_log = Context.__dict__["_log"].__set__
_set_waits = Context.__dict__["_waits"].__set__
