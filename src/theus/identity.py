"""What an engine recognises again: a function that is given anew to each run is the one that was measured before.

``each(fetch)`` makes a new process of ``fetch`` each time it is written, and ``lambda x: x + 1`` is a new function each
time its line is reached. They are the same process if their code, their options and the functions that they close over
are the same. A closure over anything that can change is the same only as itself: whether it may leave its thread hangs
on what it closes over.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import sys
import threading
import types
from collections.abc import Hashable, Iterator
from typing import Any, TypeVar

from theus.processes import Process
from theus.surroundings import FUNCTIONS, content, is_mutable

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Remembered(dict[K, V]):
    """The newest so many of what was found out once: one-off lambdas must not pile up."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most
        self._lock = threading.Lock()

    def keep(self, key: K, value: V) -> V:
        """Remember it, in place of the oldest if there is no room; gives it back."""
        with self._lock:
            if len(self) >= self._most and key not in self:
                del self[next(iter(self))]
            self[key] = value
        return value


def definition(process: Process[Any, Any]) -> str:
    """A name for what is the same process, however it is bound and however often it is made."""
    root = process.root
    if not root.definition:
        parts = list(_parts(root.fn, set()))
        own = "".join(f" {part:x}" for part in parts if isinstance(part, int))
        root.definition = f"{root.__module__}:{root.qualified_name} {_digest(root, parts)}{own}"
    return root.definition


def is_lasting(process: Process[Any, Any]) -> bool:
    """Whether the name means the same in another program."""
    return definition(process).count(" ") == 1


def _digest(root: Process[Any, Any], parts: list[str | int]) -> str:
    contract = root.contract
    options = (root.nature, root.environment, root.timeout, root.retries, root.idempotent)
    patterns = (contract.reads, contract.writes, contract.exclusive, [kind.__qualname__ for kind in root.retry_on])
    text = repr((options, patterns, [part for part in parts if isinstance(part, str)]))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _parts(fn: Any, seen: set[Any]) -> Iterator[str | int]:
    """What a function is made of, as text; the identity of one that is the same only as itself, as a number."""
    values: Iterator[Any] = iter(())
    owner = fn
    while isinstance(fn, functools.partial):
        values = itertools.chain(values, fn.args, fn.keywords.values())
        fn = fn.func
    if isinstance(fn, types.MethodType):  # its object keeps it where it is: see placement
        fn = fn.__func__
    if isinstance(fn, types.FunctionType):
        if fn in seen:
            return
        seen.add(fn)
        yield _text(fn.__code__)
        cells = map(content, fn.__closure__ or ())
        values = itertools.chain(values, cells, fn.__defaults__ or (), (fn.__kwdefaults__ or {}).values())
        module = sys.modules.get(fn.__globals__.get("__name__", ""))
        if module is None or vars(module) is not fn.__globals__:  # the name of its module says nothing
            yield id(owner)
    elif hasattr(fn, "__qualname__"):  # of C: its name says it all
        yield f"{getattr(fn, '__module__', '')}.{fn.__qualname__}"
    else:
        yield from _parts(type(fn).__call__, seen)
    for value in values:
        inner = value.fn if isinstance(value, Process) else value
        if isinstance(inner, types.FunctionType):
            yield from _parts(inner, seen)
        elif is_mutable(value):
            yield id(owner)
        elif isinstance(value, FUNCTIONS):
            yield str(getattr(value, "__name__", value))


@functools.lru_cache(maxsize=4096)
def _text(code: types.CodeType) -> str:
    """The code without its place in the file."""
    constants = [_text(part) if isinstance(part, types.CodeType) else _shown(part) for part in code.co_consts]
    return repr((code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_flags, constants))


def _shown(constant: Any) -> str:
    """A constant, the same in each program: a set has another order in each."""
    return repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant)
