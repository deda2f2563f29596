"""How well the engine recognises what a process is, and how long its loop has to wait meanwhile."""

from __future__ import annotations

import sys
import threading
from typing import Any

from benchmarks.labelled import labelled
from theus.environments.meter import Meter, Ticker
from theus.nature import Profile
from theus.processes import Process
from theus.protocols import Call
from theus.testing.environments import EngineStub

CALLS = 3


def in_a_thread(work: Any) -> Any:
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(work()))
    thread.start()
    thread.join()
    return answers[0]


def recognise(verbose: bool = False) -> None:
    """Print how many of the labelled processes are recognised after three calls."""
    meter = Meter(Ticker())
    right, all_of_them, wrong = 0, 0, []
    for name, function, label in labelled():
        process: Process[Any, Any] = Process(function)
        profile = Profile(process)
        for number in range(CALLS):
            call = Call(process, (), {}, None, None, None, 1, number, None, EngineStub(), meter=meter)
            outcome = in_a_thread(lambda call=call: meter.measure(call))
            if verbose:
                held = None if outcome.held is None else round(outcome.held, 6)
                print(f'    ("{name}", {outcome.wall:.6f}, {outcome.cpu:.6f}, {held}),')
            profile.add(outcome)
            profile.measure(outcome)
        all_of_them += 1
        kind = profile.known().kind()
        if kind in label:
            right += 1
        else:
            wrong.append(f"{name}: {kind} instead of {label[0]}")
    print(f"\nRecognised after {CALLS} calls: {right} of {all_of_them} ({right / all_of_them:.0%})")
    for line in wrong:
        print(f"  {line}")


def main() -> None:
    recognise("verbose" in sys.argv)


if __name__ == "__main__":
    main()
