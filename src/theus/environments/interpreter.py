"""Sub-interpreters: calls that compute, on another core, in this very process (Python 3.14 and newer).

All is as in worker processes, the same pool and the same far side; what carries a worker is an interpreter with a lock and
modules of its own. What follows from living in one process:

- A crash in compiled code or an ``os._exit`` ends the program, not just the call.
- Nothing can be killed. A body is stopped at its next line of Python; one that is inside a call of C that does not return
  is given up (``sub_interpreter.py``).
- The working directory is everybody's: a body that changes it changes it for the program.
- A child that is forked off crashes if there are sub-interpreters (CPython 3.14). So they are ended before the fork, and the
  calls in them are lost; afterwards new ones start when they are needed. (Programs that are started with ``subprocess``
  are not concerned.)
- Modules of C that keep state for the whole process do not load: numpy and what is built on it, among others. The
  process's own module and what its body imports are loaded before the first call of it runs; if one of them does not
  load, nothing has run, and ``NotTransferable`` says which.
"""

from __future__ import annotations

from typing import ClassVar

from theus.environments.peer import Carrier
from theus.environments.sub_interpreter import SubInterpreter
from theus.environments.worker import WorkerEnvironment
from theus.errors import NotTransferable


class InterpreterEnvironment(WorkerEnvironment):
    """Runs calls in sub-interpreters, started when needed, up to ``capacity``."""

    name = "interpreter"
    noun = "sub-interpreter"
    place = "interpreter {}"
    carrier: ClassVar[type[Carrier]] = SubInterpreter

    def _failed(self, process: str, what: str, reason: str, ran: bool, does_not_load: bool) -> NotTransferable:
        if ran or not does_not_load:
            return super()._failed(process, what, reason, ran, does_not_load)
        return NotTransferable(
            f"process {process!r} has not run: it needs what does not load in a sub-interpreter ({reason}). "
            "Say environment='worker'.",
            process=process,
            what=what,
            reason=reason,
            ran=ran,
        )
