"""Worker processes that are forked by a template instead of started, so that a heavy import is paid for once.

The template (``far_template.py``) is the parent of those workers, and tells us over a *channel* for each what a parent knows.
It is asked without waiting: the keeper hears the answers, with everything else that it waits for::

    none ──a heavy import was seen, and a worker is to be started──> asked ──pid──> forks
                                                                       └── it is unfit, dies, or says nothing: given up

Given up is for good: workers are started one by one from there on, as they are where nothing heavy is imported. A template
whose program has other surroundings by now (variables, paths, directory, limits, output) is *retired*: it sees to the workers
that it has forked, and the next one is asked of a new template.
"""

from __future__ import annotations

import logging
import marshal
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from time import monotonic
from typing import Any

from theus.environments import wire
from theus.environments.worker_process import WorkerProcess, exit_fd_of, start_python

STARTING = 60.0  #: seconds that a template has to import what it should, and to answer
POLITE = 0.5  #: seconds that one has to end when its pool does
#: Lines of /proc/thread-self/status that tell what a process has from the one that starts it
_INHERITED = ("Umask", "Uid", "Gid", "Groups", "SigIgn", "Cpus_allowed:")
log = logging.getLogger("theus.environments")


class Forked:
    """A child of a template: what ``Popen`` is for our own."""

    def __init__(self, template: Template, channel: socket.socket) -> None:
        self.pid = 0  #: until the template has said it
        self.returncode: int | None = None
        self._template = template
        self._channel = channel
        self._asked = 0.0  #: when it was asked for; 0: there is no answer to come

    def fileno(self) -> int:
        """Of the channel."""
        return self._channel.fileno()

    def arrive(self) -> str:
        """Take the first answer in. Gives why there is no such process, or ""."""
        try:
            said = self._channel.recv(4096)
        except OSError:
            said = b""
        answer: int | str = marshal.loads(said) if said else "it has died"  # noqa: S302 - from a process that we started
        if isinstance(answer, str):
            return answer
        self.pid = answer
        self._template.has_forked = True
        return ""

    def is_held(self) -> bool:
        """Whether its number is its own until we ask for its end: as long as its parent lives."""
        try:
            return bool(self._channel.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def poll(self) -> int | None:
        """The exit code, once it has ended. The template tells it, and takes its children along if it dies."""
        if self.returncode is None:
            try:
                if not self._asked:
                    self._channel.send(b"?")
                    self._asked = monotonic()
                said = self._channel.recv(64)
            except BlockingIOError:
                if monotonic() > self._asked + STARTING:
                    self._template.kill()
                return None
            except OSError:
                said = b""
            self._asked = 0.0
            self.returncode = marshal.loads(said) if said else -signal.SIGKILL  # noqa: S302 - as above
            if self.returncode is not None:
                self.close()
        return self.returncode

    def close(self) -> None:
        """Have no part in it any more: if it lives, the template ends it."""
        self._channel.close()


class ForkedProcess(WorkerProcess):
    """A worker process that a template forks."""

    _process: Forked

    def __init__(self, template: Template, names: Sequence[str], *far: socket.socket) -> None:
        super().__init__(*far, start=partial(template.fork, names))
        self.start_fd = self._process.fileno()

    def failed_to_start(self) -> str:
        """Why the template has not forked it, or "". Asked once, when there is an answer."""
        reason = self._process.arrive()
        self.exit_fd = exit_fd_of(self.number)
        return reason

    def kill(self) -> None:
        """Kill it and whatever it started."""
        if self._process.is_held():
            super().kill()
        else:  # its number may be another's; the system knows its group, see end_with in far_control.py
            self._let_go()

    def disown(self) -> None:
        """It is not ours, or was not started."""
        super().disown()
        self._process.close()


class Template:
    """One template process."""

    def __init__(self, surroundings: Sequence[Any]) -> None:
        self.surroundings = surroundings
        self.has_forked = False
        self._told = 0
        self._sock, far = socket.socketpair()
        try:
            self._carrier = WorkerProcess(far, start=partial(start_python, module="far_template"))
        except BaseException:
            self._sock.close()
            raise
        finally:
            far.close()
        self._sock.settimeout(1.0)  # a list of some thousand modules waits for it to read
        self.exit_fd = self._carrier.exit_fd

    def fork(self, names: Sequence[str], *given: socket.socket | int) -> Forked:
        """Ask for a worker with these modules; each time there may be more of them."""
        channel, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        channel.setblocking(False)
        with far:
            fds = [one if isinstance(one, int) else one.fileno() for one in (*given, far)]
            try:
                unsent = wire.pack(wire.FORK, 0, [marshal.dumps([*names[self._told :]])], descriptors=fds)
                while unsent:
                    unsent = wire.send_some(self._sock, unsent)
            except OSError:  # it is dead or stands still: the channel, which it does not have, tells
                self._sock.close()
        self._told = len(names)
        return Forked(self, channel)

    def retire(self) -> None:
        """Ask no more of it: it ends with the last worker that it has forked."""
        self._sock.close()

    def kill(self) -> None:
        """End it, and with it what it has forked."""
        self._carrier.kill()

    def is_gone(self) -> bool:
        """Reap it if it has ended."""
        return self._carrier.is_gone()

    def close(self) -> None:
        """It has ended."""
        self._sock.close()
        if self.exit_fd is not None:
            os.close(self.exit_fd)
            self.exit_fd = None

    def disown(self) -> None:
        """In a child that the engine's process forked."""
        self._carrier.disown()
        self.close()


class Templates:
    """The templates of a pool: at most one that is asked for workers, and those that are retired. Used by the keeper."""

    def __init__(self, *, possible: bool) -> None:
        self.alive: list[Template] = []
        self.ends_at: float | None = None  #: once they end: when they are killed
        self._possible = possible and sys.platform == "linux"
        self._current: Template | None = None
        self._names: dict[str, None] = {}

    def note(self, names: Iterable[str]) -> None:
        """These modules took long to load somewhere. From any thread."""
        self._names.update(dict.fromkeys(names))

    def worker(self) -> Callable[..., ForkedProcess] | None:
        """What asks for a worker, with its descriptors; None: start one as ever. Raises OSError if no process can be started."""
        if not self._names or not self._possible:
            return None
        now = _surroundings()
        if now is None:
            self.give_up("what it would have from this process cannot be told")
            return None
        if self._current is not None and self._current.surroundings != now:
            self._current.retire()
            self._current = None
        if self._current is None:
            self._current = Template(now)
            self.alive.append(self._current)
        return partial(ForkedProcess, self._current, list(self._names))

    def give_up(self, reason: str) -> None:
        """Start all workers as ever from here on."""
        current, self._current = self._current, None
        if self._possible and self.ends_at is None:
            log.info("worker processes are started one by one from here on, and not forked by a template: %s", reason)
        self._possible = False
        if current is not None:
            current.retire()
            if not current.has_forked:
                current.kill()

    def bury(self, template: Template) -> None:
        """It has ended."""
        self.alive.remove(template)
        template.close()
        if template is self._current:
            self.give_up("it has died")

    def end(self, now: float) -> bool:
        """There are no workers any more: end. Gives whether that is done."""
        if self.ends_at is None:
            self.ends_at = now + POLITE
            self._current = None
            for template in self.alive:
                template.retire()
        elif now >= self.ends_at:
            self.ends_at = now + 1.0  # killed is not yet gone
            self.kill()
            for template in [template for template in self.alive if template.exit_fd is None and template.is_gone()]:
                self.bury(template)
        return not self.alive

    def kill(self) -> None:
        """End them, and with them what they have forked."""
        for template in self.alive:
            template.kill()

    def disown(self) -> None:
        """In a child that the engine's process forked."""
        for template in self.alive:
            template.disown()


def _surroundings() -> Sequence[Any] | None:
    """What a process has from the one that starts it, and what modules go by when they are imported."""
    try:
        with open("/proc/thread-self/status") as status, open("/proc/self/limits") as limits:  # noqa: PTH123 - at each start
            inherited = [line for line in status if line.startswith(_INHERITED)]
            places = [_place(name) for name in ("cwd", "fd/1", "fd/2")]
            nice = os.getpriority(os.PRIO_PROCESS, 0)
            return dict(os.environ), list(sys.path), inherited, limits.read(), places, nice
    except OSError:
        return None


def _place(name: str) -> str:
    try:
        return os.readlink(f"/proc/self/{name}")  # noqa: PTH115 - at each start
    except OSError:  # closed
        return ""
