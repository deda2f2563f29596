"""What was found out about a process is kept in a durable store: the next engine places it by that from its first call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from private_servers import PostgresServer
from theus import Engine, process
from theus.errors import StoreUnavailable
from theus.events import CallStarted
from theus.learned import KIND
from theus.records import unpack
from theus.stores import open_store
from theus.stores.memory import MemoryStore


@dataclass
class Shop:
    number: int = 0


def busy(seconds: float = 0.03) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(50))


async def hogs() -> None:
    busy(0.15)


def waits() -> None:
    time.sleep(0.001)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    server = PostgresServer()
    yield server
    server.close()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def opened(request: Any, tmp_path: Path) -> Callable[[], Any]:
    """Opens the same store each time; ``MemoryStore`` given as an object outlives its engine, too."""
    if request.param == "memory":
        kept = MemoryStore(Shop())
        return lambda: kept
    if request.param == "postgres":
        url = request.getfixturevalue("server").url
        return lambda: f"{url}?schema=learned"
    return lambda: str(tmp_path / "shop.db")


def first_calls(store: Any, *targets: Any) -> list[str]:
    """Where the first call of each runs, in an engine of their own."""
    seen: list[str] = []

    async def main(engine: Engine[Any]) -> None:
        for target in targets:
            await engine.arun(target)

    observe = lambda event: seen.append(event.environment) if isinstance(event, CallStarted) else None  # noqa: E731
    with Engine(Shop(), store=store, observers=[observe]) as engine:
        asyncio.run(main(engine))
    return seen


def learn(store: Any, targets: dict[Any, str]) -> None:
    """Run each until it is where it belongs: on a machine that stalls some calls tell nothing."""

    async def main(engine: Engine[Any]) -> None:
        for target, place in targets.items():
            for _ in range(100):
                await engine.arun(target)
                if engine.explain(target).rows[0].environment == place:
                    break
            else:
                pytest.fail(str(engine.explain(target)))

    with Engine(Shop(), store=store) as engine:
        asyncio.run(main(engine))


def kept_in(store: Any) -> dict[str, Any]:
    opened = open_store(store, Shop()) if isinstance(store, str) else store
    try:
        records = opened.records(KIND)
        return {record.key: unpack(record.value or b"")[0] for record in records}
    finally:
        opened.close()


def test_the_next_engine_knows(opened: Callable[[], Any]) -> None:
    assert first_calls(opened(), process(hogs), process(waits)) == ["loop", "thread"]
    learn(opened(), {process(busy): "worker", process(hogs): "own loop", process(waits): "thread"})
    kept = kept_in(opened())
    verdicts = sorted(value["verdict"] for value in kept.values())
    assert verdicts == ["computes", "stalls"]  # of what waits there is nothing to say

    def busy_too(seconds: float = 0.03) -> None:
        busy(seconds)

    assert first_calls(opened(), process(busy), process(hogs), process(busy_too)) == ["worker", "own loop", "thread"]
    again = kept_in(opened())
    assert {key: again[key] for key in kept} == kept  # nothing new was written of those


def test_an_engine_says_what_it_knows_before_the_first_call(tmp_path: Path) -> None:
    learn(str(tmp_path / "shop.db"), {process(busy): "worker"})
    with Engine(Shop(), store=tmp_path / "shop.db") as engine:
        assert engine.state.number == 0
        row = engine.explain(busy).rows[0]
    assert (row.environment, row.calls) == ("worker", 0)
    assert "holds the interpreter's lock" in row.reason
    assert row.nature.startswith("computes")


def test_another_machine_or_python_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learn(str(tmp_path / "shop.db"), {process(busy): "worker"})
    monkeypatch.setattr("theus.learned._machine", lambda: "another")
    assert first_calls(str(tmp_path / "shop.db"), process(busy)) == ["thread"]
    learn(str(tmp_path / "shop.db"), {process(busy): "worker"})
    assert len(kept_in(str(tmp_path / "shop.db"))) == 2  # each has its own


def test_the_user_may_change_the_function_or_its_options(tmp_path: Path) -> None:
    learn(str(tmp_path / "shop.db"), {process(busy): "worker"})
    assert first_calls(str(tmp_path / "shop.db"), process(busy, idempotent=True)) == ["thread"]


def test_an_engine_in_memory_keeps_nothing() -> None:
    engine = Engine(Shop())
    asyncio.run(engine.arun(busy))
    asyncio.run(engine.arun(busy))
    engine.close()
    assert engine.store is not None
    assert engine.store.records(KIND) == []


def test_what_only_blocks_its_caller_writes_nothing(tmp_path: Path) -> None:
    with Engine(Shop(), store=tmp_path / "shop.db") as engine:
        for _ in range(4):
            engine.run(busy, 0.01)
    assert kept_in(str(tmp_path / "shop.db")) == {}


def test_only_so_many_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("theus.learned.MOST_KEPT", 2)
    url = str(tmp_path / "shop.db")
    for retries in range(4):
        learn(url, {process(busy, retries=retries): "worker"})
    assert first_calls(url, process(busy, retries=3), process(busy, retries=0)) == ["worker", "thread"]
    assert len(kept_in(url)) == 2


class Unreachable(MemoryStore):
    """Has no place for records."""

    def records(self, kind: str, prefix: str = "") -> Any:
        raise StoreUnavailable("away")

    async def commit(self, commit: Any, *, blocking: bool) -> Any:
        if commit.records:
            raise StoreUnavailable("away")
        return await super().commit(commit, blocking=blocking)


def test_a_store_that_takes_none_harms_nobody() -> None:
    learn(Unreachable(Shop()), {process(busy): "worker"})
