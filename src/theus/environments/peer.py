"""One worker, seen from the near side: its sockets, what it has been told, the calls it has.

Used under the pool's lock. What a worker has been told (definitions, snapshot, config, set-up) is remembered here and
not sent again; it holds because a worker takes its frames in, in order, also those of calls that were handed back.

What a worker runs in is its *carrier*: a process of the system (``worker_process.py``) or a sub-interpreter
(``sub_interpreter.py``). They differ in how they are started, ended and seen to be gone, and in nothing else.
"""

from __future__ import annotations

import marshal
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from theus.environments import wire
from theus.environments.batch import Series
from theus.environments.near_blocks import Blocks, Ledger
from theus.environments.parcel import Parcel, Shape, ship, unship
from theus.errors import NotTransferable

if TYPE_CHECKING:
    import asyncio

    from theus.environments.blocks import Lot
    from theus.environments.job import Job, Packed

_FIRST_CHECK, _LAST_CHECK = 0.0005, 0.05  # seconds between looks at whether a dying worker is gone


class Carrier(Protocol):
    """What a worker runs in. Starting one takes the far ends of its two sockets, and may raise OSError."""

    start_fd: int | None  #: becomes readable when it is known whether it has been started, if that is not known at once
    exit_fd: int | None  #: becomes readable when it has ended, where there is such a thing; whoever reads it closes it

    @property
    def number(self) -> int:
        """The process's id, or the interpreter's."""

    @property
    def exit_code(self) -> int | None:
        """Of a process that has ended; negative: the signal that ended it."""

    @property
    def is_lost(self) -> bool:
        """Whether it was told to end, did not, and runs on."""

    def failed_to_start(self) -> str:
        """Why it has not been started, or ""; to be asked once, when ``start_fd`` is readable."""

    def kill(self) -> None:
        """End it by force, with whatever it started. Again and again if need be."""

    def is_gone(self) -> bool:
        """Whether it has ended, or was given up. Reaps it."""

    def memory(self) -> int:
        """Bytes of memory that it alone takes; 0 where that cannot be told."""

    def disown(self) -> None:
        """In a child that the engine's process forked: forget it."""

    def end_in_words(self) -> str:
        """How it ended."""


class Limits(NamedTuple):
    """When a worker has served long enough and is replaced; it ends between two calls, so nothing is lost."""

    calls: int | None = None
    memory: int | None = None  #: bytes, looked at after each call


class Peer:
    """A worker and the two sockets to it."""

    def __init__(self, start: Callable[[socket.socket, socket.socket], Carrier], blocks: Blocks) -> None:
        self.sock, far = socket.socketpair()
        self.control, far_control = socket.socketpair()
        try:
            self.carrier = start(far, far_control)
        except BaseException:
            self.sock.close()
            self.control.close()
            raise
        finally:
            far.close()
            far_control.close()
        self.sock.setblocking(False)
        self.control.setblocking(False)
        self.exit_fd = self.carrier.exit_fd
        self.reader = wire.Reader(self.sock)
        self.owner: asyncio.AbstractEventLoop | None = None  #: the loop that reads its socket
        self.rests = False  #: the owner does not read for a moment
        self.watched = False  #: the keeper reads it (too)
        self.events = 0  #: what the keeper's selector waits for
        self.calls: deque[Job] = deque()  #: sent and not answered; the first one runs
        self.held = 0  #: calls in them
        self.done = 0  #: calls answered
        self.ready = False  #: it has said READY
        self.ending = False  #: takes no more calls
        self.seq = 0
        self.recalled = 0  #: up to here calls were called back
        self.unsent: list[wire.Bytes] = []
        self.dropped: list[int] = []  #: definitions to forget
        self.known: dict[int, int] = {}  #: definition -> version
        self.check_at = 0.0  #: when to look whether it is gone, once it is dying; until when its start is waited for
        self._pause = _FIRST_CHECK
        self.ledger = Ledger(blocks)
        self._loaded: set[int] = set()  #: processes that ran here
        self._snapshot = 0  #: the version of the domain that it has, without its parts
        self._parts: dict[str, int] = {}  #: fields of the domain that it has, by their numbers
        self._config = 0
        self._set_up = 0

    @property
    def number(self) -> int:
        """The process's id, or the interpreter's."""
        return self.carrier.number

    @property
    def state(self) -> str:
        """In a word."""
        return "ending" if self.ending else "running" if self.calls else "idle" if self.ready else "starting"

    def seconds_left(self) -> float:
        """How long it will be busy with calls for whose single answers nobody waits, as far as is known."""
        last = self.calls[-1] if self.calls else None
        return self.held * last.pace if isinstance(last, Series) and last.batch.gives_way else 0.0

    def is_full(self, limits: Limits) -> bool:
        """Whether it has as many calls as it may take in its life."""
        return limits.calls is not None and self.done + self.held >= limits.calls

    def is_spent(self, limits: Limits) -> bool:
        """Whether it is to be replaced."""
        if limits.calls is not None and self.done >= limits.calls:
            return True
        return limits.memory is not None and self.carrier.memory() > limits.memory

    def has_snapshot(self, version: int) -> bool:
        """Whether it was sent this one."""
        return self._snapshot == version

    def number_of(self, name: str) -> int:
        """Under which number it has a part of the domain; 0: not at all."""
        return self._parts.get(name, 0)

    def set_up(self, number: int, content: Callable[[], Packed]) -> None:
        """Tell it what changed in the engine's process, if anything did."""
        if self._set_up != number:
            parcel, needs = content()
            assert isinstance(parcel.data, bytes)
            self.post(wire.SETUP, 0, [marshal.dumps(self._unknown(needs)), parcel.data])
            self._set_up = number

    def send_call(self, job: Job) -> None:
        """Send a call with all that this worker does not know yet. Raises what packing the snapshot raises."""
        for name in job.ahead:
            self._send_ahead(job, name)
        snapshot = config = None
        needs = job.needs
        payload = job.payload
        if payload is not None and payload.needs:
            needs = needs + payload.needs
        if job.snapshot is not None and self._snapshot != job.version:
            snapshot = job.snapshot()
            needs = needs + snapshot.needs
        if job.config is not None and self._config != job.config_number:
            config = job.config
            needs = needs + config.needs
        if snapshot is not None:
            self._snapshot = job.version
        if config is not None:
            self._config = job.config_number
        token = job.definition.token
        job.announced = job.timeout is not None and token not in self._loaded
        self._loaded.add(token)
        self.seq += 1
        job.seq = self.seq
        job.worker = self
        self.calls.append(job)
        self.held += 1
        parts: list[wire.Bytes] = [b""]
        shapes: list[Shape | None] = []
        descriptors: list[int] = []
        for packed in (payload, snapshot, config):
            if packed is None:
                shapes.append(None)
            else:
                shape, some = ship(packed.parcel, lambda lot: self.ledger.lend(lot, descriptors))
                shapes.append(shape)
                parts += some
        dropped, self.dropped = self.dropped, []
        parts[0] = marshal.dumps(
            (
                *(token, *job.numbers, job.announced, self._unknown(needs), dropped, shapes),
                *(job.snapshot is not None, job.measured),
            )
        )
        # A worker that has something to do need not hear of the next call at once: several go in one system call.
        self.post(wire.CALL, self.seq, parts, descriptors, later=self.held > 1)

    def send_series(self, series: Series) -> None:
        """Send calls of one batch in one frame."""
        token = series.definition.token
        self._loaded.add(token)
        series.seq = self.seq + 1
        series.worker = self
        self.seq = series.last
        dropped, self.dropped = self.dropped, []
        envelope = (token, *series.numbers, self._unknown(series.needs), dropped, series.waiting())
        later = self.held > 0
        self.calls.append(series)
        self.held += series.left
        self.post(wire.CALLS, series.seq, [marshal.dumps(envelope)], later=later)

    def take_off(self, job: Job) -> None:
        """It has nothing of this job any more."""
        self.calls.remove(job)
        self.held -= job.left

    def _send_ahead(self, job: Job, name: str) -> None:
        """Send a part that a call will probably need, or what leads to it from what the worker has."""
        number, had = job.parts[name], self.number_of(name)
        if had == number:
            return
        try:
            builds_on, (parcel, needs) = job.part(name, had)
        except NotTransferable:
            return  # if it is needed, it is asked for, and then the call fails
        self._send_part((name, number, builds_on, self._unknown(needs)), parcel, self.ledger.lend, later=True)

    def answer(self, name: str, number: int, packed: Packed | None) -> None:
        """Send a part for which a body waits; None: it cannot be sent.

        It does not count on what stands in frames before it: the worker has not looked at those yet.
        """
        if packed is None:
            self.post(wire.PART, 0, [marshal.dumps((name, number, 0, (), None))], flags=wire.ASKED)
            return
        parcel, needs = packed
        told = [(token, body) for token, _, body in needs]
        self._send_part((name, number, 0, told), parcel, self.ledger.lend_again, flags=wire.ASKED)

    def _send_part(
        self,
        head: tuple[str, int, int, list[tuple[int, bytes]]],
        parcel: Parcel,
        lend: Callable[[Lot, list[int]], tuple[Any, ...]],
        *,
        flags: int = 0,
        later: bool = False,
    ) -> None:
        descriptors: list[int] = []
        shape, parts = ship(parcel, lambda lot: lend(lot, descriptors))
        self.post(wire.PART, 0, [marshal.dumps((*head, shape)), *parts], descriptors, flags=flags, later=later)
        name, number, _, _ = head
        self._parts[name] = number

    def parcel(self, frame: wire.Frame) -> Parcel:
        """The packed value in a frame."""
        if not frame.flags & wire.SHAPED:
            return Parcel(frame.parts[0], (), bool(frame.flags & wire.PLAIN))
        shape: Shape = marshal.loads(frame.parts[-1])  # noqa: S302 - from a worker that we started
        descriptors = iter(frame.descriptors)
        return unship(shape, frame.parts[:-1], lambda told: self.ledger.find(told, descriptors))

    def _unknown(self, needs: Sequence[tuple[int, int, bytes]]) -> list[tuple[int, bytes]]:
        known = self.known
        found = []
        for token, version, body in needs:
            if known.get(token, 0) < version:  # an older one can come later, from a call that waited
                known[token] = version
                found.append((token, body))
        return found

    def post(
        self,
        kind: int,
        seq: int,
        parts: Sequence[wire.Bytes],
        descriptors: Sequence[int] = (),
        *,
        flags: int = 0,
        later: bool = False,
    ) -> None:
        """Send a frame, as far as possible without waiting; ``later``: with the next flush."""
        self.unsent += wire.pack(kind, seq, parts, flags, descriptors)
        if not later:
            self.flush()

    def flush(self) -> None:
        """Send what is left over."""
        try:
            self.unsent = wire.send_some(self.sock, self.unsent)
        except OSError:  # it is dying; its end is noticed where it is read
            self.unsent = []

    def order(self, kind: int, seq: int) -> None:
        """Say something on the control socket."""
        try:
            self.control.send(wire.pack(kind, seq)[0])
        except OSError:  # it is dying, or has not listened for hundreds of messages; a kill does not need it
            pass

    def failed_to_start(self) -> str:
        """Why its carrier has not been started, once that is known, or ""."""
        reason = self.carrier.failed_to_start()
        self.exit_fd = self.carrier.exit_fd
        return reason

    def kill(self) -> None:
        """End it by force, with whatever it started."""
        self.carrier.kill()

    def end(self, seq: int) -> None:
        """Have it take no more calls, interrupt call ``seq`` if that one runs, and end."""
        self.ending = True
        self.order(wire.STOP, seq)
        self.post(wire.END, 0, [])

    def is_gone(self, now: float) -> bool:
        """Reap it if it has ended; if not, sets when to look again."""
        if self.carrier.is_gone():
            return True
        self.check_at = now + self._pause
        self._pause = min(self._pause * 2, _LAST_CHECK)
        return False

    def disown(self) -> None:
        """In a child that the engine's process forked, or if it was not started: close the sockets and forget the carrier."""
        self.sock.close()
        self.close()
        self.carrier.disown()

    def close(self) -> None:
        """Close what the keeper has of it; the socket is closed where it is read."""
        self.control.close()
        self.reader.close()
        self.ledger.close()
        self.close_exit_fd()

    def close_exit_fd(self) -> None:
        """It has ended, or is being forgotten."""
        if self.exit_fd is not None:
            os.close(self.exit_fd)
            self.exit_fd = None
