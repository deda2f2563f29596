"""``with engine.transaction() as domain``: change the state outside of processes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, cast

from theus.completion import check_invariants
from theus.doors import drive
from theus.errors import ConflictError
from theus.protocols import Commit, Conflict, Store
from theus.state.access import show
from theus.state.transaction import Transaction
from theus.tickets import Ticket, Tickets, touched

D = TypeVar("D")
NAME = "engine.transaction()"


class TransactionBlock(Generic[D]):
    """A transaction for set-up and migration code; committed at the end of its block, or not at all."""

    def __init__(self, store: Store, tickets: Tickets, invariants: Sequence[Callable[[D], object]]) -> None:
        self._store = store
        self._tickets = tickets
        self._invariants = invariants
        self._transaction: Transaction | None = None

    def _begin(self) -> D:
        self._transaction = Transaction(self._store.snapshot, process=NAME)
        return cast("D", self._transaction.domain)

    async def _end(self, error: BaseException | None, *, blocking: bool) -> None:
        transaction = self._transaction
        assert transaction is not None
        ticket: Ticket | None = None
        try:
            if error is not None:
                return
            reads, ops = transaction.finish()
            if not ops:
                return
            if self._tickets.queues and self._tickets.in_the_way([op[1] for op in ops], None) is not None:
                ticket = self._tickets.request({*touched(reads, ops)}, NAME)  # others were here first
                await ticket.turn(blocking=blocking)
            commit = Commit(transaction.base, reads, ops, NAME)
            if self._invariants:
                commit.complete = functools.partial(check_invariants, self._invariants)
            answer = await self._store.commit(commit, blocking=blocking)
            if isinstance(answer, Conflict):
                path = show(answer.path)
                raise ConflictError(
                    f"{NAME}: {path} was changed by {answer.author!r} since this block had read it; nothing was committed. "
                    "Write the block as a process: the engine runs that again by itself.",
                    paths=(path,),
                    attempts=1,
                )
        finally:
            transaction.close()
            if ticket is not None:
                ticket.release()

    def __enter__(self) -> D:
        return self._begin()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        drive(self._end(error, blocking=True))

    async def __aenter__(self) -> D:
        return self._begin()

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        await self._end(error, blocking=False)
