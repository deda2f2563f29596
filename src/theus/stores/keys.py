"""Conflict keys: paths as texts, for stores that compare what was read with what others wrote and know no path rules.

======  =======================================================================================
``S:``  the value at this path was replaced, deleted or came to be
``K:``  keys came or went in the container at this path, or its length changed
``D:``  anything at or below this path changed
======  =======================================================================================

A store lets an entry in if none of the keys that it *asks* for is among the keys that entries after ``known`` *wrote*.
This is the head's rule of conflict (``state/head.py``), spelled out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from theus.errors import Path
from theus.state.access import Ops, Reads
from theus.state.apply import ON_PART


def written(operations: Ops, moved: Sequence[bool]) -> set[str]:
    """The keys that operations write. ``moved``: for each, whether keys or length of its container changed."""
    keys: set[str] = set()
    for operation, moves in zip(operations, moved, strict=True):
        kind, path = operation[0], operation[1]
        texts = _texts(path)
        keys.update(f"D:{text}" for text in texts)
        if kind in ON_PART:
            keys.add(f"S:{texts[-1]}")
            container = texts[-2] if path else texts[-1]
        else:
            container = texts[-1]
            if kind != "append":
                for member in operation[2]:
                    text = _below(container, member)
                    keys.update((f"S:{text}", f"D:{text}"))
        if moves:
            keys.add(f"K:{container}")
    return keys


def asked(reads: Reads, operations: Ops) -> set[str]:
    """The keys that must not have been written since the reads were made."""
    keys: set[str] = set()
    for path, members, shape, deep in reads:
        texts = _texts(path)
        keys.update(f"S:{text}" for text in texts)
        keys.update(f"S:{_below(texts[-1], member)}" for member in members)
        if shape:
            keys.add(f"K:{texts[-1]}")
        if deep:
            keys.add(f"D:{texts[-1]}")
    for operation in operations:
        path = operation[1]
        keys.update(f"S:{text}" for text in _texts(path[:-1] if operation[0] in ON_PART else path))
    return keys


def assumed(operations: Ops, moved: Sequence[bool]) -> set[str]:
    """What must not have been written since for ``moved`` to be still right: that a key was there which is set, or not
    there which is discarded. (Who adds a key that somebody else has added meanwhile says too much, which does no harm.)
    """
    keys: set[str] = set()
    for operation, moves in zip(operations, moved, strict=True):
        kind, path = operation[0], operation[1]
        if moves or not path:
            continue
        if kind == "set":
            keys.add(f"S:{_texts(path)[-1]}")
        elif kind in ("include", "discard"):
            container = _texts(path)[-1]
            keys.update(f"S:{_below(container, member)}" for member in operation[2])
    return keys


def _texts(path: Path) -> list[str]:
    """A path and all above it, from the root down."""
    texts = [""]
    for segment in path:
        texts.append(_below(texts[-1], segment))
    return texts


def _below(text: str, segment: Any) -> str:
    return f"{text}\n{_text(segment)}"


def _text(segment: Any) -> str:
    """Equal keys have one text: ``1``, ``1.0``, ``True`` and an ``IntEnum`` of 1 are the same key of a dict."""
    if isinstance(segment, str):
        return repr(str.__str__(segment))
    if isinstance(segment, (int, float)):
        return str(int(segment)) if segment == segment // 1 else repr(float(segment))
    if isinstance(segment, tuple):
        return f"({','.join(map(_text, segment))})"
    if isinstance(segment, frozenset):
        return f"{{{','.join(sorted(map(_text, segment)))}}}"
    return repr(segment)


def meet(asks: Iterable[str], writes: Iterable[str]) -> str | None:
    """A key that is in both, or None."""
    return next(iter(set(asks).intersection(writes)), None)


def path_text(key: str) -> str:
    """What a key is about, for a report: ``users.'a b'``."""
    return key[2:].strip("\n").replace("\n", ".") or "the domain"
