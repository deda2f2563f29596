"""The engine that dies with a durable emit in hand: its handler says so, and waits for a line before it returns.

emit_program.py STORE BEAT [unhandled | heir]
"""

from __future__ import annotations

import queue
import sys
import threading
from dataclasses import dataclass

from theus import Context, Engine, outbox, process

BEGUN: queue.Queue[str] = queue.Queue()
DONE = threading.Event()


@dataclass
class Shop:
    total: int = 0


@process
def order(ctx: Context[Shop], number: int) -> None:
    ctx.domain.total += number
    ctx.emit("ordered", {"number": number}, durable=True)


def hold(value: object, key: str) -> None:
    BEGUN.put(key)
    sys.stdin.readline()
    DONE.set()


def main(url: str, beat: str, *options: str) -> None:
    outbox.BEAT = float(beat)
    with Engine(Shop(), store=url) as shop:
        if "unhandled" not in options:
            shop.on("ordered", hold)
        if "heir" not in options:
            shop.run(order, 7, run_id="r")
        if "unhandled" in options:
            print("emitted", flush=True)
            sys.stdin.readline()
        else:
            # Only now, when the run has made its last commit: whoever is stopped in the middle of one stops all others.
            print("begun", BEGUN.get(), flush=True)
            DONE.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
