"""One transaction: a snapshot to read, a draft to write, and at the end what was read and what is to change.

::

    tx = Transaction(head.snapshot)
    tx.domain.hits += 1                      # ordinary mutation
    reads, ops = tx.finish()
    head.commit(Commit(tx.base, reads, ops, "count"))
    tx.close()                               # the drafts are dead from here on

**Snapshot extension** (LSA, Riegel/Felber/Fetzer 2006; TinySTM). At the first new read after others have
committed, what was read so far is compared with what they wrote. If nothing of it changed, the transaction
moves to the newest state: the reads so far belong to that state as well, so everything read stays one consistent
picture, and a later commit has less to conflict with. If something changed, the old snapshot is kept: a
read-only transaction ends well on it, a writing one conflicts at its commit. It never raises in user code.

A transaction is used by one call at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import theus.state.dicts
import theus.state.lists
import theus.state.sets  # noqa: F401  (they make themselves known as makers of drafts)
from theus.errors import ContractError, Path
from theus.state.access import Grant, Op, Ops, Read, Reads
from theus.state.apply import apply_ops
from theus.state.node import ENDS, MAKERS, Node, ended
from theus.state.snapshot import Snapshot
from theus.state.values import MISSING, OBJECT, kind_of


class Transaction:
    """What one call reads and writes.

    ``grant``: what its contract lets it touch (None: everything). ``violations``: where to put errors of the contract
    instead of raising them.
    """

    __slots__ = (
        "__weakref__",
        "_behind",
        "_grant",
        "_head",
        "_kept",
        "_kin",
        "_nodes",
        "_prior",
        "_process",
        "_root",
        "_snapshot",
        "_violations",
        "base",
    )

    def __init__(
        self,
        snapshot: Snapshot,
        process: str = "",
        grant: Grant | None = None,
        violations: list[ContractError] | None = None,
    ) -> None:
        self._snapshot: Snapshot | None = snapshot  # keeps the versions alive that the commit is validated against
        self._root = snapshot.root
        self._head = snapshot.head  #: None: the snapshot stays as it is
        self._process = process
        self._grant = grant
        self._violations = violations
        self._nodes: Any = []  #: all drafts in the order in which they were made; None: closed
        self._prior: Ops = ()  #: operations that were replayed
        self._behind: Ops = ()  #: those of them that are not in ``_root`` yet: nobody may ever look
        self._kept: Reads = ()  #: reads from before a replay
        self._kin: dict[int, list[Node]] | None = None
        self.base = snapshot.version  #: the version on which all reads are valid

    @property
    def domain(self) -> Any:
        """The draft of the whole domain."""
        nodes = self._nodes
        if nodes:
            return nodes[0]._face()
        if nodes is None:
            raise ended(self._process)
        root = self._caught_up() if self._behind else self._root
        maker: Any = MAKERS[type(root)]
        return maker(self, None, None, self._grant, root)

    @property
    def on_trial(self) -> bool:
        """Whether the state it looks at is made up for it: there may be patches in it, which are not made to last."""
        return bool(self._prior)

    @property
    def has_written(self) -> bool:
        """Whether a commit would change anything as things stand."""
        return bool(self._prior) or any(node._wrote() for node in self._nodes or ())

    def finish(self) -> tuple[Reads, Ops]:
        """What was read, and the operations that make the changes. Values become values at rest here."""
        nodes: list[Node] = self._nodes
        if not nodes:
            if nodes is None:
                raise ended(self._process)
            return self._kept, self._prior
        self._head = self._kin = None
        operations: list[Op] = [*self._prior]
        for node in nodes:
            if node._dirty and (node._parent is None or node._attached()):
                node._emit(operations)
        reads: list[Read] = [*self._kept]
        # What was read. That a place was looked up need only be recorded if nothing below vouches for it: a read or
        # write there is checked against the replacement of everything above. Children come after their parents.
        for node in reversed(nodes):
            parent = node._parent
            if node._reads or node._shape or node._deep:
                reads.append((() if parent is None else node._path(), node._reads, node._shape, node._deep))
            elif parent is not None and not node._active and not (node._dirty and node._wrote()):
                parent._note(node._key)
                continue
            if parent is not None:
                parent._active = True
        return reads, operations

    def close(self) -> None:
        """End all drafts. Whoever still holds one gets a ``ScopeError`` at the next use."""
        nodes = self._nodes
        if nodes is None:
            return
        self._nodes = None
        if nodes:
            end = ENDS[self._process]
            for node in nodes:
                node._close(end)
        self._snapshot = self._root = self._kin = None

    def replay(self, operations: Ops, reads: Reads = ()) -> None:
        """Let these operations count as written here, before what follows. Drafts taken earlier end.

        ``reads``: what was read on this state to make them.
        """
        if self._nodes:
            self._seal(*self.finish())
        self._head = None
        self._prior = [*self._prior, *operations] if self._prior else operations
        self._behind = [*self._behind, *operations] if self._behind else operations
        if reads:
            self._kept = [*self._kept, *reads]

    def _seal(self, reads: Reads, operations: Ops) -> None:
        """Let what the drafts so far did, as ``finish`` gave it, count as replayed; they end."""
        self._kept = reads
        self._behind = operations[len(self._prior) :]
        self._prior = operations
        end = ENDS[self._process]
        for node in self._nodes:
            node._close(end)
        self._nodes = []

    def nested(
        self, process: str = "", grant: Grant | None = None, violations: list[ContractError] | None = None
    ) -> Transaction:
        """A transaction under another contract on the state as this one sees it, own writes included.

        ``self.replay(ops, reads)`` takes over what it did; forgetting it undoes it.
        """
        kind = TrialTransaction if self._nodes or self.on_trial else Transaction
        return kind(Snapshot(self.base, self._now()), process, grant, violations)

    def part(self, process: str, grant: Grant | None, violations: list[ContractError] | None) -> Transaction:
        """The same for a part that cannot fail alone: this very transaction, as long as nothing was done in it.

        ``take_over`` is to follow.
        """
        if self._nodes or self._prior or self._kept:
            return self.nested(process, grant, violations)
        self._process, self._grant, self._violations = process, grant, violations
        return self

    def take_over(self, part: Transaction, reads: Reads, operations: Ops) -> None:
        """Let what a part did, as its ``finish`` gave it, count as done here. Its drafts end."""
        if part is self:
            self._seal(reads, operations)
        else:
            part.close()
            self.replay(operations, reads)

    def view(self) -> Any:
        """A read-only view of the domain as this transaction sees it, own writes included. Counts as reading all of it."""
        self._kept = [*self._kept, ((), (), True, True)]
        return Snapshot(self.base, self._now()).view()

    def _now(self) -> Any:
        root = self._caught_up()
        if not self._nodes:
            return root
        _, operations = self.finish()
        return apply_ops(root, operations[len(self._prior) :], trial=True)

    def _caught_up(self) -> Any:
        """The state with all that was replayed."""
        if self._behind:
            self._root = apply_ops(self._root, self._behind, trial=True)
            self._behind = ()
        return self._root

    # --- for drafts ---

    def _refuse(self, kind: str, path: Path) -> None:
        grant = self._grant
        assert grant is not None
        assert grant.contract is not None
        error = grant.contract.violation(kind, path, grant.arguments)
        if self._violations is None:
            raise error
        self._violations.append(error)

    def _kids_of(self, parent: Node) -> Sequence[Node]:
        """The drafts right below one, replaced ones included. For the end only: an index over all is made once."""
        if self._kin is None:
            self._kin = {}
            for node in self._nodes:
                self._kin.setdefault(id(node._parent), []).append(node)
        return self._kin.get(id(parent), ())

    def _stay(self) -> None:
        """Keep this snapshot for good: something was taken over whole."""
        self._head = None

    def _extend(self) -> None:
        """Move to the newest state if that has all that was read; else never try again."""
        head = self._head
        assert head is not None
        nodes: list[Node] = self._nodes
        entries = [
            (node._path(), node._reads, node._shape, node._deep)
            for node in nodes
            if node._reads or node._shape or node._deep or node._dirty
        ]
        snapshot = head.renew(self.base, entries)
        bases = None if snapshot is None else _resolve(nodes, snapshot.root)
        if snapshot is None or bases is None:
            self._head = None
            return
        for node, base in zip(nodes, bases, strict=True):
            node._base = base
        self._snapshot = snapshot
        self._root = snapshot.root
        self.base = snapshot.version


class TrialTransaction(Transaction):
    """A transaction on a state that may never be committed."""

    __slots__ = ()

    @property
    def on_trial(self) -> bool:
        return True


def _resolve(nodes: list[Node], root: Any) -> list[Any] | None:
    """The value at rest of each draft's place in another state; None if a place is gone or is something else now."""
    found: dict[int, Any] = {}
    bases: list[Any] = []
    for node in nodes:
        parent = node._parent
        base = root if parent is None else _lookup(found[id(parent)], node._key)
        kind = kind_of(type(base))
        if (
            base is MISSING
            or kind != kind_of(type(node._base))
            or (kind == OBJECT and type(base) is not type(node._base))
        ):
            return None
        found[id(node)] = base
        bases.append(base)
    return bases


def _lookup(container: Any, key: Any) -> Any:
    if kind_of(type(container)) == OBJECT:
        return getattr(container, key, MISSING)
    try:
        return container[key]
    except (KeyError, IndexError):
        return MISSING
