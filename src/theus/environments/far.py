"""The far side: what a worker process runs. Standard library, cloudpickle and the lower layers of theus only.

::

    main thread     reads the wire: CALL ──> open ──> run ──> DONE, one call after the other
    control thread  reads the control socket, also while the main thread computes: RECALL, STOP;
                    ends everything when the near side is gone

Calls are numbered; those up to ``_given_back`` that had not begun were handed back and are passed over. An interrupt
(``STOP``) is a SIGTERM that the worker sends itself: its handler runs in the main thread, between two byte codes or out
of a blocking system call, sees whether the call it is meant for still runs, and only then raises ``Stopped`` in it (or
cancels the task of an ``async def``). So ``local`` closes as usual. What does not end soon is killed by the near side.

A worker that was interrupted ends: nobody knows what the call left half done in its modules.
"""

from __future__ import annotations

import inspect
import logging
import marshal
import os
import pickle
import select
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context
from time import thread_time
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any

from theus.environments import wire
from theus.environments.far_book import FarBook
from theus.environments.faults import culprit, pack_error, text_of
from theus.environments.parcel import FAULTS, Parcel, variable
from theus.environments.runner import execute, execute_async
from theus.environments.surroundings import Courier, Levels, Variables, set_levels
from theus.errors import DefinitionError, NotTransferable
from theus.protocols import Call, Outcome
from theus.state.snapshot import readonly

if TYPE_CHECKING:
    import asyncio

    from theus.processes import Process

#: token of the process, attempt, key, deadline, strict, whether to say STARTED · definitions, dropped definitions ·
#: for payload, snapshot and config each: None (nothing new) or (count of buffers, plain) · which snapshot: None (no
#: domain) or the fields that it was cut down to (empty: all) · whether to forget the other snapshots
Envelope = tuple[Any, ...]
Parcels = Sequence[Parcel | None]

_LAST = 2**63
_NOTHING: tuple[tuple[Any, ...], dict[str, Any], None, tuple[Any, ...]] = ((), {}, None, ())


class Stopped(BaseException):
    """Raised in a body that is to end now."""


def main(wire_fd: int, control_fd: int, parent: int) -> None:
    """Serve calls until the near side says END or is gone."""
    sys.modules["__main__"] = ModuleType("__main__")
    FarSide(socket.socket(fileno=wire_fd), socket.socket(fileno=control_fd), parent).serve()


class FarSide:
    """One worker; also the host of the calls that run in it."""

    def __init__(self, sock: socket.socket, control: socket.socket, parent: int) -> None:
        self._sock = sock
        self._control = control
        self._parent = parent
        self._pid = os.getpid()
        self._book = FarBook(Variables().name_of)
        self._sending = threading.RLock()  # again by the same thread if a signal interrupts a send
        self._order = threading.Lock()  # over the three numbers below
        self._running = 0  #: the call that runs or ran last
        self._given_back = 0
        self._stop = -1  #: the call to interrupt; 0: the worker ends after the call it runs
        self._in_body = False
        self._ending = False
        self._task: asyncio.Task[Any] | None = None
        self._runner: asyncio.Runner | None = None
        self._making = threading.RLock()
        self._factories: dict[str, Parcel | str] = {}
        self._resources: dict[str, Any] = {}
        self._levels: Levels = {}
        self._snapshots: dict[Sequence[str], Any] = {}  #: as parcels until they are used
        self._config: Any = None

    def serve(self) -> None:
        """Run calls in the order in which they come."""
        signal.signal(signal.SIGINT, _ignore)  # the near side decides; SIG_IGN would pass on to child processes
        signal.signal(signal.SIGTERM, self._terminate)
        os.register_at_fork(after_in_child=self._forked)
        logging.root.addHandler(Courier(self._log))
        threading.Thread(target=self._watch, name="theus-control", daemon=True).start()
        self._send(wire.READY, 0, [wire.number(self._pid)])
        by_signal = False
        try:
            self._receive()
        except Stopped:
            by_signal = self._stop < 0
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._close_resources()
        if by_signal:
            os.kill(os.getpid(), signal.SIGTERM)
        # The sockets stay open until the process is really gone: their end tells the near side just that.
        self._sock.detach()
        self._control.detach()

    def _receive(self) -> None:
        reader = wire.Reader(self._sock)
        waiting: deque[wire.Frame] = deque()
        while not self._ending:
            while not waiting:
                if not reader.receive():
                    return
                waiting.extend(reader.frames())
            frame = waiting.popleft()
            if frame.kind == wire.CALL:
                self._take(frame)
            elif frame.kind == wire.SETUP:
                self._set_up(marshal.loads(frame.parts[0]), pickle.loads(frame.parts[1]))
            elif frame.kind == wire.END:
                return

    def _send(self, kind: int, seq: int, parts: list[wire.Bytes], flags: int = 0) -> None:
        buffers = wire.pack(kind, seq, parts, flags)
        with self._sending:
            if os.getpid() != self._pid:
                return  # a child that a body forked
            try:
                wire.send(self._sock, buffers)
            except OSError:
                _end_group()

    def _send_parcel(self, kind: int, seq: int, parcel: Parcel) -> None:
        self._send(kind, seq, [parcel.data, *parcel.buffers], wire.PLAIN if parcel.plain else 0)

    # --- one call ---

    def _take(self, frame: wire.Frame) -> None:
        envelope: Envelope = marshal.loads(frame.parts[0])
        parcels = self._remember(envelope, frame)
        with self._order:
            if frame.seq <= self._given_back:
                return
            self._running = frame.seq
        opening = "the process"
        try:
            process: Process[Any, Any] = self._book.resolve(envelope[0])
            opening = "its arguments"
            args, kwargs, pipe, variables = self._open_payload(parcels)
            opening = "the domain"
            snapshot = self._snapshot(envelope[9])
            opening = "config"
            config = self._open_config()
        except FAULTS as error:
            self._fail(frame.seq, f"{opening} (opening it in the worker process failed)", error)
            return
        del parcels
        attempt, key, deadline, strict = envelope[1:5]
        call = Call(process, args, kwargs, snapshot, config, pipe, attempt, key, deadline, self, strict)
        del args, kwargs, pipe, snapshot
        if envelope[5]:
            self._send(wire.STARTED, frame.seq, [])
        outcome = self._run(call, variables)
        if os.getpid() != self._pid:  # a child that the body forked came out of it; it has no business here
            os._exit(0)
        self._flush()
        self._answer(frame.seq, outcome)

    def _remember(self, envelope: Envelope, frame: wire.Frame) -> Parcels:
        """Keep what later calls count on, also when this one is passed over. Gives the parcels of the call."""
        self._learn(envelope[6], envelope[7])
        if envelope[10]:
            self._snapshots.clear()
        parcels = _cut(frame, envelope[8])
        if parcels[1] is not None:
            self._snapshots[envelope[9]] = parcels[1]
        if parcels[2] is not None:
            self._config = parcels[2]
        return parcels

    def _learn(self, definitions: Sequence[tuple[int, bytes]], dropped: Sequence[int]) -> None:
        try:
            self._book.learn(definitions, dropped)
        except FAULTS:
            pass  # who uses the definition fails with this error; here nobody would hear of it

    def _open_payload(self, parcels: Parcels) -> Any:
        payload = parcels[0]
        return _NOTHING if payload is None else self._book.open(payload)

    def _open_config(self) -> Any:
        if isinstance(self._config, Parcel):
            self._config = readonly(self._book.open(self._config))
        return self._config

    def _snapshot(self, fields: Sequence[str] | None) -> Any:
        if fields is None:
            return None
        kept = self._snapshots[fields]
        if isinstance(kept, Parcel):
            kept = self._snapshots[fields] = self._book.open(kept)
        return kept

    @staticmethod
    def _set_variable(context: Context, name: tuple[str, str], value: Any) -> None:
        try:
            found = variable(*name)
        except FAULTS:  # its module does not load here; then nothing here can ask for it
            return
        context.run(found.set, value)

    def _run(self, call: Call, variables: Sequence[tuple[tuple[str, str], Any]]) -> Outcome:
        context = Context()
        for name, value in variables:
            self._set_variable(context, name, value)
        self._in_body = True
        try:
            if self._ending:  # told to stop while it was opened
                raise Stopped
            if call.process.is_async:
                return self._run_async(call, context)
            return context.run(execute, call, measure_cpu=True)
        except Stopped:
            if os.getpid() != self._pid:
                os._exit(1)
            raise
        except BaseException as error:  # KeyboardInterrupt, GeneratorExit: they end this call, not the worker
            return Outcome(error=error)
        finally:
            self._in_body = False

    def _run_async(self, call: Call, context: Context) -> Outcome:
        import asyncio

        async def body() -> Outcome:
            self._task = asyncio.current_task()
            try:
                return await execute_async(call)
            except asyncio.CancelledError:
                if self._ending:
                    raise Stopped from None
                raise
            finally:
                self._task = None

        cpu = thread_time()
        outcome = self._loop().run(body(), context=context)
        outcome.cpu = thread_time() - cpu
        return outcome

    def _loop(self) -> asyncio.Runner:
        """One loop for all ``async def`` calls of this worker: resources stay bound to it."""
        if self._runner is None:
            import asyncio

            self._runner = asyncio.Runner()
        return self._runner

    def _flush(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:  # noqa: S110 - closed, replaced or broken by the body: its own affair
                pass

    def _answer(self, seq: int, outcome: Outcome) -> None:
        error = outcome.error
        try:
            records = None if error is None else pack_error(error, self._book.pack, self._book.open)
            numbers = (outcome.base, outcome.wall, outcome.cpu)
            content = (outcome.value, records, outcome.reads, outcome.ops, outcome.messages, outcome.emits, numbers)
            parcel = self._book.pack(content)
        except BaseException as failure:
            what = "the result" if isinstance(failure, MemoryError) else self._culprit(outcome)
            self._fail(seq, what, failure)
            return
        self._send_parcel(wire.DONE, seq, parcel)

    def _culprit(self, outcome: Outcome) -> str:
        places: list[tuple[str, Any]] = [("the result", outcome.value)]
        places += [(f"what was written to the domain at {'.'.join(map(str, op[1]))}", op) for op in outcome.ops]
        places += [(f"what was emitted for {topic!r}", value) for topic, value in outcome.emits]
        places += [(f"a message to {process.name!r}", arguments) for process, arguments in outcome.messages]
        return next((found for place, value in places if (found := self._bad(place, value))), "the result")

    def _bad(self, place: str, value: Any) -> str:
        try:
            self._book.pack(value)
        except FAULTS:
            return culprit(value, place, self._book.pack)
        return ""

    def _fail(self, seq: int, what: str, error: BaseException) -> None:
        self._send(wire.FAILED, seq, [marshal.dumps((what, text_of(error)))])

    # --- host of the calls ---

    def report(self, call: Call, value: Any) -> None:
        """Send a live value at once."""
        try:
            parcel = self._book.pack(value)
        except FAULTS as error:
            raise NotTransferable(
                f"process {call.process.name!r} reported a value that cannot leave its worker process: "
                f"{culprit(value, 'the value', self._book.pack)}. Report text, numbers or plain containers.",
                process=call.process.name,
                what=culprit(value, "the value", self._book.pack),
            ) from error
        self._send_parcel(wire.REPORT, self._running, parcel)

    def resource(self, name: str) -> Any:
        """The instance of this worker process, made at first use."""
        with self._making:
            if name not in self._resources:
                self._resources[name] = self._make_resource(name)
            return self._resources[name]

    def _make_resource(self, name: str) -> Any:
        factory = self._factories.get(name)
        if factory is None:
            raise DefinitionError(
                f"the engine has no resource {name!r}; it has {', '.join(sorted(self._factories)) or 'none'}: "
                f"Engine(..., resources={{{name!r}: make_it}})."
            )
        if isinstance(factory, str):
            raise NotTransferable(
                f"resource {name!r} cannot be made in a worker process: its factory does not cross ({factory}). "
                "Give a function of a module that makes it.",
                process="",
                what=factory,
            )
        return self._book.open(factory)()

    def _close_resources(self) -> None:
        for name, resource in reversed(self._resources.items()):
            close: Callable[[], Any] | None = getattr(resource, "aclose", None) or getattr(resource, "close", None)
            if close is None:
                continue
            try:
                closing = close()
                if inspect.isawaitable(closing):
                    self._loop().run(_await(closing))
            except Exception:
                logging.getLogger("theus.worker").exception("resource %r did not close", name)
        if self._runner is not None:
            self._runner.close()
        self._flush()

    def _set_up(self, definitions: list[tuple[int, bytes]], content: dict[str, Any]) -> None:
        if "path" in content:
            sys.path[:] = content["path"]
        if "argv" in content:
            sys.argv[:] = content["argv"]
        if "directory" in content:
            try:
                os.chdir(content["directory"])
            except OSError:  # it is gone; then the near side is in no better place
                pass
        if "levels" in content:
            set_levels(content["levels"], self._levels)
            self._levels = content["levels"]
        if "resources" in content:
            self._factories = content["resources"]
            self._learn(definitions, ())

    def _log(self, content: dict[str, Any]) -> None:
        try:
            parcel = self._book.pack(content)
        except FAULTS:
            parcel = self._book.pack({k: v if self._bad("", v) == "" else repr(v) for k, v in content.items()})
        self._send_parcel(wire.LOG, self._running if self._in_body else 0, parcel)

    # --- control ---

    def _watch(self) -> None:
        """The control thread."""
        reader = wire.Reader(self._control)
        select.select([self._control], [], [], 0.2)  # let the first call start before loading ctypes
        _die_with_parent(self._parent)
        while True:
            ready = select.select([self._control], [], [], 1.0)[0]
            if not ready:
                if os.getppid() != self._parent:
                    break
                continue
            try:
                if not reader.receive():
                    break
            except OSError:
                break
            for frame in reader.frames():
                self._obey(frame)
        _end_group()

    def _obey(self, frame: wire.Frame) -> None:
        with self._order:
            first = max(self._running, self._given_back) + 1
            last = frame.seq if frame.kind == wire.RECALL else _LAST
            self._given_back = max(self._given_back, last)
            running = self._running
        self._send(wire.RETURNED, first, [wire.number(last)])
        if frame.kind == wire.STOP:
            self._stop = frame.seq
            self._ending = True
            if frame.seq == running:
                os.kill(self._pid, signal.SIGTERM)

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGTERM, in the main thread."""
        if self._stop > 0 and self._stop != self._running:
            return  # the call that it was meant for has ended
        self._ending = True
        if self._task is not None:
            self._loop().get_loop().call_soon_threadsafe(self._task.cancel)
        elif self._in_body or self._stop < 0:
            raise Stopped

    def _forked(self) -> None:
        """Let a child that a body forked have no part in this."""
        self._sock.close()
        self._control.close()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _cut(frame: wire.Frame, sizes: Any) -> Parcels:
    """The parcels of a call: payload, snapshot, config."""
    parcels: list[Parcel | None] = []
    at = 1
    for size in sizes:
        if size is None:
            parcels.append(None)
        else:
            count, plain = size
            parcels.append(Parcel(frame.parts[at], frame.parts[at + 1 : at + 1 + count], plain))
            at += 1 + count
    return parcels


async def _await(value: Any) -> Any:
    return await value


def _end_group() -> None:
    """The near side is gone: whatever runs here, and whatever it started, has nobody to work for."""
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _ignore(number: int, frame: FrameType | None) -> None:
    pass


def _die_with_parent(parent: int) -> None:
    """Have the system kill this process when its parent ends, in whatever state it is (Linux)."""
    if sys.platform != "linux":
        return  # the control thread looks at the parent's id instead
    try:
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        return
    if os.getppid() != parent:
        os._exit(1)
