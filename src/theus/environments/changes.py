"""Noticing that a function, class or process is no longer what was sent to the workers.

A *mark* remembers one thing that a definition refers to: a global, a closure variable, its code, a class attribute.
It has changed when another object is there now. For a constant that is all that can happen; what is mutable may have
changed inside, so a definition that refers to it is *volatile*: it has to be pickled again to know.
"""

from __future__ import annotations

import dis
import enum
import functools
import os
import sys
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from types import BuiltinFunctionType, CodeType, FunctionType, MethodDescriptorType, MethodType, ModuleType
from typing import Any

from theus.processes import Process


class _Missing(enum.Enum):
    MISSING = enum.auto()


MISSING = _Missing.MISSING

#: Compared by identity, and known by a weak reference so that a mark never keeps alive what it watches.
_DEFINITIONS = (type, FunctionType, Process)
#: What the makers of classes keep in them; programs do not change it afterwards.
_CLASS_PARTS = (property, functools.cached_property, staticmethod, classmethod)
_MACHINE_NAMES = frozenset({"_abc_impl", "_field_defaults"})


class Mark:
    """One thing that a definition refers to."""

    __slots__ = ("_kind", "_name", "_ref", "_value")

    def __init__(self, kind: str, name: Any, value: Any) -> None:
        self._kind = kind
        self._name = name
        weak = isinstance(value, _DEFINITIONS)
        self._ref = weakref.ref(value) if weak else None
        self._value = None if weak or not is_constant(value) else value

    def changed(self, owner: Any) -> bool:
        """Whether another object is there now. (What is mutable makes the definition volatile instead.)"""
        now = _look(owner, self._kind, self._name)
        return now is not (self._value if self._ref is None else self._ref())


def _look(owner: Any, kind: str, name: Any) -> Any:
    if kind == "global":
        return owner.__globals__.get(name, MISSING)
    if kind == "cell":
        try:
            return owner.__closure__[name].cell_contents
        except ValueError:  # not assigned yet
            return MISSING
    if kind == "class":
        return owner.__dict__.get(name, MISSING)
    if kind == "now":
        return owner.now()
    return getattr(owner, name)


def marks_of(value: Any, *, with_globals: bool) -> tuple[Sequence[Mark], bool]:
    """What a definition refers to now, and whether some of it is mutable."""
    marks: list[Mark] = []
    volatile = False
    for kind, name in _places(value, with_globals=with_globals):
        found = _look(value, kind, name)
        if isinstance(found, _DEFINITIONS) or is_constant(found):
            marks.append(Mark(kind, name, found))
        else:
            volatile = True
    return marks, volatile


def _places(value: Any, *, with_globals: bool) -> Iterator[tuple[str, Any]]:
    if isinstance(value, FunctionType):
        yield from (("attribute", name) for name in ("__code__", "__defaults__"))
        if value.__kwdefaults__ is not None:
            yield "attribute", "__kwdefaults__"
        if with_globals:
            yield from (("global", name) for name in global_names(value.__code__))
        yield from (("cell", index) for index in range(len(value.__closure__ or ())))
    elif isinstance(value, Process):
        yield from (("attribute", name) for name in ("fn", "root"))
        if value.bound:
            yield "attribute", "bound"
    elif not isinstance(value, type):  # a Global
        yield "now", ""
    else:
        for name, part in value.__dict__.items():
            machine = name in _MACHINE_NAMES or (name.startswith("_") and name.endswith("_"))
            if not machine and not _is_class_part(part):
                yield "class", name


def _is_class_part(part: Any) -> bool:
    kind = type(part)
    return isinstance(part, _CLASS_PARTS) or (
        hasattr(kind, "__get__") and kind.__module__ == "builtins" and not isinstance(part, FunctionType)
    )


def is_constant(value: Any) -> bool:
    """Whether an object can never be different inside."""
    if isinstance(value, (tuple, frozenset)):
        return all(is_constant(item) or isinstance(item, _DEFINITIONS) for item in value)
    return value is MISSING or isinstance(value, _constants())


@functools.cache
def _constants() -> tuple[type, ...]:
    import logging  # not at the top: a worker need not load these
    import re

    return (
        *(type(None), bool, int, float, complex, str, bytes, range, slice, type(...), enum.Enum, re.Pattern),
        *(ModuleType, ContextVar, logging.Logger, BuiltinFunctionType, MethodDescriptorType, CodeType),
    )


@functools.lru_cache(maxsize=4096)
def global_names(code: CodeType) -> Sequence[str]:
    """The globals that a function reads or writes, those of functions inside it too."""
    names = {i.argval for i in dis.get_instructions(code) if i.opname in _GLOBAL_OPERATIONS}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names.update(global_names(constant))
    return sorted(names)


_GLOBAL_OPERATIONS = frozenset(
    {"LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}
)


# --- settings: constants of imported modules ------------------------------------------------------------------------------

_SETTINGS = frozenset({type(None), bool, int, float, complex, str, bytes})


def is_setting(value: Any) -> bool:
    """Whether this is a constant that a program may have given to a module or class: a number, a text, an enum, a tuple."""
    if isinstance(value, (tuple, frozenset)):
        return all(is_setting(item) for item in value)
    return type(value) in _SETTINGS or (isinstance(value, enum.Enum) and value is not MISSING)


def settings_of(function: Any) -> Sequence[tuple[str, str]]:
    """Module and name of the constants that a function names: of its module, and of the modules and classes that it names.

    Also those of the functions that it names. Not those of libraries; nor what the module's own functions assign: that is
    the state of each worker.
    """
    found: dict[tuple[str, str], None] = {}
    seen: set[CodeType] = set()
    functions = [function]
    while functions:
        function = functions.pop()
        function = function.fn if isinstance(function, Process) else function
        function = function.__func__ if isinstance(function, MethodType) else function
        if not isinstance(function, FunctionType) or function.__code__ in seen:
            continue
        seen.add(function.__code__)
        scope = function.__globals__
        for name, attribute in named(function.__code__):
            value = scope.get(name, MISSING)
            owner, place = sys.modules.get(scope.get("__name__", "")), name
            if attribute and isinstance(value, (ModuleType, type)):
                owner = value if isinstance(value, ModuleType) else sys.modules.get(value.__module__)
                place = attribute if isinstance(value, ModuleType) else f"{value.__qualname__}.{attribute}"
                value = vars(value).get(attribute, MISSING)
            if owner is None or not is_own(owner.__name__):
                continue
            if isinstance(value, (FunctionType, Process)):
                functions.append(value)
            elif (
                is_setting(value) and owner.__name__ != "__main__" and not _assigned_in(owner, place.rpartition(".")[2])
            ):
                found[owner.__name__, place] = None
    return list(found)


#: Where the standard library lies; not all of its modules are in its list of names.
_STANDARD = os.path.join(os.path.dirname(os.__file__), "")  # noqa: PTH118, PTH120 - pathlib need not be loaded


@functools.lru_cache(maxsize=4096)
def is_own(module: str) -> bool:
    """Whether a module is the user's, and not of the standard library or an installed one."""
    package = module.partition(".")[0]
    file = getattr(sys.modules.get(module), "__file__", None)
    is_library = package in sys.stdlib_module_names or package == "theus" or file is None or "-packages" in file
    return module == "__main__" or not (is_library or str(file).startswith(_STANDARD))


@functools.lru_cache(maxsize=4096)
def named(code: CodeType) -> Sequence[tuple[str, str]]:
    """The globals that a function reads, each with the attribute of it that is read, or ""."""
    names: dict[tuple[str, str], None] = {}
    last = ""
    for instruction in dis.get_instructions(code):
        if last and instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            names[last, instruction.argval] = None
        last = instruction.argval if instruction.opname == "LOAD_GLOBAL" else ""
        if last:
            names[last, ""] = None
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names.update(dict.fromkeys(named(constant)))
    return list(names)


def imports_in(code: CodeType) -> Iterator[tuple[str, Sequence[str] | None, int]]:
    """The import statements of a function, those of functions inside it too: module, names after ``from``, dots before."""
    before: deque[dis.Instruction] = deque(maxlen=2)
    for instruction in dis.get_instructions(code):
        if instruction.opname == "IMPORT_NAME":
            level, names = (one.argval for one in before)
            yield instruction.argval, names, level
        if instruction.opname != "EXTENDED_ARG":
            before.append(instruction)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from imports_in(constant)


def _assigned_in(module: ModuleType, name: str) -> bool:
    """Whether a function or method of the module assigns a global or an attribute of that name."""
    parts = [part.fn if isinstance(part, Process) else part for part in vars(module).values()]
    parts += [method for part in parts if isinstance(part, type) for method in vars(part).values()]
    codes = [part.__code__ for part in parts if isinstance(part, FunctionType) and part.__module__ == module.__name__]
    return any(_assigns(code, name) for code in codes)


@functools.lru_cache(maxsize=4096)
def _assigns(code: CodeType, name: str) -> bool:
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return (
        name in code.co_names
        and any(i.opname in ("STORE_GLOBAL", "STORE_ATTR") and i.argval == name for i in dis.get_instructions(code))
    ) or any(_assigns(constant, name) for constant in inner)
