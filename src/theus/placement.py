"""Where a process runs, and why, in words. Pure: decides from what is known, does nothing.

The user's word wins; then what was measured; then what the signature says. For a ``def`` that nobody said anything
about, run with work beside it::

    not measured                            thread: it may wait
    takes some microseconds, every time     inline: shorter than the way to a thread
    computes, and holds the lock            parallel, if it may travel and moving it costs less than it computes,
                                            unless it waits for so long that it would take up a worker for nothing
    computes, and releases the lock         thread: numpy and the like are as parallel there
    waits                                   thread

The thresholds to come and to stay differ, and a process changes its place at most twice in a thousand calls, so one
that is now this and now that does not go to and fro.
"""

from __future__ import annotations

import contextlib
import contextvars
import datetime
import decimal
import dis
import fractions
import functools
import importlib.util
import itertools
import logging
import pathlib
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from theus.environments.changes import imports_in, is_own, named
from theus.processes import Process

Kind = Literal["unknown", "short", "waits", "computes", "releases"]

PARALLEL = "worker"  #: the environment on other cores
OWN_LOOP = "own loop"
ENOUGH = 3  #: measured calls after which a process may be called short
SHORT = 50e-6  #: seconds; the way to a thread and back is longer
SLOW = 0.005  #: seconds of an inline call that a loop bears now and then
COMPUTES = 0.005  #: seconds of CPU in a call that matter, whatever it does with the interpreter's lock
HINDERS = 0.001  #: seconds with the lock that are worth another core: the way there and back takes a tenth of that
LITTLE = 0.1  #: of its CPU that a call may wait to run in turn with others: so much longer it takes them
STAYS = 0.4  #: the part of a threshold that is enough to stay
HOLDS = 0.5  #: the part of its CPU during which it holds the interpreter's lock, from which a thread is no help
SETTLED = 1000  #: calls in one place before a process may leave the threads (again)


@dataclass(frozen=True, slots=True)
class Placement:
    """An environment's name and the reason for it."""

    environment: str
    reason: str
    in_turn: bool = False  #: one call after the other


@dataclass(frozen=True, slots=True)
class Known:
    """What was measured of a process. Times in seconds, of one call."""

    measured: int = 0  #: calls that were
    wall: float = 0.0  #: the median of those measured lately
    cpu: float = 0.0  #: their mean
    typical_cpu: float = 0.0  #: their median
    holds: float | None = None  #: the part of its CPU during which it held the interpreter's lock; None: not seen
    waits: float = 0.0  #: what it surely waits, for neither the lock nor a processor
    workers: int = 2  #: that there would be
    slow: float = 0.0  #: the part of all calls, but the first, that took longer than ``SLOW``
    stalls: int = 0  #: how often it kept an event loop from going on
    moving: float | None = None  #: what it takes to send a call and its result; None: not known
    refused: Mapping[str, str] = field(default_factory=dict)  #: environment -> why it cannot go there
    shares: bool = False  #: it was given objects that others may use at the same time
    parallel_threads: bool = False  #: threads of this Python compute at the same time

    def kind(self, now: str = "") -> Kind:
        """What the process is. ``now``: where it runs; who is there stays on less evidence than it took to come."""
        if not self.measured:
            return "unknown"
        part = STAYS if now == PARALLEL else 1.0
        if self.cpu >= HINDERS * part and self.holds is not None and self.holds >= HOLDS:
            return "computes"
        if self.cpu >= COMPUTES * part:
            return "unknown" if self.holds is None else "releases"
        room = 2.0 if now == "inline" else 1.0
        if max(self.wall, self.typical_cpu) < SHORT * room and self.slow <= 0.01 * room and self.measured >= ENOUGH:
            return "short"
        return "waits"


def threads_are_parallel() -> bool:
    """Whether threads compute at the same time: a free-threaded build whose lock no imported module has turned on again."""
    is_gil_enabled = getattr(sys, "_is_gil_enabled", None)  # new in Python 3.13
    return is_gil_enabled is not None and not is_gil_enabled()


def next_place(now: str, wanted: str, since: int) -> str:
    """Where a process that runs in ``now`` goes, if its evidence says ``wanted``.

    Who leaves the threads can come back at any time, but must have been in one place for a thousand calls before: so
    nobody changes its place more than twice in a thousand.

    Args:
        now: an environment.
        wanted: an environment.
        since: how many calls ago it last changed its place.
    """
    return wanted if wanted in (now, "thread") or since >= SETTLED else "thread"


def place(
    process: Process[Any, Any], *, blocking: bool, debug: bool, known: Known | None = None, now: str = ""
) -> Placement:
    """Choose the environment of a process.

    Args:
        process: what is to run.
        blocking: the whole run is driven in the thread of a caller who waits for it, one step after the other.
        debug: the engine runs everything in order, in the caller's thread.
        known: what was measured.
        now: where it runs.
    """
    if debug:
        return (
            Placement("loop", "debug: in order") if process.is_async else Placement("inline", "debug: inline, in order")
        )
    if process.environment is not None:
        return Placement(process.environment, f"environment={process.environment!r} was asked for")
    if process.nature == "state":
        return Placement("inline", "nature='state': runs in the commit, on the newest state")
    if process.nature == "cpu":
        if known is not None and known.parallel_threads and process.timeout is None:
            return Placement("thread", "nature='cpu': computes, and threads of this Python compute at the same time")
        return Placement(PARALLEL, "nature='cpu': computes, so on another core")
    if process.is_async:
        return _asynchronous(process, known or Known())
    if process.timeout is not None:
        if process.nature == "io":
            return Placement(
                "thread", "nature='io' with timeout=: waits, so in a thread, which is let go of when it is over"
            )
        hindrance = cannot_travel(process.fn)
        if hindrance is None:
            return Placement("worker", "def with timeout=: only a worker process can be stopped whatever it does")
        return Placement("thread", f"def with timeout=, but it cannot go to a worker process: {hindrance}")
    if blocking:
        return Placement("inline", "def, and its caller waits for it: runs in the caller's thread")
    if process.nature == "io":
        return Placement("thread", "nature='io': waits, so off the loop, in a thread")
    return _measured(process, known or Known(), now)


def _asynchronous(process: Process[Any, Any], known: Known) -> Placement:
    if not known.stalls:
        return Placement("loop", "async def: waits, so on the event loop")
    hindrance = known.refused.get(OWN_LOOP) or cannot_change_loop(process.fn)
    if hindrance is None:
        return Placement(OWN_LOOP, "async def that kept its event loop waiting: on a loop of its own, in a thread")
    return Placement("loop", f"async def that keeps its event loop waiting, but cannot leave it: {hindrance}")


def is_free(process: Process[Any, Any]) -> bool:
    """Whether the engine may choose for itself: nothing was said, and nothing but the call's own end has to stop it."""
    return process.environment is None and process.nature is None and process.timeout is None


def _measured(process: Process[Any, Any], known: Known, now: str) -> Placement:
    kind = known.kind(now)
    if kind == "computes":
        return _computing(process, known, now)
    if kind == "releases":
        return Placement(
            "thread",
            f"computes {milliseconds(known.cpu)} a call without the interpreter's lock, so in a thread nobody waits for it",
        )
    if kind == "short":
        if known.stalls:
            return Placement("thread", "def that is mostly short, but it kept the event loop waiting: in a thread")
        hindrance = cannot_be_inline(process.fn)
        if hindrance is None and not known.shares:
            return Placement("inline", f"def that is short ({known.wall * 1e6:.0f} us): the way to a thread is longer")
        return Placement("thread", f"def that is short, but may wait for others: {hindrance or 'so may its arguments'}")
    if kind == "waits":
        does = (
            f"mostly waits: computes {milliseconds(known.cpu)} of {milliseconds(known.wall)}, so"
            if known.typical_cpu < 0.5 * known.wall
            else f"computes {milliseconds(known.cpu)} a call, too little for another core:"
        )
        return Placement("thread", f"def that {does} in a thread")
    if known.measured:  # alone it can be told
        does = f"computes {milliseconds(known.cpu)} a call, and perhaps holds the interpreter's lock"
        return Placement("thread", f"def that {does}: in a thread", in_turn=True)
    return Placement("thread", "def that may wait: off the loop, in a thread")


def _computing(process: Process[Any, Any], known: Known, now: str) -> Placement:
    if known.parallel_threads:
        return Placement("thread", "computes, and threads of this Python compute at the same time")
    does = f"computes {milliseconds(known.cpu)} a call and holds the interpreter's lock"
    # Side by side they would only keep others from the lock; but one that also waits lets others compute meanwhile.
    in_turn = known.waits <= LITTLE * known.cpu
    hindrance = known.refused.get(PARALLEL) or cannot_travel(process.fn)
    if hindrance is not None:
        return Placement("thread", f"{does}, but cannot go to another core: {hindrance}", in_turn)
    if known.moving is None:
        return Placement("thread", f"{does}; what it takes to send it to another core is not known yet", in_turn)
    if known.moving * (1.0 if now == PARALLEL else 1.5) > known.cpu:
        moves = f"moves {milliseconds(known.moving)} to compute {milliseconds(known.cpu)}"
        return Placement("thread", f"another core is not worth it: {moves}", in_turn)
    # Many calls at once take (cpu + waits) / workers each there, but max(cpu, waits / calls) in threads, which are many.
    # A single one takes as long here as there. The half more is for few calls at once, which do not fill the threads.
    if known.waits > 1.5 * (known.workers - 1) * known.cpu * (1.0 if now != PARALLEL else 1 / STAYS):
        return Placement(
            "thread",
            f"{does}, but waits {milliseconds(known.waits)}, for which it would take up one of {known.workers} workers",
        )
    return Placement(PARALLEL, f"{does}: on another core")


def is_worth_asking(process: Process[Any, Any], known: Known) -> bool:
    """Whether only the price of moving it is missing to send it to another core."""
    return (
        known.moving is None
        and not known.parallel_threads
        and PARALLEL not in known.refused
        and known.kind() == "computes"
        and cannot_travel(process.fn) is None
    )


def gain(known: Known, used: Placement) -> str:
    """What a process that is not where it would be best would gain there, in words; nothing if it is."""
    if known.stalls and used.environment == "loop":
        return (
            "on a loop of its own it would keep nobody waiting; await ctx.compute(...) for what it computes helps, too"
        )
    if known.parallel_threads or known.kind() != "computes" or used.environment != "thread":
        return ""
    price = "" if known.moving is None else f", for {milliseconds(known.moving)} of sending"
    here = "; here its calls go one after the other" if used.in_turn else ""
    return f"on another core it would take {milliseconds(known.cpu)} a call off this one{price}{here}"


def milliseconds(seconds: float) -> str:
    """For a reader."""
    return f"{seconds * 1e3:.2g} ms" if seconds < 0.0095 else f"{seconds * 1e3:.0f} ms"


FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.ModuleType, type, Process)
IMMUTABLE = (
    *(type(None), bool, int, float, complex, str, bytes, range, Enum),
    *(datetime.date, datetime.time, datetime.timedelta, datetime.tzinfo, decimal.Decimal, fractions.Fraction),
    *(pathlib.PurePath, re.Pattern, types.GenericAlias),
    *(logging.Logger, contextvars.ContextVar),  # go by their name, and what is logged comes back
    *FUNCTIONS,
)
WAITS = frozenset({"sleep_until", "wait_for"})
MOST_PARTS = 100  #: of a value that are looked at
LOOPS = ("asyncio", "anyio", "trio", "uvloop", "rloop", "theus")


@functools.lru_cache(maxsize=4096)
def cannot_travel(fn: Any) -> str | None:
    """Why a function must not run on a copy of its surroundings; None if it may.

    On the far side a function sees copies of what it closes over and of its module's globals. That is safe
    if those are modules, functions, classes or immutable constants; a closure that does ``out.append(x)``
    would lose data. What it names in a module, class or function of the user is looked at, too, and so are the user's
    functions that it names.
    """
    return next(_hindrances(fn, set(), lambda _: "would be a copy there"), None)


@functools.lru_cache(maxsize=4096)
def cannot_change_loop(fn: Any) -> str | None:
    """Why an ``async def`` must not run on a loop of its own, in another thread; None if it may."""
    return next(_hindrances(fn, set(), _on_another_loop), None)


@functools.lru_cache(maxsize=4096)
def cannot_be_inline(fn: Any) -> str | None:
    """Why a function must not run on a loop's own thread; None if it may.

    There it would wait for ever for what the loop has to do first: a lock, an answer of the engine.
    """
    if isinstance(fn, types.FunctionType) and (waits := WAITS & _global_names(fn.__code__)):
        return f"it uses ctx.{min(waits)}"
    for _, value in _surroundings(fn):
        name = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None) or ""
        if name.partition(".")[0] in LOOPS and not isinstance(value, Process):
            return f"it uses {name.partition('.')[0]}"
    return cannot_travel(fn)


def bound_to_loop(value: Any, depth: int = 3) -> str | None:
    """The type of what belongs to an event loop, in a value or what it holds: a lock, a client, a connection."""
    cls = type(value)
    if isinstance(value, IMMUTABLE):
        return None
    own = cls.__module__.partition(".")[0] in ("asyncio", "_asyncio", "uvloop", "rloop")
    if own or any(hasattr(cls, name) for name in ("__aenter__", "__anext__", "__await__", "aclose")):
        return cls.__name__
    if depth == 0:
        return None
    is_container = isinstance(value, (Mapping, list, tuple, set, frozenset))
    parts = value.values() if isinstance(value, Mapping) else value if is_container else _attributes(value)
    for part in itertools.islice(parts, MOST_PARTS):
        if found := bound_to_loop(part, depth - 1):
            return found if is_container else cls.__name__
    return None


def _attributes(value: Any) -> Iterator[Any]:
    """What an object holds, in its dict and its slots; no property is asked."""
    yield from getattr(value, "__dict__", {}).values()
    for cls in type(value).__mro__:
        for member in vars(cls).values():
            if isinstance(member, types.MemberDescriptorType):
                with contextlib.suppress(AttributeError):  # never set
                    yield member.__get__(value)


def _on_another_loop(value: Any) -> str:
    return "belongs to its event loop" if bound_to_loop(value) else "others may use on their loop at the same time"


def _hindrances(fn: Any, seen: set[Any], there: Callable[[Any], str], outer: Sequence[str] = ()) -> Iterator[str]:
    """What a function uses that is not constant.

    ``there``: what would become of it. ``outer``: its variables that hold something from outside.
    """
    while isinstance(fn, functools.partial):
        for value in (*fn.args, *fn.keywords.values()):
            if is_mutable(value):
                yield f"the argument of the partial is a {type(value).__name__}, which {there(value)}"
        fn = fn.func
    if isinstance(fn, types.MethodType):
        yield f"it is a method of {type(fn.__self__).__name__}, and the object {there(fn.__self__)}"
    elif not isinstance(fn, types.FunctionType):
        yield f"it is a {type(fn).__name__}, not a function"
    elif fn not in seen:
        seen.add(fn)
        code = fn.__code__
        for what in _written(code, (*code.co_freevars, *outer)):
            yield f"it assigns {what}, which {there(None)}"
        for what, value in _surroundings(fn):
            if isinstance(value, classmethod):
                method: Any = value.__func__
                yield from _hindrances(method, seen, there, getattr(method, "__code__", code).co_varnames[:1])
            elif is_mutable(value):
                # What a memo holds may be changed by others, or be as big as a model: a dict of the module by another name.
                is_memo = isinstance(value, functools._lru_cache_wrapper)
                kind = "memo (functools.cache)" if is_memo else type(value).__name__
                yield f"the {what} is a {kind}, which {there(value)}"
            inner = value.fn if isinstance(value, Process) else value
            if isinstance(inner, types.FunctionType) and (inner.__globals__ is fn.__globals__ or _is_own(inner)):
                yield from _hindrances(inner, seen, there)


def _surroundings(fn: Any) -> Iterator[tuple[str, Any]]:
    """What a function closes over, its defaults and the globals that it names, each with words for it."""
    if isinstance(fn, types.FunctionType):
        for value in (*(fn.__defaults__ or ()), *(fn.__kwdefaults__ or {}).values()):
            yield "default of a parameter", value
        for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
            yield f"variable {name!r} it closes over", content(cell)
        for name in sorted(_global_names(fn.__code__)):
            if name in fn.__globals__:
                yield f"global {name!r} it uses", fn.__globals__[name]
        for name, attribute in named(fn.__code__):
            value = fn.__globals__.get(name)
            if attribute and isinstance(value, (types.ModuleType, types.FunctionType, type)) and _is_own(value):
                yield f"{name}.{attribute} it uses", _part(value, attribute)
        for module, names in _imported(fn):
            for name in sorted(names & vars(module).keys()):
                yield f"{module.__name__}.{name} it uses", vars(module)[name]


def _imported(fn: types.FunctionType) -> Iterator[tuple[types.ModuleType, set[str]]]:
    """The user's modules that a function imports in its body, each with the names of it that it may use."""
    for name, names, level in imports_in(fn.__code__):
        base = fn.__globals__.get("__package__") or ""
        whole = importlib.util.resolve_name("." * level + name, base) if level <= base.count(".") + bool(base) else ""
        module = sys.modules.get(whole)
        if module is not None and _is_own(module):
            yield module, set(names or _global_names(fn.__code__))


def _is_own(value: Any) -> bool:
    """Whether a module, class or function is the user's."""
    return is_own(value.__name__ if isinstance(value, types.ModuleType) else value.__module__ or "")


def _part(owner: Any, name: str) -> Any:
    """What a module, function or class holds under a name; of a static method its function, of a property and the like None."""
    holders = owner.__mro__ if isinstance(owner, type) else [owner]
    part = next((vars(holder)[name] for holder in holders if name in vars(holder)), None)
    if isinstance(part, staticmethod):
        part = part.__func__
    is_made_anew = isinstance(owner, type) and hasattr(type(part), "__get__")
    return None if is_made_anew and not isinstance(part, (types.FunctionType, classmethod)) else part


def _written(code: types.CodeType, outer: Sequence[str]) -> Iterator[str]:
    """What a function assigns outside of it. ``outer``: the variables of the function around it that it knows, and others."""
    owner = copied = ""  # on top of the stack: something from outside; and once more below it, for ``owner.name += 1``
    for instruction in dis.get_instructions(code):
        name, operation = instruction.argval, instruction.opname
        if operation == "EXTENDED_ARG":
            continue
        if operation in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            yield f"the global {name!r}"
        elif operation == "STORE_DEREF" and name in outer:
            yield f"{name!r} of the function around it"
        elif (owner and operation in ("STORE_ATTR", "DELETE_ATTR")) or (copied and operation == "LOAD_ATTR"):
            yield f"{owner or copied}.{name}"
        copied = owner if operation == "COPY" else ""
        top = name[-1] if isinstance(name, tuple) else name  # since Python 3.13 one operation may load two
        if operation == "LOAD_GLOBAL" or (operation.startswith(("LOAD_DEREF", "LOAD_FAST")) and top in outer):
            owner = top
        else:
            owner = f"{owner}.{name}" if owner and operation == "LOAD_ATTR" else ""
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _written(constant, outer)


def content(cell: Any) -> Any:
    """What a variable holds that a function closes over."""
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet: a function that calls itself before its definition is over
        return None


def _global_names(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _global_names(constant)
    return names


def is_mutable(value: Any) -> bool:
    """Whether it would matter that it is a copy."""
    if isinstance(value, (tuple, frozenset)):
        return any(map(is_mutable, value))
    if isinstance(value, types.BuiltinFunctionType):  # out.append is as mutable as out
        return is_mutable(value.__self__)
    return not isinstance(value, IMMUTABLE)
