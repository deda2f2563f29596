"""Concurrent processes end as if they had run one after the other, in any mix of environments; and nobody starves."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import threading
from dataclasses import dataclass, field

import pytest

from theus import ConflictError, Context, Engine, InvariantViolated, LimitExceeded, Tally, branch, each, process
from theus.state.head import Head
from theus.stores.memory import MemoryStore
from theus.testing.clock import FakeClock
from theus.testing.oracle import Recorder, World, random_script, run_history

SOAK = bool(os.environ.get("THEUS_SOAK"))


@pytest.fixture(autouse=True)
def quick_switches():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def histories(count: int, places: list[str], seed: int) -> tuple[int, list[str]]:
    conflicts, found = 0, []
    for number in range(count):
        rng = random.Random(seed * 1_000_003 + number)
        scripts = [(rng.choice(places), random_script(rng, rng.randrange(1, 7))) for _ in range(rng.randrange(2, 12))]
        with Engine(World(), observers=[Recorder()], workers=2) as engine:
            history = run_history(engine, scripts)
        conflicts += history.conflicts
        found += [f"history {number} of seed {seed}: {violation}" for violation in history.violations()]
    return conflicts, found


@pytest.mark.parametrize(
    "places",
    [["loop"], ["thread"], ["loop", "thread", "inline", "commit", "message"]],
    ids=["loop", "threads", "mixed"],
)
def test_histories_are_serializable(places):
    conflicts, found = histories(120, places, seed=len(places))
    assert not found, found[0]
    assert conflicts > 0, "a test without conflicts shows nothing"


@pytest.mark.parametrize(
    "parallel_place",
    [
        "worker",
        pytest.param(
            "interpreter",
            marks=pytest.mark.skipif(sys.version_info < (3, 14), reason="sub-interpreters need Python 3.14"),
        ),
    ],
)
def test_histories_on_other_cores_are_serializable(parallel_place):
    with Engine(World(), observers=[Recorder()], workers=2) as engine:
        rng = random.Random(7)
        for _ in range(10):
            places = [parallel_place, parallel_place, "loop", "thread", "message"]
            scripts = [(rng.choice(places), random_script(rng, rng.randrange(1, 7))) for _ in range(8)]
            with engine.transaction() as world:
                for name, value in vars(World()).items():
                    setattr(world, name, value)
            engine.observers[0].commits.clear()
            found = run_history(engine, scripts).violations()
            assert not found, found[0]


def test_the_oracle_finds_what_is_wrong(monkeypatch):
    """Without validation the oracle must object: it can see."""
    monkeypatch.setattr(Head, "_validate", lambda *args: None)
    _, found = histories(60, ["loop", "thread"], seed=3)
    assert found


@pytest.mark.soak
def test_ten_thousand_histories():
    for seed in range(100, 105):
        conflicts, found = histories(2_000, ["loop", "thread", "inline", "commit", "message"], seed)
        assert not found, found[0]
        print(f"seed {seed}: 2,000 histories, {conflicts} conflicts, 0 violations")


@dataclass
class Bank:
    a: int = 100
    b: int = 100
    count: int = 0
    hits: Tally = 0
    numbers: dict[str, int] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


@process
async def increment(ctx: Context[Bank], n: int) -> None:
    seen = ctx.domain.count
    await asyncio.sleep(0)
    ctx.domain.count = seen + 1


def test_a_hundred_awaiting_increments_are_a_hundred():
    with Engine(Bank()) as engine:
        engine.run(each(increment), range(100))
        assert engine.state.count == 100
        row = engine.explain(increment).rows[0]
        assert row.calls == 100
        assert row.conflicts > 0
        assert row.rivals == f"{row.conflicts} with 'increment' on count"
        assert f"{row.conflicts} conflicts" in str(engine.explain(increment))


def test_eight_threads_lose_nothing():
    @process
    def add(ctx):
        ctx.domain.count += 1

    rounds = 25_000 if SOAK else 500
    with Engine(Bank()) as engine:
        threads = [threading.Thread(target=lambda: [engine.run(add) for _ in range(rounds)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert engine.state.count == 8 * rounds


def test_workers_share_the_counter_fairly():
    """Eight workers read, wait and write one counter: everybody makes as many commits, in about as many attempts."""
    done: dict[int, int] = dict.fromkeys(range(8), 0)
    attempts = []

    @process
    async def slow_increment(ctx, worker):
        seen = ctx.domain.count
        for _ in range(3):
            await asyncio.sleep(0)
        ctx.domain.count = seen + 1
        attempts.append(1)

    async def worker(engine, number):
        while sum(done.values()) < 800:
            await engine.arun(slow_increment, number)
            done[number] += 1

    async def main():
        async with Engine(Bank()) as engine:
            await asyncio.gather(*[worker(engine, number) for number in done])
            assert engine.state.count == sum(done.values())

    asyncio.run(main())
    assert max(done.values()) <= 1.1 * min(done.values())
    assert len(attempts) <= 1.1 * sum(done.values())


def test_a_slow_process_commits_beside_fast_ones():
    @process
    async def slow(ctx):
        seen = ctx.domain.count
        for _ in range(50):
            await asyncio.sleep(0)
        ctx.domain.count = seen + 1
        return ctx.attempt

    @process
    async def fast(ctx):
        seen = ctx.domain.count
        await asyncio.sleep(0)
        ctx.domain.count = seen + 1

    async def main():
        async with Engine(Bank()) as engine:
            over = False

            async def hurry():
                while not over:
                    await engine.arun(fast)

            others = [asyncio.ensure_future(hurry()) for _ in range(7)]
            attempts = [await engine.arun(slow) for _ in range(5)]
            over = True
            await asyncio.gather(*others)
            return attempts

    assert max(asyncio.run(main())) <= 3


def test_write_skew_does_not_happen():
    @process
    async def withdraw(ctx, account):
        if ctx.domain.a + ctx.domain.b >= 150:
            await asyncio.sleep(0)
            setattr(ctx.domain, account, getattr(ctx.domain, account) - 150)

    for _ in range(50):
        with Engine(Bank()) as engine:
            engine.run(each(withdraw), ["a", "b"])
            assert engine.state.a + engine.state.b >= 0


def test_blind_writes_and_tallies_never_run_twice():
    runs = []

    @process
    async def append(ctx, n):
        ctx.domain.lines.append(str(n))
        ctx.domain.numbers[str(n)] = n
        ctx.domain.hits += 1
        await asyncio.sleep(0)
        runs.append(n)

    with Engine(Bank()) as engine:
        engine.run(each(append), range(50))
        assert len(runs) == 50
        assert engine.state.hits == 50
        assert sorted(engine.state.numbers.values()) == list(range(50))
        assert len(engine.state.lines) == 50


def test_a_cancelled_call_that_queued_holds_up_nobody():
    started = threading.Event()

    @process(exclusive=["count"])
    async def holds(ctx):
        started.set()
        await asyncio.Event().wait()

    @process(exclusive=["count"])
    async def follows(ctx):
        ctx.domain.count += 1

    with Engine(Bank()) as engine:
        first = engine.submit(holds)
        assert started.wait(10)
        second, third = engine.submit(follows), engine.submit(follows)
        second.cancel()
        first.cancel()
        third.result(10)
        assert engine.state.count == 1
        assert not engine.tickets.queues


# --- messages to state ---


@process(nature="state")
def add_line(ctx: Context[Bank], line: str) -> int:
    ctx.domain.lines.append(line)
    return len(ctx.domain.lines)


def test_ten_agents_read_one_transcript_and_ask_the_model_once_each():
    asked = []

    @process
    async def agent(ctx, name):
        transcript = list(ctx.domain.lines)
        asked.append((name, len(transcript)))
        await asyncio.sleep(0)
        ctx.send(add_line, line=f"{name} says hello")

    with Engine(Bank()) as engine:
        engine.run(each(agent), [f"agent {n}" for n in range(10)])
        assert len(asked) == 10
        assert sorted(engine.state.lines) == sorted(f"agent {n} says hello" for n in range(10))


def test_a_state_process_called_by_itself_gives_its_value():
    with Engine(Bank()) as engine:
        assert engine.run(add_line, "one") == 1
        assert asyncio.run(engine.arun(add_line, "two")) == 2


def test_messages_commit_with_their_sender_in_order_or_not_at_all():
    @process
    def sender(ctx, fails):
        ctx.domain.count = 5
        ctx.send(add_line, line="first")
        ctx.send(add_line, line="second")
        ctx.send(reject, fails=fails)

    @process(nature="state")
    def reject(ctx, fails):
        assert ctx.domain.count == 5
        if fails:
            raise LookupError("the message objects")

    with Engine(Bank()) as engine:
        with pytest.raises(LookupError, match="objects"):
            engine.run(sender, True)
        assert engine.state == Bank()
        engine.run(sender, False)
        assert engine.state.lines == ["first", "second"]
        assert engine.state.count == 5


@process(nature="state")
def count_line(ctx: Context[Bank], fails: bool = False) -> int:
    ctx.domain.count += 1
    ctx.emit("counted", ctx.domain.count)
    ctx.send(add_line, line=f"line {ctx.domain.count}")
    if fails:
        ctx.send(reject_all)
    return ctx.domain.count


@process(nature="state")
def reject_all(ctx: Context[Bank]) -> None:
    raise LookupError("never")


@process(nature="state")
def send_for_ever(ctx: Context[Bank]) -> None:
    ctx.send(send_for_ever)


def test_messages_may_send_and_emit_themselves_and_all_of_it_is_one_commit():
    heard = []

    @process
    def sender(ctx, fails):
        ctx.emit("sent", 1)
        ctx.send(count_line, fails=fails)

    with Engine(Bank()) as engine:
        engine.on("counted", heard.append)
        engine.on("sent", heard.append)
        for target, arguments in ((count_line, (True,)), (sender, (True,))):
            with pytest.raises(LookupError, match="never"):
                engine.run(target, *arguments)
        assert engine.state == Bank()
        assert heard == []
        assert engine.run(count_line) == 1
        engine.run(sender, False)
        assert engine.state.lines == ["line 1", "line 2"]
        assert engine.store.snapshot.version == 2
        assert heard == [1, 1, 2]
        with pytest.raises(LimitExceeded, match="without end"):
            engine.run(send_for_ever)


@pytest.mark.parametrize("kind", ["message", "state process", "block"])
def test_messages_and_blocks_wait_behind_tickets_too(kind):
    @process(nature="state")
    def bump(ctx):
        ctx.domain.count += 1

    @process
    async def sends(ctx):
        await asyncio.sleep(0)
        ctx.send(bump)

    @process
    async def slow(ctx):
        seen = ctx.domain.count
        for _ in range(50):
            await asyncio.sleep(0)
        ctx.domain.count = seen + 1
        return ctx.attempt

    async def main():
        async with Engine(Bank()) as engine:
            over = False

            async def hurry():
                while not over:
                    if kind == "block":
                        async with engine.transaction() as bank:
                            bank.numbers["x"] = 1
                            bank.hits += 1
                            bank.count = 7
                    else:
                        await engine.arun(sends if kind == "message" else bump)
                    await asyncio.sleep(0)

            others = [asyncio.ensure_future(hurry()) for _ in range(7)]
            attempts = [await engine.arun(slow) for _ in range(5)]
            over = True
            await asyncio.gather(*others)
            assert not engine.tickets.queues
            return attempts

    assert max(asyncio.run(main())) <= 3


@process(nature="state")
def leave(ctx: Context[Bank], tries: list[int]) -> None:
    tries.append(1)
    raise SystemExit(3)


@pytest.mark.parametrize("kind", ["message", "state process"])
def test_what_ends_a_program_is_not_tried_again(kind):
    @process(retries=3)
    def sends(ctx, tries):
        ctx.send(leave, tries=tries)

    tries: list[int] = []
    target = sends if kind == "message" else process(nature="state", retries=3)(leave.fn)
    with Engine(Bank()) as engine, pytest.raises(SystemExit):
        engine.run(target, tries)
    assert len(tries) == 1


def test_a_message_keeps_its_own_contract():
    from theus import ContractError

    @process(nature="state", writes=["lines"])
    def wrong(ctx):
        ctx.domain.count = 1

    @process
    def sender(ctx):
        ctx.send(wrong)

    with Engine(Bank()) as engine, pytest.raises(ContractError, match="wrong"):
        engine.run(sender)


def test_invariants_roll_back_and_say_which():
    def never_negative(bank):
        return bank.a >= 0

    @process
    def withdraw(ctx, amount):
        ctx.domain.a -= amount

    with Engine(Bank(), invariants=[never_negative]) as engine:
        engine.run(withdraw, 60)
        with pytest.raises(InvariantViolated, match="never_negative") as caught:
            engine.run(withdraw, 60)
        assert caught.value.invariant == "never_negative"
        with pytest.raises(InvariantViolated), engine.transaction() as bank:
            bank.a = -1
        assert engine.state.a == 40


# --- emits ---


def test_what_an_invariant_or_a_predicate_raises_says_where():
    def misspelt(bank):
        return bank.aa >= 0

    @process
    def withdraw(ctx):
        ctx.domain.a -= 1

    with Engine(Bank(), invariants=[misspelt]) as engine:
        with pytest.raises(AttributeError) as caught:
            engine.run(withdraw)
        assert any("in the invariant 'misspelt'" in note for note in caught.value.__notes__)
        assert engine.state.a == Bank().a
        with pytest.raises(AttributeError) as caught:
            engine.run(branch(misspelt, withdraw))
        assert "in the predicate of branch, which takes (domain)" in caught.value.__notes__


def test_emits_follow_the_commit_once():
    heard = []

    @process
    async def says(ctx, n):
        seen = ctx.domain.count
        ctx.emit("counted", seen + 1)
        await asyncio.sleep(0)
        ctx.domain.count = seen + 1
        if n == 3:
            raise ValueError("this one never counts")

    with Engine(Bank()) as engine:
        engine.on("counted", lambda value: heard.append((value, engine.state.count >= value)))
        results = engine.run(each(says, on_error="collect"), range(8))
        assert sum(isinstance(result, ValueError) for result in results) == 1
        assert heard == [(n, True) for n in range(1, 8)]


def test_readers_see_one_version():
    @process
    def move(ctx, n):
        ctx.domain.a += n
        ctx.domain.b -= n

    with Engine(Bank()) as engine:
        over = threading.Event()
        torn = []

        def read():
            while not over.is_set():
                state = engine.state
                if state.a + state.b != 200:
                    torn.append((state.a, state.b))

        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        for n in range(1000):
            engine.run(move, n % 7)
        over.set()
        for reader in readers:
            reader.join()
        assert not torn


def test_a_block_commits_whole_or_not_at_all_and_says_what_conflicts():
    @process
    def add(ctx):
        ctx.domain.count += 1

    with Engine(Bank()) as engine:
        with engine.transaction() as bank:
            bank.numbers["x"] = 1
            bank.count = 7
        assert (engine.state.count, engine.state.numbers) == (7, {"x": 1})
        with pytest.raises(ZeroDivisionError), engine.transaction() as bank:
            bank.count = 1 / 0
        with pytest.raises(ConflictError, match="count was changed by 'add'"), engine.transaction() as bank:
            seen = bank.count
            engine.run(add)
            bank.count = seen + 1
        assert engine.state.count == 8

        async def main():
            async with engine.transaction() as bank:
                bank.count += 1

        asyncio.run(main())
        assert engine.state.count == 9


@dataclass
class Shared:
    n: int = 0


@process
def outrunner(ctx: Context[Shared]):
    ctx.domain.n += 1


def test_a_call_that_another_engine_always_outruns_ends_with_an_error() -> None:
    store = MemoryStore(Shared())
    fast = Engine(store=store)
    attempts = 0

    @process
    def outrun(ctx: Context[Shared]) -> None:
        nonlocal attempts
        attempts += 1
        ctx.domain.n += 1
        fast.run(outrunner)

    with Engine(store=store, clock=FakeClock()) as slow, pytest.raises(ConflictError, match="other engines") as caught:
        slow.run(outrun)
    assert caught.value.paths == ("n",)
    assert caught.value.attempts == attempts
    assert store.snapshot.view().n == attempts  # all of them the fast one's


def test_a_call_that_another_engine_outruns_for_a_while_succeeds() -> None:
    store = MemoryStore(Shared())
    fast = Engine(store=store)

    @process
    def outrun_five_times(ctx: Context[Shared]) -> None:
        ctx.domain.n += 1
        if ctx.attempt <= 5:
            fast.run(outrunner)

    with Engine(store=store, clock=FakeClock()) as slow:
        slow.run(outrun_five_times)
    assert store.snapshot.view().n == 6
