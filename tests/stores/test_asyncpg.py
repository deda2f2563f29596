"""An ``async def`` with a connection or a pool of asyncpg that was made on its caller's loop stays there, and says why."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from private_servers import PostgresServer
from theus import Engine, process
from theus.events import Stalled

asyncpg = pytest.importorskip("asyncpg")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = PostgresServer()
    yield server.url
    server.close()


async def asks(database: Any, told: threading.Event) -> tuple[int, int]:
    told.wait(60)  # holds up its loop until that is told of
    return threading.get_ident(), await database.fetchval("select 42")


@pytest.mark.parametrize("made", ["connect", "create_pool"])
def test_a_connection_of_the_callers_loop_keeps_its_process_there(url: str, made: str) -> None:
    told = threading.Event()

    async def main(engine: Engine[Any]) -> Any:
        database = await getattr(asyncpg, made)(url)
        answers = [await engine.arun(process(asks), database, told) for _ in range(3)]
        await database.close()
        assert answers == [(threading.get_ident(), 42)] * 3
        return engine.explain(asks).rows[0]

    def observe(event: object) -> None:
        if isinstance(event, Stalled):
            told.set()

    with Engine(observers=[observe]) as engine:
        row = asyncio.run(main(engine))
    assert row.environment == "loop"
    assert f"it was given a {'Pool' if made == 'create_pool' else 'Connection'}, which belongs" in row.reason
