"""One workflow's processes, as plain functions: a module that loads anywhere."""

import asyncio
import zlib
from dataclasses import dataclass, field

from theus import Tally, process


@dataclass
class Shelf:
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seen: Tally = 0


class Refused(Exception):
    pass


def weigh(ctx, word):
    ctx.domain.counts[word] = ctx.domain.counts.get(word, 0) + len(word)
    ctx.domain.seen += 1
    ctx.emit("weighed", word)
    return {"word": word, "sum": zlib.crc32(word.encode())}


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
