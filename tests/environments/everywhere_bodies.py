"""One workflow's processes, as plain functions: a module that loads anywhere."""

import asyncio
import zlib
from dataclasses import dataclass, field
from typing import Any

from theus import Tally, process


@dataclass
class Shelf:
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seen: Tally = 0
    halves: dict[str, Any] = field(default_factory=dict)  #: arrays


class Refused(Exception):
    pass


def weigh(ctx, word):
    ctx.domain.counts[word] = ctx.domain.counts.get(word, 0) + len(word)
    ctx.domain.seen += 1
    ctx.emit("weighed", word)
    return {"word": word, "sum": zlib.crc32(word.encode())}


def weigh_with_numpy(ctx, word):
    import numpy as np

    ctx.domain.halves[word] = np.arange(len(word)) / 2
    return {**weigh(ctx, word), "whole": ctx.domain.halves[word] * 2}


async def weigh_and_wait(ctx, word):
    await asyncio.sleep(0)
    return weigh(ctx, word)


def refuse(ctx, word):
    ctx.domain.counts["lost"] = 1
    raise Refused(word)


def tell(ctx, word):
    ctx.send(note, word=word)
    ctx.local.told = word
    return ctx.local.told


@process(nature="state", writes=["notes"])
def note(ctx, word):
    ctx.domain.notes.append(word)
