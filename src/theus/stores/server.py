"""What Redis and PostgreSQL share as logs of a store: a group is sent, the server decides, a lost reply is asked for again.

The server looks at what stands in the log after the version that this engine knows. If an entry there wrote a conflict key
that ours ask for, or a record is not what was expected, nothing is appended and the entries come back: the replica takes
them over and stages anew. Else ours are appended behind them.

A server that goes away is asked again, with growing pauses, for ``wait`` seconds. A group whose reply was lost is
sent again under its id; the server looks for the id in the log first, so it is never appended twice.
"""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from theus.errors import CommitUnknown, DefinitionError, StoreUnavailable
from theus.protocols import Version
from theus.stores.driver import Entry, Make, Proposed

REST = 0.005  #: seconds between two looks of a follower at what its own engine appended
LOOK = 1.0  #: seconds after which a follower looks by itself, in case a message was lost
WAIT = 10.0  #: seconds for which a server that is away is asked again
PART = 2**22  #: bytes of a snapshot that are sent at once
_FIRST, _LONGEST = 0.01, 1.0  #: seconds between two tries

T = TypeVar("T")


class Down(Exception):
    """The server cannot be reached; nothing was changed."""


class Lost(Exception):
    """The connection broke after something was sent."""


def said(error: Exception) -> str:
    """An error in one line, to stand in another's."""
    return " ".join(str(error).split())


class Batch:
    """A group as a server takes it."""

    def __init__(self, group: str, proposed: Sequence[Proposed]) -> None:
        self.group = group
        self.entries = proposed
        self.asks = sorted(set().union(*(one.asks for one in proposed)))
        self.writes = sorted(set().union(*(one.writes for one in proposed)))
        self.records: dict[tuple[str, str], bytes | None] = {}  #: as they are to be after the group
        self.expected: dict[tuple[str, str], bytes | None] = {}  #: as they must be before it
        for one in proposed:
            for record in one.expected:
                place = (record.kind, record.key)
                if place not in self.records:  # what the group itself changes, the replica has checked
                    self.expected[place] = record.value
            self.records.update(((record.kind, record.key), record.value) for record in one.records)


Appended = tuple[Version, Sequence[Entry]]  #: the number of our first entry, 0 if it was refused; what others appended


class ServerDriver:
    """What does not depend on the server. Subclasses: ``_append``, ``_listen`` and the rest of the ``Driver`` protocol."""

    def __init__(self, url: str, wait: float) -> None:
        self.url = url
        self.token = secrets.token_hex(8)  #: who has sent the news
        self.closing = threading.Event()
        self._wait = wait

    def append(self, known: Version, group: str, make: Make) -> Sequence[Entry]:
        others: Sequence[Entry] = ()
        while True:
            proposed = make(others)
            known = others[-1].version if others else known
            if not proposed:
                return ()
            first, others = self._send(known, Batch(group, proposed))
            if first:
                return [entry for entry in others if entry.version < first]

    def _send(self, known: Version, batch: Batch) -> Appended:
        again = False
        pauses = self._pauses()
        while True:
            try:
                return self._append(known, batch, again)
            except Lost as lost:
                again, reason = True, said(lost)
            except Down as down:
                reason = said(down)
            if not pauses():
                if again:
                    raise CommitUnknown(
                        f"{self.shown} was lost while it appended and did not come back for {self._wait:g} s ({reason});"
                        " the commit may or may not be made"
                    )
                raise self._unavailable(reason)

    def _append(self, known: Version, batch: Batch, again: bool) -> Appended:
        """Let the server decide. ``again``: the group may be in the log already."""
        raise NotImplementedError

    def ask(self, question: Callable[[], T]) -> T:
        """The answer to what may be asked any number of times."""
        pauses = self._pauses()
        while True:
            try:
                return question()
            except (Down, Lost) as failure:
                if not pauses():
                    raise self._unavailable(said(failure)) from failure

    def _unavailable(self, reason: str) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self.shown} could not be reached for {self._wait:g} s ({reason}); nothing was lost, the call may be made again"
        )

    def wait(self) -> bool:
        try:
            if not self.closing.is_set():
                self._listen()
        except (Down, Lost) as failure:
            self._hang_up()
            if not self.closing.is_set():
                raise StoreUnavailable(f"{self.shown} cannot be reached ({said(failure)})") from failure
        if self.closing.is_set():
            self._hang_up()
            return False
        return True

    def _listen(self) -> None:
        """Return when others have appended something, when we have begun to listen, and after a while."""
        raise NotImplementedError

    def _hang_up(self) -> None:
        """Close the connection of ``_listen``."""
        raise NotImplementedError

    def _pauses(self) -> Callable[[], bool]:
        """A function that waits, longer each time; False: it is time to give up."""
        end = time.monotonic() + self._wait
        pause = _FIRST

        def wait() -> bool:
            nonlocal pause
            left = end - time.monotonic()
            if left <= 0 or self.closing.wait(min(left, pause * random.uniform(0.5, 1.0))):
                return False
            pause = min(2 * pause, _LONGEST)
            return True

        return wait

    @property
    def shown(self) -> str:
        """The URL for messages: without the password."""
        parts = urlsplit(self.url)
        host = parts.netloc.rpartition("@")[2]
        return f"the store at {urlunsplit((parts.scheme, host, parts.path, '', ''))}"


def options(url: str, known: dict[str, Callable[[str], Any]]) -> tuple[str, dict[str, Any]]:
    """Take our own options out of a URL's query; the rest is the client library's."""
    parts = urlsplit(url)
    ours: dict[str, Any] = {}
    rest = []
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        if name not in known:
            rest.append((name, text))
            continue
        try:
            ours[name] = known[name](text)
        except ValueError:
            raise DefinitionError(f"store {parts.scheme}://...?{name}={text}: {text!r} cannot be the {name}") from None
    return urlunsplit(parts._replace(query=urlencode(rest))), ours


def identifier(text: str) -> str:
    """A name made of letters, digits and ``_``."""
    if not text.isidentifier() or not text.isascii():
        raise ValueError(text)
    return text
