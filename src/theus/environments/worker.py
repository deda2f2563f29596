"""Worker processes: calls that compute, on another core, and calls that must be stoppable whatever they do.

What crosses (see ``wire.py`` for the messages, ``parcel.py`` for the values)::

    there   the process (once), arguments, pipe value, the part of the domain that its contract names, config,
            context variables that have a name · attempt, key, deadline
    back    value or error with traceback, reads, operations, messages, emits, times · ctx.report and log
            records at once · print, because stdout is the same

Everything is packed in the caller's thread and context, as it is when the call is made. Timeouts run in real time: it is a
process of the system that has to be stopped, not a clock.

Module-level state of a worker is its own: a global that a process changes is changed for later calls in the same
worker only, and is not sent back. Environment variables are those that the engine's process had when the worker started.
"""

from __future__ import annotations

import asyncio
import marshal
import os
import pickle
import sys
import weakref
from collections.abc import Callable, Mapping
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, NamedTuple

from theus.environments import wire
from theus.environments.book import Book, Needs
from theus.environments.cpus import usable_cpus as usable_cpus
from theus.environments.cuts import cut, fields_of
from theus.environments.faults import culprit, open_error, text_of
from theus.environments.job import SHORT, Job, Packed
from theus.environments.parcel import FAULTS, Parcel
from theus.environments.pool import Pool
from theus.environments.surroundings import LevelWatch, Variables, handle, levels
from theus.errors import NotTransferable
from theus.protocols import Outcome
from theus.state.snapshot import Snapshot

if TYPE_CHECKING:
    from theus.protocols import Call

_MOST_CUTS = 16  # packed snapshots that are kept, one for each set of fields


class WorkerInfo(NamedTuple):
    """A worker process: its id, how many calls it has done, and whether it is starting, idle, running or ending."""

    pid: int
    calls: int
    state: str


def _nobody(process: str, exit_code: int | None) -> None:
    pass


class WorkerEnvironment:
    """Runs calls in worker processes, started when needed, up to ``capacity``. Safe to use from any thread and loop.

    ``resources``: how a worker makes its own instance of each. ``on_lost``: is told when a worker died under a call.
    """

    name = "worker"

    def __init__(
        self,
        capacity: int,
        *,
        resources: Mapping[str, Callable[[], Any]] | None = None,
        on_lost: Callable[[str, int | None], None] = _nobody,
    ) -> None:
        self.capacity = capacity
        self._resources = dict(resources or {})
        self._on_lost = on_lost
        self._open()

    def _open(self) -> None:
        self._pid = os.getpid()
        self._variables = Variables()
        self._book = Book(self._variables.name_of)
        self._set_up = SetUp(self._book, self._resources)
        self._versions: weakref.WeakKeyDictionary[Snapshot, int] = weakref.WeakKeyDictionary()
        self._version = 0
        self._cuts: dict[tuple[str, ...], tuple[int, Packed]] = {}
        self._config: tuple[Any, int, Packed | None] = (None, 0, None)
        book = self._book
        self._pool = Pool(
            self.capacity,
            set_up=self._set_up.current,
            on_lost=self._on_lost,
            on_log=lambda parcel: handle(book.open(parcel)),
            dropped=book.dropped,
        )
        self._finalizer = weakref.finalize(self, Pool.forget, self._pool)
        self._finalizer.atexit = False

    async def start(self) -> None:
        """Nothing to do: workers start when they are needed."""

    async def run(self, call: Call) -> Outcome:
        """Run one attempt in a worker process; see ``theus.protocols.Environment``."""
        if self._pid != os.getpid():  # this process was forked off; the workers are the parent's
            self._open()
        job = self._pack(call)
        future = job.future = job.loop.create_future()
        self._pool.submit(job)
        try:
            frame, pid = await future
        except asyncio.CancelledError:
            ended: asyncio.Future[None] = job.loop.create_future()
            if self._pool.abandon(job, ended):
                await ended
            raise
        return self._outcome(call, job, frame, pid)

    async def stop(self, grace: float) -> None:
        """End the workers. Those at rest end at once, the others with their call or after ``grace`` seconds."""
        if self._pid == os.getpid():
            await asyncio.wrap_future(self._pool.close(grace))

    def workers(self) -> list[WorkerInfo]:
        """The worker processes there are now."""
        return [WorkerInfo(*found) for found in self._pool.workers()] if self._pid == os.getpid() else []

    # --- there ---

    def _pack(self, call: Call) -> Job:
        process = call.process
        job = Job()
        job.name = process.name
        job.timeout = process.timeout
        job.loop = asyncio.get_running_loop()
        job.context = copy_context()
        job.on_report = _Reports(self._book, call)
        job.numbers = (call.attempt, str(call.key), call.deadline, call.strict)
        needs: Needs = {}
        try:
            job.definition = self._book.process(process, needs)
        except FAULTS as error:
            raise self._refuse(process.name, culprit(process, f"process {process.name!r}", self._try), error) from error
        job.needs = _told(needs)
        seconds = job.definition.seconds
        job.short = seconds is not None and seconds < SHORT
        job.payload = self._pack_payload(call)
        self._add_snapshot(job, call)
        self._add_config(job, call)
        return job

    def _pack_payload(self, call: Call) -> Packed | None:
        variables = [(name, value) for name, variable, value in self._variables.travelling() if self._can_travel(value)]
        if not (call.args or call.kwargs or variables) and call.pipe is None:
            return None
        try:
            return self._packed((call.args, call.kwargs, call.pipe, variables))
        except FAULTS as error:
            names = [*call.process.parameters, *("*args" for _ in call.args)]
            places = [(f"argument {name!r}", value) for name, value in zip(names, call.args, strict=False)]
            places += [(f"argument {name!r}", value) for name, value in call.kwargs.items()]
            places += [("the pipe value", call.pipe)]
            bad = next(((place, value) for place, value in places if not self._crosses(value)), ("the arguments", call.args))
            raise self._refuse(call.process.name, culprit(bad[1], bad[0], self._try), error) from error

    def _packed(self, value: Any) -> Packed:
        needs: Needs = {}
        parcel = self._book.pack(value, needs)
        return Packed(parcel, _told(needs))

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
        return isinstance(value, (type(None), bool, int, float, str, bytes)) or self._crosses(value)

    def _add_snapshot(self, job: Job, call: Call) -> None:
        snapshot = call.snapshot
        if snapshot is None:
            job.snapshot = None
            return
        job.fields = fields_of(call)
        version = self._versions.get(snapshot)
        if version is None:
            self._version += 1
            version = self._versions[snapshot] = self._version
        job.version = version
        fields, name = job.fields, job.name

        def packed() -> Packed:
            kept = self._cuts.get(fields)
            if kept is None or kept[0] != version:
                part = cut(snapshot, fields)
                try:
                    kept = (version, self._packed(part))
                except FAULTS as error:
                    raise self._refuse(name, culprit(part.root, "the domain", self._try), error) from error
                if len(self._cuts) >= _MOST_CUTS:
                    self._cuts.clear()
                self._cuts[fields] = kept
            return kept[1]

        job.snapshot = packed
        if not self._pool.has_snapshot(fields, version):
            packed()  # here, where the caller hears of it; usually it is sent right away

    def _add_config(self, job: Job, call: Call) -> None:
        config, number, packed = self._config
        if call.config is not config:
            try:
                packed = None if call.config is None else self._packed(call.config)
            except FAULTS as error:
                raise self._refuse(job.name, culprit(call.config, "config", self._try), error) from error
            number += 1
            self._config = (call.config, number, packed)
        job.config, job.config_number = packed, number

    @staticmethod
    def _refuse(process: str, what: str, error: BaseException) -> NotTransferable:
        return NotTransferable(
            f"process {process!r} cannot go to a worker process, because this cannot: {what} ({text_of(error)}). "
            "Make it inside the process, get it with ctx.resource(...), or say environment='thread'.",
            process=process,
            what=what,
        )

    # --- back ---

    def _outcome(self, call: Call, job: Job, frame: wire.Frame, pid: int) -> Outcome:
        name = call.process.name
        if frame.kind == wire.FAILED:
            what, reason = marshal.loads(frame.parts[0])
            raise NotTransferable(
                f"process {name!r} ran in a worker process, but this cannot cross: {what} ({reason}). "
                "Nothing of it was committed. Return or write plain values, or say environment='thread'.",
                process=name,
                what=what,
            )
        try:
            content = self._book.open(Parcel(frame.parts[0], frame.parts[1:], bool(frame.flags & wire.PLAIN)))
        except FAULTS as error:
            what = "the result"
            raise NotTransferable(
                f"process {name!r} ran in a worker process, but {what} cannot be opened here ({text_of(error)}). "
                "Nothing of it was committed.",
                process=name,
                what=what,
            ) from error
        value, records, reads, ops, messages, emits, (base, wall, cpu) = content
        before = job.definition.seconds
        job.definition.seconds = wall if before is None else 0.7 * before + 0.3 * wall
        raised = None if records is None else open_error(records, self._book.open)
        return Outcome(value, raised, base, reads, ops, messages, emits, wall, cpu, f"pid {pid}")


class _Reports:
    """Opens what a call reports and hands it to its host."""

    def __init__(self, book: Book, call: Call) -> None:
        self._book = book
        self._call = call

    def __call__(self, parcel: Parcel) -> None:
        self._call.host.report(self._call, self._book.open(parcel))


class SetUp:
    """What a worker needs to be like this process, and whether it changed: paths, directory, log levels, resources."""

    def __init__(self, book: Book, resources: Mapping[str, Callable[[], Any]]) -> None:
        self._book = book
        self._resources = resources
        self._watch = LevelWatch()
        self._number = 0
        self._state: tuple[Any, ...] = ()
        self._packed: Packed | None = None

    def current(self) -> tuple[int, Callable[[], Packed]]:
        """A number that grows with each change, and what packs the content."""
        state = (list(sys.path), _directory())
        if self._watch.changed() or state != self._state:
            self._state = state
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
                "levels": levels(),
                "resources": {name: self._factory(factory, needs) for name, factory in self._resources.items()},
            }
            self._packed = Packed(Parcel(pickle.dumps(content, 5), (), True), _told(needs))
        return self._packed

    def _factory(self, factory: Callable[[], Any], needs: Needs) -> Parcel | str:
        """A packed factory, or why it cannot go: which matters only to a call that asks for it."""
        try:
            return self._book.pack(factory, needs)
        except FAULTS as error:
            return text_of(error)


def _directory() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 - on the path of every call
    except OSError:  # it was removed
        return None


def _told(needs: Needs) -> list[tuple[int, int, bytes]]:
    """Definitions as they are now: they may change before the call is sent."""
    return [(found.token, found.version, found.body) for found in needs.values() if found.body is not None]
