"""Redis and PostgreSQL servers of the tests' own: on a free port or a socket, in a folder of their own, stopped at the end."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


def _script() -> Any:
    folder = str(ROOT / "scripts")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module("servers")


def program(name: str) -> tuple[Path, dict[str, str]]:
    """A server's program, and the environment that it needs. Without one the test is skipped, in CI it fails."""
    script = _script()
    path = script.found(name)
    if path is None:
        reason = f"{name} is missing; python scripts/servers.py fetches it"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    extra = {"LD_LIBRARY_PATH": script.libraries()} if path.is_relative_to(script.ROOT) else {}
    return path, {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TZ": "UTC", **extra}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A server process that can be stopped, killed and started again on the same data."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="theus-"))
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        raise NotImplementedError

    def is_ready(self) -> bool:
        raise NotImplementedError

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it; with SIGKILL as a crash would."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(30)

    def crash(self) -> None:
        self.stop(signal.SIGKILL)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop(signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, *command: Any, **options: Any) -> None:
        log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log, **options)
        log.close()
        for _ in range(600):
            if self.is_ready():
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        pytest.fail(f"{command[0]} did not start:\n{(self.folder / 'log').read_text()[-2000:]}")


class RedisServer(Server):
    """Redis with each commit on the disk before it is answered; ``options`` are for its command line."""

    def __init__(self, *options: str) -> None:
        super().__init__()
        self._options = options
        self.start()

    def start(self) -> None:
        path, environment = program("redis-server")
        self._run(
            *(path, "--port", self.port, "--bind", "127.0.0.1", "--dir", self.folder, "--save", ""),
            *("--appendonly", "yes", "--appendfsync", "always", "--enable-debug-command", "local"),
            *self._options,
            env=environment,
        )

    def is_ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as probe:
                probe.sendall(b"PING\r\n")
                return probe.recv(5) == b"+PONG"
        except OSError:
            return False

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"


class PostgresServer(Server):
    """PostgreSQL as it comes, on a port of the loopback. It does not run as root, so root runs it as nobody."""

    def __init__(self) -> None:
        super().__init__()
        path, self._environment = program("postgres")
        self._bin = path.parent
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            self._as = {"user": "nobody", "group": "nogroup", "extra_groups": []}
            shutil.chown(self.folder, "nobody", "nogroup")
        self._data = self.folder / "data"
        command = [
            self._bin / "initdb",
            "-D",
            self._data,
            "-U",
            "theus",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-sync",
            "--no-instructions",
        ]
        done = subprocess.run(
            command, check=False, env=self._environment, capture_output=True, text=True, cwd=self.folder, **self._as
        )
        assert done.returncode == 0, done.stderr
        self.start()

    def start(self) -> None:
        self._run(
            *(self._bin / "postgres", "-D", self._data, "-p", self.port, "-k", self.folder),
            *("-c", "listen_addresses=127.0.0.1", "-c", "max_connections=60"),
            env=self._environment,
            cwd=self.folder,
            **self._as,
        )

    def stop(self, number: int = signal.SIGINT) -> None:
        """End it without waiting for clients (SIGINT); SIGQUIT as a crash would: SIGKILL would leave shared memory."""
        super().stop(signal.SIGQUIT if number == signal.SIGKILL else number)

    def is_ready(self) -> bool:
        command = [self._bin / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(command, check=False, env=self._environment).returncode == 0

    @property
    def url(self) -> str:
        return f"postgresql://theus@127.0.0.1:{self.port}/postgres"
