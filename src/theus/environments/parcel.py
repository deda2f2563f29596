"""Values on their way to a worker and back.

What can be imported on the far side goes by reference: a name. What cannot (everything of ``__main__`` and of notebook
cells, closures, lambdas, local classes) is *defined* there: once per worker it is sent by value with cloudpickle under
a number, its token, and from then on both sides say the number::

    near: Book                                   far: FarBook
    function, class or process  ── token ──>     objects[token]
       │ body (cloudpickle), once per worker        │
       │ sent again if what it refers to changed    │ updated in place, so that all who refer to it see it
    the very same object        <── token ──     tokens[id(object)]

So a class of ``__main__`` that comes back in a result is the class that was sent, and ``isinstance`` holds.

Functions of ``__main__`` share one namespace on the far side, the far ``__main__``; each global that they name is a
definition of its own, so that two functions see the same list, and what a worker changed stays until it is changed
here. Functions of an importable module use that module's real globals.

Both sides first try a fast pickler (the C pickler with one Python hook), then cloudpickle's reducers, and only when
both fail is the value walked through to name the place that cannot cross (``faults.py``).
"""

from __future__ import annotations

import builtins
import functools
import importlib
import inspect
import io
import pickle
import sys
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from types import CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from theus.environments.blocks import MOST as MOST_BLOCKS, SHARE, Lot, Mapped, address_of
from theus.environments.changes import MISSING, global_names, is_setting
from theus.environments.classes import with_fields, with_slots
from theus.processes import Process
from theus.state.values import memory_of

if TYPE_CHECKING:
    from theus.environments.blocks import Placer
    from theus.environments.wire import Bytes

PROTOCOL = 5
SIMPLE = frozenset({type(None), bool, int, float, complex, str, bytes})  #: pickled without a look at what they hold
TEXTS = frozenset({str, bytes})  #: of these what is not big
FAULTS = (Exception, SystemExit)  #: what a user's __reduce__, __setstate__ or module may raise while we pack or open
MOST_BUFFERS = 1000  #: out of band in one parcel; a frame's header must fit into the reader's buffer
OUT_OF_BAND = 131072  #: bytes; smaller buffers are copied into the pickle, which is cheaper than a part of their own

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement, not by C


class Lent(Protocol):
    """A buffer that lies in a block."""

    def open(self) -> memoryview:
        """Its memory."""


class Parcel(NamedTuple):
    """A pickled value. ``plain``: it names no definitions, so ``pickle.loads`` opens it.

    ``data``: the pickle, in one piece or, with big ``bytes`` in it, in several. ``buffers``: out-of-band.
    """

    data: Bytes | Sequence[Bytes | Lent]
    buffers: Sequence[Bytes | Lent]
    plain: bool


#: how many pieces and buffers, plain · which parts lie in a block, each with what it is found by
Shape = tuple[Any, ...]


class Definitions(Protocol):
    """What a pickler and an unpickler ask of the book of their side."""

    def reference(self, value: Any) -> int | None:
        """The token under which the other side knows (or will know) this function, class or process."""

    def resolve(self, token: int) -> Any:
        """The object of that token."""

    def variable(self, value: ContextVar[Any]) -> tuple[str, str] | None:
        """Module and name under which a context variable can be found."""

    def global_token(self, module: str, name: str) -> int | None:
        """The token of a global that a by-value function names; None: it is not sent (never back to the near side)."""

    def setting_tokens(self, function: Any) -> Sequence[int]:
        """The tokens of the constants of imported modules that a function names; none are sent to the near side."""


class Packer(pickle.Pickler):
    """Pickles for the other side: definitions by token, the rest as usual.

    ``root``: the one object to send by value, under ``token``. (Set after it was made: an ``__init__`` of its own would be
    a fourth of what packing a small value costs.)
    """

    book: Definitions
    needs: list[int]  #: tokens that were said
    root: object = None
    token = 0
    _cloud: Any = None

    def by_value(self) -> None:
        """Let it use cloudpickle's rules for what pickle cannot do; the memo and the file stay ours."""
        import cloudpickle

        self._cloud = cloudpickle.Pickler(io.BytesIO())
        self.dispatch_table = cloudpickle.Pickler.dispatch_table

    def reducer_override(self, value: Any) -> Any:
        """Called by the C pickler for whatever is not a builtin value."""
        if isinstance(value, (type, FunctionType)):
            if value is self.root:
                return self._by_value(value)
            if isinstance(value, type) and not value.__flags__ & _HEAP_TYPE:
                return NotImplemented if self._cloud is None else self._cloud.reducer_override(value)
            return self._definition(value)
        if isinstance(value, Process):
            return self._by_value(value) if value is self.root else self._definition(value)
        if isinstance(value, Global) and value is self.root:
            return adjust if isinstance(value, Setting) else assign, (value.module, value.name, value.now())
        if isinstance(value, ContextVar):
            return self._variable(value)
        if isinstance(value, CodeType) and self._cloud is not None:
            # cloudpickle calls every file "<dynamic-code>" (since 3.1.3); tracebacks shall name the real one.
            return code, (self.dispatch_table[CodeType](value)[1], value.co_filename)
        if isinstance(value, MethodType) and getattr(value.__self__, value.__func__.__name__, None) != value:
            return MethodType, (value.__func__, value.__self__)
        if type(value).__name__ == "ndarray":
            return self._array(value)
        if isinstance(value, io.TextIOWrapper):  # cloudpickle would send what is in the file
            raise pickle.PicklingError("an open file")
        if isinstance(value, functools._lru_cache_wrapper):  # pickle would look for it by its name
            known = hasattr(value, "__qualname__") and by_reference(value) is NotImplemented
            return NotImplemented if known else (memo, (value.__wrapped__, value.cache_parameters()))
        if type(value) is functools.cached_property:  # before Python 3.12 it has a lock
            return computed_once, (value.func, value.attrname)
        if type(value) is memoryview:
            memory = value if value.c_contiguous else value.tobytes()
            return view, (pickle.PickleBuffer(memory), value.format, value.shape)
        return NotImplemented

    def _array(self, value: Any) -> Any:
        """An array that lies in shared memory, whole or in part, is there what it is here: a view of that memory."""
        memory = memory_of(value)
        if type(memory) is not Mapped or memory.access != SHARE:
            return NotImplemented
        if self.root is not None:
            raise pickle.PicklingError("an array made by engine.share is given to a process as an argument")
        view = memoryview(memory) if value.flags.writeable else memoryview(memory).toreadonly()
        offset = value.__array_interface__["data"][0] - address_of(memory)
        return type(value), (value.shape, value.dtype, pickle.PickleBuffer(view), offset, value.strides)

    def _definition(self, value: Any) -> Any:
        reference = by_reference(value)
        if reference is not None:
            self.needs += self.book.setting_tokens(value)
            return reference
        token = self.book.reference(value)
        if token is not None:
            self.needs.append(token)
            return resolve, (token,)
        return self._by_value(value)

    def _by_value(self, value: Any) -> Any:
        """The reduction of a definition; that of the root makes it known under its token as soon as it exists."""
        if isinstance(value, Process):
            reduced: Any = blank, (type(value),), value.__getstate__()
        else:
            if self._cloud is None:
                raise pickle.PicklingError(f"{value!r} has to be sent by value")
            if isinstance(value, FunctionType):
                self._bind_globals(value)
            else:
                _annotations(value)
            reduced = self._cloud.reducer_override(value)
            if isinstance(value, FunctionType):
                self._choose_globals(value, reduced)
            elif hasattr(value, "__struct_fields__"):
                reduced = with_fields(value, _annotations(value), reduced)
            elif "__slots__" in vars(value) and not issubclass(value, tuple):  # which has none of its own
                with_slots(reduced)
        if value is not self.root:
            return reduced
        if isinstance(value, type):
            self._need_globals(value.__module__, _named_in_annotations(value))
        make_it, args, state, *_, setter = (*reduced, None, None, None)[:6]
        return make, (self.token, make_it, args), (setter, state), None, None, finish

    def _bind_globals(self, function: FunctionType) -> None:
        """Let the function find its globals in a namespace of the other side instead of in a new dict."""
        home = home_of(function)
        if home is not None:
            self._cloud.globals_ref.setdefault(id(function.__globals__), Namespace(home))

    def _choose_globals(self, function: FunctionType, reduced: Any) -> None:
        home = home_of(function)
        if home is not None:
            reduced[2][1]["__globals__"] = {}
            self._need_globals(home, global_names(function.__code__))
            self.needs += self.book.setting_tokens(function)

    def _need_globals(self, module: str, names: Iterable[str]) -> None:
        if module == "__main__":
            scope = vars(sys.modules[module])
            for name in names:
                if name in scope or not hasattr(builtins, name):
                    token = self.book.global_token(module, name)
                    if token is not None:
                        self.needs.append(token)

    def _variable(self, value: ContextVar[Any]) -> Any:
        found = self.book.variable(value)
        if found is None:
            raise pickle.PicklingError(f"{value!r} is not the global of a module, so it cannot be found elsewhere")
        if found[0] != "__main__":
            return variable, found
        try:
            default: tuple[Any, ...] = (_outside(value),)
        except LookupError:
            default = ()
        return variable, (*found, value.name, default)


class Opener(pickle.Unpickler):
    """Unpickles what the other side's packer made."""

    def __init__(self, file: Any, book: Definitions, buffers: Iterable[Any] = ()) -> None:
        super().__init__(file, buffers=buffers)
        self._book = book

    def find_class(self, module: str, name: str) -> Any:
        """Look a global up; what belongs to a book is its method."""
        if module == __name__ and name in ("resolve", "make"):
            return getattr(self._book, name)
        return super().find_class(module, name)


def resolve(token: int) -> Any:
    """Stands for the method of the book that opens the pickle."""
    raise LookupError(f"definition {token} can only be opened by theus")


def make(token: int, constructor: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Stands for the method of the book that opens the pickle."""
    raise LookupError(f"definition {token} can only be opened by theus")


def finish(value: Any, state: tuple[Callable[..., Any] | None, Any]) -> None:
    """Give a definition its content, also a second time when it changed."""
    setter, content = state
    if setter is not None:
        setter(value, content)
    else:
        value.__setstate__(content)


class Global:
    """A global of a module that the other side cannot import."""

    __slots__ = ("__weakref__", "module", "name")

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name

    def now(self) -> Any:
        """Its value, or MISSING."""
        return vars(sys.modules[self.module]).get(self.name, MISSING)


class Setting(Global):
    """A constant of a module that the other side imports, or of a class there: it is there what the program made it here."""

    __slots__ = ()

    def now(self) -> Any:
        """Its value, or MISSING where it is no constant any more."""
        found: Any = sys.modules.get(self.module)
        for part in self.name.split("."):
            found = getattr(found, part, MISSING)
        return found if is_setting(found) else MISSING


def adjust(module: str, name: str, value: Any) -> Any:
    """Set a constant on the other side, in the module or class that has it."""
    path, _, last = name.rpartition(".")
    owner = imported(module, path) if path else _module(module)
    if value is not MISSING:
        setattr(owner, last, value)
    return Setting(module, name)


def assign(module: str, name: str, value: Any) -> Any:
    """Set a global on the other side."""
    scope = namespace(module)
    if value is MISSING:
        scope.pop(name, None)
    else:
        scope[name] = value
    return Global(module, name)


def code(arguments: tuple[Any, ...], filename: str) -> CodeType:
    """Code as it was, its file included."""
    return CodeType(*arguments).replace(co_filename=filename)


def view(memory: Any, form: str, shape: tuple[int, ...]) -> memoryview:
    """A memoryview of what crossed; one that cannot be written to stays so."""
    raw = memoryview(memory).cast("B")
    return raw.cast(form, shape) if raw.nbytes else raw  # type: ignore[call-overload]  # form is a str, not a literal


def memo(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    """A function that functools.cache or lru_cache remembers; there it remembers nothing yet."""
    return functools.lru_cache(**parameters)(function)


def computed_once(function: Callable[[Any], Any], name: str) -> functools.cached_property[Any]:
    """A functools.cached_property."""
    made = functools.cached_property(function)
    made.attrname = name
    return made


def blank(kind: type[Process[Any, Any]]) -> Process[Any, Any]:
    """A process without content."""
    return object.__new__(kind)


class Namespace:
    """Stands for the globals of a module; becomes that dict on the other side."""

    def __init__(self, module: str) -> None:
        self._module = module

    def __reduce__(self) -> tuple[Any, ...]:
        return namespace, (self._module,)


def namespace(module: str) -> dict[str, Any]:
    """The globals of a module, imported if need be."""
    found: dict[str, Any] = vars(_module(module))
    return found


def variable(module: str, attribute: str, name: str = "", default: tuple[Any, ...] = ()) -> Any:
    """The context variable of that name; in ``__main__``, which nobody imports, it is made at first use."""
    found = getattr(_module(module), attribute, None)
    if found is None and module == "__main__":
        found = ContextVar(name, default=default[0]) if default else ContextVar(name)
        setattr(_module(module), attribute, found)
    if not isinstance(found, ContextVar):
        raise LookupError(f"no context variable {attribute} in {module}")
    return found


def imported(module: str, qualified_name: str) -> Any:
    """The object of that name; says what is wrong if it cannot be had."""
    found: Any = importlib.import_module(module)
    for part in qualified_name.split("."):
        found = getattr(found, part)
    return found


def _module(name: str) -> Any:
    return sys.modules.get(name) or importlib.import_module(name)


def _outside(value: ContextVar[Any]) -> Any:
    from contextvars import Context

    return Context().run(value.get)


def by_reference(value: Any) -> Any:
    """How to import a function, class or process on the other side: NotImplemented if pickle knows, None if not at all."""
    name = value.__module__
    if name == "__main__" or (module := sys.modules.get(name)) is None or _sent_by_value(name):
        return None
    qualified_name = value.qualified_name if isinstance(value, Process) else value.__qualname__
    found: Any = module
    for part in qualified_name.split("."):
        found = getattr(found, part, None)
    if found is value:
        return (imported, (name, qualified_name)) if isinstance(value, Process) else NotImplemented
    if isinstance(found, Process) and found.fn is value:
        return getattr, (found, "fn")  # the function under a @process
    return None


def _sent_by_value(module: str) -> bool:
    """Whether the user asked for it: cloudpickle.register_pickle_by_value."""
    cloudpickle = sys.modules.get("cloudpickle")
    if cloudpickle is None:
        return False
    chosen = cloudpickle.list_registry_pickle_by_value()
    return bool(chosen) and any(module == name or module.startswith(name + ".") for name in chosen)


def home_of(function: FunctionType) -> str | None:
    """The module whose globals the function uses, if the other side has that module too."""
    name = function.__globals__.get("__name__")
    module = sys.modules.get(name) if isinstance(name, str) else None
    if module is None or vars(module) is not function.__globals__ or _sent_by_value(str(name)):
        return None
    return name if name == "__main__" or getattr(module, "__spec__", None) is not None else None


def _annotations(value: type) -> dict[str, Any]:
    """A class's own annotations. From Python 3.14 on they are made by this; only what was made can be sent."""
    try:
        return inspect.get_annotations(value)
    except Exception:  # they name what does not exist here; then it has none over there
        return {}


def _named_in_annotations(value: type) -> set[str]:
    """What the text of a class's annotations names: typing.get_type_hints looks for it in the class's module."""
    texts = [text for text in _annotations(value).values() if isinstance(text, str)]
    return {word for text in texts for word in _words(text)}


def _words(text: str) -> list[str]:
    return "".join(c if c.isidentifier() or c.isdigit() else " " for c in text).split()


def is_simple(value: Any) -> bool:
    """Whether ``pickle.dumps`` does it as well as a packer."""
    kind = type(value)
    return kind in SIMPLE and (kind not in TEXTS or len(value) < OUT_OF_BAND)


def pack_parcel(
    value: Any, book: Definitions, *, by_value: bool = False, placer: Placer | None = None
) -> tuple[list[int], Parcel]:
    """Pickle a value; gives the tokens it needs, too.

    ``placer``: decides where what is big goes. None: all goes into one piece.
    """
    chunks: list[Bytes] = []
    buffers: list[Bytes | Lent] = []
    room = [MOST_BUFFERS, MOST_BLOCKS]

    def put(place: Callable[[Any], Any], raw: Any) -> Any:
        placed = place(raw) if room[1] else raw
        room[0] -= 1
        if isinstance(placed, Lot):
            room[1] -= 1
        return placed

    def keep(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if placer is None or room[0] <= 0 or (raw.nbytes < OUT_OF_BAND and type(memory_of(raw)) is not Mapped):
            return True
        buffers.append(put(placer.place, raw))
        return False

    packer = Packer(_Sink(chunks), PROTOCOL, buffer_callback=keep)
    packer.book = book
    needs: list[int] = []
    packer.needs = needs
    if by_value:
        packer.by_value()
    packer.dump(value)
    if len(chunks) == 1:
        return needs, Parcel(chunks[0], buffers, not needs)
    if placer is None:
        return needs, Parcel(b"".join(chunks), buffers, not needs)
    pieces: list[Bytes | Lent] = []
    small: list[Bytes] = []
    for chunk in chunks:  # what is big is a chunk of its own, the very object that was pickled
        if isinstance(chunk, (bytes, bytearray)) and len(chunk) >= OUT_OF_BAND and room[0] > 0:
            pieces += [b"".join(small), put(placer.place_text, chunk)]
            room[0] -= 1
            small = []
        else:
            small.append(chunk)
    pieces.append(b"".join(small))
    return needs, Parcel(pieces if len(pieces) > 1 else pieces[0], buffers, not needs)  # type: ignore[arg-type]  # bytes or pieces, as Parcel says


class _Sink:
    """The file that a pickler writes to."""

    __slots__ = ("write",)

    def __init__(self, chunks: list[Bytes]) -> None:
        self.write = chunks.append


def pack_definition(value: object, token: int, book: Definitions) -> tuple[list[int], bytes]:
    """Pickle a function, class, process or global by value; gives the tokens it needs, too."""
    file = io.BytesIO()
    packer = Packer(file, PROTOCOL)
    packer.book = book
    needs: list[int] = []
    packer.needs = needs
    packer.root = value
    packer.token = token
    packer.by_value()
    packer.dump(value)
    return needs, file.getvalue()


def open_parcel(parcel: Parcel, book: Definitions) -> Any:
    """Unpickle a value."""
    data, buffers, plain = parcel
    if buffers:
        buffers = [_opened(part) for part in buffers]
    if not isinstance(data, (bytes, bytearray, memoryview)):
        file: Any = Pieces(data)
        return pickle.Unpickler(file, buffers=buffers).load() if plain else Opener(file, book, buffers).load()
    return pickle.loads(data, buffers=buffers) if plain else Opener(io.BytesIO(data), book, buffers).load()


def _opened(part: Bytes | Lent) -> Bytes:
    return part if isinstance(part, (bytes, bytearray, memoryview)) else part.open()


class Pieces:
    """The file that an unpickler reads: a pickle in pieces, each let go when it has been read."""

    def __init__(self, pieces: Iterable[Bytes | Lent]) -> None:
        self._pieces = iter(pieces)
        self._now = memoryview(b"")

    def read(self, size: int) -> bytes:
        """So many bytes."""
        now = self._now
        if len(now) >= size:
            self._now = now[size:]
            return bytes(now[:size])
        target = bytearray(size)
        self.readinto(memoryview(target))
        return bytes(target)

    def readinto(self, target: memoryview) -> int:
        """Fill the target."""
        at = 0
        while at < len(target):
            while not self._now:
                self._now = memoryview(_opened(next(self._pieces)))
            some = self._now[: len(target) - at]
            target[at : at + len(some)] = some
            self._now = self._now[len(some) :]
            at += len(some)
        return at

    def readline(self) -> bytes:
        """Unpicklers want it; the protocol that is used here has no lines."""
        raise pickle.UnpicklingError("a pickle with lines in it")


def ship(parcel: Parcel, tell: Callable[[Any], tuple[Any, ...]]) -> tuple[Shape, list[Bytes]]:
    """A parcel as parts of a frame, and what they are. ``tell``: gives what the other side finds a block by."""
    data, buffers, plain = parcel
    if isinstance(data, (bytes, bytearray, memoryview)):
        if not buffers:
            return (1, 0, plain, ()), [data]
        data = [data]
    parts: list[Bytes] = []
    lent: list[tuple[int, Any]] = []
    for index, part in enumerate((*data, *buffers)):
        if not isinstance(part, (bytes, bytearray, memoryview)):
            lent.append((index, tell(part)))
            part = b""
        parts.append(part)
    return (len(data), len(buffers), plain, lent), parts


def unship(shape: Shape, received: Sequence[Bytes], find: Callable[[Any], Lent]) -> Parcel:
    """The parcel that these parts of a frame are. ``find``: gives the block for what it was told."""
    pieces, _, plain, lent = shape
    if len(received) == 1:
        return Parcel(received[0], (), plain)
    parts: list[Bytes | Lent] = list(received)
    for index, told in lent:
        parts[index] = find(told)
    for index in range(pieces, len(parts)):
        if isinstance(part := parts[index], bytes):
            parts[index] = bytearray(part)  # what lies in it is writable, as it was
    return Parcel(received[0] if pieces == 1 else parts[:pieces], parts[pieces:], plain)
