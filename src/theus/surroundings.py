"""What a function uses around it, and what that forbids.

Its closure, its defaults, the globals that it names, and so on through the user's own modules, classes and functions. Out of
that the engine sees whether it may run on a copy of all this (another core), on another loop, on a loop's own thread, or in
a sub-interpreter.
"""

from __future__ import annotations

import contextlib
import contextvars
import datetime
import decimal
import dis
import fractions
import functools
import importlib.util
import itertools
import logging
import pathlib
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

from theus.environments.changes import imports_in, is_own, named
from theus.processes import Process

FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.ModuleType, type, Process)
IMMUTABLE = (
    *(type(None), bool, int, float, complex, str, bytes, range, Enum),
    *(datetime.date, datetime.time, datetime.timedelta, datetime.tzinfo, decimal.Decimal, fractions.Fraction),
    *(pathlib.PurePath, re.Pattern, types.GenericAlias),
    *(logging.Logger, contextvars.ContextVar),  # go by their name, and what is logged comes back
    *FUNCTIONS,
)
WAITS = frozenset({"sleep_until", "wait_for"})
MOST_PARTS = 100  #: of a value that are looked at
LOOPS = ("asyncio", "anyio", "trio", "uvloop", "rloop", "theus")
#: Of the standard library what computes and does nothing else, the C code below it included: it is the same in each interpreter.
#: Without ``re``: what a pattern takes depends on the text, up to for ever, and then only a process can be stopped.
COMPUTING = frozenset(
    """
    abc array ast base64 binascii bisect builtins bz2 calendar cmath codecs collections colorsys contextlib copy
    csv dataclasses datetime decimal difflib enum fractions functools graphlib hashlib heapq hmac html itertools
    json keyword logging lzma math numbers operator pickle random reprlib secrets statistics string struct
    sys textwrap time tokenize types typing unicodedata uuid warnings weakref zlib zoneinfo
    """.split()  # noqa: SIM905 - a line for each would hide what follows
)
#: Of theus what the far side has anyway.
FAR = ("theus.context", "theus.errors", "theus.processes", "theus.protocols", "theus.state", "theus.workflow")
#: Builtins that do more than compute, or run what cannot be seen; and what makes a resource.
OPAQUE = frozenset({"open", "input", "breakpoint", "exec", "eval", "compile", "__import__", "resource"})


@functools.lru_cache(maxsize=4096)
def cannot_travel(fn: Any) -> str | None:
    """Why a function must not run on a copy of its surroundings; None if it may.

    On the far side a function sees copies of what it closes over and of its module's globals. That is safe
    if those are modules, functions, classes or immutable constants; a closure that does ``out.append(x)``
    would lose data. What it names in a module, class or function of the user is looked at, too, and so are the user's
    functions that it names.
    """
    return next(_hindrances(fn, set(), lambda _: "would be a copy there"), None)


@functools.lru_cache(maxsize=4096)
def cannot_change_loop(fn: Any) -> str | None:
    """Why an ``async def`` must not run on a loop of its own, in another thread; None if it may."""
    return next(_hindrances(fn, set(), _on_another_loop), None)


@functools.lru_cache(maxsize=4096)
def cannot_be_inline(fn: Any) -> str | None:
    """Why a function must not run on a loop's own thread; None if it may.

    There it would wait for ever for what the loop has to do first: a lock, an answer of the engine.
    """
    if isinstance(fn, types.FunctionType) and (waits := WAITS & _global_names(fn.__code__)):
        return f"it uses ctx.{min(waits)}"
    for _, value in _surroundings(fn):
        name = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None) or ""
        if name.partition(".")[0] in LOOPS and not isinstance(value, Process):
            return f"it uses {name.partition('.')[0]}"
    return cannot_travel(fn)


@functools.lru_cache(maxsize=4096)
def needs_a_process(fn: Any) -> str | None:
    """Why a function must run in a process of its own, on another core; None if a sub-interpreter may be chosen for it.

    What goes wrong in a sub-interpreter goes wrong for the whole program, and what a process has (signals, children, a
    working directory) is everybody's. So it has to be seen that a function only computes: it names the user's own
    functions and classes, for which the same is true, and modules of the standard library that do. Whether its own module
    loads is not seen here but tried, over there.
    """
    return next(_beyond_computing(fn, set()), None)


def _beyond_computing(fn: Any, seen: set[Any]) -> Iterator[str]:
    while isinstance(fn, functools.partial):
        fn = fn.func
    if not isinstance(fn, types.FunctionType):
        yield f"it is a {type(fn).__name__}, not a function"
    elif fn not in seen:
        seen.add(fn)
        for name, _, level in imports_in(fn.__code__):
            if not level and not is_own(name) and not _computes(name):
                yield f"it imports {name}"
        for name in sorted((OPAQUE & _global_names(fn.__code__)) - fn.__globals__.keys()):
            yield f"it uses {name}"
        for what, value in _surroundings(fn):
            yield from _not_computing(what, value, seen)
        if fn.__module__ != "__main__":  # by its name: the whole module is loaded there
            for name, value in list(vars(sys.modules.get(fn.__module__, fn)).items()):
                if not name.startswith("__") and _is_installed(package := _origin(value).partition(".")[0]):
                    yield f"its module has {name} of {package}"


def _not_computing(what: str, value: Any, seen: set[Any]) -> Iterator[str]:
    """What speaks against one thing that a function uses."""
    if isinstance(value, Process):
        value = value.fn
    if (wrapped := getattr(value, "__wrapped__", None)) is not None:
        yield from _not_computing(what, wrapped, seen)
    origin = _origin(value)
    if not is_own(origin):
        if not _computes(origin):
            yield f"it uses {origin}" if isinstance(value, types.ModuleType) else f"the {what} is of {origin}"
    elif isinstance(value, (types.FunctionType, functools.partial)):
        yield from _beyond_computing(value, seen)
    elif not isinstance(value, types.ModuleType):
        cls = value if isinstance(value, type) else type(value)
        if cls in seen:
            return
        seen.add(cls)
        for base in cls.__mro__:
            if not is_own(base.__module__):
                if not _computes(base.__module__):
                    yield f"{cls.__name__} is of {base.__module__}"
                continue
            for name, part in vars(base).items():
                part = getattr(part, "fget", None) or getattr(part, "func", None) or getattr(part, "__func__", part)
                if isinstance(part, types.FunctionType):
                    yield from _not_computing(f"method {name}", part, seen)


def _origin(value: Any) -> str:
    """The module that something comes from."""
    if isinstance(value, types.ModuleType):
        return value.__name__
    if isinstance(value, types.FunctionType):  # a wrapper says that it is from where the wrapped one is
        return str(value.__globals__.get("__name__"))
    module = getattr(value, "__module__", None)
    return module if isinstance(module, str) else type(getattr(value, "__self__", value)).__module__


def _computes(module: str) -> bool:
    return module == "theus" or module.startswith(FAR) or module.lstrip("_").partition(".")[0] in COMPUTING


def package_of(cls: type) -> str:
    """The installed package that a class or a base of it comes from, if any."""
    packages = (base.__module__.partition(".")[0] for base in cls.__mro__)
    return next((package for package in packages if _is_installed(package)), "")


def _is_installed(package: str) -> bool:
    return package not in sys.stdlib_module_names and package != "theus" and not is_own(package)


def bound_to_loop(value: Any, depth: int = 3) -> str | None:
    """The type of what belongs to an event loop, in a value or what it holds: a lock, a client, a connection."""
    cls = type(value)
    if isinstance(value, IMMUTABLE):
        return None
    own = cls.__module__.partition(".")[0] in ("asyncio", "_asyncio", "uvloop", "rloop")
    if own or any(hasattr(cls, name) for name in ("__aenter__", "__anext__", "__await__", "aclose")):
        return cls.__name__
    if depth == 0:
        return None
    is_container = isinstance(value, (Mapping, list, tuple, set, frozenset))
    parts = value.values() if isinstance(value, Mapping) else value if is_container else _attributes(value)
    for part in itertools.islice(parts, MOST_PARTS):
        if found := bound_to_loop(part, depth - 1):
            return found if is_container else cls.__name__
    return None


def _attributes(value: Any) -> Iterator[Any]:
    """What an object holds, in its dict and its slots; no property is asked."""
    yield from getattr(value, "__dict__", {}).values()
    for cls in type(value).__mro__:
        for member in vars(cls).values():
            if isinstance(member, types.MemberDescriptorType):
                with contextlib.suppress(AttributeError):  # never set
                    yield member.__get__(value)


def _on_another_loop(value: Any) -> str:
    return "belongs to its event loop" if bound_to_loop(value) else "others may use on their loop at the same time"


def _hindrances(fn: Any, seen: set[Any], there: Callable[[Any], str], outer: Sequence[str] = ()) -> Iterator[str]:
    """What a function uses that is not constant.

    ``there``: what would become of it. ``outer``: its variables that hold something from outside.
    """
    while isinstance(fn, functools.partial):
        for value in (*fn.args, *fn.keywords.values()):
            if is_mutable(value):
                yield f"the argument of the partial is a {type(value).__name__}, which {there(value)}"
        fn = fn.func
    if isinstance(fn, types.MethodType):
        yield f"it is a method of {type(fn.__self__).__name__}, and the object {there(fn.__self__)}"
    elif not isinstance(fn, types.FunctionType):
        yield f"it is a {type(fn).__name__}, not a function"
    elif fn not in seen:
        seen.add(fn)
        code = fn.__code__
        for what in _written(code, (*code.co_freevars, *outer)):
            yield f"it assigns {what}, which {there(None)}"
        for what, value in _surroundings(fn):
            if isinstance(value, classmethod):
                method: Any = value.__func__
                yield from _hindrances(method, seen, there, getattr(method, "__code__", code).co_varnames[:1])
            elif is_mutable(value):
                # What a memo holds may be changed by others, or be as big as a model: a dict of the module by another name.
                is_memo = isinstance(value, functools._lru_cache_wrapper)
                kind = "memo (functools.cache)" if is_memo else type(value).__name__
                yield f"the {what} is a {kind}, which {there(value)}"
            inner = value.fn if isinstance(value, Process) else value
            if isinstance(inner, types.FunctionType) and (inner.__globals__ is fn.__globals__ or _is_own(inner)):
                yield from _hindrances(inner, seen, there)


def _surroundings(fn: Any) -> Iterator[tuple[str, Any]]:
    """What a function closes over, its defaults and the globals that it names, each with words for it."""
    if isinstance(fn, types.FunctionType):
        for value in (*(fn.__defaults__ or ()), *(fn.__kwdefaults__ or {}).values()):
            yield "default of a parameter", value
        for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
            yield f"variable {name!r} it closes over", content(cell)
        for name in sorted(_global_names(fn.__code__)):
            if name in fn.__globals__:
                yield f"global {name!r} it uses", fn.__globals__[name]
        for name, attribute in named(fn.__code__):
            value = fn.__globals__.get(name)
            if attribute and isinstance(value, (types.ModuleType, types.FunctionType, type)) and _is_own(value):
                yield f"{name}.{attribute} it uses", _part(value, attribute)
        for module, names in _imported(fn):
            for name in sorted(names & vars(module).keys()):
                yield f"{module.__name__}.{name} it uses", vars(module)[name]


def _imported(fn: types.FunctionType) -> Iterator[tuple[types.ModuleType, set[str]]]:
    """The user's modules that a function imports in its body, each with the names of it that it may use."""
    for name, names, level in imports_in(fn.__code__):
        base = fn.__globals__.get("__package__") or ""
        whole = importlib.util.resolve_name("." * level + name, base) if level <= base.count(".") + bool(base) else ""
        module = sys.modules.get(whole)
        if module is not None and _is_own(module):
            yield module, set(names or _global_names(fn.__code__))


def _is_own(value: Any) -> bool:
    """Whether a module, class or function is the user's."""
    return is_own(value.__name__ if isinstance(value, types.ModuleType) else value.__module__ or "")


def _part(owner: Any, name: str) -> Any:
    """What a module, function or class holds under a name; of a static method its function, of a property and the like None."""
    holders = owner.__mro__ if isinstance(owner, type) else [owner]
    part = next((vars(holder)[name] for holder in holders if name in vars(holder)), None)
    if isinstance(part, staticmethod):
        part = part.__func__
    is_made_anew = isinstance(owner, type) and hasattr(type(part), "__get__")
    return None if is_made_anew and not isinstance(part, (types.FunctionType, classmethod)) else part


def _written(code: types.CodeType, outer: Sequence[str]) -> Iterator[str]:
    """What a function assigns outside of it. ``outer``: the variables of the function around it that it knows, and others."""
    owner = copied = ""  # on top of the stack: something from outside; and once more below it, for ``owner.name += 1``
    for instruction in dis.get_instructions(code):
        name, operation = instruction.argval, instruction.opname
        if operation == "EXTENDED_ARG":
            continue
        if operation in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            yield f"the global {name!r}"
        elif operation == "STORE_DEREF" and name in outer:
            yield f"{name!r} of the function around it"
        elif (owner and operation in ("STORE_ATTR", "DELETE_ATTR")) or (copied and operation == "LOAD_ATTR"):
            yield f"{owner or copied}.{name}"
        elif operation == "LOAD_GLOBAL" and name == "globals":
            yield "what globals() gives"
        copied = owner if operation == "COPY" else ""
        top = name[-1] if isinstance(name, tuple) else name  # since Python 3.13 one operation may load two
        if operation == "LOAD_GLOBAL" or (operation.startswith(("LOAD_DEREF", "LOAD_FAST")) and top in outer):
            if owner in ("setattr", "delattr"):  # on top of it: what it is called with
                yield f"an attribute of {top}"
            owner = top
        else:
            owner = f"{owner}.{name}" if owner and operation == "LOAD_ATTR" else ""
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _written(constant, outer)


def content(cell: Any) -> Any:
    """What a variable holds that a function closes over."""
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet: a function that calls itself before its definition is over
        return None


def _global_names(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _global_names(constant)
    return names


def is_mutable(value: Any) -> bool:
    """Whether it would matter that it is a copy."""
    if isinstance(value, (tuple, frozenset)):
        return any(map(is_mutable, value))
    if isinstance(value, types.BuiltinFunctionType):  # out.append is as mutable as out
        return is_mutable(value.__self__)
    return not isinstance(value, IMMUTABLE)
