"""The tables of docs/consistency.md say what conflicts with what. Each of their cells is tried here."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest
from pages import ROOT, blocks_of

from theus import plain
from theus.protocols import Commit, Conflict
from theus.state.head import Head
from theus.state.transaction import Transaction

PAGE = ROOT / "docs" / "consistency.md"
MEANWHILE = "Committed meanwhile: "
COLUMN = re.compile(r"\*\*[A-G]\*\*\s`([^`]+)`")


def world() -> dict[str, Any]:
    """The names of the block that defines the state of the tables."""
    names: dict[str, Any] = {"__name__": "__main__", "plain": plain}
    exec(next(block.text for block in blocks_of(PAGE) if "class World" in block.text), names)
    return names


def cells() -> list[tuple[str, str, str]]:
    """What the call did, what was committed meanwhile, what the page says."""
    found: list[tuple[str, str, str]] = []
    paragraphs = PAGE.read_text(encoding="utf-8").split("\n\n")
    for meanwhile, table in pairwise(paragraphs):
        if meanwhile.startswith(MEANWHILE):
            columns = COLUMN.findall(meanwhile)
            for line in table.splitlines()[2:]:  # after the head and the rule
                call, *said = (part.strip() for part in line.strip("|").split(" | "))
                found += [(call.strip("`"), *pair) for pair in zip(columns, said, strict=True)]
    return found


CELLS = cells()


def test_the_tables_are_found() -> None:
    assert len(CELLS) > 100
    assert {said for _, _, said in CELLS} == {"conflict", "–"}


@pytest.mark.parametrize(("mine", "theirs", "said"), CELLS)
def test_cell(mine: str, theirs: str, said: str) -> None:
    names = world()
    head = Head(names["World"]())

    def begin(code: str) -> Transaction:
        transaction = Transaction(head.snapshot)
        exec(code, names | {"d": transaction.domain})
        return transaction

    def commit(transaction: Transaction) -> object:
        reads, ops = transaction.finish()
        return head.commit(Commit(transaction.base, reads, ops, "test"))

    ours = begin(f"{mine}\nd.done = 1")
    assert not isinstance(commit(begin(theirs)), Conflict)
    assert isinstance(commit(ours), Conflict) == (said == "conflict")
