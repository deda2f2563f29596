"""What a store keeps of the past: the oldest snapshot, and the log after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from theus.errors import DefinitionError
from theus.protocols import Version
from theus.state.access import Ops
from theus.state.head import Head
from theus.state.history import MOST_WEIGHT
from theus.state.snapshot import Snapshot
from theus.stores.driver import Entry


class Past:
    """Every commit that the log still holds, with its records, and the states that they lead to."""

    def __init__(self, begin: Callable[[], Head], entries: Sequence[Entry], decode: Callable[[bytes], Ops]) -> None:
        self.entries = entries
        self._begin = begin  #: makes the oldest state
        self._decode = decode

    def __str__(self) -> str:
        oldest = self._begin().version
        newest = self.entries[-1].version if self.entries else oldest
        return (
            f"the log goes from version {oldest} to {newest}. It keeps the last {MOST_WEIGHT // 2**20} MiB of commits, or, "
            "of a larger state, those since it was last written as a whole; what is older has to be run anew, "
            "under another run_id"
        )

    def at(self, version: Version) -> Snapshot:
        """The state as it was at ``version``.

        Raises:
            DefinitionError: it is not kept any more, or does not exist yet.
        """
        head = self._begin()
        for entry in self.entries:
            if head.version < entry.version <= version:
                head.follow(entry.author, self._decode(entry.ops), entry.at)
        if head.version != version:
            raise DefinitionError(f"version {version} is not kept: {self}.")
        return head.snapshot
