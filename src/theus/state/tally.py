"""The draft of a ``Tally`` field: a number that is not read before somebody asks for it (see ``fields.py``)."""

from __future__ import annotations

from typing import Any

from theus.state.values import Face, register


class _Number(int):
    """What a handle says that it is: an int, and for the error of C code that cannot take a handle, what to do."""


_Number.__name__ = "int (a Tally: use int(...) of it)"


class TallyDraft(Face):
    """A number that has not been read yet: ``base + delta``. It acts as the int; ``+=`` and ``-=`` do not read it."""

    __slots__ = ("_delta", "_name", "_node")

    def __init__(self, node: Any, name: str, delta: int) -> None:
        self._node = node
        self._name = name
        self._delta = delta

    __class__: Any = property(lambda self: _Number)

    def _value(self) -> int:
        node = self._node
        node._renew()
        base = getattr(node._base, self._name)
        grant = node._grant
        if grant is not None and not grant.may_read(self._name):
            node._refuse("read", self._name)
        node._note(self._name)
        return int(base) + self._delta

    def __iadd__(self, other: Any) -> Any:
        if type(other) is not int:
            if not isinstance(other, TallyDraft):
                return self._value() + other
            other = int(other)
        node = self._node
        node._tx.base  # noqa: B018  (says so if the transaction has ended)
        return TallyDraft(node, self._name, self._delta + other)

    def __isub__(self, other: Any) -> Any:
        if type(other) is not int:
            if not isinstance(other, TallyDraft):
                return self._value() - other
            other = int(other)
        node = self._node
        node._tx.base  # noqa: B018  (says so if the transaction has ended)
        return TallyDraft(node, self._name, self._delta - other)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._value(), name)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return int, (self._value(),)

    def __copy__(self) -> int:
        return self._value()

    def __deepcopy__(self, memo: Any) -> int:
        return self._value()

    def __format__(self, spec: str) -> str:
        return format(self._value(), spec)

    def __round__(self, *digits: Any) -> int:
        return round(self._value(), *digits)

    def __pow__(self, other: Any, *modulus: Any) -> Any:
        return pow(self._value(), _int(other), *modulus)

    def _theus_rest(self) -> int:
        return self._value()

    def _theus_plain(self) -> int:
        return self._value()


def _int(value: Any) -> Any:
    return value._value() if type(value) is TallyDraft else value


def _unary(name: str) -> Any:
    def method(self: Any) -> Any:
        return getattr(self._value(), name)()

    return method


def _binary(name: str) -> Any:
    def method(self: Any, other: Any) -> Any:
        return getattr(self._value(), name)(_int(other))

    return method


for _name in ("int", "index", "float", "bool", "hash", "repr", "str", "neg", "pos", "abs", "invert", "trunc"):
    setattr(TallyDraft, f"__{_name}__", _unary(f"__{_name}__"))
for _name in ("ceil", "floor"):
    setattr(TallyDraft, f"__{_name}__", _unary(f"__{_name}__"))
for _name in ("eq", "ne", "lt", "le", "gt", "ge", "add", "sub", "mul", "truediv", "floordiv", "mod", "divmod"):
    setattr(TallyDraft, f"__{_name}__", _binary(f"__{_name}__"))
for _name in ("and", "or", "xor", "lshift", "rshift"):
    setattr(TallyDraft, f"__{_name}__", _binary(f"__{_name}__"))
for _name in (
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "divmod",
    "pow",
    "and",
    "or",
    "xor",
    "lshift",
    "rshift",
):
    setattr(TallyDraft, f"__r{_name}__", _binary(f"__r{_name}__"))
register(TallyDraft)
