"""Errors on their way back from a worker, and the words for a value that cannot cross.

An exception keeps its type, arguments, attributes, notes, cause and context. Its traceback is rebuilt on the near side
from file, line and function of each far frame: it prints with its source lines below the frames of the caller, as if
the process had run here (a notebook cell's source, too, is known on the near side only).

How an exception crosses, in this order, each tried out on the far side before it is sent::

    as it pickles itself ──> class, args and attributes, without calling __init__ ──> the same, what cannot
    cross replaced by its repr ──> RuntimeError with the type's name and the text
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from types import CodeType, FrameType, FunctionType, MethodDescriptorType, TracebackType
from typing import Any

from theus.environments.changes import global_names
from theus.environments.parcel import FAULTS, Parcel
from theus.processes import Process

FrameName = tuple[str, int, str, str]  #: file, line, name and qualified name of a function
Pack = Callable[[Any], Parcel]
Unpack = Callable[[Parcel], Any]
_DEEPEST = 64  # levels of a value that are looked into for what cannot cross
_MOST_FRAMES = 100  # kept from each end of a traceback; only endless recursion has more

#: data of the exception or None, its type's name, its text, its frames, the places of cause, context and members of a
#: group in the list, and whether the context is hidden
Record = tuple[Parcel | None, str, str, Sequence[FrameName], int, int, Sequence[int], bool]


def pack_error(error: BaseException, pack: Pack, unpack: Unpack) -> list[Record]:
    """An exception with all that hangs on it; the first record is the exception itself."""
    found = list(_linked(error))
    place = {id(one): index for index, one in enumerate(found)}
    return [
        (
            _cross(one, pack, unpack),
            type(one).__qualname__,
            _text(one),
            _frames(one.__traceback__),
            place.get(id(one.__cause__), -1),
            place.get(id(one.__context__), -1),
            [place[id(member)] for member in _members(one)],
            one.__suppress_context__,
        )
        for one in found
    ]


def open_error(records: Sequence[Record], unpack: Unpack) -> BaseException:
    """The exception again, with its traceback."""
    opened = [_open(record, unpack) for record in records]

    def dress(error: BaseException, index: int) -> None:
        _, _, _, frames, cause, context, members, suppress = records[index]
        error.__traceback__ = rebuild_traceback(frames)
        error.__cause__ = opened[cause] if cause >= 0 else None
        error.__context__ = opened[context] if context >= 0 else None
        error.__suppress_context__ = suppress
        for member, place in zip(_members(error), members, strict=False):
            dress(member, place)

    for index, error in enumerate(opened):
        dress(error, index)
    return opened[0]


def _linked(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop(0)
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [one.__cause__, one.__context__, *_members(one)]


def does_not_load(error: BaseException) -> bool:
    """Whether a module of C refused to be loaded in a sub-interpreter, as far as can be told.

    It is the one ``ImportError`` in which the import system does not name the module; who imported that module may have
    wrapped it in an error of its own.
    """
    return any(type(one) is ImportError and one.name is None for one in _linked(error))


def _members(error: BaseException) -> Sequence[BaseException]:
    return error.exceptions if isinstance(error, BaseExceptionGroup) else ()


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "its text cannot be had: __str__ raises"


def _cross(error: BaseException, pack: Pack, unpack: Unpack) -> Parcel | None:
    for candidate in _candidates(error, pack, unpack):
        try:
            parcel = pack(candidate)
            if type(unpack(parcel)) is type(error):
                return parcel
        except FAULTS:
            continue  # each failure is the next candidate's reason
    return None


def _candidates(error: BaseException, pack: Pack, unpack: Unpack) -> Iterator[Any]:
    yield error
    kind = type(error)
    if isinstance(error, BaseExceptionGroup):
        yield Bare(bare_group, kind, error.message, [_portable(one, pack, unpack) for one in error.exceptions])
    attributes = dict(getattr(error, "__dict__", {}))
    yield Bare(bare_error, kind, error.args, attributes)
    safe = dict(zip(attributes, _safe(attributes.values(), pack), strict=True))
    yield Bare(bare_error, kind, tuple(_safe(error.args, pack)), safe)


def _portable(error: BaseException, pack: Pack, unpack: Unpack) -> Any:
    """Something that pickles and opens as this member of a group."""
    for candidate in _candidates(error, pack, unpack):
        try:
            if type(unpack(pack(candidate))) is type(error):
                return candidate
        except FAULTS:
            continue
    return RuntimeError(f"{type(error).__qualname__}: {_text(error)}")


def _safe(values: Iterable[Any], pack: Pack) -> Iterator[Any]:
    for value in values:
        yield value if _crosses(value, pack) else repr(value)


class Bare:
    """Pickles as a call of a function that makes an exception without its ``__init__``.

    Many exceptions cannot be made from their own ``args``, so they pickle and then do not open.
    """

    def __init__(self, function: Callable[..., BaseException], *args: Any) -> None:
        self._reduced = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reduced


def bare_error(kind: type[BaseException], args: tuple[Any, ...], attributes: dict[str, Any]) -> BaseException:
    """An exception without a call of its ``__init__``."""
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


def bare_group(
    kind: type[BaseExceptionGroup[Any]], message: str, members: list[BaseException]
) -> BaseExceptionGroup[Any]:
    """A group without a call of its ``__init__``."""
    return kind.__new__(kind, message, members)


def _open(record: Record, unpack: Unpack) -> BaseException:
    parcel, kind, text = record[:3]
    reason = ""
    if parcel is not None:
        try:
            error = unpack(parcel)
            if isinstance(error, BaseException):
                return error
        except FAULTS as failure:
            reason = f" (the exception itself cannot be rebuilt here: {failure})"
    return RuntimeError(f"{kind}: {text}{reason}")


# --- tracebacks ------------------------------------------------------------------------------------------------------


def _frames(trace: TracebackType | None) -> list[FrameName]:
    found: list[FrameName] = []
    while trace is not None:
        code = trace.tb_frame.f_code
        found.append((code.co_filename, trace.tb_lineno, code.co_name, code.co_qualname))
        trace = trace.tb_next
    ours = (
        "/theus/environments/far.py",
        "/theus/environments/runner.py",
        "/asyncio/runners.py",
        "/asyncio/base_events.py",
    )
    users = next((i for i, frame in enumerate(found) if not frame[0].replace("\\", "/").endswith(ours)), None)
    found = found[-1:] if users is None else found[users:]
    return found if len(found) <= 2 * _MOST_FRAMES else found[:_MOST_FRAMES] + found[-_MOST_FRAMES:]


class _Reached(Exception):
    pass


_STOP = compile("raise stop", "", "exec")


def rebuild_traceback(frames: Sequence[FrameName]) -> TracebackType | None:
    """A traceback through frames of another process, as if they had been here."""
    trace: TracebackType | None = None
    for file, line, name, qualified_name in reversed(frames):
        code = _STOP.replace(co_filename=file, co_name=name, co_qualname=qualified_name, co_firstlineno=line)
        trace = TracebackType(trace, _frame_of(code), -1, line)
    return trace


def _frame_of(code: CodeType) -> FrameType:
    scope: dict[str, Any] = {"stop": _Reached}
    try:
        exec(code, scope)  # noqa: S102 - the only way to a frame with that code is to run it; it is our own `raise`
    except _Reached as reached:
        trace = reached.__traceback__
        assert trace is not None
        assert trace.tb_next is not None
        return trace.tb_next.tb_frame
    raise AssertionError("unreachable")


def text_of(error: BaseException) -> str:
    """What an error says, in one line."""
    import traceback  # not at the top: it takes long to load, for workers in which nothing fails

    lines = traceback.format_exception_only(error)
    notes = sum(note.count("\n") + 1 for note in map(str, getattr(error, "__notes__", ())))  # pickle's, from 3.14 on
    return "".join(lines[: len(lines) - notes]).strip().splitlines()[-1]


# --- what cannot cross -----------------------------------------------------------------------------------------------


def culprit(value: Any, place: str, pack: Callable[[Any], object]) -> str:
    """The place inside ``value`` that cannot be pickled, and its type. Only called after pickling has failed."""
    seen: set[int] = set()
    for _ in range(_DEEPEST):
        seen.add(id(value))
        parts = [(name, part) for name, part in _parts(value) if id(part) not in seen]
        found = _first_bad(parts, pack)
        if found is None:
            break
        place, value = found[0].format(place), found[1]
    else:
        return f"{place}…: nested too deeply"
    kind = type(value)
    return (
        f"{place}: a {kind.__qualname__ if kind.__module__ == 'builtins' else f'{kind.__module__}.{kind.__qualname__}'}"
    )


def _first_bad(parts: list[tuple[str, Any]], pack: Callable[[Any], object]) -> tuple[str, Any] | None:
    """The first part that does not cross, found by halves: a list may have a million items."""
    if _crosses([part for _, part in parts], pack):
        return None
    while len(parts) > 1:
        middle = len(parts) // 2
        first = parts[:middle]
        parts = parts[middle:] if _crosses([part for _, part in first], pack) else first
    return parts[0]


def _crosses(value: Any, pack: Callable[[Any], object]) -> bool:
    try:
        pack(value)
    except FAULTS:
        return False
    return True


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What a value consists of, each with the way to write it: ``{}`` stands for the value."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"{{}}[{_braces(repr(key))}]", item
            yield f"the key {_braces(repr(key))} of {{}}", key
    elif isinstance(value, (list, tuple)):
        yield from ((f"{{}}[{index}]", item) for index, item in enumerate(value))
    elif isinstance(value, (set, frozenset)):
        yield from (("an item of {}", item) for item in value)
    elif isinstance(value, FunctionType):
        name = value.__qualname__
        yield from ((f"closure variable {n!r} of {name}", c) for n, c in _closure(value))
        used = (n for n in global_names(value.__code__) if n in value.__globals__)
        yield from ((f"global {n!r} of {name}", value.__globals__[n]) for n in used)
    elif isinstance(value, Process):
        yield "{}", value.fn
        yield from ((f"argument {n!r} fixed by bind", part) for n, part in value.bound.items())
    elif isinstance(value, type):
        yield from ((f"{value.__qualname__}.{n}", part) for n, part in value.__dict__.items() if not n.startswith("__"))
    elif isinstance(
        type(value).__reduce__, MethodDescriptorType
    ):  # else it says itself how it is pickled, or that it is not
        yield from _attributes(value)


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    names = [field.name for field in fields(value)] if is_dataclass(value) else list(getattr(value, "__dict__", {}))
    names += ["__self__", "__func__"] if hasattr(value, "__func__") else []
    for name in names:
        yield f"{{}}.{name}", getattr(value, name, None)


def _closure(function: FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not assigned yet
            continue


def _braces(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
