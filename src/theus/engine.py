"""The engine: owns the store, the environments, the scopes and the runs. Its methods are the public verbs.

One core, two doors. The core (`schedule.py`, `attempt.py`) is written once, as coroutines. ``arun`` awaits it
on the caller's loop. ``run`` decides once per workflow: if every step runs in the caller's thread, the
coroutine is driven by a single ``send(None)`` and no loop is involved; otherwise the whole run goes to the
engine's own loop thread and the caller waits for its answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import os
import secrets
import sys
import threading
import time
import weakref
from asyncio import _get_running_loop
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, cast, overload

from theus.attempt import Attempts, tell_of_lost_worker
from theus.clock import SystemClock
from theus.completion import check_invariants
from theus.context import D, check_signal_name, is_elsewhere, running_attempt, shared_context
from theus.doors import drive, drive_to_end, warn_about_loop
from theus.environments.cpus import usable_cpus
from theus.environments.in_turn import InTurnEnvironment
from theus.environments.inline import BriefEnvironment, InlineEnvironment
from theus.environments.loop import LoopEnvironment
from theus.environments.meter import Meter, Ticker
from theus.environments.own_loop import OwnLoopEnvironment
from theus.environments.thread import ThreadEnvironment
from theus.errors import DefinitionError, NotTransferable, Overloaded, ScopeError
from theus.events import Event, Observer, RunEnded, RunStarted
from theus.identity import Remembered, definition
from theus.learned import Learned
from theus.moves import may_change_loop, note_stall
from theus.nature import Explained, Explanation, Profile
from theus.outbox import Outbox
from theus.overlap import Overlap
from theus.placement import OWN_LOOP, Placement, place
from theus.portal import Exiting, Portal, Portals
from theus.processes import Process, Step
from theus.protocols import Clock, Commit, Committed, Environment, Store
from theus.records import Values
from theus.resources import Resources
from theus.run import EventStream, Run, Stream, spawn_here
from theus.schedule import NOTHING, Position, walk
from theus.state.history import Change, Difference, Growth, readable, restoring
from theus.state.snapshot import Snapshot, readonly
from theus.state.values import detach, ingest
from theus.stores import open_later, open_store
from theus.stores.memory import Elsewhere, MemoryStore
from theus.surroundings import package_of
from theus.tickets import Tickets
from theus.topics import Topics
from theus.tracebacks import begin_at_body, forget_frames
from theus.transaction_block import TransactionBlock
from theus.waits import Waits
from theus.watchdog import Stall, Watchdog
from theus.workflow import Each, Flow, Parallel, Workflow, as_step, check_start, leaves

if TYPE_CHECKING:
    from theus.workflow import Plain

T = TypeVar("T")
I = TypeVar("I")  # noqa: E741 - input
O = TypeVar("O")  # noqa: E741 - output

log = logging.getLogger("theus")

GRACE = 5.0  #: seconds that what still runs gets to end by itself
WORKERS = frozenset({"worker", "interpreter"})  #: environments that are made when they are needed
MOST_PLANS = 4096  #: targets, flows, functions and profiles remembered, of each


class Engine(Generic[D]):
    """Runs processes and workflows over one shared state.

    Args:
        domain: the shared state: a dataclass instance or a dict. None: processes without ``ctx.domain`` only.
        config: what ``ctx.config`` gives, read-only.
        store: where the state is kept: a path (``"shop.db"``), a URL (``"redis://..."``), or a ``Store``; None keeps
            it in memory. What a store holds wins over ``domain``. With a store, a run that has a ``run_id`` is
            durable: begun again, it goes on where it stopped.
        resources: name -> what makes it; ``ctx.resource(name)`` gives one instance for each loop.
        loop_factory: makes the engine's own event loop, for example ``uvloop.new_event_loop``.
        workers: worker processes at most; None: as many as there are usable CPUs.
        invariants: predicates on the domain, checked in each commit; a violated one rolls it back.
        strict: False lets through what breaks a contract, and logs it.
        max_pending: runs in hand at most; one more raises ``Overloaded``. None: no bound.
        max_tasks_per_worker: a worker is replaced after so many calls; between two calls, so nothing is lost. None: never.
        max_worker_rss: bytes; a worker process that has more in memory after a call is replaced (Linux). None: never.
        debug: run everything inline, in order, in the caller's thread, so that ``breakpoint()`` works, and check that
            nobody changes arguments, pipe values or opaque values of the domain in place.
        observers: called with every event (see ``theus.protocols``).
        clock: where time comes from; tests give their own.
    """

    #: What every call looks at; the rest is in a dict. With more than 30 attributes in the dict, each look would be dear.
    __slots__ = (
        "__dict__",
        "__weakref__",
        "_active",
        "_is_ready",
        "_max_pending",
        "_numbers",
        "_plans",
        "_token",
        "config",
        "debug",
        "invariants",
        "is_closed",
        "observers",
        "profiled",
        "store",
        "strict",
        "tickets",
    )

    def __init__(
        self,
        domain: D | None = None,
        *,
        config: object = None,
        store: str | os.PathLike[str] | Store | None = None,
        resources: Mapping[str, Callable[[], Any]] = {},
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
        workers: int | None = None,
        invariants: Sequence[Callable[[D], bool]] = (),
        strict: bool = True,
        max_pending: int | None = None,
        max_tasks_per_worker: int | None = None,
        max_worker_rss: int | None = None,
        debug: bool = False,
        observers: Sequence[Observer] = (),
        clock: Clock | None = None,
    ) -> None:
        self._check_options(loop_factory, invariants, observers, domain)
        self._check_numbers(
            workers=workers,
            max_pending=max_pending,
            max_tasks_per_worker=max_tasks_per_worker,
            max_worker_rss=max_worker_rss,
        )
        if store is not None and not isinstance(store, (str, os.PathLike)) and not hasattr(store, "commit"):
            raise DefinitionError(f"Engine(store={store!r}): give a path, a URL or a Store; or leave store= out.")
        self.config: Any = readonly(ingest(config, ("config",)))  # what its owner does to it from now on is not seen
        self.strict = strict
        self.debug = debug
        self.invariants = tuple(invariants)
        self.observers = tuple(observers)
        self.clock: Clock = clock or SystemClock()
        self._own: Store | None = None  #: to be closed at the end
        if isinstance(store, (str, os.PathLike)):
            store = self._own = (open_later if is_elsewhere.get() else open_store)(store, domain)
        in_memory = None if domain is None else Elsewhere() if is_elsewhere.get() else MemoryStore(domain)
        self.store: Store | None = store if store is not None else in_memory
        self.domain_type: type | None = None if domain is None else domain.__class__
        self._is_ready = store is None  #: else the store is opened at the first use
        self.keeps_runs = store is not None  #: else nothing outlives the engine, and a run_id is only a name
        self.threads = ThreadEnvironment(self.clock)
        self._ticker = Ticker()
        self.meters = (Meter(), Meter(self._ticker), Meter(self._ticker, witness=True))
        self.tickets = Tickets()
        self._asked_workers = workers
        self._worker_limits = (max_tasks_per_worker, max_worker_rss)
        self._max_pending = max_pending
        self._resources = Resources(resources)
        self._portal = Portal(loop_factory)
        self._own_loops = Portals(loop_factory)
        self._watchdog = Watchdog(functools.partial(_stalled, weakref.ref(self)), self._resources)
        self.topics = Topics(self._portal)
        self.codec = Values()
        self.outbox = Outbox(self.store, self.codec, self.topics, self.threads, self.clock, self._portal)
        self.waits = Waits(self.clock, self._portal, store)
        self.environments: dict[str, Environment] = {
            "inline": InlineEnvironment(),
            "loop": LoopEnvironment(self.clock),
            "thread": self.threads,
        }
        if debug:
            from theus.environments.checked import CheckedEnvironment

            for name in ("inline", "loop"):
                self.environments[name] = CheckedEnvironment(self.environments[name])
        self._brief = BriefEnvironment()
        self._in_turn = InTurnEnvironment(self.threads)
        self._lock = threading.Lock()
        self._token = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        # What is known by an id is kept with what has it, so no id stands for two.
        self._plans: Remembered[int, _Plan] = Remembered(MOST_PLANS)
        self._overlaps: Remembered[int, Overlap] = Remembered(MOST_PLANS)
        self._overlapped: Remembered[tuple[str, ...], Overlap] = Remembered(MOST_PLANS)  #: by what their steps are
        self.computed: Remembered[int, Process[Any, Any]] = Remembered(MOST_PLANS)  #: functions of ``ctx.compute``
        self.profiled: Remembered[str, Profile] = Remembered(MOST_PLANS)
        self.learned = Learned(store, self.profiled, self.clock)
        self.stalled_at: set[tuple[str, CodeType]] = set()  #: places that were told of
        self._active: set[Run[Any]] = set()
        self._ended = threading.Condition()
        self.is_closed = False
        # Also when nobody closes it: at its garbage collection, or at the interpreter's exit.
        self._finalizer = weakref.finalize(self, _shut_down, *self._started(), 1.0)

    @staticmethod
    def _check_options(
        loop_factory: object,
        invariants: Sequence[object],
        observers: Sequence[object],
        domain: object,
    ) -> None:
        if isinstance(domain, type):
            raise DefinitionError(
                f"Engine takes an instance of the domain, not the class: Engine({domain.__name__}())."
            )
        if loop_factory is not None and not callable(loop_factory):
            raise DefinitionError(
                f"Engine(loop_factory={loop_factory!r}): give a function that makes a loop, e.g. uvloop.new_event_loop."
            )
        for name, functions in (("invariants", invariants), ("observers", observers)):
            if callable(functions):
                raise DefinitionError(f"Engine({name}=...) takes a list of functions: {name}=[...].")
            for function in functions:
                if not callable(function):
                    raise DefinitionError(f"Engine({name}=...) takes functions, not {function!r}.")

    @staticmethod
    def _check_numbers(**numbers: object) -> None:
        for name, number in numbers.items():
            if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 1):
                raise DefinitionError(f"Engine({name}={number!r}): give a whole number from 1, or None.")

    # --- the doors ---

    @overload
    def run(
        self, target: Step[I, O], /, *args: Any, run_id: str | None = None, progress: bool | None = None, **kwargs: Any
    ) -> O: ...
    @overload
    def run(
        self, target: Plain, /, *args: Any, run_id: str | None = None, progress: bool | None = None, **kwargs: Any
    ) -> Any: ...
    def run(
        self, target: Any, /, *args: Any, run_id: str | None = None, progress: bool | None = None, **kwargs: Any
    ) -> Any:
        """Run a process, a workflow or a list of steps to its end, blocking; gives its result.

        Works from a script, a thread, a notebook cell and inside a running loop (which it blocks; ``await
        engine.arun`` does not). What a process raises comes out unchanged, with a note of where.

        Raises:
            DefinitionError: something cannot work; nothing has run.
            Overloaded: ``max_pending`` runs are in hand.
        """
        run, start = self._prepare(target, args, kwargs, run_id, blocking=True, progress=progress)
        if _get_running_loop() is not None:
            self._check_loop(run)
        try:
            if run.blocking and not self.debug:
                drive_to_end(self._execute(run, start))
            else:
                self._wait(run, start)
        except Exiting as carried:
            raise carried.error from None
        return run.value

    def _check_loop(self, run: Run[Any]) -> None:
        """A blocking call on a loop that runs here: refused where it would wait for itself."""
        if self._portal.is_here() and (self.debug or not run.blocking):
            self._active.discard(run)
            raise DefinitionError(
                "engine.run(...) was called on the engine's own event loop, where waiting would stop every run; "
                "write: await engine.arun(...)."
            )
        caller = running_attempt()
        # A def is on a loop only if it was seen to be short, so it is not to blame.
        if caller is None or caller.call is None or caller.call.process.is_async:
            warn_about_loop()

    def _wait(self, run: Run[Any], start: _Start) -> None:
        if self.debug and _get_running_loop() is None:
            asyncio.run(self._execute(run, start))
            return
        answer, cancel = shared_context().run(self._portal.spawn, self._execute(run, start))
        try:
            with self.threads.waited_for():
                answer.result()
        except KeyboardInterrupt:
            cancel()
            with contextlib.suppress(Exception, asyncio.CancelledError):
                answer.result(GRACE)  # its scopes close first; how it ends does not matter any more
            raise
        finally:
            del answer, cancel  # or error -> traceback -> this frame -> error would be a cycle

    @overload
    async def arun(
        self, target: Step[I, O], /, *args: Any, run_id: str | None = None, progress: bool | None = None, **kwargs: Any
    ) -> O: ...
    @overload
    async def arun(
        self, target: Plain, /, *args: Any, run_id: str | None = None, progress: bool | None = None, **kwargs: Any
    ) -> Any: ...
    async def arun(
        self, target: Any, /, *args: Any, run_id: str | None = None, progress: bool | None = None, **kwargs: Any
    ) -> Any:
        """The same as ``run``, awaited on the caller's event loop."""
        run, start = self._prepare(target, args, kwargs, run_id, blocking=False, progress=progress)
        try:
            await self._execute(run, start)
        except Exiting as carried:
            raise carried.error from None
        return run.value

    @overload
    def submit(
        self, target: Step[I, O], /, *args: Any, run_id: str | None = None, progress: bool | None = None, **kwargs: Any
    ) -> Run[O]: ...
    @overload
    def submit(
        self, target: Plain, /, *args: Any, run_id: str | None = None, progress: bool | None = None, **kwargs: Any
    ) -> Run[Any]: ...
    def submit(
        self, target: Any, /, *args: Any, run_id: str | None = None, progress: bool | None = None, **kwargs: Any
    ) -> Run[Any]:
        """Start a run and go on; gives its handle. On a running loop it runs there, otherwise on the engine's own."""
        run, start = self._prepare(target, args, kwargs, run_id, blocking=False, progress=progress)
        self._start(run, start)
        return run

    def stream(
        self, target: Any, /, *args: Any, run_id: str | None = None, progress: bool | None = None, **kwargs: Any
    ) -> Stream:
        """Run, and yield events as they happen, in a ``for`` or an ``async for``.

        A failure of the run is raised at the end. Leaving the loop early and closing the stream (or letting go
        of it) cancels the run.
        """
        run, start = self._prepare(target, args, kwargs, run_id, blocking=False, progress=progress)
        events = EventStream()
        run.listen(events.put)  # before it starts, so that nothing is missed
        self._start(run, start)
        return Stream(run, events)

    def _start(self, run: Run[Any], start: _Start) -> None:
        loop = _get_running_loop()
        work = self._kept(run, start)
        answer, cancel = shared_context().run(self._portal.spawn, work) if loop is None else spawn_here(loop, work)
        run.follow(answer, cancel, self.threads.waited_for)
        answer.add_done_callback(lambda _: self._settled(run))

    def _settled(self, run: Run[Any]) -> None:
        if run.state == "running":  # cancelled before its first step
            run.state = "cancelled"
            self._active.discard(run)

    async def _kept(self, run: Run[Any], start: _Start) -> Any:
        """A run whose handle may keep its error for long: the error keeps no frames."""
        try:
            await self._execute(run, start)
        except BaseException as error:
            if not self.debug:
                forget_frames(error)
            raise
        return run.value

    # --- a run ---

    def _prepare(
        self,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        run_id: str | None,
        *,
        blocking: bool,
        progress: bool | None,
    ) -> tuple[Run[Any], _Start]:
        """Check everything that can be checked, before anything runs."""
        if self.is_closed:
            raise DefinitionError("the engine was closed; make a new one.")
        caller = running_attempt()
        if caller is not None and getattr(caller.host, "engine", None) is self:
            caller.check_nested_run()
        plan = self._plans.get(id(target))
        if plan is None or plan.target is not target:
            plan = self._plan(target)
        step = plan.step
        if isinstance(step, Process):
            kwargs = {**step.bound, **kwargs} if step.bound else kwargs
            if args or kwargs or step.required:
                step.check_arguments(args, kwargs)
        else:
            check_start(step, args, kwargs)
        if self._max_pending is not None and (pending := len(self._active)) >= self._max_pending:
            raise Overloaded(
                f"the engine has {pending} runs in hand, as many as max_pending allows; try again later.",
                pending=pending,
            )
        run: Run[Any] = Run(step, self._token, next(self._numbers), run_id, self.observers, blocking and plan.inline)
        if run_id is not None and self.keeps_runs:
            self._check_durable(run)
            run.durable = True
        if progress:
            from theus.observe.progress import ProgressBars

            run.listen(ProgressBars())
        self._active.add(run)
        return run, (args, kwargs)

    def _check_durable(self, run: Run[Any]) -> None:
        if not isinstance(run.id, str) or not run.id or "/" in run.id:
            raise DefinitionError(f"run_id={run.id!r}: give a name without a slash, such as 'nightly-24'.")
        if isinstance(run.step, Process) and run.step.is_source:
            raise DefinitionError(
                f"run_id={run.id!r}: the generator {run.step.name!r} alone records nothing; "
                f"put its items to work: flow({run.step.name}, each(...))."
            )
        if any(other.durable and other.id == run.id for other in list(self._active)):
            raise DefinitionError(
                f"run {run.id!r} is in hand in this engine already; wait for it, or give another run_id."
            )

    def _plan(self, target: Any) -> _Plan:
        """What is found out once for each target."""
        step = as_step(target)
        if isinstance(step, Process) and step.is_method:
            raise DefinitionError(f"process {step.name!r} is a method: run it from an instance, instance.{step.name}.")
        for process in leaves(step):
            self._check_process(process)
        plan = _Plan(target, step, self._is_inline(step))
        if not isinstance(target, list):  # a list may change; a step never does
            self._plans.keep(id(target), plan)
        return plan

    def _check_process(self, process: Process[Any, Any]) -> None:
        name = place(process, blocking=False, debug=self.debug).environment
        if name == "interpreter" and sys.version_info < (3, 14):
            raise DefinitionError(
                f"process {process.name!r} asks for environment='interpreter', which needs Python 3.14 or newer; this is "
                f"{sys.version_info.major}.{sys.version_info.minor}. environment='worker' is another core, too."
            )
        if name not in self.environments and name not in WORKERS:
            raise DefinitionError(
                f"process {process.name!r} asks for environment={name!r}, which this version does not have; "
                "environment='worker' is another core."
            )
        if self.domain_type is None and self.store is not None:
            self.domain_type = type(self.store.snapshot.root)
        if self.domain_type is not None:
            process.contract.check_against(self.domain_type)

    def _is_inline(self, step: Step[Any, Any]) -> bool:
        """Whether a blocking run can be driven in its caller's thread: one ``def`` after the other, nothing beside."""
        if self.debug:
            return True
        if isinstance(step, Process):
            return not step.is_source and place(step, blocking=True, debug=False).environment == "inline"
        assert isinstance(step, Workflow)
        if isinstance(step, Flow) and step.may_overlap and self.overlap(step).is_possible:
            return False
        return not isinstance(step, (Parallel, Each)) and all(self._is_inline(child) for child in step.steps)

    async def _execute(self, run: Run[Any], start: _Start) -> None:
        """The core of a run: to its end, whatever that is. What it gives is then in ``run.value``."""
        step = run.step
        # Whoever has a handle may begin to listen at any time.
        started = self.clock.now() if run.listeners or not run.blocking else 0.0
        error: BaseException | None = None
        loop = None
        try:
            if not run.blocking:
                run.task = asyncio.current_task()
                if not self.debug:
                    loop = asyncio.get_running_loop()
                    self._watchdog.enter(loop)
            if run.listeners:
                self.tell(run, RunStarted(at=started, run_id=run.id, target=step.name))
            if not self._is_ready:
                await self._open(blocking=run.blocking)
            if run.durable:
                from theus.journal import run_recorded

                run.value = await run_recorded(self, run, start)
            elif isinstance(step, Process) and not step.is_source:
                run.value = await Attempts(self, run).call(step, NOTHING, Position(run, step.name), start)
            else:
                attempts = Attempts(self, run, start[1])
                run.value = await walk(step, start[0][0] if start[0] else NOTHING, Position(None, run), attempts)
            run.state = "done"
            return
        except Exception as failure:
            run.state, error = "failed", failure
        except BaseException as stop:
            run.state, error = "cancelled", stop
        finally:
            run.task = None
            if loop is not None:
                self._watchdog.leave(loop)
            self._active.discard(run)
            if run.waiting is not None:
                self.waits.end(run)
            if run.listeners:
                now = self.clock.now()
                shown = None if error is None else repr(error)
                self.tell(
                    run,
                    RunEnded(
                        at=now, run_id=run.id, target=step.name, state=run.state, seconds=now - started, error=shown
                    ),
                )
            if self.is_closed:
                with self._ended:
                    self._ended.notify_all()
        begin_at_body(error)
        try:
            raise error
        finally:
            del error, start  # the traceback keeps this frame, not what it saw

    async def _open(self, *, blocking: bool) -> None:
        """Get the store ready before the first run begins; reading it may take a while, and must not hold up a loop."""
        if blocking:
            self._opened()
        else:
            await asyncio.to_thread(self._opened)

    # --- what the attempts need ---

    @property
    def snapshot(self) -> Snapshot | None:
        """The newest committed state; None without a domain."""
        return None if self.store is None else self.store.snapshot

    @functools.cached_property
    def _workers(self) -> int:
        return self._asked_workers or usable_cpus()

    def profile(self, process: Process[Any, Any]) -> Profile:
        """What is known of a process, however it is bound and however often it is made."""
        name = definition(process)
        profile = self.profiled.get(name)
        if profile is None:
            profile = Profile(process.root, self._workers, self._processes_only(process))
            self.learned.recall(name, profile)
            self.profiled.keep(name, profile)
        return profile

    def _processes_only(self, process: Process[Any, Any]) -> str:
        """Why no sub-interpreter comes into question on another core; nothing if one does."""
        if self._worker_limits[1] is not None:
            return "max_worker_rss= can be kept by processes only"
        if process.takes_context and self.domain_type is not None and (package := package_of(self.domain_type)):
            return f"the domain is of {package}"
        return ""

    def overlap(self, node: Flow[Any, Any]) -> Overlap:
        """What is known of how the steps of a flow overlap."""
        overlap = self._overlaps.get(id(node))
        if overlap is None or overlap.node is not node:  # a flow that is built anew for each run is the one before
            name = tuple(definition(step) if isinstance(step, Process) else type(step).__name__ for step in node.steps)
            overlap = self._overlaps.keep(id(node), Overlap(node, self._overlapped.get(name)))
            self._overlapped.keep(name, overlap)
        return overlap

    def settle(
        self, profile: Profile, process: Process[Any, Any], blocking: bool, placement: Placement | None = None
    ) -> tuple[Placement, Environment]:
        """Decide where a process runs, for one of the doors, until it is decided anew."""
        if placement is None:
            placement = place(process, blocking=blocking, debug=self.debug, known=profile.known())
        if placement.environment == "inline" and not blocking and not self.debug:
            environment: Environment = self._brief
        elif placement.in_turn:
            environment = self._in_turn
        elif placement.environment == OWN_LOOP:
            spawn = self._own_loops.next().spawn
            environment = OwnLoopEnvironment(spawn, self.clock, functools.partial(may_change_loop, profile))
        else:
            environment = self.environment(placement.environment)
        home = profile.homes[blocking] = (placement, environment)
        return home

    def environment(self, name: str) -> Environment:
        """The environment of that name; those with workers are made at their first use."""
        environment = self.environments.get(name)
        if environment is None:
            with self._lock:
                environment = self.environments.get(name)
                if environment is None:
                    environment = self.environments[name] = self._make_environment(name)
        return environment

    def _make_environment(self, name: str) -> Environment:
        from theus.environments.peer import Limits
        from theus.environments.worker import WorkerEnvironment

        kind = WorkerEnvironment
        if name == "interpreter":
            from theus.environments.interpreter import InterpreterEnvironment

            kind = InterpreterEnvironment
        return kind(
            self._workers,
            resources=self._resources.factories,
            limits=Limits(*self._worker_limits),
            on_lost=tell_of_lost_worker,
        )

    def resource(self, name: str) -> Any:
        """The instance of a resource for the running loop, or for threads."""
        return self._resources.get(name, on_loop=_get_running_loop() is not None)

    def tell(self, run: Run[Any] | None, event: Event) -> None:
        """Hand an event to those who listen to the run, the engine's observers among them; what they raise is logged."""
        for listen in self.observers if run is None else run.listeners:
            try:
                listen(event)
            except Exception:
                log.exception("an observer failed on %s", type(event).__name__)

    def on(self, topic: str, handler: Callable[..., Any]) -> None:
        """Call ``handler(value)`` or ``handler(value, id)`` for each ``ctx.emit(topic, value)``, after its commit.

        A ``def`` or an ``async def``. Of durable emits also those that the store still has, from before a crash; they
        are handled on the engine's own loop (a ``def`` in a thread), and again until the handler returns.
        """
        self.topics.on(topic, handler)
        # A worker that imports the module takes nothing from the program.
        if self.keeps_runs and not is_elsewhere.get():
            self.outbox.look(topic)

    def signal(self, run_id: str, name: str, value: Any = None) -> None:
        """Send a signal to a run, which takes it with ``ctx.wait_for(name)``, now or later. Blocks until it is recorded.

        With a store, a run of another engine or one that stopped can be meant as well.

        Raises:
            DefinitionError: no such run is in hand or recorded, or it is done.
        """
        check_signal_name("engine.signal", name)
        run = next((run for run in list(self._active) if run.id == run_id), None)
        if run is not None and not run.durable:
            self.waits.send(run, name, detach(value))
        elif self.keeps_runs:
            from theus.journal import check_signal, record_signal

            if run is None:  # one that is in hand may not be recorded yet
                check_signal(self._opened(), run_id, name)
            record_signal(self, run_id, name, detach(value))
        else:
            raise DefinitionError(f"engine.signal({run_id!r}, {name!r}): no such run is in hand.")

    # --- looking ---

    @property
    def state(self) -> D:
        """The committed domain, read-only: one version, that never changes while you hold it."""
        return cast("D", self._opened().snapshot.view())

    def transaction(self) -> TransactionBlock[D]:
        """Change the state outside of processes: ``with engine.transaction() as shop: ...`` (or ``async with``).

        Committed at the end of the block, or not at all if it raises. A block cannot be run again: if another
        commit changed what it read, ConflictError is raised.
        """
        return TransactionBlock(self._opened(), self.tickets, self.invariants)

    def history(self, n: int = 20) -> list[Change]:
        """The newest ``n`` commits, oldest of them first: who changed what. Bounded: the last 256, or 4 MiB of writes."""
        return self._opened().history.last(n)

    def diff(self, v1: int, v2: int) -> list[Difference]:
        """What changed from version ``v1`` to ``v2``: path, old and new value. Raises DefinitionError if one is not kept."""
        store = self._opened()
        old, new = (store.history.snapshot_at(version, store.snapshot) for version in (v1, v2))
        return [readable(difference) for difference in store.history.differences(old, new)]

    def restore(self, version: int) -> int:
        """Make the state what it was at ``version``, in a new commit; gives the new version.

        Raises:
            DefinitionError: the version is not kept.
            InvariantViolated: the old state would break an invariant.
        """
        store = self._opened()
        while True:
            newest = store.snapshot
            changes = store.history.differences(newest, store.history.snapshot_at(version, newest))
            if not changes:
                return newest.version
            # What it looked at must not change before it commits; if it does, look again.
            reads = [(change.path[:-1], change.path[-1:], False, True) for change in changes]
            commit = Commit(newest.version, reads, restoring(changes), f"engine.restore({version})")
            if self.invariants:
                commit.complete = functools.partial(check_invariants, self.invariants)
            answer = drive(store.commit(commit, blocking=True))
            if isinstance(answer, Committed):
                return answer.version

    def growth(self) -> list[Growth]:
        """What only ever grew in the commits that are remembered, and which process grows it; fastest first."""
        store = self._opened()
        return store.history.growth(store.snapshot)

    def share(self, array: T) -> T:
        """A copy of an array in memory that every process in every environment sees and can write to, without another copy.

        It goes to a process as an argument or pipe value, whole or in part: ``out[a:b]`` is a view of the same memory
        there. Nothing orders who writes when, so give each its own part. The memory is free when nobody has the array
        any more.

        Raises:
            DefinitionError: it has no buffer that could be shared (it holds objects, or is not in one piece).
        """
        from theus.environments.shared import share

        return share(array)

    def _opened(self) -> Store:
        if self.store is None:
            raise ScopeError("the engine was made without a domain: Engine(Shop(), ...).", scope="domain", process="")
        if not self._is_ready:
            self.store.open()
            self.learned.read()
            self._is_ready = True
        return self.store

    def explain(self, target: Any) -> Explanation:
        """Nature → environment → reason, for a process or each process of a workflow; print it, or read its rows."""
        step = as_step(target)
        different = {definition(process): process.root for process in leaves(step)}
        return Explanation(tuple(map(self._explain, different.values())))

    def profiles(self) -> Explanation:
        """The same for every process that ran so far."""
        return Explanation(tuple(self._explain(profile.process) for profile in list(self.profiled.values())))

    def contracts(self) -> str:
        """Contracts for the processes that ran with ``Engine(strict=False)``, from what they touched: source text to paste."""
        if self.strict:
            return ""
        lines = [profile.touched.proposal(profile.process) for profile in list(self.profiled.values())]
        return "\n".join(line for line in lines if line)

    def _explain(self, process: Process[Any, Any]) -> Explained:
        profile = self.profile(process)
        return profile.explain(place(process, blocking=False, debug=self.debug, known=profile.known()))

    # --- the end ---

    def _started(self) -> tuple[Portal, Portals, Watchdog, Ticker, dict[str, Environment], Resources, Store | None]:
        """What has to be stopped."""
        watching = self._watchdog, self._ticker
        return self._portal, self._own_loops, *watching, self.environments, self._resources, self._own

    def close(self, grace: float = GRACE) -> None:
        """End the engine: cancel its runs, wait for them (at most ``grace`` seconds), stop everything it started."""
        self.is_closed = True
        here = _get_running_loop()
        for run in list(self._active):
            run.cancel()
        deadline = time.monotonic() + grace
        with self._ended:
            while any(run.loop is not here or here is None for run in list(self._active)):
                if not self._ended.wait(deadline - time.monotonic()):
                    break
        self.waits.close()
        self.outbox.close(max(0.0, deadline - time.monotonic()))
        self.learned.close(max(0.0, deadline - time.monotonic()))
        if self._finalizer.detach():
            _shut_down(*self._started(), grace)

    async def aclose(self, grace: float = GRACE) -> None:
        """The same, from a loop, which goes on meanwhile."""
        await asyncio.to_thread(self.close, grace)

    def __enter__(self) -> Engine[D]:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    async def __aenter__(self) -> Engine[D]:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        if self.store is None:
            state = "no domain"
        elif self._own is not None and not self._is_ready:
            state = "a store that was not used yet"
        else:
            state = f"{type(self.store.snapshot.root).__name__} at version {self.store.snapshot.version}"
        return f"<Engine: {state}, {len(self._active)} runs in hand{', closed' if self.is_closed else ''}>"

    def __reduce__(self) -> NoReturn:
        raise NotTransferable(
            "an Engine cannot cross to another process; a process gets what it needs as ctx and arguments.",
            process="",
            what="Engine",
        )


_Start = tuple[tuple[Any, ...], dict[str, Any]]  # the arguments that a run begins with


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is known of a target before it runs."""

    target: Any
    step: Step[Any, Any]
    inline: bool  #: a blocking run needs no loop


def _stalled(engine: weakref.ref[Engine[Any]], stall: Stall) -> None:
    """The watchdog saw something. Not a method: its thread must not keep the engine alive."""
    found = engine()
    if found is not None:
        note_stall(found, stall)


def _shut_down(
    portal: Portal,
    own_loops: Portals,
    watchdog: Watchdog,
    ticker: Ticker,
    environments: dict[str, Environment],
    resources: Resources,
    store: Store | None,
    grace: float,
) -> None:
    """Stop what an engine started. Not a method: it must not keep the engine alive."""
    watchdog.end()
    ticker.end()

    async def stop() -> None:
        for environment in environments.values():
            await environment.stop(grace)
        await resources.aclose(None)
        if portal.is_open:
            await resources.aclose(portal.loop())

    here = _get_running_loop()
    for loop in resources.loops():
        if loop is here:
            loop.create_task(resources.aclose(loop))
        elif loop.is_running() and not (portal.is_open and loop is portal.loop()):
            with contextlib.suppress(TimeoutError):
                asyncio.run_coroutine_threadsafe(resources.aclose(loop), loop).result(grace)
    if portal.is_open or not WORKERS.isdisjoint(environments) or resources.has_open:
        answer, _ = portal.spawn(stop())
        with contextlib.suppress(TimeoutError):
            answer.result(grace + 1.0)
    else:
        drive(stop())
    own_loops.close(grace)
    portal.close(grace)
    if store is not None:
        store.close()
