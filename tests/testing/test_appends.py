"""Concurrent calls of every kind show no anomaly; and the checker sees what is wrong when something is."""

from __future__ import annotations

import random
import sys
from collections import Counter

import pytest
from append_tools import MIXED, Journal, Lists, Planner, execute, observe

from theus import Engine
from theus.state.head import Head
from theus.testing.anomalies import anomalies

PER_ENGINE = 8  # histories made with one engine


@pytest.fixture(autouse=True)
def quick_switches():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def histories(count, places, seed, calls=24):
    """Make ``count`` histories; gives the anomalies in them, and what happened, counted."""
    found, seen = [], Counter()
    for first in range(0, count, PER_ENGINE):
        journal = Journal()
        with Engine(Lists(), observers=[journal], workers=2) as engine:
            for number in range(first, min(first + PER_ENGINE, count)):
                rng = random.Random(seed * 1_000_003 + number)
                name = f"{seed}.{number}"
                ended, looks = execute(engine, journal, Planner(rng, name).plans(places, calls), name)
                history = [*observe(journal, ended), *looks]
                found += [f"history {number} of seed {seed}: {anomaly}" for anomaly in anomalies(history)]
                seen.update(call.how for call in ended)
        seen["conflicts"] += journal.conflicts
    return found, seen


@pytest.mark.parametrize("places", [("loop",), ("thread",), MIXED], ids=["loop", "threads", "mixed"])
def test_histories_show_no_anomaly(places):
    found, seen = histories(40, places, seed=len(places))
    assert not found, found[0]
    assert not seen["failed by mistake"], seen
    assert min(seen[what] for what in ("committed", "failed", "cancelled", "conflicts")) > 0, seen


def test_histories_with_worker_processes_show_no_anomaly():
    found, seen = histories(8, ("worker", "worker", "worker loop", "loop", "thread", "commit"), seed=11, calls=16)
    assert not found, found[0]
    assert seen["conflicts"] > 0, seen


BROKEN = {  # what is patched, and how many histories show it for sure
    "_validate": (lambda head, base, reads, operations: None, 16),
    "renew": (lambda head, base, reads: head.snapshot, 40),  # snapshots extended without a look at what was read
}


@pytest.mark.parametrize("part", BROKEN)
def test_without_validation_anomalies_are_found(monkeypatch, part):
    broken, count = BROKEN[part]
    monkeypatch.setattr(Head, part, broken)
    found, _ = histories(count, MIXED, seed=3)
    assert found


@pytest.mark.soak
def test_thousands_of_histories():
    for seed in range(100, 105):
        found, seen = histories(1_000, MIXED, seed)
        assert not found, found[0]
        print(f"seed {seed}: 1,000 histories, {dict(seen)}, 0 anomalies")
    found, seen = histories(200, ("worker", "worker", "worker loop", *MIXED), 105, calls=16)
    assert not found, found[0]
    print(f"with worker processes: 200 histories, {dict(seen)}, 0 anomalies")
