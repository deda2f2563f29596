"""What was found out about processes, kept beside the state, so that the next start knows.

::

    store opens ──> read ──> a process runs first ──> it is placed by what is known
                               │
                               └──> measured as always ──> it moved, or the engine closes ──> write what is new

Written is only what places a process elsewhere than its signature would, and only when that has changed: once for each
process, as a rule. It takes records without reads, so it conflicts with nobody; if they are lost, all is measured again.
A function whose code or options have changed has another name (see ``identity.py``), and another kind of machine or
another Python has records of its own.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import platform
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from theus.doors import drive
from theus.environments.cpus import usable_cpus
from theus.errors import StoreError
from theus.identity import is_lasting
from theus.protocols import Commit, Record
from theus.records import fields_of, pack

if TYPE_CHECKING:
    from theus.identity import Remembered
    from theus.nature import Profile
    from theus.protocols import Clock, Store

log = logging.getLogger("theus")

KIND = "profile"
MOST_KEPT = 1000  #: records in a store; the oldest go


class Learned:
    """The profiles of one engine that outlive it. ``profiled``: all that it has."""

    def __init__(self, store: Store | None, profiled: Remembered[str, Profile], clock: Clock) -> None:
        self._store = store  #: None: nothing is kept
        self._profiled = profiled
        self._clock = clock
        self._kept: dict[str, dict[str, Any]] = {}  #: by key, as it stands in the store
        self._lock = threading.Lock()
        self._writer: threading.Thread | None = None

    def read(self) -> None:
        """Look at what is there. Blocks."""
        if self._store is None:
            return
        try:
            records = self._store.records(KIND)
        except StoreError as error:
            log.info("what was learned of processes could not be read, so it is measured anew: %s", error)
            return
        self._kept = {record.key: fields_of(record.value) for record in records if record.value is not None}
        for name, profile in self._profiled.copy().items():
            self.recall(name, profile)

    def recall(self, name: str, profile: Profile) -> None:
        """Give a profile that is new what was known before."""
        kept = self._kept.get(_key(name)) if self._kept else None
        if kept is not None and not profile.calls:
            profile.remember(kept["evidence"])

    def write_soon(self) -> None:
        """Write what is new, in a thread of its own; what is new while it writes waits for the next time."""
        if self._store is not None and (self._writer is None or not self._writer.is_alive()):
            self._writer = threading.Thread(target=self._write, name="theus-learned", daemon=True)
            self._writer.start()

    def close(self, grace: float) -> None:
        """Write what is new, as far as that takes no longer than ``grace`` seconds."""
        if self._writer is not None:
            self._writer.join(grace)
        if self._store is not None and self._due():
            self.write_soon()
            assert self._writer is not None
            self._writer.join(grace)

    def _due(self) -> dict[str, dict[str, Any]]:
        found = {}
        for name, profile in self._profiled.copy().items():
            if (False in profile.homes or profile.stalls) and is_lasting(profile.process):
                verdict, key = profile.verdict(), _key(name)
                if verdict != self._kept.get(key, {"verdict": ""})["verdict"]:
                    found[key] = {"verdict": verdict, "at": self._clock.time(), "evidence": profile.evidence()}
        return found

    def _write(self) -> None:
        with self._lock:
            due = self._due()
            if not due:
                return
            assert self._store is not None
            rest = sorted(self._kept.keys() - due.keys(), key=lambda key: float(self._kept[key]["at"]))
            gone = rest[: max(0, len(rest) + len(due) - MOST_KEPT)]
            records = [Record(KIND, key, pack(value)) for key, value in due.items()]
            records += [Record(KIND, key, None) for key in gone]
            try:
                drive(self._store.commit(Commit(0, (), (), "theus profiles", records=records), blocking=True))
            except StoreError as error:
                log.info("what was learned of processes could not be kept, so it will be measured again: %s", error)
                return
            self._kept = {**self._kept, **due}
            for key in gone:
                del self._kept[key]


def _key(name: str) -> str:
    return f"{_machine()}/{name}"


@functools.cache
def _machine() -> str:
    """The kind of machine, and the Python: on another one a call takes another time."""
    facts = (platform.system(), platform.machine(), _processor(), usable_cpus(), sys.version)
    return hashlib.blake2b(repr(facts).encode(), digest_size=8).hexdigest()


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            return next((line for line in lines if line.startswith("model name")), "")
    except OSError:  # not Linux
        return platform.processor()
