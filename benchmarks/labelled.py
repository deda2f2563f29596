"""Processes of known nature: what they are is written beside them, so that it can be counted how many are recognised."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator

Label = tuple[str, ...]  # the kinds that are right

SHORT, WAITS, COMPUTES, RELEASES = ("short",), ("waits",), ("computes",), ("releases",)
NOISE = os.urandom(4_000_000)
ROWS = json.dumps([{"id": n, "tags": ["a", "b"]} for n in range(40_000)])


def spin(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(50))


def python_loop() -> None:
    spin(0.03)


def python_long() -> None:
    spin(0.2)


def parse_json() -> None:
    json.loads(ROWS)


def sort_list() -> None:
    sorted(NOISE[:600_000])


def regex_backtracks() -> None:
    re.match(r"(a+)+$", "a" * 21 + "!")


def regex_scan() -> None:
    re.findall(rb"[a-z]{2,}", NOISE[:1_000_000])


def sleep_then_python() -> None:
    time.sleep(0.03)
    spin(0.03)


def python_then_sleep() -> None:
    spin(0.02)
    time.sleep(0.1)


def compress() -> None:
    zlib.compress(NOISE[:1_000_000])


def digest() -> None:
    for _ in range(5):
        hashlib.sha256(NOISE).digest()


def sleeps() -> None:
    time.sleep(0.03)


def sleeps_briefly() -> None:
    time.sleep(0.002)


def waits_for_a_lock() -> None:
    lock = threading.Lock()
    lock.acquire()
    threading.Timer(0.02, lock.release).start()
    with lock:
        pass


def waits_for_a_program() -> None:
    subprocess.run([sys.executable, "-I", "-S", "-c", "pass"], check=True)


def reads_a_socket() -> None:
    here, there = socket.socketpair()
    with here, there:
        threading.Timer(0.02, there.send, (b"x",)).start()
        here.recv(1)


def writes_to_disk() -> None:
    with tempfile.TemporaryFile() as file:
        for _ in range(5):
            file.write(NOISE[:1000])
            file.flush()
            os.fsync(file.fileno())


@functools.cache
def database() -> str:
    """The path of a table that is not changed any more."""
    path = os.path.join(tempfile.mkdtemp(prefix="labelled-"), "table.db")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("create table t (n integer)")
        connection.executemany("insert into t values (?)", ((n,) for n in range(300_000)))
        connection.commit()
    return path


def scans_a_table() -> None:
    with contextlib.closing(sqlite3.connect(database())) as connection:
        connection.execute("select sum(n * n) from t where n % 7 = 3").fetchall()


def adds() -> int:
    return 1 + 2


def looks_up() -> int:
    return {"a": 1, "b": 2}["a"]


def formats() -> str:
    return f"{3.14159:.2f} {len(NOISE)}"


def parses_little() -> object:
    return json.loads('{"a": 1}')


def rarely_sleeps(turn: int = 0) -> None:
    if turn % 3 == 2:
        time.sleep(0.02)


def every_other_computes(turn: int = 0) -> None:
    if turn % 2 == 0:
        spin(0.03)


def labelled() -> Iterator[tuple[str, Callable[[], object], Label]]:
    """Name, function, and the kinds that would be right."""
    for function in (python_loop, python_long, parse_json, sort_list, regex_backtracks, regex_scan):
        yield function.__name__, function, COMPUTES
    for function in (sleep_then_python, python_then_sleep):
        yield function.__name__, function, COMPUTES
    for function in (compress, digest, scans_a_table):
        yield function.__name__, function, RELEASES
    for function in (sleeps, sleeps_briefly, waits_for_a_lock, waits_for_a_program, reads_a_socket, writes_to_disk):
        yield function.__name__, function, WAITS
    for function in (adds, looks_up, formats, parses_little):
        yield function.__name__, function, SHORT
    yield "rarely_sleeps", rarely_sleeps, WAITS
    yield "every_other_computes", every_other_computes, COMPUTES
    yield from _scientific()


def _scientific() -> Iterator[tuple[str, Callable[[], object], Label]]:
    try:
        import numpy as np
    except ImportError:
        return
    matrix, numbers = np.random.rand(700, 700), np.random.rand(1_000_000)
    yield "numpy_matmul", lambda: matrix @ matrix, RELEASES
    yield "numpy_sort", lambda: np.sort(numbers), RELEASES
    yield "numpy_row_by_row", lambda: [float(row.sum()) for _ in range(12) for row in matrix[:, :100]], COMPUTES
    try:
        from sklearn.tree import DecisionTreeClassifier
    except ImportError:
        return
    rows = np.random.rand(3000, 20)
    labels = rows[:, 0] > 0.5
    yield (
        "sklearn_fit",
        lambda: DecisionTreeClassifier(max_depth=6).fit(rows + np.random.rand(3000, 20), labels),
        RELEASES,
    )
