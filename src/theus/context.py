"""What a process receives as ``ctx``: the four scopes, and a way to talk while it runs.

``Context`` is the face of it and has only what a user may say; the ``Attempt`` behind it is what the engine works with.
Making the two is on the path of every call, so it fills a few slots; the draft, ``local`` and the logger are
made when they are first asked for. At the end the draft and ``local`` close themselves and the call is replaced
by the process's name, so every later use raises and says what ended.
"""

from __future__ import annotations

import contextvars
import functools
import inspect
from collections.abc import Callable, Coroutine
from threading import get_ident
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, final

from theus.calls import NotYet
from theus.errors import ContractError, DefinitionError, ScopeError
from theus.scope import Local
from theus.state.values import LEAVES, detach

if TYPE_CHECKING:
    import asyncio
    import logging
    from datetime import datetime

    from theus.calls import Call, Outcome
    from theus.processes import Process
    from theus.protocols import Host
    from theus.state.access import Grant
    from theus.state.transaction import Transaction

if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault  # checkers know it without the package

    D = TypeVarWithDefault("D", default=Any)  # so that ``Engine()`` and ``ctx: Context`` need no type parameter
else:
    D = TypeVar("D")
T = TypeVar("T")

#: Whether this is a worker, outside of a body: what makes an engine there imports a module that has one.
is_elsewhere: contextvars.ContextVar[bool] = contextvars.ContextVar("theus_is_elsewhere", default=False)


@final
class Here:
    """Which attempt of a ``def`` runs in one thread at the moment.

    A ``def`` never lets others run in its thread before it ends, so this is changed in place, and put back. To set and
    reset a context variable each time would be a twentieth of a short call.
    """

    __slots__ = ("around", "attempt", "thread")

    def __init__(self, thread: int, around: Attempt | None) -> None:
        self.thread = thread
        self.around = around  #: the ``async def`` attempt to which the context belongs: it is so in any thread
        self.attempt = around


#: The attempt that runs here, if any: a process that calls the engine is recognised by it.
current: contextvars.ContextVar[Attempt | Here | None] = contextvars.ContextVar("theus_current_attempt", default=None)
_get, begin_attempt, end_attempt = current.get, current.set, current.reset  # looking them up would cost as much


def here() -> Here:
    """Where the attempts of this thread are noted."""
    found, thread = _get(), get_ident()
    if type(found) is not Here:
        around = found
    elif found.thread == thread:
        return found
    else:
        around = found.around  # this context was copied from one of another thread
    made = Here(thread, around)
    begin_attempt(made)
    return made


def running_attempt() -> Attempt | None:
    """The attempt from which this is called."""
    found = _get()
    if type(found) is not Here:
        return found
    return found.attempt if found.thread == get_ident() else found.around


def shared_context() -> contextvars.Context:
    """A copy of the context variables for another thread, where it is then known who waits here for what is done there."""
    copied = contextvars.copy_context()
    copied.run(begin_attempt, running_attempt())
    return copied


def attempt_of(context: contextvars.Context) -> Attempt | None:
    """The ``async def`` attempt to which a context belongs."""
    found = context.get(current)
    return found.around if type(found) is Here else found


class Context(Generic[D]):
    """The one argument that the engine gives to a process."""

    __slots__ = ("__weakref__", "_attempt")

    _attempt: Attempt

    def __init__(self, attempt: Attempt) -> None:
        _set_attempt(self, attempt)

    # --- the four scopes ---

    @property
    def domain(self) -> D:
        """The shared state as a draft: read it, change it; all of it is committed at the end, or nothing."""
        attempt = self._attempt
        domain: D | None = attempt.domain
        return attempt.open_domain() if domain is None else domain

    @property
    def config(self) -> Any:
        """The engine's configuration, read-only: it never changes."""
        return self._attempt.open("config").config

    @property
    def pipe(self) -> Any:
        """The one value that the previous step returned."""
        call = self._attempt.open("pipe")
        if call.pipe is NotYet:
            self._attempt.stop_early(call, "reads ctx.pipe")
        return call.pipe

    @property
    def local(self) -> Local:
        """Private to this attempt; closed and emptied at its end."""
        attempt = self._attempt
        if attempt.local is None:
            process = attempt.open("local").process
            attempt.local = Local(process.name, is_async=process.is_async)
        return attempt.local

    # --- this call ---

    @property
    def attempt(self) -> int:
        """Counts executions of this call from 1."""
        return self._attempt.open("attempt").attempt

    @property
    def key(self) -> str:
        """Run, step, item and round; equal across attempts: an idempotency key for outside effects."""
        return str(self._attempt.open("key").key)

    @property
    def deadline(self) -> float | None:
        """When this attempt has to end, in the engine clock's seconds; None without ``timeout=``."""
        return self._attempt.open("deadline").deadline

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger named after the process; its records know process, attempt and key."""
        attempt = self._attempt
        if attempt.log is None:
            import logging  # not at the top: a worker that logs nothing need not load it

            call = attempt.open("log")
            # Bare names such as "process" are taken: a log record has its own.
            extra = {"theus_process": call.process.name, "theus_attempt": call.attempt, "theus_key": str(call.key)}
            attempt.log = logging.LoggerAdapter(logging.getLogger(f"theus.process.{call.process.name}"), extra)
        return attempt.log

    # There is no ``__getattr__``: it would make each look at ``ctx.domain`` three times as dear. See ``advise``.
    if not TYPE_CHECKING:  # to a type checker it would say that anything may be set

        def __setattr__(self, name: str, value: object) -> NoReturn:
            if name == "domain":
                raise AttributeError("ctx.domain cannot be replaced: write its fields, ctx.domain.name = value.")
            if name in _names():
                raise AttributeError(f"ctx.{name} cannot be set: it is given by the engine.")
            raise AttributeError(f"ctx has no {name!r}: keep it in ctx.local.")

    def __repr__(self) -> str:
        call = self._attempt.call
        return f"<context of {self._attempt.ended} (ended)>" if call is None else f"<context of {call.process.name}>"

    # --- talking ---

    def report(self, value: Any) -> None:
        """Hand a live value to whoever listens (``engine.stream``, progress), at once and whatever becomes of the call."""
        call = self._attempt.open("report")
        call.host.report(call, detach(value))

    def emit(self, topic: str, value: Any, *, durable: bool = False) -> None:
        """Hand ``value`` to ``engine.on(topic, ...)`` after this call's commit, once; never if it fails.

        Args:
            topic: who listens to it gets the value.
            value: what is handed over.
            durable: recorded in the same commit, and delivered until each handler has returned: at least once, also
                after a crash. The handler learns an id that is the same each time, if it takes ``(value, id)``.

        Raises:
            DefinitionError: ``durable``, but the engine has no domain, and so no commit.
        """
        call = self._attempt.open("emit")
        if durable and call.snapshot is None:
            raise DefinitionError(
                f"ctx.emit({topic!r}, ..., durable=True): the engine was made without a domain, so there is no commit "
                "to record it in: Engine(Shop(), store=...)."
            )
        outcome = self._attempt.outcome
        outcome.emits = [*outcome.emits, (topic, detach(value), durable)]

    def send(self, process: Process[Any, Any], /, **arguments: Any) -> None:
        """Send a message to the state: ``process`` (nature="state") runs in this call's commit, on the newest state.

        Messages run in order, after this call's own writes, each under its own contract; if one raises, this
        call fails with that error and nothing is committed.

        Raises:
            DefinitionError: ``process`` is not a state process, or an argument is wrong.
        """
        self._attempt.open("send")
        if getattr(process, "nature", None) != "state":
            raise DefinitionError(
                f"ctx.send takes a process with nature='state', not {process!r}: "
                "a message runs in the commit itself, so it must be short and never wait."
            )
        given = {**process.bound, **{name: detach(value) for name, value in arguments.items()}}
        process.check_arguments((), given)
        outcome = self._attempt.outcome
        outcome.messages = [*outcome.messages, (process, given)]

    def once(self, key: str, function: Callable[..., Any], /, *args: Any) -> Any:
        """Run ``function(*args)`` once in this call and keep its result across attempts: ask the model once, charge once.

        In a ``def`` it gives the result. In an ``async def`` it gives an awaitable; a ``def`` function runs off the loop.
        A function that raises keeps nothing and is run again. Outside effects stay as certain as they are: if the
        program dies between the effect and its return, it may happen again.

        Args:
            key: names the result within this call.
        """
        call = self._attempt.open("once")
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
        check_signal_name("ctx.wait_for", name)
        return self._waiting(call, call.host.wait_for(call, f"wait_for({name!r}) #{number}", name, timeout))

    def _wait(self, what: str) -> tuple[Call, int]:
        """The call, and how manieth wait of this attempt comes now."""
        call = self._attempt.open(what)
        process = call.process
        if process.nature == "state" or process.is_source:
            kind = (
                "runs in a commit, for which all others wait" if process.nature == "state" else "is a source of items"
            )
            raise DefinitionError(
                f"process {process.name!r} {kind}, so it cannot use ctx.{what}: wait in a step before it."
            )
        self._attempt.waits += 1
        return call, self._attempt.waits

    def _waiting(self, call: Call, work: Coroutine[Any, Any, Any]) -> Any:
        return work if call.process.is_async else call.host.block(work)

    def compute(self, function: Callable[..., T], /, *args: Any) -> Coroutine[Any, Any, T]:
        """Run a plain function on another core and give its result: ``await ctx.compute(solve, board)``.

        For what computes inside an ``async def``, and would keep its event loop waiting. The function gets copies of its
        arguments and has no ``ctx``; it is stopped with the call.

        Raises:
            DefinitionError: in a ``def``, which goes to another core itself; or for an ``async def`` function.
            NotTransferable: the function, an argument or the result cannot be sent.
            EnvironmentBroken: the worker died.
        """
        call = self._attempt.open("compute")
        if not call.process.is_async:
            raise DefinitionError(
                f"process {call.process.name!r} is a def, so ctx.compute has nobody to await it: call the function itself. "
                "What a def computes goes to another core with the whole process (nature='cpu' says so by hand)."
            )
        return call.host.compute(call, function, args)

    def resource(self, name: str) -> Any:
        """The engine's resource of that name: one instance for each engine and loop, and for each worker process.

        Raises:
            DefinitionError: the engine has no resource of that name.
        """
        return self._attempt.open("resource").host.resource(name)


class Attempt:
    """One try of a call while it runs, as the engine sees it."""

    __slots__ = ("call", "domain", "ended", "local", "log", "outcome", "transaction", "waits")

    call: Call | None  #: None once it ended
    ended: str  #: the process's name then
    outcome: Outcome
    domain: Any  #: the draft, once it was asked for
    transaction: Transaction | None
    local: Local | None
    log: logging.LoggerAdapter[logging.Logger] | None
    waits: int  #: how often it has waited

    def __init__(self, call: Call, outcome: Outcome, transaction: Transaction | None = None) -> None:
        self.call = call
        self.outcome = outcome
        self.transaction = transaction
        self.domain = self.local = self.log = None
        self.waits = 0
        self.ended = ""

    def open(self, scope: str) -> Call:
        """The call, or the error that it has ended."""
        call = self.call
        if call is None:
            raise ScopeError(
                f"ctx.{scope} of process {self.ended!r} was used after the call ended. "
                "Return what should be handed on, or keep it in ctx.domain.",
                scope=scope,
                process=self.ended,
            )
        return call

    def open_domain(self) -> Any:
        """The draft of the domain, at its first use."""
        call = self.call or self.open("domain")
        process, snapshot = call.process, call.snapshot
        if snapshot is None:
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
        transaction = self.transaction
        if transaction is None:
            head = snapshot.head
            if head is not None and head.version != snapshot.version:
                snapshot = head.snapshot  # nothing was read yet, so it may as well be the newest state
            contract = process.contract
            grant = grant_of(call) if contract.is_bound else contract.fixed
            begin, violations = _transactions(), None if call.strict else self._tolerated()
            self.transaction = transaction = begin(snapshot, process.name, grant, violations)
        self.domain = domain = transaction.domain
        return domain

    def _tolerated(self) -> list[ContractError]:
        """Where what breaks the contract is noted instead of raised."""
        violations: list[ContractError] = []
        self.outcome.violations = violations
        return violations

    @property
    def host(self) -> Host | None:
        """Who runs this call; None once it ended."""
        call = self.call
        return None if call is None else call.host

    def stop_early(self, call: Call, what: str) -> NoReturn:
        """End an attempt that was made before its turn and needs what is known only then; the engine makes another."""
        self.outcome.error = ScopeError(  # whatever the body makes of it
            f"process {call.process.name!r} {what}, but it was started before its turn (idempotent=True); "
            "this attempt ends here, and it runs again at its turn.",
            scope="pipe",
            process=call.process.name,
        )
        raise self.outcome.error

    def check_nested_run(self) -> None:
        """Refuse to call the engine from a process that has written, or for which others wait."""
        call = self.open("domain")
        if call.pipe is NotYet:
            self.stop_early(call, "calls the engine")
        written = self.transaction is not None and self.transaction.has_written
        if written or call.holds_ticket:
            done = "has written to ctx.domain" if written else "holds its turn for a contended path"
            raise ScopeError(
                f"process {call.process.name!r} {done} and then calls the engine: that run would be a commit of its own, "
                "which cannot see what is not committed yet. Call the engine before the first write, "
                "or call the other process as a function, other(ctx, ...), to join this transaction.",
                scope="domain",
                process=call.process.name,
            )

    def hand_over(self, value: Any) -> None:
        """Put what the body returned, read and wrote into the outcome."""
        if type(value) is CoroutineType:
            raise _not_awaited(value)
        outcome = self.outcome
        transaction = self.transaction
        if transaction is None:
            outcome.value = value
        else:
            outcome.value = value if type(value) in LEAVES else detach(value)
            outcome.reads, outcome.ops = transaction.finish()
            outcome.base = transaction.base

    def close(self) -> None:
        """End the call: whoever still holds the context, a draft or the local gets an error that says so."""
        call, transaction = self.call, self.transaction
        if call is not None:
            self.call, self.ended = None, call.process.name
            # Or error -> traceback -> body's frame -> ctx -> outcome -> error would be a cycle.
            self.outcome = _GONE
            if transaction is not None:
                transaction.close()
                self.transaction = None


def advise(error: BaseException) -> None:
    """Say what there is, if a body asked its context for what it does not have."""
    if isinstance(error, AttributeError) and isinstance(error.obj, Context):
        error.add_note(f"ctx has {', '.join(sorted(_names()))}")


def _not_awaited(coroutine: CoroutineType[Any, Any, Any]) -> TypeError:
    coroutine.close()  # or Python would warn of it later, and elsewhere
    name = coroutine.__qualname__
    return TypeError(
        f"it returned the coroutine {name}(...), which has not run: an await is missing. "
        f"Write `return await {name}(...)` in an async def."
    )


def check_signal_name(where: str, name: object) -> None:
    """Refuse a name that no signal can have: it stands between slashes in the keys of records."""
    if not isinstance(name, str) or not name or "/" in name:
        raise DefinitionError(f"{where}: a signal's name is a text without a slash, not {name!r}.")


class _Running:
    """The place of a result that is on its way."""

    def __init__(self, end: asyncio.Event) -> None:
        self.end = end


@functools.cache
def _transactions() -> type[Transaction]:
    """What begins one. Not imported above, because a worker that is given no domain need not load it; and looked for once."""
    from theus.state.transaction import Transaction

    return Transaction


def grant_of(call: Call) -> Grant | None:
    """What this call may read and write: the contract with its ``{arguments}`` filled in."""
    process = call.process
    contract = process.contract
    return contract.grant(process.arguments(call.args, call.kwargs)) if contract.is_bound else contract.fixed


def _names() -> set[str]:
    return {name for name in vars(Context) if not name.startswith("_")}


_set_attempt = Context.__dict__["_attempt"].__set__
_GONE: Any = None  # in the place of the outcome, after the end
