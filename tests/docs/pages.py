"""The pages of the documentation, and the blocks in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^(?P<indent> *)(?P<fence>```+)(?P<language>\w*)")
REMARK = re.compile(r"^ *<!-- example: (?P<kind>raises|needs|skip),? (?P<what>.+?) -->$")


@dataclass
class Block:
    """A fenced block. ``line``: of its first line, from 1. ``shown``: what it prints, None if the page does not say."""

    language: str
    line: int
    text: str
    remarks: dict[str, str]
    shown: str | None = None


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, each with the remark before it and, for ``python``, the ``text`` block after it."""
    found: list[Block] = []
    remarks: dict[str, str] = {}
    lines = enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
    follows = False  # nothing but blank lines since the last block
    for _, text in lines:
        opening = FENCE.match(text)
        if opening is None:
            remark = REMARK.match(text)
            if remark is not None:
                remarks[remark["kind"]] = remark["what"]
            elif text.strip():
                follows, remarks = False, {}
            continue
        content = []
        start = 0
        for number, inside in lines:
            if inside.strip() == opening["fence"]:
                break
            start = start or number
            content.append(inside.removeprefix(opening["indent"]))
        block = Block(opening["language"], start, "\n".join(content) + "\n", remarks)
        if block.language == "text" and follows and found[-1].language == "python":
            found[-1].shown = block.text
        else:
            found.append(block)
        follows, remarks = True, {}
    return found
