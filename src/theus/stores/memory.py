"""The store that lives in this process's memory: a head behind the ``Store`` seam."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from theus.protocols import Commit, Committed, Conflict
from theus.state.head import Head
from theus.state.history import History
from theus.state.snapshot import Snapshot


class MemoryStore:
    """Keeps the state in memory, as long as it is itself kept. Its coroutines never wait."""

    def __init__(self, domain: Any) -> None:
        self._head = Head(domain)

    @property
    def snapshot(self) -> Snapshot:
        return self._head.snapshot

    @property
    def history(self) -> History:
        """The last commits."""
        return self._head.history

    async def open(self) -> Snapshot:
        return self._head.snapshot

    async def commit(self, batch: Sequence[Commit]) -> Sequence[Committed | Conflict]:
        return [self._head.commit(commit) for commit in batch]

    async def close(self) -> None:
        pass
