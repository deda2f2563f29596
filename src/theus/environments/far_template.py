"""The far side of a template: a process that has imported what is heavy, and forks the workers of a pool.

It is started as a worker is, has one thread, and imports what is installed only: never a module of the user's, since what those
do when they are imported (seeds, connections, files) each worker has to do for itself. Whoever asks for a worker sends the
modules that it may have loaded and four descriptors, those that a worker has (wire, control, lifeline) and a *channel*, over
which the template answers::

    FORK ──> what is missing is imported ──> fork ──> the process id        (or, if it is not fit for that, the reason)
    "?"  ──> waitpid ──> the exit code, or None if it has not ended
    the channel is closed ──> nobody wants that worker: it is killed and reaped

It reaps a child only when it is asked, so the number of a worker stays its own as long as its parent on the near side counts
on it. It ends when nobody can ask any more; and dies with the program, and its children with it.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import marshal
import os
import select
import signal
import socket
import sys
import warnings
import weakref
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from theus.environments import far, wire
from theus.environments.changes import is_own
from theus.environments.far_control import end_with
from theus.environments.parcel import FAULTS


def main(wire_fd: int, lifeline: int) -> None:
    """In a template: fork until nobody asks any more. In what it forks: serve calls."""
    end_with(lifeline)
    worker = FarTemplate(socket.socket(fileno=wire_fd), lifeline).serve()
    if worker is not None:
        far.main(*worker)
        return
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(0)  # to take a thousand modules apart would take longer than all that it has done


class FarTemplate:
    """The one template of this process."""

    def __init__(self, sock: socket.socket, lifeline: int) -> None:
        self._sock = sock
        self._lifeline = lifeline
        self._reader = wire.Reader(sock)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._children: dict[int, tuple[socket.socket, int]] = {}  #: their channels and process ids, by descriptor
        self._at_start = set(sys.modules)

    def serve(self) -> tuple[int, int, int] | None:
        """Fork. Gives what ``far.main`` takes, in a child; None when nobody can ask any more."""
        while self._sock.fileno() >= 0 or self._children:
            for fd, _ in self._poll.poll():
                if fd in self._children:
                    self._tell_end(fd)
                elif not self._reader.receive():
                    self._poll.unregister(fd)
                    self._sock.close()
                    self._reader.close()
                else:
                    for frame in self._reader.frames():
                        if self._fork(frame):
                            wire_fd, control_fd, lifeline, _ = frame.descriptors
                            return wire_fd, control_fd, lifeline
        return None

    def _fork(self, frame: wire.Frame) -> bool:
        """Whether this is the child."""
        *given, channel_fd = frame.descriptors
        channel = socket.socket(fileno=channel_fd)
        pid, reason = 0, self._load(marshal.loads(frame.parts[0]))  # noqa: S302 - from the process that started us
        if not reason:
            pid, reason = self._split(channel)
            if not pid and not reason:
                return True
        for fd in given:
            os.close(fd)
        with suppress(OSError):  # it was closed meanwhile: if there is a child, that is heard next
            channel.send(marshal.dumps(reason or pid))
        if reason:
            channel.close()
        else:
            self._children[channel_fd] = channel, pid
            self._poll.register(channel, select.POLLIN)
        return False

    def _load(self, names: Iterable[str]) -> str:
        """Import what is missing. Gives why nothing can be forked then."""
        for name in names:
            if name not in sys.modules:
                try:
                    importlib.import_module(name)
                except FAULTS:
                    pass  # the worker meets it itself, where somebody hears of it
        importlib.invalidate_caches()  # here and not in the child: it loads modules
        gc.freeze()
        own = [name for name in list(sys.modules) if name not in self._at_start and is_own(name)]
        if own:
            return f"what is installed imports {own[0]}, which is not, and which each worker has to import for itself"
        return ""

    def _split(self, channel: socket.socket) -> tuple[int, str]:
        """Fork. Gives the process id of the child, or why there is none; in the child neither."""
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which are looked for below
                pid = os.fork()
        except OSError as error:
            return 0, str(error)
        if pid == 0:
            os.setpgid(0, 0)
            self._leave(channel)
            return 0, ""
        os.setpgid(pid, pid)  # whoever comes first: it leads a group before anybody is told its number
        if _has_threads():
            _kill(pid)
            return 0, "its imports have started threads, which what it forks is without"
        return pid, ""

    def _leave(self, channel: socket.socket) -> None:
        """In a child: have nothing of the template's, and share nothing with the other workers."""
        for other in (self._sock, channel, *(other for other, _ in self._children.values())):
            other.close()
        self._reader.close()
        os.close(self._lifeline)
        numbers = sys.modules.get("numpy.random")
        if numbers is not None:
            numbers.seed()  # Python's own generator does it by itself
        # What the imports left to do at the end (to remove a directory, say) is the template's; what comes later is ours.
        atexit._clear()
        for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
            if finalizer.atexit:
                finalizer.detach()
        weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined]
        if "logging" in sys.modules:
            atexit.register(sys.modules["logging"].shutdown)

    def _tell_end(self, fd: int) -> None:
        """Reap a child that has ended, and say how."""
        channel, pid = self._children[fd]
        try:
            asked = channel.recv(1)
        except OSError:
            asked = b""
        code = None
        if asked:
            found, status = os.waitpid(pid, os.WNOHANG)
            code = os.waitstatus_to_exitcode(status) if found else None
            with suppress(OSError):
                channel.send(marshal.dumps(code))
        else:
            _kill(pid)
        if code is not None or not asked:
            self._poll.unregister(fd)
            channel.close()
            del self._children[fd]


def _has_threads() -> bool:
    """Whether there are threads besides this one. Those that end with a fork (OpenBLAS's do) may take a moment for it."""
    tasks = Path("/proc/self/task")
    return all(len(list(tasks.iterdir())) > 1 and not select.select([], [], [], 0.001)[0] for _ in range(50))


def _kill(pid: int) -> None:
    """End a child and what it has started, and reap it."""
    for kill in (os.killpg, os.kill):  # it may have left its group
        with suppress(OSError):
            kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
