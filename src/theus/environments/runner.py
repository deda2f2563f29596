"""Runs one attempt of one call. The same code in the caller's thread, on a loop, in a thread and on the far side.

::

    context ── body ──> local closes ──> reads and writes handed over ──> context ends
                 │ raises      │ raises          │ raises
                 └─────────────┴─────────────────┴──> outcome.error; nothing was committed

Cancellation closes the scopes and passes through untouched. ``KeyboardInterrupt`` and ``SystemExit`` travel in the
outcome to whoever asked for the run, and come out there as they are: raised on a loop they would end the loop.

At the end each function deletes its own names: a traceback keeps the frames of every function it went
through, and with them whatever those frames can see; `outcome -> error -> traceback -> frame -> outcome`
would be a cycle that keeps a failed step's big values until the garbage collector comes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from time import perf_counter, thread_time
from typing import TYPE_CHECKING, Any, Protocol

from theus.calls import Outcome
from theus.context import Attempt, Context, advise, begin_attempt, end_attempt, here
from theus.scope import aclose_local, close_local
from theus.state.values import detach

if TYPE_CHECKING:
    from theus.calls import Call
    from theus.state.transaction import Transaction


def execute(call: Call, *, measure_cpu: bool = False, within: Transaction | None = None) -> Outcome:
    """Run a ``def`` process to its end.

    ``within``: a part of a commit that is being made, for a message to state: it works there, on the newest state.
    """
    outcome = Outcome()
    attempt = Attempt(call, outcome, within)
    process = call.process
    place = here()
    around, place.attempt = place.attempt, attempt
    cpu = thread_time() if measure_cpu else 0.0
    started = perf_counter()
    try:
        try:
            if call.args or call.kwargs:  # to spread them out is dear
                context = (Context(attempt),) if process.takes_context else ()
                value = process.fn(*context, *call.args, **call.kwargs)
            else:
                value = process.fn(Context(attempt)) if process.takes_context else process.fn()
        except BaseException as error:
            if attempt.local is not None:
                close_local(attempt.local, error)
            raise
        if attempt.local is not None:
            close_local(attempt.local, None)
        attempt.hand_over(value)
        if within is not None:
            attempt.transaction = None  # the commit goes on with it
    except StopIteration as error:
        outcome.error = _as_runtime_error(process.name, error)
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        advise(error)
        outcome.error = error
    finally:
        outcome.wall = perf_counter() - started
        if call.kept is not None:
            outcome.kept = call.kept
        if measure_cpu:
            outcome.cpu = thread_time() - cpu
        attempt.close()
        place.attempt = around
    try:
        return outcome
    finally:
        context, value = (), None
        del outcome, attempt, call, around


def _as_runtime_error(name: str, error: StopIteration) -> RuntimeError:
    """What Python makes of it in a generator or coroutine, where it would mean the end (PEP 479). We are called from one."""
    made = RuntimeError(
        f"process {name!r} raised StopIteration: there was no next item. Give next(...) a default, or catch it."
    )
    made.__cause__ = error
    return made


async def execute_async(call: Call) -> Outcome:
    """Run an ``async def`` process to its end, on the running loop."""
    outcome = Outcome()
    attempt = Attempt(call, outcome)
    process = call.process
    token = begin_attempt(attempt)
    started = perf_counter()
    try:
        try:
            if call.args or call.kwargs:
                context = (Context(attempt),) if process.takes_context else ()
                value = await process.fn(*context, *call.args, **call.kwargs)
            else:
                value = await (process.fn(Context(attempt)) if process.takes_context else process.fn())
        except BaseException as error:
            if attempt.local is not None:
                await aclose_local(attempt.local, error)
            raise
        if attempt.local is not None:
            await aclose_local(attempt.local, None)
        attempt.hand_over(value)
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        advise(error)
        outcome.error = error
    finally:
        outcome.wall = perf_counter() - started
        if call.kept is not None:
            outcome.kept = call.kept
        attempt.close()
        end_attempt(token)
    try:
        return outcome
    finally:
        context, value = (), None
        del outcome, attempt, call


class Threads(Protocol):
    """Where a blocking function can be run off the loop."""

    async def call(self, function: Callable[..., Any], *args: Any) -> Any: ...


async def open_source(call: Call, threads: Threads) -> AsyncIterator[Any]:
    """Run a generator process: yields its items one by one, as they are asked for.

    A plain generator may wait for its next item, so each is fetched in a thread. The scopes close when the
    generator ends, fails, or nobody asks for more.
    """
    outcome = Outcome()
    attempt = Attempt(call, outcome)
    process = call.process
    arguments = (Context(attempt), *call.args) if process.takes_context else call.args
    generator = process.fn(*arguments, **call.kwargs)
    failure: BaseException | None = None
    try:
        if hasattr(generator, "__anext__"):
            async for item in generator:
                yield detach(item)
        else:
            while (item := await threads.call(next, generator, _END)) is not _END:
                yield detach(item)
    except BaseException as error:
        failure = error
        raise
    finally:
        if hasattr(generator, "aclose"):
            await generator.aclose()
        else:
            generator.close()
        if attempt.local is not None:
            if process.is_async:
                await aclose_local(attempt.local, failure)
            else:
                close_local(attempt.local, failure)
        attempt.close()
        del failure, attempt, call


_END: Any = object()  # a generator's end, as a value: StopIteration cannot be set on a future
