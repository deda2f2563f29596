"""Commits on Redis and PostgreSQL, beside what one would write by hand: a WATCH/MULTI loop, a SERIALIZABLE transaction.

Each caller reads and writes a number of its own; then all of them the same one. Servers of our own, as they come but for Redis'
``appendfsync always``: all commits are on the disk when they are answered.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import redis

from benchmarks.bench_store import heard_elsewhere
from benchmarks.measure import in_turns, table, timed
from theus import Context, Engine, process

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from private_servers import PostgresServer, RedisServer

COMMITS = 480


@dataclass
class Shop:
    counts: dict[str, int] = field(default_factory=dict)


@process
def count(ctx: Context[Shop], key: str) -> None:
    ctx.domain.counts[key] = ctx.domain.counts.get(key, 0) + 1


def main() -> None:
    server: Any = RedisServer()
    try:
        beside("Redis, AOF always", f"{server.url}?name=bench", "WATCH/MULTI", watched(server.url))
        heard_elsewhere("Redis", f"{server.url}?name=heard")
    finally:
        server.close()
    server = PostgresServer()
    try:
        beside("PostgreSQL", f"{server.url}?schema=bench", "SERIALIZABLE", serializable(server.url))
        heard_elsewhere("PostgreSQL", f"{server.url}?schema=heard")
    finally:
        server.close()


def beside(name: str, store: str, by_hand: str, make: Callable[[], Callable[[str], None]]) -> None:
    """Ours and theirs, in turns."""
    with Engine(Shop(), store=store) as engine:
        for title, key in (("a number each", "{}"), ("one number", "same")):
            cases = {}
            for callers in (1, 16):
                keys = [key.format(number) for number in range(callers)]
                cases[f"{by_hand}, {callers} callers"] = at_once(keys, make)
                cases[f"engine.run, {callers} callers"] = at_once(keys, lambda: partial(engine.run, count))
            figures = {what: 1e6 / spent for what, spent in in_turns(cases).items()}
            note = "".join(
                f"{callers} callers: {figures[f'engine.run, {callers} callers'] / figures[f'{by_hand}, {callers} callers']:.1f} x by hand   "
                for callers in (1, 16)
            )
            table(
                f"{name}: read and write {title}",
                figures,
                f"{by_hand}, 1 callers",
                unit="/s",
                note=f"{note}(goal: 2 x)",
            )


def at_once(keys: list[str], make: Callable[[], Callable[[str], None]]) -> Callable[[], float]:
    """A thread for each key that commits again and again; each makes what it commits with once."""
    commits = [make() for _ in keys]

    def work() -> None:
        def loop(commit: Callable[[str], None], key: str) -> None:
            for _ in range(COMMITS // len(keys)):
                commit(key)

        threads = [threading.Thread(target=loop, args=pair) for pair in zip(commits, keys, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return timed(work, COMMITS)


def watched(url: str) -> Callable[[], Callable[[str], None]]:
    def make() -> Callable[[str], None]:
        client = redis.Redis.from_url(url)

        def commit(key: str) -> None:
            with client.pipeline() as pipe:
                while True:
                    try:
                        pipe.watch(key)
                        value = int(pipe.get(key) or 0)
                        pipe.multi()
                        pipe.set(key, value + 1)
                        pipe.execute()
                        return
                    except redis.WatchError:
                        continue

        return commit

    return make


def serializable(url: str) -> Callable[[], Callable[[str], None]]:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE counts (key text PRIMARY KEY, value int)")
        connection.execute("INSERT INTO counts SELECT n::text, 0 FROM generate_series(0, 15) AS n")
        connection.execute("INSERT INTO counts VALUES ('same', 0)")

    def make() -> Callable[[str], None]:
        connection = psycopg.connect(url)
        connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE

        def commit(key: str) -> None:
            while True:
                try:
                    with connection.transaction():
                        row = connection.execute("SELECT value FROM counts WHERE key = %s", (key,)).fetchone()
                        assert row is not None
                        connection.execute("UPDATE counts SET value = %s WHERE key = %s", (row[0] + 1, key))
                    return
                except psycopg.errors.SerializationFailure:
                    continue

        return commit

    return make


if __name__ == "__main__":
    main()
