"""How well the engine recognises what a process is, how long its loop has to wait meanwhile, and whether what it chooses
for a process is as good as the best place that one could have named.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.labelled import labelled
from theus import Engine, each, parallel, process
from theus.environments.cpus import usable_cpus
from theus.environments.meter import Meter, RunDelay, Ticker
from theus.errors import NotTransferable
from theus.events import ProcessMoved
from theus.nature import FIRST, RARELY, Profile
from theus.processes import Process
from theus.protocols import Call
from theus.surroundings import cannot_travel
from theus.testing.environments import EngineStub

CALLS = 3
ELSEWHERE = ("worker", *(("interpreter",) if sys.version_info >= (3, 14) else ()))  #: on another core, on a copy
PLACES = ("inline", "thread", *ELSEWHERE)
WORK = 0.15  #: seconds of calls in one run, about
MOST_CALLS, LEAST_CALLS = 100, 4
LEAST_ROUNDS, MOST_ROUNDS = 12, 200  #: but the first one
SECONDS = 3.0  #: for the rounds of one workload, about
WITHOUT = "without waiting for a core"
MANY_AT_ONCE = 8  #: calls that compute and may not travel
MANY = 1_000  #: calls in which a process should not move more than twice


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
            args = (number,) if process.pipe_parameter else ()
            call = Call(process, args, {}, None, None, None, 1, number, None, EngineStub(), meter=meter)
            outcome = in_a_thread(lambda call=call: meter.measure(call))
            if verbose:
                held = None if outcome.measured is None else outcome.measured.held
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


def burn(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(100))


async def burn_async(seconds: float) -> None:
    burn(seconds)


async def worst_lag(work: Callable[[], Awaitable[Any]], *, own: bool = False) -> float:
    """Milliseconds by which a ticker of 1 ms was late at worst, while something ran.

    ``own``: without what the system let it wait for a processor, where the system tells.
    """
    worst, goes_on = 0.0, True
    delay = RunDelay(threading.get_native_id())

    async def tick() -> None:
        nonlocal worst
        while goes_on:
            delay.new()
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            worst = max(worst, time.perf_counter() - before - 0.001 - own * delay.new())

    ticker = asyncio.ensure_future(tick())
    await asyncio.sleep(0.01)
    await work()
    goes_on = False
    await ticker
    delay.close()
    return worst * 1e3


async def lags(seconds: float) -> dict[str, float]:
    """The lag of the first and second call of a process that burns so many seconds, and of asyncio alone."""
    found = {"idle": await worst_lag(lambda: asyncio.sleep(seconds))}
    found["asyncio: async def"] = await worst_lag(lambda: burn_async(seconds))
    found["asyncio: to_thread"] = await worst_lag(lambda: asyncio.to_thread(burn, seconds))
    for name, function in (("def", burn), ("async def", burn_async)):
        engine = Engine()
        await engine.arun(process(lambda: None, nature="cpu"))  # as in a program that is under way
        target = process(function)
        for number in ("first", "second"):
            found[f"{name}, {number} call"] = await worst_lag(lambda: engine.arun(target, seconds))  # noqa: B023
        await engine.aclose()
    found.update(await lags_of_many(seconds / MANY_AT_ONCE))
    for place in ("worker", "interpreter") if sys.version_info >= (3, 14) else ("worker",):
        with_workers = Engine(workers=usable_cpus())
        everywhere = parallel(*[process(burn, environment=place).bind(seconds=seconds)] * usable_cpus())
        await with_workers.arun(everywhere)  # they have started
        found[f"a {place} on each core"] = await worst_lag(lambda: with_workers.arun(everywhere))  # noqa: B023
        found[f"  {place}: {WITHOUT}"] = await worst_lag(lambda: with_workers.arun(everywhere), own=True)  # noqa: B023
        await with_workers.aclose()
    return found


async def lags_of_many(seconds: float) -> dict[str, float]:
    """The lag beside calls at the same time that each burn so many seconds of Python and may not travel."""
    kept: list[float] = []

    def stays(seconds: float) -> None:
        burn(seconds)
        kept.append(seconds)

    many = [seconds] * MANY_AT_ONCE
    found = {}
    threads = lambda: asyncio.gather(*[asyncio.to_thread(stays, seconds) for seconds in many])  # noqa: E731
    found[f"asyncio: to_thread, {MANY_AT_ONCE}"] = await worst_lag(threads)
    async with Engine() as engine:
        for number in ("first", "second"):
            found[f"{MANY_AT_ONCE} that stay, {number} run"] = await worst_lag(lambda: engine.arun(each(stays), many))
    return found


def lag(rounds: int = 5, seconds: float = 1.0) -> None:
    """Print the medians, over the idle baseline."""
    logging.disable(logging.WARNING)  # the watchdog has something to say, each time
    seen = [asyncio.run(lags(seconds)) for _ in range(rounds)]
    logging.disable(logging.NOTSET)
    print(f"\nWorst lag of the loop while one process burns {seconds:g} s of Python, median of {rounds}, over idle")
    for name in seen[0]:
        base = 0.0 if name == "idle" or WITHOUT in name else 1.0  # idle it waits for a processor, if for anything
        shown = statistics.median(found[name] - base * found["idle"] for found in seen)
        print(f"  {name:<40} {shown:10,.1f} ms")


async def choices(names: list[str]) -> list[float]:
    """For each workload, print the least time of a run in each place and undeclared, from the second run on.

    A run of a millisecond takes a tenth more or less at any time, so it is made a hundred times and more. A place in
    which a process would work on a copy of what it may change is shown, but is none that it could have had.
    """
    shares = []
    print("\nCalls at the same time, ms a run (least of all rounds, in turns); x: undeclared, of the best named place")
    print("  (in brackets: does not count, as the process would work on a copy there of what it may change)")
    print(f"  {'':<22}" + "".join(f"{place:>12}" for place in (*PLACES, "undeclared")) + "       x  chosen")
    for name, function, _ in labelled():
        if names and name not in names:
            continue
        function()
        started = time.perf_counter()
        function()
        calls = int(max(LEAST_CALLS, min(MOST_CALLS, WORK / (time.perf_counter() - started))))
        targets: dict[str, Any] = {place: process(function, environment=place) for place in PLACES}
        targets["undeclared"] = process(function)
        least = dict.fromkeys(targets, float("inf"))
        async with Engine(workers=2) as engine:
            began = time.perf_counter()
            for number in range(MOST_ROUNDS):
                if number > LEAST_ROUNDS and time.perf_counter() - began > SECONDS:
                    break
                # There and back: who comes after workers finds the caches cold.
                for place, target in list(targets.items())[:: 1 if number % 2 else -1]:
                    started = time.perf_counter()
                    try:
                        await engine.arun(each(target), range(calls))
                    except NotTransferable:  # numpy does not load in a sub-interpreter
                        continue
                    if number:
                        least[place] = min(least[place], time.perf_counter() - started)
            chosen = engine.explain(function).rows[0]
        hindrance = cannot_travel(function)
        barred = ELSEWHERE if hindrance else ()
        share = least["undeclared"] / min(least[place] for place in PLACES if place not in barred)
        shares.append(share)
        shown = "".join(_figure(seconds, place in barred) for place, seconds in least.items())
        why = f" [no other core: {hindrance}]" if hindrance and hindrance not in chosen.reason else ""
        print(f"  {name:<22}{shown}{share:8.2f}  {chosen.environment}: {chosen.reason}{why}")
    within = sum(share <= 1.1 for share in shares)
    print(f"  within 1.1 x: {within} of {len(shares)}; median {statistics.median(shares):.2f}, worst {max(shares):.2f}")
    return shares


def _figure(seconds: float, is_barred: bool) -> str:
    figure = "–" if seconds == float("inf") else f"{seconds * 1e3:.1f}"
    return f"{f'({figure})' if is_barred else figure:>12}"


def moves(names: list[str], calls: int = MANY) -> None:
    """Print how often each process changes its place in many calls, in groups as ``choices`` makes them."""
    print(f"\nChanges of place in {calls:,} calls")
    most = 0
    for name, function, _ in labelled():
        if names and name not in names:
            continue
        moved: list[ProcessMoved] = []
        observe = lambda event, moved=moved: moved.append(event) if isinstance(event, ProcessMoved) else None  # noqa: E731
        with Engine(workers=2, observers=[observe]) as engine:
            target = process(function)
            for _ in range(0, calls, MOST_CALLS):
                engine.run(each(target, limit=16), range(MOST_CALLS))
        places = [event.before for event in moved[:1]] + [event.after for event in moved]
        print(f"  {name:<22}{len(moved):>3}  {' > '.join(places)}")
        most = max(most, len(moved))
    print(f"  at most {most} (goal: 2)")


def add(value: int) -> int:
    return value + 1


async def price(rounds: int = 200, calls: int = 50) -> None:
    """Print what it costs to measure a short call and to look where it belongs, and that on average."""
    async with Engine() as engine:
        target = process(add)
        for number in range(FIRST + 1):
            await engine.arun(target, number)
        profile = engine.profile(target)
        least = {True: float("inf"), False: float("inf")}
        for _ in range(rounds):
            for measured in (True, False):
                seconds = 0.0
                for number in range(calls):
                    profile.measure_at = 0 if measured else sys.maxsize
                    started = time.perf_counter()
                    await engine.arun(target, number)
                    seconds += time.perf_counter() - started
                least[measured] = min(least[measured], seconds / calls * 1e6)
    more = least[True] - least[False]
    print(f"\nA short call, least of {rounds} rounds: {least[False]:.1f} us, measured {least[True]:.1f} us")
    print(f"  every {RARELY}th is, which is {more / RARELY:.2f} us more on average")


async def watching(rounds: int = 40, calls: int = 2_000) -> None:
    """Print what a short call takes with the watchdog and without it, while nothing stalls."""
    target = process(add)
    async with Engine() as watched, Engine() as alone:
        alone._watchdog.enter = alone._watchdog.leave = lambda loop: None  # type: ignore[method-assign]
        least = {watched: float("inf"), alone: float("inf")}
        for _ in range(rounds):
            for engine in (watched, alone):
                started = time.perf_counter()
                for number in range(calls):
                    await engine.arun(target, number)
                least[engine] = min(least[engine], (time.perf_counter() - started) / calls * 1e6)
    shown = f"{least[watched]:.2f} us, without a watchdog {least[alone]:.2f} us"
    print(
        f"\nA run of one short call on a loop, least of {rounds} rounds: {shown} ({least[watched] / least[alone]:.2f} x)"
    )


def main() -> None:
    names = [name for name in sys.argv[1:] if name not in ("verbose", "nature", "moves")]
    if "moves" in sys.argv:
        logging.disable(logging.WARNING)
        moves(names)
        return
    if names:
        asyncio.run(choices(names))
        return
    recognise("verbose" in sys.argv)
    asyncio.run(price())
    asyncio.run(watching())
    lag()
    logging.disable(logging.WARNING)
    asyncio.run(choices([]))
    logging.disable(logging.NOTSET)


if __name__ == "__main__":
    main()
