"""What the history of a head keeps: so many commits and no more, whenever it is asked."""

from __future__ import annotations

import pytest
from state_tools import Session

from theus.errors import DefinitionError
from theus.state.history import MARK_EVERY, MOST_ENTRIES


@pytest.mark.parametrize("more", [1, 5, MARK_EVERY, MARK_EVERY + 1, 3 * MARK_EVERY - 1])
def test_so_many_commits_are_kept(more: int) -> None:
    session = Session({"n": 0})
    for number in range(1, MOST_ENTRIES + more + 1):
        session.run(lambda d, number=number: d.__setitem__("n", number))  # type: ignore[misc]
    head = session.head
    assert [change.version for change in head.history.last(10_000)] == list(range(more + 1, head.version + 1))
    assert len(head.history._entries) <= MOST_ENTRIES + MARK_EVERY
    for version in (more, more + 1, head.version - 1, head.version):
        assert head.history.snapshot_at(version, head.snapshot).view()["n"] == version
    with pytest.raises(DefinitionError, match=f"from {more} to"):
        head.history.snapshot_at(more - 1, head.snapshot)


def test_a_heavy_commit_is_not_kept() -> None:
    session = Session({"blob": b""})
    for _ in range(3):
        session.run(lambda d: d.__setitem__("blob", bytes(5 * 2**20)))
        assert session.head.history.last(10) == []
