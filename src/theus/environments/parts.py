"""The domain in parts: what both sides know of it.

::

    near: NearParts                                        far: FarParts
    the domain without its big fields  ── snapshot ──>     each big field is absent, and has a number
    the big fields that the contract names, or
    that the process's last call touched ── PART ───>      kept by name, with their number
                                                           the body touches an absent field that is not kept:
    the field, of this call's snapshot <─── FETCH ───      waits, and takes nothing else from the wire
                                       ──── PART ────>     the value takes its place, the body goes on

A field has the same number as long as the very same value stands there, over all versions of the domain; so what did not
change is not sent again. Of one that did change, a worker that has an older value gets the *delta*: the operations that
lead from that one to this (``state/delta.py``). It applies them as a commit does, so it is a replica of what it was sent,
and a key of a big dict costs what it costs with a small one. What is read is recorded where it is read, so conflicts are
what they are everywhere.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from theus.state.values import OBJECT, kind_of, parts_of

WHOLE = ""  #: the name of the only part of a domain that cannot be split


class Part(NamedTuple):
    """Stands for what is not sent with the domain."""

    name: str
    number: int


def can_split(root: Any) -> bool:
    """Whether this domain can be sent in parts: a dataclass, or a dict whose keys are texts."""
    if type(root) is dict:
        return all(type(name) is str and name != WHOLE for name in root)
    return kind_of(type(root)) == OBJECT


def entries_of(root: Any) -> dict[str, Any]:
    """The fields of a domain, by name. Of a dict it is that dict; one that cannot be split is its own only part."""
    if not can_split(root):
        return {WHOLE: root}
    return root if type(root) is dict else parts_of(root)
