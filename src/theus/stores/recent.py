"""Records that the log has changed and the table of records does not show yet: a small log-structured merge.

A commit's records stand in its own row of the log. Writing them into a table as well, at each commit, costs a second page;
most of them (the steps of a run) are taken away again soon. So the table is brought up to the log now and then, and what
was written in between is known here, in memory, from the log::

    a record now  =  the table, as of version ``folded``  +  what the log says after that
"""

from __future__ import annotations

from collections.abc import Sequence

from theus.protocols import Record, Version

_FIXED = 64  #: bytes that a record counts for, besides its value


class Recent:
    """The newest value of each record that the log changed after ``folded``, up to ``version``.

    Changed by one thread at a time. Who reads beside it takes ``version`` first, then what is here, then the table and the log:
    so what is folded and forgotten meanwhile is in the table by then.
    """

    def __init__(self, folded: Version) -> None:
        self.version = folded
        self.weight = 0  #: bytes, about
        self._kinds: dict[str, dict[str, tuple[Version, bytes | None]]] = {}

    def note(self, version: Version, records: Sequence[Record]) -> None:
        """What the next entry of the log says."""
        for kind, key, value in records:
            if kind not in self._kinds:
                self._kinds[kind] = {}
            self._kinds[kind][key] = (version, value)
            self.weight += _FIXED if value is None else _FIXED + len(value)
        self.version = version

    def get(self, kind: str, key: str) -> tuple[Version, bytes | None] | None:
        """Since when a record is what it is; None: the table knows."""
        return self._kinds.get(kind, {}).get(key)

    def of(self, kind: str, prefix: str) -> dict[str, tuple[Version, bytes | None]]:
        """The records of a kind whose key begins so: since when each is what it is, and what."""
        known = self._kinds.get(kind, {}).copy()  # a list of its items is none: collecting garbage lets others in
        return {key: value for key, value in known.items() if key.startswith(prefix)}

    def changed(self, after: Version) -> list[tuple[str, str, bytes | None]]:
        """Kind, key and value of all that was changed after a version, in the order of the table."""
        return [
            (kind, key, value)
            for kind in sorted(self._kinds)
            for key, (version, value) in sorted(self._kinds[kind].items())
            if version > after
        ]

    def forget(self, folded: Version) -> None:
        """Let go of what the table shows by now."""
        for kind, known in self._kinds.items():
            self._kinds[kind] = {key: value for key, value in known.items() if value[0] > folded}
        rest = (value for known in self._kinds.values() for _, value in known.values())
        self.weight = sum(_FIXED + len(value or b"") for value in rest)
