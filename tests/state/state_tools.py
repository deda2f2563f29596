"""What the tests of the state share."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from hypothesis import settings

from theus.protocols import Commit, Committed, Conflict
from theus.state.access import Grant, Ops, Reads
from theus.state.head import Head
from theus.state.transaction import Transaction

SOAK = int(os.environ.get("THEUS_SOAK", "1"))


def examples(number: int, steps: int = 30) -> Any:
    """Hypothesis settings: this many examples, multiplied by THEUS_SOAK."""
    return settings(max_examples=number * SOAK, stateful_step_count=steps, deadline=None)


class Session:
    """A head and short ways to work with it."""

    def __init__(self, domain: Any) -> None:
        self.head = Head(domain)

    def forget(self) -> None:
        """Keep no history from now on."""
        history: Any = self.head.history
        history._entries.clear()
        history._first = None
        history.add = lambda *entry: None

    @property
    def state(self) -> Any:
        return self.head.snapshot.view()

    def begin(self, process: str = "", grant: Grant | None = None) -> Transaction:
        return Transaction(self.head.snapshot, process=process, grant=grant)

    def fixed(self, process: str = "") -> Transaction:
        """A transaction that does not move forward."""
        tx = self.begin(process)
        tx._stay()
        return tx

    def end(self, tx: Transaction, author: str = "") -> Committed | Conflict:
        reads, ops = tx.finish()
        made = self.head.commit(Commit(tx.base, reads, ops, author or tx._process))
        tx.close()
        return made

    def run(self, body: Callable[[Any], Any], process: str = "", grant: Grant | None = None) -> Committed:
        tx = self.begin(process, grant)
        body(tx.domain)
        made = self.end(tx)
        assert isinstance(made, Committed), made
        return made

    def observe(self, body: Callable[[Any], Any]) -> tuple[Reads, Ops]:
        """The read set and operations of a body; nothing is committed."""
        tx = self.begin()
        try:
            body(tx.domain)
            return tx.finish()
        finally:
            tx.close()


def race(domain: Any, first: Callable[[Any], Any], second: Callable[[Any], Any]) -> tuple[Any, Committed | Conflict]:
    """Both start on one version; ``first`` commits, then ``second`` does. The final state and what became of it."""
    session = Session(domain)
    one, two = session.fixed("first"), session.fixed("second")
    first(one.domain)
    second(two.domain)
    assert isinstance(session.end(one), Committed)
    made = session.end(two)
    return session.state, made
