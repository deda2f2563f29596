"""A chat: a hundred agents wait for a model, and what it says is shown token by token. Some hang up.

``ctx.report`` is live: it reaches who listens at once, whatever becomes of the call. What an agent writes into the
domain is committed at its end, so of those who hang up nothing is left.

    python examples/chat.py
"""

import asyncio
import json
import time
from dataclasses import dataclass, field

import httpx
from slow_model import slow_model

from theus import Engine, Tally, process
from theus.events import Reported

AGENTS = 100


@dataclass
class Chats:
    answers: dict[str, str] = field(default_factory=dict)
    tokens: Tally = 0


@process
async def answer(ctx, agent: str, question: str):
    said = []
    async with ctx.resource("model").stream("POST", "/generate", json={"prompt": question}) as reply:
        async for line in reply.aiter_lines():
            token = json.loads(line)["token"]
            ctx.report(token)
            said.append(token)
    ctx.domain.answers[agent] = " ".join(said)
    ctx.domain.tokens += len(said)


async def listen(engine: Engine, number: int) -> float:
    """Follow one agent; gives after how long its first token came. Every tenth hangs up after the third."""
    began = time.perf_counter()
    first = None
    heard = []
    run = engine.submit(answer, agent=f"agent {number}", question=f"agent {number} asks:")
    async for event in run.events():
        if isinstance(event, Reported):
            first = first or time.perf_counter() - began
            heard.append(event.value)
            if number % 10 == 0 and len(heard) == 3:
                run.cancel()
    if number == 1:
        print("agent 1 hears:", " ".join(heard))
    return first or 0.0


async def main() -> None:
    async with slow_model() as url:
        resources = {"model": lambda: httpx.AsyncClient(base_url=url, timeout=60)}
        async with Engine(Chats(), resources=resources) as engine:
            began = time.perf_counter()
            firsts = await asyncio.gather(*[listen(engine, number) for number in range(AGENTS)])
            chats = engine.state
            print(
                f"{AGENTS} agents in {time.perf_counter() - began:.1f} s; the last first token after {max(firsts):.2f} s; "
                f"{len(chats.answers)} answers kept, {chats.tokens:,} tokens"
            )
            assert len(chats.answers) == AGENTS - AGENTS // 10
            assert "agent 0" not in chats.answers
            assert chats.tokens == sum(len(text.split()) for text in chats.answers.values())


if __name__ == "__main__":
    asyncio.run(main())
