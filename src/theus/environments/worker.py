"""Worker processes: calls that compute, on another core, and calls that must be stoppable whatever they do.

What crosses (see ``wire.py`` for the messages, ``parcel.py`` for the values)::

    there   the process (once), arguments, pipe value, the part of the domain that its contract names, config,
            context variables that have a name · attempt, key, deadline
    back    value or error with traceback, reads, operations, messages, emits, times · ctx.report and log
            records at once · print, because stdout is the same

Everything is packed in the caller's thread and context, as it is when the call is made. Timeouts run in real time: it is a
process of the system that has to be stopped, not a clock.

Module-level state of a worker is its own: a global that a process changes is changed for later calls in the same
worker only, and is not sent back. Constants that the program has set in a module of its own, and that the process names,
are there what they are here, and so are environment variables and the interpreter's limits.
"""

from __future__ import annotations

import asyncio
import itertools
import marshal
import os
import pickle
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context, copy_context
from functools import partial
from time import thread_time
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from theus.environments import price, wire
from theus.environments.batch import Entry, Items, Series, Singles
from theus.environments.book import Book, Needs, told
from theus.environments.cpus import usable_cpus
from theus.environments.faults import culprit, open_error, text_of
from theus.environments.job import NOTHING, SHORT, SMALL, Job, Packed
from theus.environments.logs import Levels, LevelWatch, handle, levels
from theus.environments.losses import Kind
from theus.environments.near_parts import NearParts, named, touched
from theus.environments.parcel import FAULTS, PROTOCOL, SIMPLE, TEXTS, Parcel, is_simple
from theus.environments.parts import WHOLE, entries_of
from theus.environments.peer import Limits
from theus.environments.pool import LINE, Pool
from theus.environments.variables import Variables
from theus.environments.worker_process import WorkerProcess
from theus.errors import NotTransferable
from theus.protocols import Measured, Outcome
from theus.state.snapshot import Snapshot

if TYPE_CHECKING:
    from theus.environments.book import Definition
    from theus.environments.job import Told
    from theus.environments.peer import Carrier
    from theus.processes import Process
    from theus.protocols import Call, Calls

__all__ = ["WorkerEnvironment", "WorkerInfo", "usable_cpus"]

NO_LIMITS = Limits()
_TOGETHER = 0.05  #: seconds of work in a batch
_MOST_TOGETHER = 512  #: calls in one
#: What is behind os.environ: compared on the path of every call, where a copy of os.environ would take 30 us.
_VARIABLES: Mapping[Any, Any] = vars(os.environ).get("_data", os.environ)


class WorkerInfo(NamedTuple):
    """A worker: its process id, how many calls it has done, and whether it is starting, idle, running or ending."""

    pid: int  #: of a sub-interpreter its own id
    calls: int
    state: str


def _nobody(call: Call, environment: str, exit_code: int | None) -> None:
    pass


class WorkerEnvironment:
    """Runs calls in worker processes, started when needed, up to ``capacity``. Safe to use from any thread and loop.

    ``resources``: how a worker makes its own instance of each. ``limits``: when one is replaced. ``on_lost``: is told when a worker died under a call:
    the call, the name of the environment and the exit code.
    """

    name = "worker"
    noun = "worker process"
    place = "pid {}"  #: of an outcome, with the worker's number
    carrier: ClassVar[type[Carrier]] = WorkerProcess

    def __init__(
        self,
        capacity: int,
        *,
        resources: Mapping[str, Callable[[], Any]] | None = None,
        limits: Limits = NO_LIMITS,
        on_lost: Callable[[Call, str, int | None], None] = _nobody,
    ) -> None:
        self.capacity = capacity
        self._resources = dict(resources or {})
        self._limits = limits
        self._on_lost = on_lost
        self._open()

    def _open(self) -> None:
        self._pid = os.getpid()
        self._variables = Variables()
        self._book = Book(self._variables.name_of)
        self._set_up = SetUp(self._book, self._resources)
        self._numbers = itertools.count(1)  # for configs; several threads draw from it
        self._parts = NearParts(self._packed)
        self._snapshot: tuple[int, Packed] | None = None  #: the last one that was packed, without its parts
        self._config: tuple[Any, int, Packed | None] = (None, 0, None)
        self._places: dict[int, str] = {}  #: of the workers, by their numbers
        self._gathering: dict[asyncio.AbstractEventLoop, Singles] = {}  #: calls of the turn that each loop is in
        book = self._book
        self._pool = Pool(
            self.capacity,
            kind=Kind(self.name, self.noun),
            carrier=self.carrier,
            limits=self._limits,
            set_up=self._set_up.current,
            on_lost=self._on_lost,
            on_log=lambda parcel: handle(book.open(parcel)),
            on_report=lambda call, parcel: call.host.report(call, book.open(parcel)),
            dropped=book.dropped,
        )
        self._finalizer = weakref.finalize(self, Pool.forget, self._pool)
        self._finalizer.atexit = False

    async def start(self) -> None:
        """Nothing to do: workers start when they are needed."""

    async def run(self, call: Call) -> Outcome:
        """Run one attempt in a worker process; see ``theus.protocols.Environment``."""
        self._note_fork()
        process = call.process
        if call.meter is not None or process.takes_context or process.timeout is not None:
            return await self._run_alone(call)
        # It may go together with others.
        context = copy_context()
        variables = self._travelling(context)
        entry = self._entry(call, call.args, variables, bool(variables or call.kwargs))
        if isinstance(entry, Packed):
            return await self._run_alone(call, entry)
        loop = asyncio.get_running_loop()
        definition, needs = self._define(process)
        batch = self._gathering.get(loop)
        if batch is None or not batch.takes(definition, needs):
            batch = self._new_batch(call, loop, context, definition, needs)
        future = loop.create_future()
        place = batch.add(call, entry, context, future)
        if self._gathering.get(loop) is not batch:
            self._hand_in(batch)
        try:
            kind, content, number = await future
        except asyncio.CancelledError:
            for ended in self._pool.withdraw(batch, place):
                await ended
            raise
        return self._outcome(call, definition, kind, content, number)

    def _new_batch(
        self,
        call: Call,
        loop: asyncio.AbstractEventLoop,
        context: Context,
        definition: Definition,
        needs: Told,
    ) -> Singles:
        """One for a call that cannot join others; it takes in those that come in the same turn, if there are others at all."""
        gathering = self._gathering
        before = gathering.pop(loop, None)
        if before is not None:
            self._hand_in(before)
        like = self._like(call, loop, context, definition, needs)
        batch = Singles(like)
        if not self._pool.is_idle():
            for other in [other for other in gathering if other.is_closed()]:
                del gathering[other]
            gathering[loop] = batch
            loop.call_soon(self._gathered, loop, batch)
        return batch

    def _gathered(self, loop: asyncio.AbstractEventLoop, batch: Singles) -> None:
        """The turn in which they were made is over."""
        if self._gathering.get(loop) is batch:
            del self._gathering[loop]
            self._hand_in(batch)

    def _hand_in(self, batch: Singles) -> None:
        series, batch.series = batch.series, None
        if series is not None:
            self._pool.submit((series,))

    async def _run_alone(self, call: Call, payload: Packed | None = None) -> Outcome:
        """Run a call that is a job of its own. ``payload``: if it is packed already."""
        metered = call.meter is not None
        started = thread_time() if metered else 0.0
        job = self._pack(call, payload)
        packing = thread_time() - started if metered else 0.0
        definition = job.definition
        is_first = definition.seconds is None
        future = job.future = job.loop.create_future()
        self._pool.submit((job,))
        try:
            kind, content, number = await future
        except asyncio.CancelledError:
            for ended in self._pool.abandon((job,)):
                await ended
            raise
        if not metered or is_first:  # its price would hold what was found out once
            return self._outcome(call, definition, kind, content, number, job.parts)
        started = thread_time()
        outcome = self._outcome(call, definition, kind, content, number, job.parts)
        moved = price.size_of(None if job.payload is None else job.payload.parcel) + price.size_of(content)
        # Over there it is done once more, the other way round.
        moving = 2 * (packing + thread_time() - started) + moved * price.SECONDS_PER_BYTE
        outcome.measured = Measured(moved=moved, moving=moving)
        return outcome

    def at_once(self, process: Process[Any, Any]) -> int:
        """How many calls of a process should be made at once: what keeps a worker busy for a while, if that is known."""
        seconds = self._book.seconds(process.root if process.fn is process.root.fn else process)
        if not seconds or seconds > LINE / 2:
            return 1
        return min(int(_TOGETHER / seconds), _MOST_TOGETHER)

    async def run_many(self, calls: Calls, take: Callable[[int, Outcome], bool]) -> None:
        """Run calls of one process that takes no context and has no timeout, as ``run`` does.

        ``take``: is called with the place of each and what became of it, as soon as that is known; if it gives False,
        the others are stopped.
        """
        self._note_fork()
        first = calls[0]
        definition, needs = self._define(first.process)
        like = self._like(first, asyncio.get_running_loop(), copy_context(), definition, needs)
        batch = Items(
            calls,
            like.context,
            like.loop.create_future(),
            take,
            lambda call, answer: self._outcome(call, definition, *answer),
            partial(self._outcomes_of, definition),
        )
        jobs = self._part(batch, like)
        try:
            if not batch.over.done():
                self._pool.submit(jobs)
                await batch.over
        finally:
            if batch.left:
                for ended in self._pool.abandon(batch.jobs):
                    await ended

    def _part(self, batch: Items, like: Job) -> list[Job]:
        """The jobs of a batch: series of small calls, and big ones one by one. What cannot cross has its answer already."""
        jobs: list[Job] = []
        series: Series | None = None
        variables = self._travelling(like.context)
        by_value = bool(variables or batch.calls.kwargs)
        for place, args in enumerate(batch.calls.arguments):
            entry: Entry | Packed = args
            if by_value or not all(map(_is_tiny, args)):
                call = batch.call(place)
                try:
                    entry = self._entry(call, args, variables, by_value)
                except NotTransferable as failure:
                    series = None
                    batch.answered(place, failure)
                    continue
                if isinstance(entry, Packed):
                    series = None
                    jobs.append(alone := like.for_call(call))
                    alone.payload, alone.future = entry, batch.future(place)
                    batch.jobs.add(alone)
                    continue
            if series is None:
                jobs.append(series := Series(like, batch, place, []))
            series.add(entry)
        return jobs

    def _entry(self, call: Call, args: tuple[Any, ...], variables: Sequence[Any], by_value: bool) -> Entry | Packed:
        """What a call is given in a frame that it shares with others; packed, if it is too big for that."""
        if not by_value and all(map(_is_tiny, args)):
            return args
        payload = self._pack_payload(call, variables)
        if payload is None:
            return ()
        if not payload.is_small:
            return payload
        assert isinstance(payload.parcel.data, bytes)  # it is small
        return payload.parcel.data

    def _note_fork(self) -> None:
        if self._pid != os.getpid():  # this process was forked off; the workers are the parent's
            self._finalizer.detach()
            self._pool.disown()
            self._open()

    def rehearse(self, call: Call, outcome: Outcome, limit: float, domain: bool) -> tuple[int, float]:
        """What it would take to send a call and its result: bytes and seconds. Blocks.

        ``limit``: seconds after which it gives up and says what it took so far. ``domain``: it is another one each
        time. What seems dear is packed again, and the least counts: modules may have been loaded, or garbage been
        collected, and by one measurement the process would stay here for a thousand calls. Raises NotTransferable.
        """
        parts = [("an argument", (call.args, call.kwargs)), ("the pipe value", call.pipe)]
        parts.append(("the result", outcome.value))
        if domain and call.snapshot is not None:
            split, entries = self._parts.split(call.snapshot), entries_of(call.snapshot.root)
            parts.append(("the domain", split.snapshot.root))
            came_to = touched(outcome.reads, outcome.ops, split.numbers)
            parts += [(f"the domain.{name}".rstrip("."), entries[name]) for name in came_to]
        least = self._price(call.process.name, parts, limit)
        if least.seconds > price.DEAR * limit:
            least = min(least, self._price(call.process.name, parts, limit), key=lambda found: found.seconds)
        return least.bytes, least.seconds

    def _price(self, process: str, parts: Sequence[tuple[str, Any]], limit: float) -> price.Price:
        found = price.Price(limit)
        for place, part in parts:
            try:
                found.add(part, self._book)
            except FAULTS as error:
                raise self._refuse(process, culprit(part, place, self._try), error) from error
        return found

    async def stop(self, grace: float) -> None:
        """End the workers. Those at rest end at once, the others with their call or after ``grace`` seconds."""
        if self._pid == os.getpid():
            await asyncio.wrap_future(self._pool.close(grace))

    def workers(self) -> list[WorkerInfo]:
        """The workers there are now."""
        if self._pid != os.getpid():
            return []
        return [WorkerInfo(worker.number, worker.done, worker.state) for worker in list(self._pool.workers)]

    # --- there ---

    def _pack(self, call: Call, payload: Packed | None = None) -> Job:
        context = copy_context()
        job = self._like(call, asyncio.get_running_loop(), context, *self._define(call.process), short=SHORT)
        job.timeout = call.process.timeout
        job.measured = call.meter is not None
        job.payload = payload or self._pack_payload(call, self._travelling(context))
        if call.process.takes_context:  # nothing else sees the domain or the config
            if call.snapshot is not None:
                self._add_snapshot(job, call.snapshot)
            if call.config is not None:
                self._add_config(job, call)
        return job

    def _define(self, process: Process[Any, Any]) -> tuple[Definition, Told]:
        """The definition of a process as it is now, and what has to be told of it."""
        # What bind fixed is among the arguments: as a part of the process it would be sent by value at each call.
        root = process.root
        try:
            return self._book.process(root if process.fn is root.fn else process)
        except FAULTS as error:
            place = f"process {process.name!r}"
            raise self._refuse(process.name, culprit(process, place, self._try), error) from error

    def _like(
        self,
        call: Call,
        loop: asyncio.AbstractEventLoop,
        context: Context,
        definition: Definition,
        needs: Told,
        *,
        short: float = LINE / 2,
    ) -> Job:
        """A call without its arguments, or all that several have in common. ``short``: seconds that a short one takes."""
        job = Job()
        job.call = call
        job.name = call.process.name
        job.loop = loop
        job.context = context
        job.numbers = (call.attempt, str(call.key), call.deadline, call.strict)
        job.definition, job.needs = definition, needs
        job.short = definition.seconds is not None and definition.seconds <= short
        return job

    def _travelling(self, context: Context) -> Sequence[Any]:
        """The context variables that travel."""
        if not context:
            return ()
        return [(name, value) for name, value in self._variables.travelling(context) if self._can_travel(value)]

    def _pack_payload(self, call: Call, variables: Sequence[Any]) -> Packed | None:
        args, kwargs, pipe, kept = call.args, call.kwargs, None, None
        if call.process.takes_context:  # nothing else sees these
            pipe, kept = call.pipe, call.kept
        if not (kwargs or variables or kept) and is_simple(pipe) and all(is_simple(value) for value in args):
            if not args and pipe is None:
                return None
            return Packed(Parcel(pickle.dumps((args, kwargs, pipe, kept, ()), PROTOCOL), (), True), [])
        try:
            return self._packed((args, kwargs, pipe, kept, variables))
        except FAULTS as error:
            names = [*call.process.parameters, *("*args" for _ in args)]
            places = [(f"argument {name!r}", value) for name, value in zip(names, args, strict=False)]
            places += [(f"argument {name!r}", value) for name, value in kwargs.items()]
            places += [("the pipe value", pipe), ("the arguments", args)]
            place, value = next(found for found in places if not self._crosses(found[1]))
            raise self._refuse(call.process.name, culprit(value, place, self._try), error) from error

    def _packed(self, value: Any) -> Packed:
        needs: Needs = {}
        parcel = self._book.pack(value, needs, self._pool.blocks)
        return Packed(parcel, told(needs))

    def _try(self, value: Any) -> None:
        needs: Needs = {}
        self._book.pack(value, needs)

    def _crosses(self, value: Any) -> bool:
        try:
            self._try(value)
        except FAULTS:
            return False
        return True

    def _can_travel(self, value: Any) -> bool:
        return type(value) in SIMPLE or self._crosses(value)

    def _add_snapshot(self, job: Job, snapshot: Snapshot) -> None:
        split = self._parts.split(snapshot)
        version, numbers = split.version, split.numbers

        def packed() -> Packed:
            kept = self._snapshot
            if kept is None or kept[0] != version:
                try:
                    kept = self._snapshot = (version, self._packed(split.snapshot))
                except FAULTS as error:
                    raise self._refuse(
                        job.name, culprit(split.snapshot.root, "the domain", self._try), error
                    ) from error
            return kept[1]

        def part(name: str, had: int) -> tuple[int, Packed]:
            try:
                return self._parts.pack(snapshot.root, name, numbers[name], had)
            except FAULTS as error:
                value, place = entries_of(snapshot.root)[name], f"the domain.{name}".rstrip(".")
                raise self._refuse(job.name, culprit(value, place, self._try), error) from error

        job.snapshot, job.version, job.parts, job.part = packed, version, numbers, part
        needed = list(numbers) if WHOLE in numbers else named(job.call, numbers)
        job.ahead = [name for name in job.definition.asked if name in numbers] if needed is None else needed
        # Packed here, where the caller hears of it, not under the pool's lock; usually it is sent right away.
        if self._pool.lacks_snapshot(version):
            packed()
        for name in job.ahead:
            for had in self._pool.lacks_part(name, numbers[name]):
                try:
                    part(name, had)
                except NotTransferable:
                    if needed is not None:
                        raise
                    # It may not be touched this time: who does touch it asks for it.

    def _add_config(self, job: Job, call: Call) -> None:
        config, number, packed = self._config
        if call.config is not config:
            try:
                packed = self._packed(call.config)
            except FAULTS as error:
                raise self._refuse(job.name, culprit(call.config, "config", self._try), error) from error
            number = next(self._numbers)
            self._config = (call.config, number, packed)
        job.config, job.config_number = packed, number

    def _refuse(self, process: str, what: str, error: BaseException) -> NotTransferable:
        return NotTransferable(
            f"process {process!r} cannot go to a {self.noun}, because this cannot: {what} ({text_of(error)}). "
            "Make it inside the process, get it with ctx.resource(...), or say environment='thread'.",
            process=process,
            what=what,
            reason=text_of(error),
            ran=False,
        )

    # --- back ---

    def _outcome(
        self,
        call: Call,
        definition: Definition,
        kind: int,
        content: Any,
        number: int,
        parts: Mapping[str, int] = NOTHING,
    ) -> Outcome:
        if kind == wire.VALUE:
            return self._outcomes_of(definition, [content], number)[0]
        parcel: Parcel = content
        name = call.process.name
        if kind == wire.FAILED:
            assert isinstance(parcel.data, bytes)
            raise self._failed(name, *marshal.loads(parcel.data))  # noqa: S302 - from a worker that we started
        try:
            content = self._book.open(parcel)
        except FAULTS as error:
            what = "the result"
            raise NotTransferable(
                f"process {name!r} ran in a {self.noun}, but {what} cannot be opened here ({text_of(error)}). "
                "Nothing of it was committed.",
                process=name,
                what=what,
                reason=text_of(error),
                ran=True,
            ) from error
        value, records, reads, ops, messages, emits, (base, wall, cpu, violations, kept) = content
        definition.took(wall)
        if parts and records is None:
            definition.asked = touched(reads, ops, parts)
        raised = None if records is None else open_error(records, self._book.open)
        return Outcome(
            value, raised, base, reads, ops, messages, emits, wall, cpu, self._place(number), violations, kept
        )

    def _outcomes_of(self, definition: Definition, values: list[tuple[Any, float]], number: int) -> list[Outcome]:
        """Of calls that gave simple values, and nothing else."""
        place = self._place(number)
        for _, wall in values:
            definition.took(wall)
        return [Outcome(value=value, wall=wall, place=place) for value, wall in values]

    def _place(self, number: int) -> str:
        place = self._places.get(number)
        if place is None:
            place = self._places[number] = self.place.format(number)
        return place

    def _failed(self, process: str, what: str, reason: str, ran: bool, does_not_load: bool) -> NotTransferable:
        return NotTransferable(
            f"process {process!r} went to a {self.noun}, but this cannot cross: {what} ({reason}). "
            "Nothing of it was committed. Return or write plain values, or say environment='thread'.",
            process=process,
            what=what,
            reason=reason,
            ran=ran,
        )


class SetUp:
    """What a worker needs to be like this process, and whether it changed: paths, directory, variables, limits, log levels, resources."""

    def __init__(self, book: Book, resources: Mapping[str, Callable[[], Any]]) -> None:
        self._book = book
        self._resources = resources
        self._watch = LevelWatch()
        self._number = 0
        self._directory: str | None = None
        self._path: list[str] = []
        self._variables: dict[Any, Any] = {}
        self._limits: tuple[int, int] = (0, 0)
        self._levels: Levels = {}
        self._packed: Packed | None = None

    def current(self) -> tuple[int, Callable[[], Packed]]:
        """A number that grows with each change, and what packs the content."""
        directory = _directory()
        limits = sys.getrecursionlimit(), sys.get_int_max_str_digits()
        if self._watch.changed():
            self._levels, before = levels(), self._levels
            changed = self._levels != before
        else:
            changed = False
        changed = changed or limits != self._limits
        if changed or directory != self._directory or sys.path != self._path or self._variables != _VARIABLES:
            self._directory, self._path, self._variables = directory, list(sys.path), dict(_VARIABLES)
            self._limits = limits
            self._number += 1
            self._packed = None
        return self._number, self._content

    def _content(self) -> Packed:
        if self._packed is None:
            needs: Needs = {}
            content = {
                "path": list(sys.path),
                "argv": list(sys.argv),
                "directory": _directory(),
                "variables": {os.fsdecode(name): os.fsdecode(value) for name, value in self._variables.items()},
                "limits": self._limits,
                "levels": self._levels,
                "resources": {name: self._factory(factory, needs) for name, factory in self._resources.items()},
            }
            self._packed = Packed(Parcel(pickle.dumps(content, PROTOCOL), (), True), told(needs))
        return self._packed

    def _factory(self, factory: Callable[[], Any], needs: Needs) -> Parcel | str:
        """A packed factory, or why it cannot go: which matters only to a call that asks for it."""
        try:
            return self._book.pack(factory, needs)
        except FAULTS as error:
            return text_of(error)


def _is_tiny(value: Any) -> bool:
    kind = type(value)
    return kind in SIMPLE and (kind not in TEXTS or len(value) <= SMALL)


def _directory() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 - on the path of every call
    except OSError:  # it was removed
        return None
