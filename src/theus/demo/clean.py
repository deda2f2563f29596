"""A cleaning script: three functions; no asyncio, no domain, no decorator."""

from __future__ import annotations

import re
from collections import Counter
from html import unescape


def load(html: str) -> list[str]:
    """The page's lines, without their tags."""
    return unescape(re.sub(r"<[^>]*>", " ", html)).splitlines()


def clean(rows: list[str]) -> list[str]:
    """The rows that say something, each in one form."""
    return [row.strip().lower() for row in rows if row.strip()]


def count(rows: list[str]) -> Counter[str]:
    """How often each word is there."""
    return Counter(re.findall(r"[a-z]{3,}", " ".join(rows)))
