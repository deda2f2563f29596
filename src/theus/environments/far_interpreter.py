"""The far side in a sub-interpreter: the same as in a worker process, but for how a call is stopped.

There are no signals here, and nothing can be killed. The control thread turns on the interpreter's monitoring (PEP 669)
instead, and the call that is to end meets our callback at its next line, jump or call. Like the handler of a signal the
callback runs in the thread of the body and sees whether that call still runs, so what it raises hits nothing else::

    STOP                               Stopped is raised once: the body unwinds, ``local`` closes
    the control socket comes to its    Stopped is raised at each line of the body until it is left: no ``except`` and
    end: the near side has waited      no ``finally`` can hold it
    long enough, or is gone

What is inside a call of C is reached when that call returns. If it never does, the near side gives the interpreter up.

The control thread is no daemon: an interpreter that ends with a daemon thread inside crashes the program.
"""

from __future__ import annotations

import functools
import gc
import inspect
import os
import socket
import sys
import threading
from types import CodeType
from typing import TYPE_CHECKING, Any

from theus.environments import wire
from theus.environments.changes import imports_in
from theus.environments.far import FarSide
from theus.environments.far_control import Control, Stopped
from theus.environments.faults import does_not_load
from theus.environments.parcel import FAULTS

if TYPE_CHECKING:
    from theus.processes import Process

#: Where nothing is raised: what leads the call to its end must get there, and a loop must be left in good order.
_NOT_HERE = (
    os.path.dirname(__file__) + os.sep,  # noqa: PTH120 - pathlib takes long to load
    os.path.dirname(os.__file__) + os.sep + "asyncio" + os.sep,  # noqa: PTH120 - pathlib takes long to load
)


def main(wire_fd: int, control_fd: int) -> None:
    """Serve calls until the near side says END or is gone. The descriptors stay the near side's."""
    with socket.socket(fileno=os.dup(wire_fd)) as sock, socket.socket(fileno=os.dup(control_fd)) as control_sock:
        line = wire.Line(sock, _near_side_is_gone)
        control = InterpreterControl(control_sock, line)
        try:
            InterpreterSide(sock, line, control).serve()
        except BaseException as error:  # CPython 3.14 takes a MemoryError that leaves an interpreter for success
            sys.excepthook(type(error), error, error.__traceback__)  # traceback takes 2 ms to load
        finally:
            control.stop_listening()
            gc.unfreeze()  # or what ends with the interpreter would not be found


def _near_side_is_gone() -> None:
    """Nothing to do: the control socket has come to its end as well."""


class InterpreterSide(FarSide):
    """Loads what a body will import before the first call of it runs."""

    def __init__(self, sock: socket.socket, line: wire.Line, control: Control) -> None:
        super().__init__(sock, line, control)
        self._tried: set[int] = set()

    def _process(self, token: int) -> Process[Any, Any]:
        process = super()._process(token)
        if token not in self._tried:
            try_imports(process.fn)
            self._tried.add(token)
        return process


def try_imports(function: Any) -> None:
    """Import what the body of a function imports; raises what says that something does not load in an interpreter.

    Every other error is the body's own affair: it may not get so far, or be prepared for it.
    """
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(getattr(function, "__func__", function))
    code = getattr(function, "__code__", None)
    for name, names, level in imports_in(code) if code is not None else ():
        try:
            __import__(name, function.__globals__, None, names, level)
        except FAULTS as error:
            if does_not_load(error):
                raise


class InterpreterControl(Control):
    """Stops calls by monitoring."""

    def __init__(self, sock: socket.socket, line: wire.Line) -> None:
        super().__init__(sock, line)
        self._body_thread = threading.get_ident()
        self._thread = threading.Thread(target=self._listen, name="theus-control")
        self._raised = False
        self._given_up = False
        self._closing = False
        self._leaving = False

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def leaving(self) -> InterpreterControl:
        """The last things: closing resources and the loop. They, too, are ended if the near side gives up waiting."""
        return self

    def __enter__(self) -> None:  # no generator: its frames are contextlib's, where something might be raised
        self._closing = True

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        self._closing = False
        return kind is Stopped

    def stop_listening(self) -> None:
        """Have the control thread end, and wait for it. Nothing is raised from here on: the interpreter ends itself."""
        self.in_body = self._closing = False
        self._leaving = True
        self._sock.shutdown(socket.SHUT_RD)
        if self._thread.is_alive():
            self._thread.join()

    # --- the thread of the bodies ---

    def _on_event(self, code: CodeType, *_: Any) -> None:
        if threading.get_ident() != self._body_thread or code.co_filename.startswith(_NOT_HERE):
            return
        if self._given_up:
            due = self.in_body or self._closing
        else:
            due = self.in_body and not self._raised and self._stop == self.running
        if due:
            self._raised = True
            raise Stopped

    # --- the control thread ---

    def _listen(self) -> None:
        reader = wire.Reader(self._sock)
        while reader.receive():
            for frame in reader.frames():
                self._obey(frame)
        if not self._leaving:
            self.ending = self._given_up = True
            self._cancel()
            self._watch()

    def _interrupt(self) -> None:
        if not self._cancel():
            self._watch()

    def _watch(self) -> None:
        """Have the callback called from now on."""
        monitoring = sys.monitoring  # type: ignore[attr-defined]  # new in Python 3.12
        tool = next((n for n in range(6) if monitoring.get_tool(n) in (None, "theus")), None)
        if tool is None:
            return  # debuggers and profilers have taken all; then nothing here can be stopped
        if monitoring.get_tool(tool) is None:
            monitoring.use_tool_id(tool, "theus")
        events = (
            monitoring.events.LINE,
            monitoring.events.JUMP,
            monitoring.events.PY_START,
            monitoring.events.PY_RESUME,
        )
        for event in events:
            monitoring.register_callback(tool, event, self._on_event)
        monitoring.set_events(tool, sum(events))
