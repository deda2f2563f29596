"""What is done inside a commit, on the newest state: the messages and those that they send, in order; then the invariants.

A ``nature="state"`` process that is called is a message without a sender: it runs here, and there only. A store may
complete a commit again, on a newer state, if the first one did not come to be; then only the last time counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from theus.context import grant_of
from theus.environments.runner import execute
from theus.errors import InvariantViolated, LimitExceeded, Path
from theus.portal import Exiting
from theus.schedule import Position

if TYPE_CHECKING:
    from theus.attempt import Attempts
    from theus.errors import ContractError
    from theus.protocols import Call, Outcome, Record
    from theus.state.transaction import Transaction
    from theus.tickets import Ticket

MOST_MESSAGES = 10_000  #: in one commit


class Behind(Exception):
    """A commit would write paths for which others queue; nothing was committed."""

    def __init__(self, paths: set[Path]) -> None:
        super().__init__()
        self.paths = paths


class Completion:
    """Completes the commit of a call.

    ``sent``: what the call did before its commit; None: it is a message itself. ``outcome``: what it did in all, known once
    it was completed. ``records``: what is recorded with it, from then on.
    """

    __slots__ = ("_attempts", "_call", "_sent", "_ticket", "outcome", "records")

    def __init__(self, attempts: Attempts, call: Call, sent: Outcome | None, ticket: Ticket | None) -> None:
        self._attempts = attempts
        self._call = call
        self._sent = sent
        self._ticket = ticket
        self.outcome = sent
        self.records: list[Record] = []

    def __call__(self, transaction: Transaction) -> None:
        """Do it within the commit that is being made; what it raises keeps that from being made."""
        call, sent = self._call, self._sent
        engine = self._attempts.engine
        pending = [call] if sent is None else self._messages(sent, [])
        answers: list[Outcome] = []
        for message in pending:  # those that they send join the end
            process, contract = message.process, message.process.contract
            violations: list[ContractError] | None = None if message.strict else []
            grant = grant_of(message) if contract.is_bound else contract.fixed
            part = transaction.part(process.name, grant, violations)
            answer = execute(message, within=part)
            if answer.error is not None:
                raise answer.error if isinstance(answer.error, Exception) else Exiting(answer.error)
            transaction.take_over(part, answer.reads, answer.ops)
            if violations:
                answer.violations = violations
            answers.append(answer)
            if answer.messages:
                self._messages(answer, pending)
        if engine.invariants:
            check_invariants(engine.invariants, transaction)
        if engine.tickets.queues and pending:
            paths = {op[1] for op in transaction.finish()[1]}
            blocked = engine.tickets.in_the_way(paths, self._ticket)
            if blocked is not None:
                raise Behind({*paths, blocked})
        if not engine.strict:
            for message, answer in zip(pending, answers, strict=True):
                engine.profile(message.process).touched.add(message, answer)
        outcome = answers.pop(0) if sent is None else sent
        self.outcome = outcome = _with_what_followed(outcome, answers) if answers else outcome
        if outcome.emits or self._attempts.journal is not None:
            self.records[:] = self._attempts.records(call, outcome)

    def _messages(self, outcome: Outcome, pending: list[Call]) -> list[Call]:
        """Append the calls that messages ask for; gives the same list."""
        call = self._call
        position = Position(None, call.key)
        for process, arguments in outcome.messages:
            pending.append(self._attempts.make_call(process, (), arguments, None, call.attempt, position))
        if len(pending) > MOST_MESSAGES:
            raise LimitExceeded(
                f"one commit of {call.process.name!r} led to more than {MOST_MESSAGES} messages; "
                "does a state process send to itself without end?",
                limit=MOST_MESSAGES,
            )
        return pending


def _with_what_followed(outcome: Outcome, answers: Sequence[Outcome]) -> Outcome:
    """What a call emitted and broke, with what the messages behind it did."""
    emits = [emit for answer in answers for emit in answer.emits]
    violations = [violation for answer in answers for violation in answer.violations]
    if not (emits or violations):
        return outcome
    return replace(outcome, emits=[*outcome.emits, *emits], violations=[*outcome.violations, *violations])


def check_invariants(invariants: Iterable[Callable[[Any], object]], transaction: Transaction) -> None:
    """Refuse a commit after which a predicate on the domain would not hold."""
    for invariant in invariants:
        name = getattr(invariant, "__name__", repr(invariant))
        try:
            holds = invariant(transaction.view())
        except Exception as error:
            error.add_note(f"in the invariant {name!r}; the commit was not made")
            raise
        if not holds:
            raise InvariantViolated(
                f"the commit was refused: it would break the invariant {name!r}. Nothing was changed.", invariant=name
            )
