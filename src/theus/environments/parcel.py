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

*Changed* means: a global, closure variable, default or class attribute that the definition refers to is another object
than when it was sent. Where one of them is mutable (a list, a user's object) the definition is pickled again at each
call and sent if the bytes differ: a stale copy would be a wrong result. Functions of ``__main__`` share one namespace on
the far side, the far ``__main__``; those of an importable module use that module's real globals.

Both sides first try a fast pickler (the C pickler with one Python hook), then cloudpickle's reducers, and only when
both fail walk through the value to name the place that cannot cross.
"""

from __future__ import annotations

import importlib
import io
import pickle
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from itertools import count
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from theus.environments.changes import MISSING, Mark, marks_of
from theus.processes import Process

if TYPE_CHECKING:
    from theus.environments.wire import Bytes

PROTOCOL = 5
MOST_BUFFERS = 1000  #: out of band in one parcel; a frame's header must fit into the reader's buffer
OUT_OF_BAND = 131072  #: bytes; smaller buffers are copied into the pickle, which is cheaper than a part of their own

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement, not by C


class Parcel(NamedTuple):
    """A pickled value. ``plain``: it names no definitions, so ``pickle.loads`` opens it."""

    data: Bytes
    buffers: Sequence[Any]
    plain: bool


class Definitions(Protocol):
    """What a pickler and an unpickler ask of the book of their side."""

    def reference(self, value: Any) -> int | None:
        """The token under which the other side knows (or will know) this function, class or process."""

    def resolve(self, token: int) -> Any:
        """The object of that token."""

    def variable(self, value: ContextVar[Any]) -> tuple[str, str] | None:
        """Module and name under which a context variable can be found."""

    #: whether globals that a by-value function refers to are sent along; the near side's own are never overwritten
    sends_globals: bool


class Packer(pickle.Pickler):
    """Pickles for the other side: definitions by token, the rest as usual.

    ``root``: the one object to send by value, under ``token``.
    """

    def __init__(
        self,
        file: io.BytesIO,
        book: Definitions,
        *,
        keep: Callable[[pickle.PickleBuffer], object] | None = None,
        root: object = None,
        token: int = 0,
        by_value: bool = False,
    ) -> None:
        super().__init__(file, PROTOCOL, buffer_callback=keep)
        self._book = book
        self._root = root
        self._token = token
        self._cloud: Any = None
        self.needs: list[int] = []
        if by_value:
            import cloudpickle

            # Only asked for reductions: it holds the rules for what pickle cannot do, we keep the memo and the file.
            self._cloud = cloudpickle.Pickler(io.BytesIO())
            self.dispatch_table = cloudpickle.Pickler.dispatch_table

    def reducer_override(self, value: Any) -> Any:
        """Called by the C pickler for whatever is not a builtin value."""
        if isinstance(value, (type, FunctionType)):
            if value is self._root:
                return self._by_value(value)
            if isinstance(value, type) and not value.__flags__ & _HEAP_TYPE:
                return NotImplemented if self._cloud is None else self._cloud.reducer_override(value)
            return self._definition(value)
        if isinstance(value, Process):
            return self._by_value(value) if value is self._root else self._definition(value)
        if isinstance(value, ContextVar):
            return self._variable(value)
        if isinstance(value, MethodType) and getattr(value.__self__, value.__func__.__name__, None) != value:
            return MethodType, (value.__func__, value.__self__)
        return NotImplemented

    def _definition(self, value: Any) -> Any:
        reference = by_reference(value)
        if reference is not None:
            return reference
        token = self._book.reference(value)
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
            reduced = self._cloud.reducer_override(value)
            if isinstance(value, FunctionType):
                self._choose_globals(value, reduced)
        if value is not self._root:
            return reduced
        make_it, args, state, *_, setter = (*reduced, None, None, None)[:6]
        return make, (self._token, make_it, args), (setter, state, _named_in_annotations(value)), None, None, finish

    def _bind_globals(self, function: FunctionType) -> None:
        """Let the function find its globals in a namespace of the other side instead of in a new dict."""
        home = _home(function)
        if home is not None:
            self._cloud.globals_ref.setdefault(id(function.__globals__), Namespace(home))

    def _choose_globals(self, function: FunctionType, reduced: Any) -> None:
        home = _home(function)
        if home is not None and (home != "__main__" or not self._book.sends_globals):
            reduced[2][1]["__globals__"] = {}  # the module over there has its own

    def _variable(self, value: ContextVar[Any]) -> Any:
        found = self._book.variable(value)
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

    def __init__(self, data: Bytes, book: Definitions, buffers: Iterable[Any] = ()) -> None:
        super().__init__(io.BytesIO(data), buffers=buffers)
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


def finish(value: Any, state: tuple[Callable[..., Any] | None, Any, tuple[str, dict[str, Any]] | None]) -> None:
    """Give a definition its content, also a second time when it changed."""
    setter, content, named = state
    if setter is not None:
        setter(value, content)
    else:
        value.__setstate__(content)
    if named is not None:
        vars(_module(named[0])).update(named[1])


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


def _home(function: FunctionType) -> str | None:
    """The module whose globals the function uses, if the other side has that module too."""
    name = function.__globals__.get("__name__")
    module = sys.modules.get(name) if isinstance(name, str) else None
    if module is None or vars(module) is not function.__globals__ or _sent_by_value(str(name)):
        return None
    return name if name == "__main__" or getattr(module, "__spec__", None) is not None else None


def _named_in_annotations(value: Any) -> tuple[str, dict[str, Any]] | None:
    """What the text of a class's annotations names in ``__main__``: typing.get_type_hints looks there."""
    if not isinstance(value, type) or value.__module__ != "__main__":
        return None
    texts = [text for text in value.__dict__.get("__annotations__", {}).values() if isinstance(text, str)]
    names = {word for text in texts for word in _words(text)}
    scope = vars(sys.modules["__main__"])
    found = {name: scope[name] for name in sorted(names) if name in scope and scope[name] is not value}
    return ("__main__", found)


def _words(text: str) -> list[str]:
    return "".join(c if c.isidentifier() or c.isdigit() else " " for c in text).split()


# --- the near side ---------------------------------------------------------------------------------------------------


class Definition:
    """Something that is sent by value, and how to notice that it changed."""

    __slots__ = ("body", "marks", "needs", "ref", "seconds", "token", "version", "volatile")

    def __init__(self, token: int, ref: weakref.ref[Any]) -> None:
        self.token = token
        self.ref = ref
        self.version = 0
        self.body: bytes | None = None
        self.needs: Sequence[int] = ()
        self.marks: Sequence[Mark] = ()
        self.volatile = False
        self.seconds: float | None = None  #: of a process: how long its calls took lately


Needs = dict[int, Definition]  #: by token: all that the other side has to know before it can open a parcel


class Book:
    """The definitions of one environment, on the near side."""

    sends_globals = True

    def __init__(self, variable: Callable[[ContextVar[Any]], tuple[str, str] | None]) -> None:
        self.variable = variable
        self._lock = threading.RLock()
        self._tokens = count(1)
        self._by_id: dict[int, Definition] = {}
        self._by_token: dict[int, Definition] = {}
        #: Tokens whose object is gone. Filled by weak references, so in any thread and at any moment: only appended to.
        self.dropped: deque[int] = deque()

    def reference(self, value: Any) -> int:
        """The token of a definition."""
        return self._definition(value).token

    def resolve(self, token: int) -> Any:
        """The object that a worker speaks of."""
        definition = self._by_token.get(token)
        value = None if definition is None else definition.ref()
        if value is None:
            raise LookupError("the function or class it was made with no longer exists here")
        return value

    def make(self, token: int, constructor: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Definitions are made on the far side only."""
        raise LookupError(f"definition {token} came from a worker")

    def process(self, process: Process[Any, Any], needs: Needs) -> Definition:
        """The definition of a process, up to date; it and all it refers to are put into ``needs``."""
        with self._lock:
            return self._fresh(process, needs)

    def pack(self, value: Any, needs: Needs) -> Parcel:
        """Pickle a value. Raises whatever pickling it raises."""
        try:
            return self._pack(value, needs, by_value=False)
        except Exception:
            return self._pack(value, needs, by_value=True)

    def open(self, parcel: Parcel) -> Any:
        """Unpickle what a worker sent."""
        return open_parcel(parcel, self)

    def _pack(self, value: Any, needs: Needs, *, by_value: bool) -> Parcel:
        found, parcel = pack_parcel(value, self, by_value=by_value)
        if found:
            with self._lock:
                for token in found:
                    self._fresh(self.resolve(token), needs)
        return parcel

    def _definition(self, value: Any) -> Definition:
        with self._lock:
            definition = self._by_id.get(id(value))
            if definition is None or definition.ref() is not value:
                token, key = next(self._tokens), id(value)

                def gone(_: object, by_id: Any = self._by_id, by_token: Any = self._by_token, drop: Any = self.dropped) -> None:
                    found = by_token.pop(token, None)
                    if found is not None and by_id.get(key) is found:
                        del by_id[key]
                    drop.append(token)

                definition = Definition(token, weakref.ref(value, gone))
                self._by_id[key] = self._by_token[token] = definition
            return definition

    def _fresh(self, value: Any, needs: Needs) -> Definition:
        definition = self._definition(value)
        if definition.token in needs:
            return definition
        needs[definition.token] = definition  # before those it refers to: they may refer back
        if definition.body is None or definition.volatile or any(mark.changed(value) for mark in definition.marks):
            self._build(definition, value)
        for token in definition.needs:
            other = self._by_token.get(token)
            found = None if other is None else other.ref()
            if found is not None:
                self._fresh(found, needs)
        return definition

    def _build(self, definition: Definition, value: Any) -> None:
        reference = by_reference(value)
        if reference is not None:
            if definition.body is None:
                definition.body = pickle.dumps(_Reference(*reference), PROTOCOL)
                definition.version = 1
            return
        home = _home(value) if isinstance(value, FunctionType) else None
        marks, volatile = marks_of(value, with_globals=home is None or home == "__main__")
        file = io.BytesIO()
        packer = Packer(file, self, root=value, token=definition.token, by_value=True)
        packer.dump(value)
        body = file.getvalue()
        definition.marks, definition.volatile, definition.needs = marks, volatile, tuple(packer.needs)
        if body != definition.body:
            definition.body = body
            definition.version += 1


class _Reference:
    """An object that the other side imports."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._reduced = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reduced


# --- the far side ----------------------------------------------------------------------------------------------------


class FarBook:
    """The definitions that this worker was told."""

    sends_globals = False

    def __init__(self) -> None:
        self._objects: dict[int, Any] = {}
        self._tokens: dict[int, int] = {}
        self._bodies: dict[int, bytes] = {}

    def learn(self, definitions: Iterable[tuple[int, bytes]], dropped: Iterable[int]) -> None:
        """Take new and changed definitions in. Those that fail are kept and fail again when they are used."""
        for token in dropped:
            self._bodies.pop(token, None)
            self._tokens.pop(id(self._objects.pop(token, None)), None)
        told = list(definitions)
        self._bodies.update(told)
        for token, _ in told:
            if token in self._bodies:
                self._load(token)

    def reference(self, value: Any) -> int | None:
        """The token of a definition, if it came from the near side."""
        return self._tokens.get(id(value))

    def resolve(self, token: int) -> Any:
        """The object of that token."""
        found = self._objects.get(token, MISSING)
        return self._load(token) if found is MISSING else found

    def make(self, token: int, constructor: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Make an empty definition and know it, so that what it refers to can refer back; a known one is kept."""
        value = self._objects.get(token)
        if value is None:
            value = constructor(*args)
            self._know(token, value)
        elif isinstance(value, FunctionType) and value.__code__ != args[0]:
            value.__code__ = args[0]
        return value

    def variable(self, value: ContextVar[Any]) -> tuple[str, str] | None:
        """Context variables are not sent back."""
        return None

    def pack(self, value: Any) -> Parcel:
        """Pickle a value. Raises whatever pickling it raises."""
        try:
            return pack_parcel(value, self, by_value=False)[1]
        except Exception:
            return pack_parcel(value, self, by_value=True)[1]

    def open(self, parcel: Parcel) -> Any:
        """Unpickle what the near side sent."""
        return open_parcel(parcel, self)

    def _know(self, token: int, value: Any) -> None:
        self._objects[token] = value
        self._tokens[id(value)] = token

    def _load(self, token: int) -> Any:
        body = self._bodies[token]
        value = Opener(body, self).load()
        self._bodies.pop(token, None)
        self._know(token, value)
        return value


def pack_parcel(value: Any, book: Definitions, *, by_value: bool) -> tuple[list[int], Parcel]:
    """Pickle a value; gives the tokens it needs, too."""
    buffers: list[Any] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < OUT_OF_BAND or len(buffers) >= MOST_BUFFERS:
            return True
        buffers.append(raw)
        return False

    file = io.BytesIO()
    packer = Packer(file, book, keep=keep, by_value=by_value)
    packer.dump(value)
    return packer.needs, Parcel(file.getvalue(), buffers, not packer.needs)


def open_parcel(parcel: Parcel, book: Definitions) -> Any:
    """Unpickle a value."""
    if parcel.plain:
        return pickle.loads(parcel.data, buffers=parcel.buffers)
    return Opener(parcel.data, book, parcel.buffers).load()
