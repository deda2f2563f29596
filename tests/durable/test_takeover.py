"""An engine that runs takes over what another on the same store had in its outbox when it died: real processes, killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from private_servers import RedisServer
from theus import Engine, process
from theus.errors import CommitUnknown, StoreUnavailable
from theus.outbox import LEASE
from theus.stores.memory import MemoryStore
from theus.testing import FakeClock

PROGRAM = Path(__file__).with_name("emit_program.py")
NEVER, OFTEN = "1000", "0.01"  # seconds between signs of life
TAKEN = [({"number": 7}, "r/order#0")]


@dataclass
class Shop:
    total: int = 0


@pytest.fixture(params=["sqlite", "redis"])
def url(request, tmp_path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:{tmp_path}/shop.db"
    else:
        server = RedisServer()
        yield f"{server.url}?name=shop"
        server.close()


@contextmanager
def start(url: str, beat: str = NEVER, *options: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(PROGRAM), url, beat, *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        try:
            yield program
        finally:
            program.kill()


class Survivor:
    """An engine that handles the topic, and a clock that the test moves."""

    def __init__(self, url: str) -> None:
        self.clock = FakeClock()
        self.got: list[tuple[object, str]] = []
        self.heard = threading.Semaphore(0)  #: signs of life of others
        self.engine = Engine(Shop(), store=url, clock=self.clock)
        self.engine.on("ordered", lambda value, key: self.got.append((value, key)))
        assert self.engine.store is not None
        self.store = self.engine.store
        self.store.tail(self._listen)  # after the outbox, which has taken note by then

    def _listen(self, committed) -> None:
        for record in committed.records:
            if record.kind == "alive":
                self.heard.release()

    def watches(self) -> None:
        """Wait until it waits for the end of another's lease."""
        until(lambda: self.clock.sleepers == 1)

    def is_empty(self) -> bool:
        return not self.store.records("outbox")


def until(holds) -> None:
    while not holds():
        threading.Event().wait(0.001)


def end(program: subprocess.Popen[str]) -> None:
    program.communicate("\n")
    assert program.returncode == 0


def test_what_a_killed_engine_had_in_hand_is_delivered_by_one_that_runs(url):
    survivor = Survivor(url)
    with survivor.engine, start(url) as program:
        assert program.stdout.readline() == "begun r/order#0\n"
        survivor.watches()
        program.kill()
        program.wait()
        assert survivor.got == []
        survivor.clock.advance(LEASE)
        until(survivor.is_empty)
    assert survivor.got == TAKEN


def test_an_engine_that_gives_signs_of_life_keeps_it(url):
    survivor = Survivor(url)
    with survivor.engine, start(url, OFTEN) as program:
        assert program.stdout.readline() == "begun r/order#0\n"
        for _ in range(5):
            survivor.watches()
            survivor.clock.advance(0.7 * LEASE)
            while survivor.heard.acquire(blocking=False):
                pass
            for _ in range(2):  # the first may have been noted before the time was moved
                assert survivor.heard.acquire(timeout=100)
        end(program)
        until(survivor.is_empty)
    assert survivor.got == []


def test_one_that_was_stopped_for_too_long_and_goes_on_breaks_nothing(url):
    survivor = Survivor(url)
    with survivor.engine, start(url) as program:
        assert program.stdout.readline() == "begun r/order#0\n"
        survivor.watches()
        program.send_signal(signal.SIGSTOP)
        survivor.clock.advance(LEASE)
        until(survivor.is_empty)
        program.send_signal(signal.SIGCONT)
        end(program)
    assert survivor.got == TAKEN


def test_what_nobody_handles_where_it_is_emitted_is_taken_at_once_and_by_one_engine(url):
    survivors = [Survivor(url), Survivor(url)]
    with survivors[0].engine, survivors[1].engine, start(url, NEVER, "unhandled") as program:
        assert program.stdout.readline() == "emitted\n"
        until(survivors[0].is_empty)
        end(program)
    assert survivors[0].got + survivors[1].got == TAKEN


def test_the_heir_of_an_heir(url):
    last = Survivor(url)
    with last.engine:
        with start(url) as first:
            assert first.stdout.readline() == "begun r/order#0\n"
            first.kill()
        with start(url, NEVER, "heir") as second:  # one that begins to handle a topic takes all at once
            assert second.stdout.readline() == "begun r/order#0\n"
            second.kill()
        until(lambda: last.clock.advance(LEASE) or last.is_empty())
    assert last.got == TAKEN


class Moody(MemoryStore):
    """Fails to change the outbox as often as it is told to, before or after it has done it."""

    failures: list[Exception]

    async def commit(self, commit, *, blocking):
        if commit.author == "theus outbox" and self.failures:
            failure = self.failures.pop()
            if isinstance(failure, CommitUnknown):
                await super().commit(commit, blocking=blocking)
            raise failure
        return await super().commit(commit, blocking=blocking)


@pytest.mark.parametrize("failure", [StoreUnavailable("away"), CommitUnknown("lost")])
def test_a_store_that_is_away_for_a_while_is_asked_again(failure):
    @process
    def order(ctx):
        ctx.emit("ordered", {"number": 7}, durable=True)

    store, got = Moody(Shop()), []
    store.failures = []
    with Engine(store=store) as shop:
        shop.run(order, run_id="r")
    store.failures = [failure] * 4  # while it is claimed, and while it is taken away
    with Engine(store=store, clock=FakeClock(autojump=True)) as shop:
        shop.on("ordered", lambda value, key: got.append((value, key)))
        until(lambda: not store.records("outbox"))
    assert got == TAKEN
