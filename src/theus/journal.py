"""The journal of a durable run: what the store knows of it, and what each of its commits adds.

::

            run(run_id)                    crash, or its owner is gone
  (none) ───────────────> running ───────────────────────────────> running (owner + 1)
                             │  each step: one commit with its record
                             ├──> done      its result is kept, the records of its steps go
                             └──> failed    run() goes on at the step that failed

A run that is started again walks its workflow as always; a call that is recorded is not made but answered. So the nodes of
a workflow need no rules of their own. What a predicate said and which items failed is *noted*: it goes with the next
commit of the run, which comes before anything that was done because of it.

The commit that ends a run keeps its result. What was recorded on the way is needed no more: it goes in the same commit, or,
if there is much of it, in the commits after that. Should the engine die before, the rest goes when the run is asked for again. The log
of the store still tells of it, as far as it is kept: that is what is replayed.

What can fail: a commit (then the step did not happen), this engine (then the next owner goes on), another engine that
took the run over (then every commit here is refused: ``RunFenced``), the code (``WorkflowChanged``).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from theus.attempt import Attempts
from theus.doors import drive
from theus.errors import DefinitionError, RunFenced, StoreError, TheusError, WorkflowChanged
from theus.portal import Exiting
from theus.processes import Process, Step
from theus.protocols import Call, Commit, Committed, Conflict, Outcome, Record, Refused, Store, Version
from theus.records import fields_of, pack, unpack
from theus.schedule import NOTHING, Position, walk
from theus.workflow import Workflow, as_step, first_step
from theus.workflow.outline import changes, difference, digest, outline
from theus.workflow.results import Failed, collects, result_hint

if TYPE_CHECKING:
    from theus.engine import Engine
    from theus.records import Values
    from theus.run import Run
    from theus.stores.past import Past

log = logging.getLogger("theus")

NAME = "theus run"  #: the author of a run's own commits
CALLS = ("step", "once")  #: records of what calls did
PASSING = (*CALLS, "signal")  #: records that a run needs until it is done
_BATCH = 1000  #: of them that go in one commit


async def run_recorded(engine: Engine[Any], run: Run[Any], start: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
    """A durable run to its end: begun, gone on with, or, if it was done, answered with what it gave."""
    step = run.step
    journal = await Journal.open(engine, run, start)
    if journal.final is not None:
        return journal.decoded(journal.final)
    try:
        if isinstance(step, Process):
            value = await Attempts(engine, run, {}, journal).call(step, NOTHING, Position(run, step.name), start)
        else:
            attempts = Attempts(engine, run, start[1], journal)
            value = await walk(step, start[0][0] if start[0] else NOTHING, Position(None, run), attempts)
        result = journal.encoded(value)
    except (RunFenced, WorkflowChanged, Exiting):
        raise
    except Exception as error:
        try:
            await journal.fail(repr(error))
        except (StoreError, RunFenced):
            log.exception("run %s failed, which could not be recorded", run.id)
        raise
    finally:
        del start
    await journal.finish(result)
    return value


# --- what is written


@dataclass(frozen=True, slots=True)
class Entry:
    """What the store keeps of a run as a whole."""

    run_id: str
    target: str  #: the workflow's name
    status: str  #: "running" (also if its owner died), "done" or "failed"
    outline: Sequence[str]
    names: Sequence[str | None]  #: of the arguments, in order; None: given by position
    started: float  #: seconds since 1970
    ended: float | None = None
    error: str | None = None
    calls: Mapping[str, int] = field(default_factory=dict)  #: of a run that is done: how many of each process
    arguments: Sequence[bytes] = ()  #: encoded

    def record(self) -> Record:
        fields = {name: getattr(self, name) for name in self.__slots__ if name not in ("run_id", "arguments")}
        return Record("run", self.run_id, pack(fields, *self.arguments))

    @staticmethod
    def read(record: Record) -> Entry:
        assert record.value is not None
        fields, parts = unpack(record.value)
        return Entry(run_id=record.key, arguments=parts, **fields)


# --- the journal


class Journal:
    """One durable run, as its owner sees it."""

    def __init__(self, engine: Engine[Any], run: Run[Any]) -> None:
        assert engine.store is not None, "only a run with a store is durable"
        self.store: Store = engine.store
        self._codec = engine.codec
        self.run = run
        self.expected: Sequence[Record] = ()  #: of every commit: that the run is still ours
        self._engine = engine
        self._entry: Entry
        self.final: bytes | None = None  #: of a run that is done
        self._found: dict[str, bytes] = {}  #: what was recorded before, by key
        self._known: frozenset[str] | None = None  #: the keys of what was recorded, and of all above it
        self._noted: dict[str, Record] = {}  #: goes with the next commit
        self._kept: dict[str, dict[str, Any]] = {}  #: what ctx.once kept in each call that is not done, as recorded

    @classmethod
    def read(cls, engine: Engine[Any], run: Run[Any], records: Iterable[Record]) -> Journal:
        """The journal as these records tell it, for somebody who adds nothing."""
        journal = cls(engine, run)
        journal._recall(records)
        return journal

    # --- begin and end

    @classmethod
    async def open(cls, engine: Engine[Any], run: Run[Any], start: tuple[tuple[Any, ...], dict[str, Any]]) -> Journal:
        """Begin the run, or take it over where it stands.

        Raises:
            DefinitionError: it was begun with other arguments.
            WorkflowChanged: it was begun with another workflow.
        """
        journal = cls(engine, run)
        entry = journal._new_entry(start)
        answer: Committed | Conflict | Refused | None
        while True:
            known = _of(run.id, await journal._look("run", run.id))
            if known is None:
                answer = await journal._commit(
                    [entry.record(), Record("owner", run.id, b"1")],
                    [Record("run", run.id, None), Record("owner", run.id, None)],
                )
                owner = b"1"
            else:
                owner, answer = await journal._go_on(known, entry)
            if not isinstance(answer, Refused):
                journal.expected = (Record("owner", run.id, owner),)
                return journal

    async def _go_on(self, known: Record, entry: Entry) -> tuple[bytes, Committed | Conflict | Refused | None]:
        """Check that the run can go on with this code, and take it over; a refusal means: look again."""
        old = Entry.read(known)
        self._check_arguments(old, entry)
        if old.status == "done":
            self._check_code(old, difference(old.outline, entry.outline))
            result = _of(self.run.id, await self._look("result", self.run.id))
            if result is None:
                return b"", Refused(known)  # the run was forgotten just now
            self.final = result.value
            await self._let_go(known, await self._passing())
            return b"", None
        owner = _of(self.run.id, await self._look("owner", self.run.id))
        if owner is None or owner.value is None:
            return b"", Refused(known)  # the run was forgotten just now
        taken = b"%d" % (int(owner.value) + 1)
        self._entry = replace(entry, names=old.names, started=old.started, arguments=old.arguments)
        await self._load()
        self._check_code(old, changes(old.outline, entry.outline, self._keys()))
        answer = await self._commit([self._entry.record(), Record("owner", self.run.id, taken)], [known, owner])
        if isinstance(answer, Committed):
            await self._load()  # what the owner before committed meanwhile; from now on it is refused
        return taken, answer

    async def fail(self, error: str) -> None:
        """Record how the run failed; its records stay, so that it can go on."""
        entry = replace(self._entry, status="failed", ended=self._engine.clock.time(), error=error)
        self.made((), await self._commit([entry.record(), *self._noted.values()], self.expected))

    async def finish(self, result: bytes) -> None:
        """Record what the run gave, and let go of what it needed until then."""
        passing = await self._passing()
        calls: Counter[str] = Counter()
        for record in passing:
            if record.kind == "step" and record.value and "process" in (fields := fields_of(record.value)):
                calls[fields["process"]] += 1
        entry = replace(self._entry, status="done", ended=self._engine.clock.time(), error=None, calls=calls)
        done = entry.record()
        gone = _gone(passing[:_BATCH])
        self.made((), await self._commit([done, Record("result", self.run.id, result), *gone], self.expected))
        await self._let_go(done, passing[_BATCH:])

    async def _passing(self) -> list[Record]:
        """What the run needs until it is done."""
        return [record for kind in PASSING for record in await self._look(kind, f"{self.run.id}/")]

    async def _let_go(self, done: Record, passing: Sequence[Record]) -> None:
        """Let go of what a finished run still has, as long as nobody forgets it and begins it anew."""
        for begin in range(0, len(passing), _BATCH):
            gone = _gone(passing[begin : begin + _BATCH])
            if isinstance(await self._commit(gone, [done]), Refused):
                return

    def encoded(self, value: Any) -> bytes:
        """What the run gave, by the types that its processes name."""
        step = self.run.step
        if collects(step):
            value = _exchanged(value, Exception, lambda error: Failed(_said(error)))
        return self._codec.encode(value, self._result_hint(), process=step.name, where="the result")

    def decoded(self, data: bytes) -> Any:
        """It back. What a collected error was made of is gone: it is a plain TheusError."""
        value = self._codec.decode(data, self._result_hint())
        if collects(self.run.step):
            value = _exchanged(value, Failed, lambda failed: TheusError(failed.error))
        return value

    def _result_hint(self) -> Any:
        step = self.run.step
        return result_hint(step, next(iter(_hints(step, [None])), Any))

    def _new_entry(self, start: tuple[tuple[Any, ...], dict[str, Any]]) -> Entry:
        step, (args, kwargs) = self.run.step, start
        names: list[str | None] = [None] * len(args) + sorted(kwargs)
        values = [*args, *(kwargs[name] for name in sorted(kwargs))]
        arguments = []
        for name, value, hint in zip(names, values, _hints(step, names), strict=True):
            where = "the value it begins with" if name is None else f"the argument {name!r}"
            arguments.append(self._codec.encode(value, hint, process=step.name, where=where))
        entry = Entry(
            self.run.id, step.name, "running", outline(step), names, self._engine.clock.time(), arguments=arguments
        )
        self._entry = entry
        return entry

    def _check_arguments(self, old: Entry, new: Entry) -> None:
        if list(old.names) == list(new.names) and list(old.arguments) == list(new.arguments):
            return
        was, given = (_given(self._codec, self.run.step, entry) for entry in (old, new))
        if was != given:
            shown = [", ".join(repr(v) if n is None else f"{n}={v!r}" for n, v in some) for some in (was, given)]
            raise DefinitionError(
                f"run {self.run.id!r} was begun with ({shown[0]}) and cannot go on with ({shown[1]}). "
                "Give what it was begun with, or another run_id."
            )

    def _check_code(self, old: Entry, diff: str) -> None:
        """Refuse another workflow than the recorded one, unless it says that it is compatible."""
        if not diff:
            return
        step, recorded, meant = self.run.step, digest(old.outline), ""
        if isinstance(step, Workflow):
            if recorded in step.compatible:
                return
            meant = f" If it may go on all the same, say so: workflow.compatible_with({recorded!r})."
        raise WorkflowChanged(
            f"run {self.run.id!r} was recorded with a workflow that differs where it has been already:\n{diff}\n"
            f"Run it with the code it was begun with, or begin another run. Steps it did not come to yet may change.{meant}",
            diff=diff,
            recorded=recorded,
        )

    # --- the store

    async def _look(self, kind: str, prefix: str, blocking: bool | None = None) -> list[Record]:
        if self.run.blocking if blocking is None else blocking:
            return self.store.records(kind, prefix)
        return await self._engine.threads.call(self.store.records, kind, prefix)

    async def _commit(
        self, records: Sequence[Record], expected: Sequence[Record], author: str = NAME, blocking: bool | None = None
    ) -> Committed | Conflict | Refused:
        commit = Commit(0, (), (), author, records=records, expected=expected)
        return await self.store.commit(commit, blocking=self.run.blocking if blocking is None else blocking)

    async def _load(self) -> None:
        self._recall([record for kind in CALLS for record in await self._look(kind, f"{self.run.id}/")])

    def _recall(self, records: Iterable[Record]) -> None:
        """Know what was recorded, and nothing else."""
        self._found, self._kept = {}, {}
        for record in records:
            if record.value is None:
                continue
            if record.kind == "step":
                self._found[record.key] = record.value
            else:
                fields, (value,) = unpack(record.value)
                self._kept.setdefault(fields["call"], {})[fields["key"]] = self._codec.decode(value)

    def _keys(self) -> Iterable[str]:
        """The keys of the nodes that have records, without the run."""
        start = len(self.run.id) + 1
        return (key[start:] for key in self._found)

    # --- what was recorded before

    def result(self, process: Process[Any, Any], position: Position) -> Any:
        """What a call gave when it was made; NOTHING: it was not."""
        data = self._found.pop(str(position), None) if self._found else None
        if data is None:
            return NOTHING
        return self._codec.decode(unpack(data)[1][0], process.hint("return"))

    def answer_of(self, position: Position) -> bool | None:
        """What a predicate said; None: it was not asked."""
        data = self._found.get(f"{position}/?")
        return None if data is None else bool(fields_of(data)["answer"])

    def failed_before(self, position: Position) -> Exception | None:
        """The error that was collected for an item. What it was made of is gone: it is a plain TheusError."""
        data = self._found.get(f"{position}/!")
        return None if data is None else TheusError(fields_of(data)["error"])

    def knows(self, position: Position) -> bool:
        """Whether something at or below was recorded before."""
        if self._known is None:
            known = set()
            for key in self._keys():
                while key and key not in known:
                    known.add(key)
                    key = key.rpartition("/")[0]
            self._known = frozenset(known)
        return str(position)[len(self.run.id) + 1 :] in self._known

    async def source(self, items: AsyncIterator[Any], position: Position) -> AsyncIterator[Any]:
        """The items of a source, which is pulled again: an item is known by its number."""
        data = self._found.get(f"{position}/end")
        total = None if data is None else int(fields_of(data)["total"])
        count = 0
        async for item in items:
            yield item
            count += 1
        if total is not None and total != count:
            diff = f"the source {position} gave {total} items before, and now {count}"
            raise WorkflowChanged(
                f"run {self.run.id!r} cannot go on: {diff}. If it cannot give the same again, return a list instead.",
                diff=diff,
                recorded="",
            )
        self._note(f"{position}/end", {"total": count})

    def in_stable_order(self, items: set[Any] | frozenset[Any]) -> Iterable[Any]:
        """Sorted by how they are stored: text hashes differ from process to process, and so does a set's order."""
        return sorted(items, key=lambda item: self._codec.encode(item, where="an item of a set"))

    def kept(self, position: Position) -> dict[str, Any] | None:
        """What ``ctx.once`` and waits of a call kept before."""
        kept = self._kept.get(str(position)) if self._kept else None
        return dict(kept) if kept else None

    # --- what is added

    def records(self, call: Call, outcome: Outcome) -> list[Record]:
        """What goes with the commit of a call."""
        process = call.process
        value = self._codec.encode(
            outcome.value, process.hint("return"), process=process.name, where="what it returned"
        )
        assert call.snapshot is not None
        fields = {
            "process": process.name,
            "base": max(outcome.base, call.snapshot.version),  # the snapshot it ended with
            "attempt": call.attempt,
            "at": self._engine.clock.time(),
        }
        return [Record("step", str(call.key), pack(fields, value)), *self._noted.values()]

    def note_answer(self, position: Position, answer: bool) -> None:
        """Note what a predicate said."""
        self._note(f"{position}/?", {"answer": answer})

    def note_failure(self, error: Exception, position: Position) -> None:
        """Note that an item's error was collected."""
        if not isinstance(error, RunFenced):
            self._note(f"{position}/!", {"error": _said(error)})

    def _note(self, key: str, fields: dict[str, Any]) -> None:
        self._noted[key] = Record("step", key, pack(fields))

    async def keep(
        self,
        call: Call,
        key: str,
        value: Any,
        *,
        blocking: bool,
        taken: Record | None = None,
    ) -> bool:
        """Record what ``ctx.once`` or a wait keeps, in a commit of its own; the body goes on when it is made.

        ``taken``: the signal that it was; False if somebody else took it just before.
        """
        data = self._codec.encode(value, process=call.process.name, where=f"what ctx.once kept as {key!r}")
        fields = {"call": str(call.key), "key": key}
        records = [Record("once", f"{call.key}/{key}", pack(fields, data)), *self._noted.values()]
        expected = list(self.expected)
        if taken is not None:
            records.append(Record(taken.kind, taken.key, None))
            expected.append(taken)
        answer = await self._commit(records, expected, call.process.name, blocking)
        if isinstance(answer, Refused) and answer.record.kind == "signal":
            return False
        self.made(records, answer)
        self._kept.setdefault(fields["call"], {})[key] = value
        return True

    async def keep_rest(self, call: Call, kept: dict[str, Any]) -> None:
        """Record what was kept in a worker process, from where it could not be done at once."""
        known = self._kept.get(str(call.key), {})
        for key in kept.keys() - known.keys():
            await self.keep(call, key, kept[key], blocking=self.run.blocking)

    async def take(self, call: Call, label: str, name: str) -> list[Any]:
        """The oldest signal of that name, recorded as taken; nothing if there is none."""
        while found := await self._look("signal", f"{self.run.id}/{name}/", blocking=False):
            assert found[0].value is not None
            value = self._codec.decode(found[0].value)
            if await self.keep(call, label, {"value": value}, blocking=False, taken=found[0]):
                return [value]
        return []

    def made(self, records: Sequence[Record], answer: Committed | Conflict | Refused) -> None:
        """Take note of the store's answer to a commit that these records went with.

        Raises:
            RunFenced: the run is another engine's now.
        """
        if isinstance(answer, Committed):
            for record in records:
                if self._noted.get(record.key) is record:
                    del self._noted[record.key]
                elif record.kind == "step":  # its call is done
                    self._kept.pop(record.key, None)
        elif isinstance(answer, Refused):
            raise RunFenced(
                f"run {self.run.id!r} was taken over by another engine, which goes on with it; here it ends.",
                run_id=self.run.id,
            )


def entry_of(store: Store, run_id: str) -> Entry | None:
    """What is kept of a run as a whole."""
    known = record_of(store, "run", run_id)
    return None if known is None else Entry.read(known)


def record_of(store: Store, kind: str, run_id: str) -> Record | None:
    """The record of a kind that a run has one of."""
    return _of(run_id, store.records(kind, run_id))


def logged(past: Past, run_id: str) -> dict[tuple[str, str], tuple[Version, Record]]:
    """What the log still says of a run's calls, also of one that is done: by kind and key, since which version."""
    found: dict[tuple[str, str], tuple[Version, Record]] = {}
    for entry in past.entries:
        for record in entry.records:
            if record.kind == "run" and record.key == run_id and record.value is None:
                found.clear()  # it was forgotten; one that is begun anew has nothing to do with it
            elif record.kind in CALLS and record.key.startswith(f"{run_id}/") and record.value is not None:
                found[record.kind, record.key] = entry.version, record
    return found


def arguments_of(engine: Engine[Any], run_id: str, target: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a run was begun with."""
    assert engine.store is not None, "only an engine with a store keeps runs"
    entry = entry_of(engine.store, run_id)
    if entry is None:
        raise DefinitionError(f"there is no run {run_id!r}; `theus runs` lists those that are recorded.")
    values = _given(engine.codec, as_step(target), entry)
    return tuple(value for name, value in values if name is None), {name: v for name, v in values if name is not None}


def forget(store: Store, run_id: str) -> None:
    """Let go of all that is recorded of a run; its changes of the state stay, and so does what it emitted durably.

    Raises:
        DefinitionError: there is no such run, or somebody took it over or ended it just now.
    """
    known, owner, result = (record_of(store, kind, run_id) for kind in ("run", "owner", "result"))
    if known is None or owner is None:  # they come and go together
        raise DefinitionError(f"there is no run {run_id!r}; `theus runs` lists those that are recorded.")
    found = [record for kind in PASSING for record in store.records(kind, f"{run_id}/")]
    gone = _gone([known, owner, *found, *([] if result is None else [result])])
    answer = drive(store.commit(Commit(0, (), (), NAME, records=gone, expected=[known, owner]), blocking=True))
    if isinstance(answer, Refused):
        raise DefinitionError(f"run {run_id!r} was taken over or ended just now; it was left as it is. Try again.")


def check_signal(store: Store, run_id: str, name: str) -> None:
    """Refuse a signal that nobody can take."""
    entry = entry_of(store, run_id)
    if entry is None:
        raise DefinitionError(f"there is no run {run_id!r} to signal; `theus runs` lists those that are recorded.")
    if entry.status == "done":
        raise DefinitionError(f"run {run_id!r} is done: nobody waits for {name!r} there any more.")


def record_signal(engine: Engine[Any], run_id: str, name: str, value: Any) -> None:
    """Put a signal behind those that were sent to the run and not taken yet."""
    store = engine.store
    assert store is not None, "only an engine with a store keeps runs"
    data = engine.codec.encode(value, where=f"the signal {name!r}")
    answer: Any = None
    while not isinstance(answer, Committed):  # else somebody sent one at the same time
        sent = store.records("signal", f"{run_id}/{name}/")
        number = int(sent[-1].key.rpartition("/")[2]) + 1 if sent else 1
        key = f"{run_id}/{name}/{number:09d}"
        records = [Record("signal", key, data)]
        commit = Commit(0, (), (), "engine.signal", records=records, expected=[Record("signal", key, None)])
        answer = drive(store.commit(commit, blocking=True))


def _hints(step: Step[Any, Any], names: Sequence[str | None]) -> list[Any]:
    """The types of a run's arguments, as far as its first process tells."""
    first = first_step(step)
    if not isinstance(first, Process):
        return [Any] * len(names)
    by_position = first.parameters if first is step else (first.pipe_parameter,)
    places = [place if name is None else name for place, name in zip_longest(by_position, names)][: len(names)]
    return [Any if name is None else first.hint(name) for name in places]


def _given(codec: Values, step: Step[Any, Any], entry: Entry) -> list[tuple[str | None, Any]]:
    """The arguments that a run was begun with; None stands before those by position."""
    parts = zip(entry.names, entry.arguments, _hints(step, entry.names), strict=True)
    return [(name, codec.decode(part, hint)) for name, part, hint in parts]


def _said(error: Exception) -> str:
    """An error in a text; of one that was such a text already, that."""
    return str(error) if type(error) is TheusError else f"{type(error).__name__}: {error}"


def _exchanged(value: Any, kind: type, make: Callable[[Any], Any]) -> Any:
    """The lists and tuples that a workflow makes, with what is of a kind in them exchanged."""
    if isinstance(value, kind):
        return make(value)
    if type(value) in (list, tuple):
        return type(value)(_exchanged(item, kind, make) for item in value)
    return value


def _gone(records: Iterable[Record]) -> list[Record]:
    """What removes them."""
    return [Record(record.kind, record.key, None) for record in records]


def _of(run_id: str, records: Iterable[Record]) -> Record | None:
    """The record of that very run; there may be others whose ids begin like this one."""
    return next((record for record in records if record.key == run_id), None)
