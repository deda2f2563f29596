"""Several web workers on one host and one SQLite file are one serializable state, without a server between them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

PROGRAM = Path(__file__).with_name("web_program.py")
WORKERS, HITS, ORDERS = 4, 25, 10


@contextmanager
def workers(store: Path) -> Iterator[list[str]]:
    with ExitStack() as stack:
        programs = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, str(PROGRAM), str(store)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(WORKERS)
        ]
        yield [f"http://127.0.0.1:{program.stdout.readline().strip()}" for program in programs]
        for program in programs:
            program.stdin.close()


def test_no_hit_is_lost_and_an_order_is_taken_once_however_many_are_asked(tmp_path):
    async def main(addresses: list[str]) -> None:
        async with httpx.AsyncClient(timeout=100) as client:
            asked = [client.post(f"{address}/add") for address in addresses for _ in range(HITS)]
            asked += [client.post(f"{address}/order/o{number}") for number in range(ORDERS) for address in addresses]
            answers = await asyncio.gather(*asked)
            assert {answer.status_code for answer in answers} <= {200, 409}
            hits = [answer.json() for answer in answers[: WORKERS * HITS]]
            assert sorted(hits) == list(range(1, WORKERS * HITS + 1))  # each saw a number of its own
            orders = [answer.json() for answer in answers[WORKERS * HITS :] if answer.status_code == 200]
            assert set(orders) == {101}
            expected = [WORKERS * HITS, WORKERS * HITS, {f"o{number}": 101 for number in range(ORDERS)}]
            for address in addresses:  # what one committed reaches the others by itself
                while (state := (await client.get(f"{address}/state")).json()) != expected:
                    assert state[1] <= expected[1]

    with workers(tmp_path / "shop.db") as addresses:
        asyncio.run(main(addresses))
