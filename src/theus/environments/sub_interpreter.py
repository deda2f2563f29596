"""A sub-interpreter that carries a worker: how it is started, told to end, and given up.

It runs in a thread of its own, its *host*, from being made to being closed. (Entered from the main thread each call would
cost 150 us: the bounds of that thread's stack are looked up each time.)

Nothing can kill an interpreter. ``kill`` cuts its control socket, upon which the far side ends the body at its next
line (``far_interpreter.py``). What is inside a call of C that does not return is given up after a second: it is left to
itself, and its worker is replaced.

Python crashes when it ends while a thread is inside a sub-interpreter. So at the program's end the pool ends its workers,
and afterwards every host is waited for; the hosts are daemons, because Python would wait for other threads before
anybody had told them to end. If one is still inside a call of C then, the program is ended at once instead.

A child that is forked off crashes if there are sub-interpreters, also when they are at rest. So a fork ends them first and
waits for it; the call that runs in one is lost, those that wait for their turn go to the next, which is made after the fork.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import socket
import sys
import threading
from time import monotonic

from theus.environments.parcel import FAULTS

GIVE_UP = 1.0  #: seconds that a body has to meet its end, once it is ended by force
AT_EXIT = 5.0  #: seconds that the program's end waits for what does not end
log = logging.getLogger("theus.environments")


class SubInterpreter:
    """A sub-interpreter and its host (a ``Carrier``, see ``peer.py``)."""

    exit_code: int | None = None  #: it has none
    start_fd: int | None = None  #: it starts at once

    def __init__(self, far: socket.socket, far_control: socket.socket) -> None:
        self.number = 0  #: until it has been made
        self.is_lost = False
        self.exit_fd: int | None
        self.exit_fd, self._exit_end = os.pipe()
        self._sockets: list[socket.socket] = []
        self._over = threading.Lock()  # over the end: it comes once, by itself or by giving up
        self._is_over = False
        self._failure = ""
        self._timer = threading.Timer(GIVE_UP, self._give_up)
        self._timer.daemon = True
        try:
            self._sockets += [far.dup()]
            self._sockets += [far_control.dup()]
            _Host(target=self._host, name="theus-interpreter", daemon=True).start()
        except (OSError, RuntimeError) as error:  # RuntimeError: no thread can be started
            self.disown()
            os.close(self.exit_fd)
            raise OSError(str(error)) from error

    def failed_to_start(self) -> str:
        """It has not."""
        return ""

    def kill(self) -> None:
        """Have its body ended at the next line; give it up if that does not come."""
        with self._over:
            if not self._is_over and self._timer.ident is None:
                for sock in self._sockets:
                    sock.shutdown(socket.SHUT_RD)
                self._timer.start()

    def is_gone(self) -> bool:
        """Whether it has been closed or given up."""
        return self._is_over

    def memory(self) -> int:
        """The memory is the process's: what one interpreter takes of it cannot be told."""
        return 0

    def disown(self) -> None:
        """Close what is here of it: it did not come along into a forked child, or was never made."""
        for sock in self._sockets:
            sock.close()
        os.close(self._exit_end)

    def end_in_words(self) -> str:
        """Why it ended."""
        return self._failure or "it ended by itself"

    # --- the host ---

    def _host(self) -> None:
        sock, control = self._sockets
        try:
            self._live(sock.fileno(), control.fileno())
        except FAULTS as error:
            self._failure = str(error)
        with self._over:
            given_up = self._is_over
            self._is_over = True
        sock.close()
        control.close()
        self._timer.cancel()
        if not given_up:
            os.close(self._exit_end)

    def _live(self, wire_fd: int, control_fd: int) -> None:
        from concurrent import interpreters  # type: ignore[attr-defined]  # new in Python 3.14

        with _alive.changed:
            _alive.changed.wait_for(lambda: not _alive.forks)
            interpreter = interpreters.create()
            _alive.carriers.add(self)
        self.number = interpreter.id
        try:
            interpreter.exec(
                f"import gc, sys; gc.disable(); sys.path[:] = {[str(path) for path in sys.path]!r}; "
                f"from theus.environments.far_interpreter import main; main({wire_fd}, {control_fd})"
            )
        finally:
            interpreter.close()
            with _alive.changed:
                _alive.carriers.discard(self)
                _alive.changed.notify_all()

    def _give_up(self) -> None:
        with self._over:
            if self._is_over:
                return
            self._is_over = self.is_lost = True
        log.warning(
            "sub-interpreter %d does not end: %g s after it was told to, a call of C in it has not returned (or the machine "
            "is very busy). It is left to itself, and another takes its place. What must be stoppable belongs in a worker "
            "process: environment='worker'.",
            self.number,
            GIVE_UP,
        )
        os.close(self._exit_end)

    def end_for_fork(self) -> None:
        """Make way for a fork."""
        self._failure = "the program forked, and a child with sub-interpreters in it would crash"
        self.kill()


class _Alive:
    """The sub-interpreters there are, and who forks."""

    def __init__(self) -> None:
        self.carriers: set[SubInterpreter] = set()
        self.forks = 0  #: threads that are about to fork; meanwhile none is made
        self.changed = threading.Condition()

    def before_fork(self) -> None:
        """End them all."""
        with self.changed:
            self.forks += 1
            for carrier in self.carriers:
                carrier.end_for_fork()
            if not self.changed.wait_for(lambda: not self.carriers, 2 * GIVE_UP):
                log.warning(
                    "the program forks while %d sub-interpreters do not end: the child will likely crash. What runs that "
                    "long in C belongs in a worker process: environment='worker'.",
                    len(self.carriers),
                )

    def after_in_parent(self) -> None:
        """More may be made."""
        with self.changed:
            self.forks -= 1
            self.changed.notify_all()

    def after_in_child(self) -> None:
        """There are none here; and whoever held the lock is not here."""
        self.carriers.clear()
        self.forks = 0
        self.changed = threading.Condition()


_alive = _Alive()
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(
        before=_alive.before_fork, after_in_parent=_alive.after_in_parent, after_in_child=_alive.after_in_child
    )


class _Host(threading.Thread):
    """The thread of a sub-interpreter."""


def _wait_for_hosts() -> None:
    """See to it that no thread is inside a sub-interpreter when Python ends."""
    hosts = [thread for thread in threading.enumerate() if isinstance(thread, _Host)]
    end = monotonic() + AT_EXIT
    try:
        for host in hosts:
            host.join(max(0.0, end - monotonic()))
    finally:
        if any(host.is_alive() for host in hosts):
            log.critical(
                "a sub-interpreter does not end (a call of C in it does not return), and Python would crash with it: the "
                "program is ended with exit code 1"
            )
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(1)


# Registered when this module is loaded, so before any pool registers its own: it is called after those.
atexit.register(_wait_for_hosts)
