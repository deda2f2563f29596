"""The far side's parts of the domain: what was sent, and what is got when a body first touches it (``parts.py``)."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import theus.state.transaction  # noqa: F401 - what opens a domain: loaded before the time of a body is taken
from theus.environments.parcel import FAULTS, Parcel
from theus.environments.parts import WHOLE, Part, can_split, entries_of
from theus.errors import NotTransferable
from theus.state.absent import Absent
from theus.state.apply import apply_ops
from theus.state.snapshot import Snapshot
from theus.state.values import MISSING, set_part

_MOST_DELTAS = 32  # that wait for somebody to touch their part


class FarParts:
    """The parts that this worker has: of each field the one that came last.

    ``fetch``: asks for a part and returns when it has been taken in. ``open_parcel``: opens what was sent.
    """

    def __init__(self, fetch: Callable[[str, int], None], open_parcel: Callable[[Parcel], Any]) -> None:
        self._fetch = fetch
        self._open = open_parcel
        self._held: dict[str, _Held] = {}
        self._opening = threading.Lock()  #: threads of a body may touch one part at once

    def take_in(self, name: str, number: int, builds_on: int, content: Parcel | None) -> None:
        """A part has come, or what leads to it from the one before; None: it cannot be sent."""
        held = self._held.get(name)
        if not builds_on:
            self._held[name] = _Held(number, content)
        elif held is not None and held.number == builds_on and content is not None:
            held.number = number
            held.deltas.append(content)
            if len(held.deltas) > _MOST_DELTAS:
                self._open_now(name, held)
        else:  # an answer came in between; who needs it asks
            self._held.pop(name, None)

    def has(self, name: str, number: int) -> bool:
        """Whether this part is here."""
        held = self._held.get(name)
        return held is not None and held.number == number

    def get(self, name: str, number: int) -> Any:
        """The value of a part. Raises NotTransferable if it cannot come."""
        if not self.has(name, number):
            self._fetch(name, number)
        held = self._held[name]
        if held.value is MISSING and held.parcel is None:
            del self._held[name]
            raise NotTransferable(
                f"the domain.{name} cannot be sent to a worker.", process="", what=f"the domain.{name}"
            )
        with self._opening:
            held.open(self._open)
        return held.value

    def _open_now(self, name: str, held: _Held) -> None:
        """Nobody has touched it for long."""
        try:
            held.open(self._open)
        except FAULTS:  # who needs it asks for it, and hears of this
            del self._held[name]

    def complete(self, snapshot: Snapshot) -> Snapshot:
        """Put into the place of each part the value that is here, or what gets it."""
        root = snapshot.root
        if type(root) is Part:
            return Snapshot(snapshot.version, self.get(WHOLE, root.number))
        if can_split(root):
            fields = entries_of(root)
            for name, part in list(fields.items()):
                if type(part) is Part:
                    self._put(root, name, part.number)
            for name in self._held.keys() - fields.keys():
                del self._held[name]
        return snapshot

    def _put(self, root: Any, name: str, number: int) -> None:
        held = self._held.get(name)
        if held is not None and held.number == number and held.is_open:
            value = held.value
        else:
            value = Absent(functools.partial(self.get, name, number))
        set_part(root, name, value)


class _Held:
    """One part: packed until it is used, and what has changed it since."""

    __slots__ = ("deltas", "number", "parcel", "value")

    def __init__(self, number: int, parcel: Parcel | None) -> None:
        self.number = number
        self.parcel = parcel
        self.value: Any = MISSING
        self.deltas: list[Parcel] = []

    @property
    def is_open(self) -> bool:
        """Whether the value is here as it is now."""
        return self.value is not MISSING and not self.deltas

    def open(self, open_parcel: Callable[[Parcel], Any]) -> None:
        """Unpack the value, and do what has changed it since."""
        if self.value is MISSING:
            assert self.parcel is not None
            self.value, self.parcel = open_parcel(self.parcel), None
        while self.deltas:
            self.value = apply_ops(self.value, open_parcel(self.deltas[0]))
            del self.deltas[0]
