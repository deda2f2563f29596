"""The store that lives in this process's memory: a head, and the records beside it, behind the ``Store`` seam."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any

from theus.errors import NotTransferable
from theus.protocols import Commit, Committed, Conflict, Record, Refused
from theus.state.head import Head
from theus.state.history import History
from theus.state.snapshot import Snapshot
from theus.stores.listeners import Listeners


class MemoryStore:
    """Keeps the state in memory, as long as it is itself kept. Never waits."""

    def __init__(self, domain: Any) -> None:
        self._head = Head(domain)
        self._lock = Lock()
        self._records: dict[tuple[str, str], bytes] = {}
        self._listeners = Listeners()

    @property
    def snapshot(self) -> Snapshot:
        return self._head.snapshot

    @property
    def history(self) -> History:
        """The last commits."""
        return self._head.history

    def open(self) -> Snapshot:
        return self._head.snapshot

    async def commit(self, commit: Commit, *, blocking: bool) -> Committed | Conflict | Refused:
        if commit.records or commit.expected or commit.complete is not None:
            answer = self._commit(commit)
        else:
            answer = self._head.commit(commit)
        if self._listeners.all and type(answer) is Committed:
            self._listeners.tell(answer)
        return answer

    def _commit(self, commit: Commit) -> Committed | Conflict | Refused:
        with self._lock:  # records change only here
            for expected in commit.expected:
                value = self._records.get((expected.kind, expected.key))
                if value != expected.value:
                    return Refused(Record(expected.kind, expected.key, value))
            answer = self._head.commit(commit)
            if type(answer) is Committed:
                answer.records = commit.records
                for record in commit.records:
                    if record.value is None:
                        self._records.pop((record.kind, record.key), None)
                    else:
                        self._records[record.kind, record.key] = record.value
            return answer

    def tail(self, listener: Callable[[Committed], None]) -> Callable[[], None]:
        return self._listeners.add(listener)

    def records(self, kind: str, prefix: str = "") -> list[Record]:
        with self._lock:
            found = sorted(key for found, key in self._records if found == kind and key.startswith(prefix))
            return [Record(kind, key, self._records[kind, key]) for key in found]

    def close(self) -> None:
        pass


class Elsewhere(MemoryStore):
    """The store of an engine that a worker has made by importing a module: its state would be one of its own, and what
    is written there would be lost. So any use of it is refused; an engine that a body makes for itself is not concerned.
    """

    def __init__(self) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        raise NotTransferable(
            "this worker has an engine because it imported the module that makes it. The state of that engine is in the"
            " program that calls, not here: read and write it by ctx.domain, change it by ctx.send(...), or say"
            " environment='thread' for the process.",
            process="",
            what="the state of an engine",
        )
