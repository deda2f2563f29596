"""The far side's parts of the domain: what was sent, and what is got when a body first touches it (``parts.py``)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from theus.environments.parcel import Parcel
from theus.environments.parts import Part, can_split, entries_of
from theus.errors import NotTransferable
from theus.state.absent import Absent
from theus.state.values import set_entry

if TYPE_CHECKING:
    from theus.state.snapshot import Snapshot


class FarParts:
    """The parts that this worker has: of each field the one that came last.

    ``fetch``: asks for a part and returns when it has been taken in. ``open_parcel``: opens what was sent.
    """

    def __init__(self, fetch: Callable[[str, int], None], open_parcel: Callable[[Parcel], Any]) -> None:
        self._fetch = fetch
        self._open = open_parcel
        self._held: dict[str, tuple[int, Any]] = {}  # number, and a parcel until it is used

    def take_in(self, name: str, number: int, content: Parcel | None) -> None:
        """A part has come; None: it cannot be sent."""
        self._held[name] = number, content

    def has(self, name: str, number: int) -> bool:
        """Whether this part is here."""
        held = self._held.get(name)
        return held is not None and held[0] == number

    def get(self, name: str, number: int) -> Any:
        """The value of a part. Raises NotTransferable if it cannot come."""
        if not self.has(name, number):
            self._fetch(name, number)
        content = self._held[name][1]
        if isinstance(content, _Opened):
            return content.value
        if content is None:
            del self._held[name]
            raise NotTransferable(
                f"the domain.{name} cannot be sent to a worker.", process="", what=f"the domain.{name}"
            )
        opened = _Opened(self._open(content))
        self._held[name] = number, opened
        return opened.value

    def complete(self, snapshot: Snapshot) -> Snapshot:
        """Put into the place of each part the value that is here, or what gets it."""
        root = snapshot.root
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
        if held is not None and held[0] == number and isinstance(held[1], _Opened):
            value = held[1].value
        else:
            value = Absent(functools.partial(self.get, name, number))
        set_entry(root, name, value)


class _Opened:
    """A part that is in use."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value
