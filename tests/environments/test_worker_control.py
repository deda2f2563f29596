"""The far side's decisions, one by one, without a worker process around them."""

import contextlib
import os
import signal
import socket

import pytest

from theus.environments import wire
from theus.environments.far_control import ProcessControl, Stopped
from theus.environments.near_blocks import Blocks
from theus.environments.peer import Peer
from theus.environments.worker_process import WorkerProcess


class Line:
    """Keeps what is sent; ``while_sending`` is called in the midst of it."""

    def __init__(self):
        self.sent = []
        self.while_sending = lambda: None

    def send(self, kind, seq, parts, flags=0, descriptors=()):
        self.while_sending()
        self.sent.append((kind, seq, wire.read_number(parts[0])))


@pytest.fixture
def control():
    near, far = socket.socketpair()
    with near, far:
        yield ProcessControl(far, Line())


def test_what_has_not_begun_is_handed_back_and_does_not_begin(control):
    assert control.begin(1)
    assert control.begin(2)
    control._obey(wire.Frame(wire.RECALL, 0, 5, []))
    assert control._line.sent == [(wire.RETURNED, 3, 5)]
    assert [control.begin(seq) for seq in (3, 4, 5, 6)] == [False, False, False, True]


def test_a_second_recall_hands_back_only_what_came_since(control):
    assert control.begin(1)
    control._obey(wire.Frame(wire.RECALL, 0, 3, []))
    control._obey(wire.Frame(wire.RECALL, 0, 6, []))
    assert control._line.sent == [(wire.RETURNED, 2, 3), (wire.RETURNED, 4, 6)]


def test_a_recall_that_comes_too_late_hands_back_nothing(control):
    assert all(control.begin(seq) for seq in range(1, 5))
    control._obey(wire.Frame(wire.RECALL, 0, 3, []))
    (_, first, last) = control._line.sent[0]
    assert first > last
    assert control.begin(5)


def test_nothing_begins_before_the_near_side_was_told_what_is_handed_back(control):
    """Otherwise the answer to a later call could overtake the news that an earlier one will have none."""
    assert control.begin(1)
    control._line.while_sending = lambda: held.append(control._order.locked())
    held = []
    control._obey(wire.Frame(wire.RECALL, 0, 3, []))
    assert held == [True]


def test_after_stop_nothing_begins(control):
    assert control.begin(1)
    control._obey(wire.Frame(wire.STOP, 0, 0, []))
    assert control.ending
    assert not control.begin(2)
    assert not control.begin(1000)


def test_a_stop_that_comes_one_call_late_stops_nothing(control, monkeypatch):
    interrupted = []
    monkeypatch.setattr(control, "_interrupt", lambda: interrupted.append(control.running))
    assert control.begin(1)
    assert control.begin(2)
    control.in_body = True
    control._obey(wire.Frame(wire.STOP, 0, 1, []))
    control._on_sigterm(signal.SIGTERM, None)  # had it come a moment before, the signal would be on its way
    assert interrupted == []
    assert control.ending
    assert not control.begin(3)
    control._obey(wire.Frame(wire.STOP, 0, 2, []))  # by then the near side knows which one runs
    assert interrupted == [2]
    with pytest.raises(Stopped):
        control._on_sigterm(signal.SIGTERM, None)


@pytest.mark.parametrize("cut", [7, 12, 13, 20, 100, 65_000])
def test_frames_survive_any_cutting(cut):
    """Small, many, empty and big frames, received in pieces of any size."""
    frames = [
        wire.Frame(wire.CALL, 0, 7, [b"envelope", b"", b"payload" * 100]),
        wire.Frame(wire.END, 0, 0, []),
        wire.Frame(wire.DONE, wire.PLAIN, 2**40, [b"x"]),
        wire.Frame(wire.CALL, 0, 8, [b"e", b"y" * 200_000, b"", b"z" * 65_536]),
        *[wire.Frame(wire.REPORT, 0, n, [b"r" * n]) for n in range(50)],
    ]
    stream = b"".join(bytes(b) for f in frames for b in wire.pack(f.kind, f.seq, f.parts, f.flags))
    near, far = socket.socketpair()
    with near, far:
        reader = wire.Reader(far)
        far.setblocking(False)
        found = []
        for start in range(0, len(stream), cut):
            near.sendall(stream[start : start + cut])
            with contextlib.suppress(BlockingIOError):
                while reader.receive():
                    found.extend(reader.frames())
        assert [(f.kind, f.flags, f.seq, [bytes(p) for p in f.parts], ()) for f in found] == [tuple(f) for f in frames]


def test_a_worker_that_cannot_start_leaves_nothing_open(monkeypatch):
    before = set(os.listdir("/proc/self/fd"))
    monkeypatch.setattr("sys.executable", "/does/not/exist")
    with pytest.raises(OSError, match="exist"):
        Peer(WorkerProcess, Blocks(lambda: None))
    assert set(os.listdir("/proc/self/fd")) == before
