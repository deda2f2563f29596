"""A stream of bytes is cut into frames, wherever it comes apart on its way."""

import contextlib
import itertools
import socket

import pytest

from theus.environments import wire

VALUES = [b"a", b"", b"c" * 300, b"d" * wire.BUFFER, b"e", b"f" * 40]


def frames():
    """The answers 1 to 6, and between the fifth and the sixth a log record."""
    for seq, value in enumerate(VALUES, 1):
        if seq == 6:
            yield wire.pack(wire.LOG, 0, [b"said"])
        yield wire.pack(wire.VALUE, seq, [value])


@pytest.mark.parametrize("step", [1, 7, 20, 21, 22, 1000, 200_000])
@pytest.mark.parametrize("most", [1, 2, 10])
def test_answers_in_a_row_and_frames_between_them(step, most):
    stream = b"".join(bytes(part) for frame in frames() for part in frame)
    near, far = socket.socketpair()
    with contextlib.closing(near), contextlib.closing(far):
        near.setblocking(False)
        reader = wire.Reader(near)
        found, said, seq = [], [], 1
        for start in range(0, len(stream), step):
            rest = memoryview(stream)[start : start + step]
            while rest:
                rest = rest[far.send(rest[:60_000]) :]
                with contextlib.suppress(BlockingIOError):
                    while reader.receive():
                        for frame in itertools.chain([None], reader.frames()):
                            if frame is not None and frame.kind == wire.VALUE:
                                assert frame.seq == seq
                                found.append(bytes(frame.parts[0]))
                                seq += 1
                            elif frame is not None:
                                said.append((seq, bytes(frame.parts[0])))
                            row = reader.row(wire.VALUE, seq, most)
                            assert len(row) <= most
                            found += row
                            seq += len(row)
        assert found == VALUES
        assert said == [(6, b"said")]


def test_a_row_ends_where_something_else_comes():
    near, far = socket.socketpair()
    with contextlib.closing(near), contextlib.closing(far):
        reader = wire.Reader(near)
        for frame in frames():
            if len(frame) == 1:  # not the big one
                far.sendall(frame[0])
        reader.receive()
        assert reader.row(wire.VALUE, 1, 10) == VALUES[:3]  # number 4 was left out
        assert reader.row(wire.VALUE, 4, 10) == []
        assert reader.row(wire.VALUE, 5, 10) == [b"e"]
        assert reader.row(wire.VALUE, 6, 10) == []  # the log record
        assert [frame.kind for frame in reader.frames()] == [wire.LOG, wire.VALUE]
