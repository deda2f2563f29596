"""A process of the system that carries a worker: how it is started, killed and reaped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Callable
from typing import Protocol

from theus.environments.losses import exit_in_words

_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0  # bytes


class Child(Protocol):
    """What is asked of ``Popen``, and of what was started in another way."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None:
        """The exit code, once it has ended; reaps it."""


class WorkerProcess:
    """A worker process (a ``Carrier``, see ``peer.py``). ``start``: starts it with what it has of us."""

    is_lost = False  #: what is killed ends
    start_fd: int | None = None  #: it starts at once

    def __init__(self, *far: socket.socket, start: Callable[..., Child] | None = None) -> None:
        lifeline, self._lifeline = os.pipe()  # its far end tells the worker that we are gone
        try:
            self._process: Child = (start or start_python)(*far, lifeline)
        except BaseException:
            os.close(self._lifeline)
            raise
        finally:
            os.close(lifeline)
        _ours.add(self)
        self.exit_fd = exit_fd_of(self.number)

    @property
    def number(self) -> int:
        """The process's id."""
        return self._process.pid

    def failed_to_start(self) -> str:
        """It has not."""
        return ""

    @property
    def exit_code(self) -> int | None:
        """Of the process, once it has been reaped."""
        return self._process.returncode

    def kill(self) -> None:
        """Kill it and whatever it started. Its group exists until it has been reaped, so no other can be hit."""
        if self._process.returncode is None:
            try:
                os.killpg(self.number, signal.SIGKILL)
            except OSError:  # gone, or on macOS a zombie
                pass

    def is_gone(self) -> bool:
        """Reap it if it has ended."""
        if self._process.poll() is None:
            return False
        self._let_go()
        return True

    def _let_go(self) -> None:
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    def memory(self) -> int:
        """What it has in memory, in bytes; known on Linux only."""
        try:
            with open(f"/proc/{self.number}/statm", "rb") as file:  # noqa: PTH123 - after each call
                return int(file.read().split()[1]) * _PAGE
        except OSError:
            return 0

    def disown(self) -> None:
        """It is no child of ours."""
        self._process.returncode = 0
        self._let_go()

    def end_in_words(self) -> str:
        """Its exit code, and what that means."""
        code = self._process.returncode
        assert code is not None
        return exit_in_words(code)


#: Those that this process has started. What it forks must not hold their lifelines.
_ours: weakref.WeakSet[WorkerProcess] = weakref.WeakSet()


def _let_go_of_all() -> None:
    for worker in list(_ours):
        worker._let_go()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_let_go_of_all)


def start_python(*given: socket.socket | int, module: str = "far") -> subprocess.Popen[bytes]:
    """Start a Python that runs ``main`` of a module here with these descriptors."""
    fds = [one if isinstance(one, int) else one.fileno() for one in given]
    # Nothing of the program is imported there, so a script without a __main__ guard does not run again.
    code = (
        f"import gc, sys; gc.disable(); sys.path[:] = {[str(path) for path in sys.path]!r}; "
        f"from theus.environments.{module} import main; main(*{fds})"
    )
    return subprocess.Popen(  # noqa: S603 - the interpreter that runs here
        [sys.executable, *subprocess._args_from_interpreter_flags(), "-c", code],  # type: ignore[attr-defined]  # private, but what multiprocessing goes by, too
        stdin=subprocess.DEVNULL,
        pass_fds=fds,
        process_group=0,  # Ctrl-C on the terminal is for us; and what a worker starts can be killed with it
    )


def exit_fd_of(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends, where there is such a thing.

    The end of the stream says the same, unless a child that a body forked holds the other end open.
    """
    try:
        return os.pidfd_open(pid) if sys.platform == "linux" and pid else None
    except (OSError, AttributeError):
        return None
