"""What stands in the place of a value at rest that is not here yet: on the far side, a part of the domain that was not sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from theus.state.node import MAKERS
from theus.state.values import Face, plain, register, set_part

if TYPE_CHECKING:
    from theus.state.access import Grant
    from theus.state.node import Node
    from theus.state.transaction import Transaction


class Absent(Face):
    """A field or key whose value is got when a draft first comes to it. What is read is recorded as everywhere.

    ``fetch``: gives the value at rest; may be called more than once, by any thread of the body.
    """

    __slots__ = ("_fetch",)

    def __init__(self, fetch: Callable[[], Any]) -> None:
        self._fetch = fetch

    def _theus_rest(self) -> Any:
        return self._fetch()

    def _theus_plain(self) -> Any:
        return plain(self._fetch())

    def __reduce__(self) -> tuple[Any, ...]:  # inside a value that was written elsewhere
        return _itself, (self._fetch(),)


def _itself(value: Any) -> Any:
    return value


def _make(tx: Transaction, parent: Node, key: Any, grant: Grant | None, absent: Absent) -> Any:
    """The value takes its place in the base, and the draft is one of that."""
    value = absent._theus_rest()
    set_part(parent._base, key, value)
    return parent._wrap(key, value)


register(Absent)
MAKERS[Absent] = _make
