"""What is to happen to the calls of a worker, decided by the near side while the worker computes.

Calls are numbered. A call begins only if it has not been handed back: RECALL and STOP hand back all that have not begun.

In a worker process an interrupt (STOP) is a SIGTERM that the worker sends itself: its handler runs in the main thread, between two byte codes
or out of a blocking system call, sees whether the call it is meant for still runs, and only then raises ``Stopped`` in
it, or cancels the task of an ``async def``. So ``local`` closes as usual. What does not end soon is killed by the near side.
A worker that was interrupted ends: nobody knows what the call left half done in its modules.

A worker whose near side is gone ends with all that it started: the control socket tells, and on Linux the system itself kills
its process group when the other end of a pipe, the *lifeline*, is closed. (That signal is the only one by which the system
ends it: one for the death of the parent may come first and would end the worker alone, and then nobody is left who could be told
of the lifeline.)
How a sub-interpreter does it, without signals, is in ``far_interpreter.py``.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from theus.environments import wire

if TYPE_CHECKING:
    import asyncio
    from contextlib import AbstractContextManager

T = TypeVar("T")
_LAST = 2**63
_F_SETSIG = 10  # Linux; Python does not name it


class Stopped(BaseException):
    """Raised in a body that is to end now."""


class Control(ABC):
    """Reads the control socket in a thread of its own. What differs between a process and an interpreter is below."""

    def __init__(self, sock: socket.socket, line: wire.Line) -> None:
        self.ending = False  #: take no more calls
        self.running = 0  #: the call that runs or ran last
        self.in_body = False
        self._sock = sock
        self._line = line
        self._order = threading.Lock()  # over ``running`` and:
        self._given_back = 0  #: calls up to this one that had not begun were handed back
        self._stop = -1  #: the call to interrupt; 0: none, but take no more
        self._task: asyncio.Task[Any] | None = None

    # --- for the main thread ---

    @abstractmethod
    def start(self) -> None:
        """Begin to listen."""

    def begin(self, seq: int) -> bool:
        """Whether this call may begin; if so, it is the one that runs."""
        with self._order:
            if seq <= self._given_back:
                return False
            self.running = seq
            return True

    def enter_body(self) -> None:
        """From here on an interrupt raises, until ``in_body`` is set to False."""
        self.in_body = True
        if self.ending:  # told to stop while it was opened
            raise Stopped

    async def as_task(self, body: Coroutine[Any, Any, T]) -> T:
        """Run the coroutine of a body so that an interrupt cancels it."""
        import asyncio

        self._task = asyncio.current_task()
        try:
            return await body
        except asyncio.CancelledError:
            if self.ending:
                raise Stopped from None
            raise
        finally:
            self._task = None

    def leave_if_forked(self) -> None:  # noqa: B027 - there is nothing to do where no body can fork
        """End a child that a body forked and that came out of the body: it has no business here."""

    def enter_directory(self, directory: str | None) -> None:  # noqa: B027 - nor where there is one directory for all
        """Work where the near side works."""

    @abstractmethod
    def leaving(self) -> AbstractContextManager[None]:
        """The last things are done inside; afterwards nobody listens any more."""

    # --- the control thread ---

    def _obey(self, frame: wire.Frame) -> None:
        with self._order:
            first = max(self.running, self._given_back) + 1
            last = frame.seq if frame.kind == wire.RECALL else _LAST
            self._given_back = max(self._given_back, last)
            running = self.running
            # Before the next call may begin: the near side counts on answers coming in the order of the calls.
            self._line.send(wire.RETURNED, first, [wire.number(last)])
        if frame.kind == wire.STOP:
            self._stop = frame.seq
            self.ending = True
            if frame.seq == running:
                self._interrupt()

    @abstractmethod
    def _interrupt(self) -> None:
        """Stop the call that runs."""

    def _cancel(self) -> bool:
        """Stop an ``async def`` body where it waits, if it is one that runs."""
        task = self._task
        if task is None:
            return False
        task.get_loop().call_soon_threadsafe(task.cancel)
        return True


class ProcessControl(Control):
    """In a worker process: an interrupt is a signal, and the end of the near side is the end of all that is here."""

    def __init__(self, sock: socket.socket, line: wire.Line) -> None:
        super().__init__(sock, line)
        self._parent = os.getppid()
        self._pid = os.getpid()

    def start(self) -> None:
        """Take over the signals and begin to listen."""
        signal.signal(signal.SIGINT, _ignore)  # the near side decides; SIG_IGN would pass on to child processes
        signal.signal(signal.SIGTERM, self._on_sigterm)
        os.register_at_fork(after_in_child=self._forked)
        threading.Thread(target=self._listen, name="theus-control", daemon=True).start()

    def leaving(self) -> ProcessControl:
        """The last things; afterwards, if a signal from outside ended the worker, it ends by that signal."""
        return self

    def __enter__(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._sock.detach()
            if self.ending and self._stop < 0:
                os.kill(self._pid, signal.SIGTERM)

    def leave_if_forked(self) -> None:
        """End a child that a body forked and that came out of the body: it has no business here."""
        if os.getpid() != self._pid:
            os._exit(0)

    def enter_directory(self, directory: str | None) -> None:
        """Work where the near side works."""
        if directory is not None:
            try:
                os.chdir(directory)
            except OSError:  # it is gone; then the near side is in no better place
                pass

    # --- signals, in the main thread ---

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        if self._stop > 0 and self._stop != self.running:
            return  # the call that it was meant for has ended
        self.ending = True
        if not self._cancel() and (self.in_body or self._stop < 0):
            raise Stopped

    def _forked(self) -> None:
        """Let a child that a body forked have no part in this."""
        self._line.close()
        self._sock.close()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    # --- the control thread ---

    def _listen(self) -> None:
        reader = wire.Reader(self._sock)
        try:
            while True:
                if not select.select([self._sock], [], [], 1.0)[0]:
                    if os.getppid() != self._parent:
                        break
                elif not reader.receive():
                    break
                for frame in reader.frames():
                    self._obey(frame)
        except (OSError, ValueError):  # the body closed what is not its own
            pass
        end_group()

    def _interrupt(self) -> None:
        os.kill(self._pid, signal.SIGTERM)


def end_group() -> None:
    """The near side is gone: whatever runs here, and whatever it started, has nobody to work for."""
    os.killpg(os.getpgrp(), signal.SIGKILL)


def end_with(lifeline: int) -> None:
    """Have the system kill this process and whatever it started when nobody holds the other end of this pipe (Linux)."""
    os.set_inheritable(lifeline, False)
    if sys.platform == "linux":
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, _F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
        if select.select([lifeline], [], [], 0)[0]:  # it was let go of before
            end_group()


def _ignore(number: int, frame: FrameType | None) -> None:
    pass
