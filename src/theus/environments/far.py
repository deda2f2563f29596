"""The far side: what a worker runs, a process or a sub-interpreter. Standard library, cloudpickle and the lower layers of theus only.

::

    main thread     reads the wire: CALL, CALLS ──> open ──> run ──> DONE, one call after another  (this module)
    control thread  reads the control socket, also while the main thread computes               (far_control.py)

What a worker was told stays: definitions (``far_book.py``), snapshots and config. Later calls count on it, so it is taken
in from every frame, also from calls that were handed back.
"""

from __future__ import annotations

import functools
import gc
import marshal
import os
import pickle
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextvars import Context
from time import perf_counter, thread_time
from types import ModuleType
from typing import TYPE_CHECKING, Any

from theus.calls import Call, Outcome
from theus.context import here, is_elsewhere
from theus.environments import wire
from theus.environments.changes import is_own
from theus.environments.far_blocks import FarBlocks
from theus.environments.far_book import FarBook
from theus.environments.far_control import Control, ProcessControl, Stopped, end_group, end_with
from theus.environments.far_host import FarHost
from theus.environments.far_logs import FarLogs
from theus.environments.faults import culprit, does_not_load, pack_error, text_of
from theus.environments.parcel import FAULTS, PROTOCOL, Parcel, Shape, is_simple, unship
from theus.environments.runner import execute, execute_async
from theus.environments.variables import Variables, setter

if TYPE_CHECKING:
    from theus.environments.far_parts import FarParts
    from theus.processes import Process
    from theus.state.snapshot import Snapshot

#: Of a CALL: token of the process, attempt, key, deadline, strict, whether to say STARTED · definitions, dropped definitions ·
#: for payload, snapshot and config each: None (nothing new) or its shape · whether there is a domain · whether to measure
#: its CPU
Envelope = tuple[Any, ...]
#: Of CALLS: token, attempt, key, deadline, strict · definitions, dropped definitions · for each its arguments or payload
Parcels = Sequence[Parcel | None]

HEAVY = 0.03  #: seconds of loading modules from which on the next worker should have them already
PER_MODULE = 0.0006  #: seconds that one takes, for those that a body imports: how long that took is not seen apart
#: Bytes. glibc gives memory back to the system when twice the largest block that was ever freed is free (mallopt(3), "dynamic
#: mmap threshold"), and the system clears every page of the next array: a training in numpy took 8 times as long for it. So
#: a block of nearly 32 MiB, which is the most that counts, is freed at the start; nothing is ever written to it.
KEPT = 2**25 - 2**13

_NO_MORE = (None, (), (), (), ())


def main(wire_fd: int, control_fd: int, lifeline: int) -> None:
    """In a worker process: serve calls until the near side says END or is gone."""
    bytearray(KEPT)
    sock = socket.socket(fileno=wire_fd)
    line = wire.Line(sock, end_group)
    end_with(lifeline)
    FarSide(sock, line, ProcessControl(socket.socket(fileno=control_fd), line)).serve()
    # The socket stays open until the process is really gone: its end tells the near side just that.
    sock.detach()


class FarSide:
    """One worker."""

    def __init__(self, sock: socket.socket, line: wire.Line, control: Control) -> None:
        self._sock = sock
        self._line = line
        self._control = control
        self._book = FarBook(Variables().name_of)
        self._blocks = FarBlocks()
        self._host = FarHost(self._line, self._book, self._control, self._blocks)
        self._logs = FarLogs(self._host.log)
        self._reader = wire.Reader(sock)
        self._reading = threading.RLock()  # over the reader: a thread of the body may wait for a part
        self._waiting: deque[wire.Frame] = deque()
        self._snapshot: Any = None  #: a parcel until it is used
        self._config: Any = None
        self._loading = 0.0  #: seconds that it took to load these:
        self._loaded: list[str] = []  #: not the user's modules, and not told of yet
        self._context = Context()  #: of which each body has a copy
        self._context.run(here)  # or each copy would have to make one

    def serve(self) -> None:
        """Run calls in the order in which they come."""
        gc.freeze()  # what was loaded stays; to look through it took 2 ms of the start, and found nothing
        gc.enable()  # off until here for the same reason
        sys.modules["__main__"] = ModuleType("__main__")
        is_elsewhere.set(True)  # a body has a context of its own
        self._control.start()
        self._logs.start()
        self._line.send(wire.READY, 0, [wire.number(os.getpid())])
        try:
            self._receive()
        except Stopped:
            pass
        with self._control.leaving():
            self._host.close()
        self._blocks.close()

    def _receive(self) -> None:
        waiting = self._waiting
        while not self._control.ending:
            while not waiting:
                with self._reading:
                    if not self._reader.receive():
                        return
                    waiting.extend(self._reader.frames())
            frame = waiting.popleft()
            if frame.kind == wire.CALL:
                self._take(frame)
            elif frame.kind == wire.CALLS:
                self._take_many(frame)
            elif frame.kind == wire.PART:
                self._take_part(frame)
            elif frame.kind == wire.SETUP:
                definitions = marshal.loads(frame.parts[0])  # noqa: S302 - from the process that started us
                self._set_up(definitions, pickle.loads(frame.parts[1]))
            elif frame.kind == wire.BLOCKS:
                self._blocks.let_go(marshal.loads(frame.parts[0]))  # noqa: S302 - from the process that started us
            elif frame.kind == wire.END:
                return
            self._blocks.give_back(self._line)

    # --- parts of the domain ---

    @functools.cached_property
    def _parts(self) -> FarParts:
        # Loaded when a domain comes: that, snapshots and drafts are a fifth of what is ours to load.
        from theus.environments.far_parts import FarParts

        return FarParts(self._fetch, self._book.open)

    def _take_part(self, frame: wire.Frame) -> None:
        name, number, builds_on, definitions, shape = marshal.loads(frame.parts[0])  # noqa: S302 - from the process that started us
        if definitions:
            self._learn(definitions, ())
        (parcel,) = self._cut(frame, [shape])
        self._parts.take_in(name, number, builds_on, parcel)

    def _fetch(self, name: str, number: int) -> None:
        """In a body: ask for a part and wait for it. What else comes meanwhile waits for its turn."""
        with self._reading:
            self._stop_if_ending()
            self._line.send(wire.FETCH, self._control.running, [marshal.dumps((name, number))])
            while not self._parts.has(name, number):
                self._stop_if_ending()
                if not self._reader.receive():
                    raise Stopped
                for frame in self._reader.frames():
                    if frame.flags & wire.ASKED:
                        self._take_part(frame)
                    else:
                        self._waiting.append(frame)

    def _stop_if_ending(self) -> None:
        if self._control.ending:  # it was interrupted, perhaps in the middle of a frame
            raise Stopped

    # --- one call ---

    def _take(self, frame: wire.Frame) -> None:
        envelope: Envelope = marshal.loads(frame.parts[0])  # noqa: S302 - from the process that started us
        self._do(frame.seq, envelope, self._remember(envelope, frame) or ())

    def _take_many(self, frame: wire.Frame) -> None:
        head = marshal.loads(frame.parts[0])  # noqa: S302 - from the process that started us
        token, attempt, key, deadline, strict, definitions, dropped, entries = head
        if definitions or dropped:
            self._learn(definitions, dropped)
        envelope = (token, attempt, key, deadline, strict, False, (), (), (), False, False)
        begin, run, finish = self._control.begin, self._run, self._finish
        opened: tuple[Call, Sequence[Any]] | None = None
        for seq, entry in enumerate(entries, frame.seq):
            if type(entry) is bytes:
                self._do(seq, envelope, Parcel(entry, (), True), in_series=True)
            elif begin(seq):
                modules = len(sys.modules)
                # They differ in their arguments alone. What a body leaves behind knows its attempt, not this.
                opened = opened or self._open(seq, envelope, entry)
                if opened is not None:
                    opened[0].args = entry
                    finish(seq, run(*opened, measure_cpu=False), modules, in_series=True)

    def _do(self, seq: int, envelope: Envelope, given: Parcel | tuple[Any, ...], *, in_series: bool = False) -> None:
        """Run a call, if it has not been handed back. ``given``: its packed payload, or its arguments alone."""
        if not self._control.begin(seq):
            return
        modules = len(sys.modules)
        opened = self._open(seq, envelope, given)
        if opened is None:
            return
        call, variables = opened
        del given, opened  # the call alone keeps its arguments, and ends with the body
        if envelope[5]:
            self._line.send(wire.STARTED, seq, [])
        outcome = self._run(call, variables, measure_cpu=envelope[10])
        del call
        self._finish(seq, outcome, modules, in_series=in_series)

    def _open(
        self, seq: int, envelope: Envelope, given: Parcel | tuple[Any, ...]
    ) -> tuple[Call, Sequence[tuple[tuple[str, str], Any]]] | None:
        """A call and its context variables. None: it could not be opened, which has been said."""
        opening = "the process"
        try:
            process = self._process(envelope[0])
            opening = "its arguments"
            args, kwargs, pipe, kept, variables = (
                self._book.open(given) if type(given) is Parcel else (given, {}, None, None, ())
            )
            opening = "the domain"
            snapshot = self._open_snapshot() if envelope[9] else None
            opening = "config"
            config = self._open_config()
        except FAULTS as error:
            self._fail(seq, f"{opening} (opening it there failed)", error, ran=False)
            return None
        attempt, key, deadline, strict = envelope[1:5]
        call = Call(process, args, kwargs, snapshot, config, pipe, attempt, key, deadline, self._host, strict, kept)
        return call, variables

    def _finish(self, seq: int, outcome: Outcome, modules: int, *, in_series: bool) -> None:
        """Say what became of a call. ``modules``: how many there were before it."""
        self._control.leave_if_forked()
        self._host.flush()
        if in_series and outcome.error is None and outcome.cpu is None and is_simple(outcome.value):
            self._line.send_value(seq, marshal.dumps((outcome.value, outcome.wall)))
        else:
            self._answer(seq, outcome)
        if len(sys.modules) > modules:
            self._note_loaded(modules, min(outcome.wall, (len(sys.modules) - modules) * PER_MODULE))

    def _process(self, token: int) -> Process[Any, Any]:
        """The process of that token."""
        process: Process[Any, Any] = self._book.resolve(token)
        return process

    def _remember(self, envelope: Envelope, frame: wire.Frame) -> Parcel | None:
        """Keep what later calls count on. Gives the payload of this one."""
        if envelope[6] or envelope[7]:
            self._learn(envelope[6], envelope[7])
        payload, snapshot, config = self._cut(frame, envelope[8])
        if snapshot is not None:
            self._snapshot = snapshot
        if config is not None:
            self._config = config
        return payload

    def _learn(self, definitions: Sequence[tuple[int, bytes]], dropped: Sequence[int]) -> None:
        before, started = len(sys.modules), perf_counter()
        try:
            self._book.learn(definitions, dropped)
        except FAULTS:
            pass  # who uses the definition fails with this error; here nobody would hear of it
        if len(sys.modules) > before:
            self._note_loaded(before, perf_counter() - started)

    def _note_loaded(self, before: int, seconds: float) -> None:
        """Modules came to be, after so many; once they are heavy, tell the near side, whose next worker may be forked with them."""
        loaded = [name for name in list(sys.modules)[before:] if not is_own(name)]
        if not loaded:
            return
        self._loading += seconds
        self._loaded += loaded
        if self._loading >= HEAVY:
            self._line.send(wire.LOADED, 0, [marshal.dumps(self._loaded)])
            self._loading, self._loaded = 0.0, []

    def _open_config(self) -> Any:
        if isinstance(self._config, Parcel):
            from theus.state.snapshot import readonly

            self._config = readonly(self._book.open(self._config))
        return self._config

    def _open_snapshot(self) -> Snapshot:
        if isinstance(self._snapshot, Parcel):
            self._snapshot = self._parts.complete(self._book.open(self._snapshot))
        snapshot: Snapshot = self._snapshot
        return snapshot

    def _run(self, call: Call, variables: Sequence[tuple[tuple[str, str], Any]], *, measure_cpu: bool) -> Outcome:
        context = self._context.copy()
        for name, value in variables:
            try:
                context.run(setter(*name), value)
            except FAULTS:
                continue  # its module does not load here; then nothing here can ask for it
        try:
            self._control.enter_body()
            if call.process.is_async:
                return self._run_async(call, context)
            return context.run(execute, call, measure_cpu=measure_cpu)
        except Stopped:
            self._control.leave_if_forked()
            raise
        except BaseException as error:  # KeyboardInterrupt, GeneratorExit: they end this call, not the worker
            return Outcome(error=error)
        finally:
            self._control.in_body = False

    def _run_async(self, call: Call, context: Context) -> Outcome:
        cpu = thread_time()
        outcome: Outcome = self._host.loop().run(self._control.as_task(execute_async(call)), context=context)
        outcome.cpu = thread_time() - cpu
        return outcome

    def _answer(self, seq: int, outcome: Outcome) -> None:
        error = outcome.error
        try:
            records = None if error is None else pack_error(error, self._book.pack, self._book.open)
            rest = (outcome.base, outcome.wall, outcome.cpu, outcome.violations, outcome.kept)
            all_there_is = (outcome.value, records, outcome.reads, outcome.ops, outcome.messages, outcome.emits, rest)
            if all_there_is[1:6] == _NO_MORE and is_simple(outcome.value) and not (outcome.violations or outcome.kept):
                parcel = Parcel(pickle.dumps(all_there_is, PROTOCOL), (), True)
            else:
                parcel = self._book.pack(all_there_is, self._blocks)
        except BaseException as failure:
            what = "the result" if isinstance(failure, MemoryError) else self._culprit(outcome)
            self._fail(seq, what, failure, ran=True)
            return
        self._blocks.send(self._line, wire.DONE, seq, parcel)

    def _culprit(self, outcome: Outcome) -> str:
        places: list[tuple[str, Any]] = [("the result", outcome.value)]
        places += [(f"what was written to the domain at {'.'.join(map(str, op[1]))}", op) for op in outcome.ops]
        places += [(f"what was emitted for {topic!r}", value) for topic, value, _ in outcome.emits]
        places += [(f"a message to {process.name!r}", arguments) for process, arguments in outcome.messages]
        places += [(f"what ctx.once kept as {key!r}", value) for key, value in (outcome.kept or {}).items()]
        return next((found for place, value in places if (found := self._bad(place, value))), "the result")

    def _bad(self, place: str, value: Any) -> str:
        try:
            self._book.pack(value)
        except FAULTS:
            return culprit(value, place, self._book.pack)
        return ""

    def _fail(self, seq: int, what: str, error: BaseException, *, ran: bool) -> None:
        self._line.send(wire.FAILED, seq, [marshal.dumps((what, text_of(error), ran, does_not_load(error)))])

    def _cut(self, frame: wire.Frame, shapes: Sequence[Shape | None]) -> Parcels:
        """The parcels of a call: payload, snapshot, config."""
        parcels: list[Parcel | None] = []
        descriptors = iter(frame.descriptors)
        at = 1
        for shape in shapes:
            if shape is None:
                parcels.append(None)
            else:
                end = at + shape[0] + shape[1]
                parcels.append(unship(shape, frame.parts[at:end], lambda told: self._blocks.find(told, descriptors)))
                at = end
        return parcels

    # --- what surrounds the calls ---

    def _set_up(self, definitions: list[tuple[int, bytes]], content: dict[str, Any]) -> None:
        sys.path[:] = content["path"]
        sys.argv[:] = content["argv"]
        self._control.enter_directory(content["directory"])
        variables, zone = content["variables"], os.environ.get("TZ")
        for name in os.environ.keys() - variables.keys():
            del os.environ[name]
        os.environ.update(variables)
        if variables.get("TZ") != zone and hasattr(time, "tzset"):  # else local times go on being those of the old one
            time.tzset()
        depth, digits = content["limits"]
        sys.setrecursionlimit(depth)
        sys.set_int_max_str_digits(digits)
        self._logs.set_levels(content["levels"])
        self._learn(definitions, ())
        self._host.factories = content["resources"]
