"""``@process``: a plain function with what the engine needs to know about it.

A process stays callable as the function it was made from; the decorator only adds the contract, the
nature and how to try again. Everything that can be wrong with the definition is refused here, with what
to write instead, so that nothing is found out in the middle of a run.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    Literal,
    ParamSpec,
    TypeAlias,
    TypeVar,
    cast,
    get_type_hints,
    overload,
)

from theus.errors import DefinitionError, closest
from theus.state.access import Contract

if TYPE_CHECKING:
    from theus.context import Context

Nature = Literal["io", "cpu", "state"]
In = TypeVar("In", contravariant=True)
Out = TypeVar("Out", covariant=True)
I = TypeVar("I")  # noqa: E741 - the value that comes in
O = TypeVar("O")  # noqa: E741 - the value that goes out
P = ParamSpec("P")

NATURES = ("io", "cpu", "state")
ENVIRONMENTS = ("inline", "loop", "thread", "interpreter", "worker", "ray", "dask")
_FOUND_OUT = ("_default_values", "_hints")  # what a process keeps of its signature; found out again on the far side
RESERVED = frozenset({"target", "run_id", "progress"})  # keywords of Engine.run itself


class Step(Generic[In, Out]):
    """A process placed in a workflow, or a whole workflow: takes a value of type ``In``, gives one of type ``Out``."""

    __slots__ = ("__weakref__", "name")
    name: str


class Process(Step[In, Out]):
    """A function together with its contract, nature, timeout and retries. Made by ``process``."""

    __slots__ = (
        "__dict__",
        "accepts_any",
        "bound",
        "contract",
        "definition",
        "environment",
        "fn",
        "idempotent",
        "is_async",
        "is_method",
        "is_source",
        "nature",
        "parameters",
        "pipe_parameter",
        "positional",
        "positional_only",
        "required",
        "retries",
        "retry_on",
        "root",
        "takes_context",
        "timeout",
    )

    fn: Callable[..., Any]
    takes_context: bool
    is_async: bool
    is_method: bool  #: begins with ``self``: only what comes from an instance can run
    is_source: bool  #: a generator function: a source of items for ``each``
    parameters: tuple[str, ...]  #: names after ``ctx``
    positional: int  #: how many of them may be given by position (a large number if ``*args``)
    positional_only: frozenset[str]  #: names that cannot be given by name
    required: tuple[tuple[int, str], ...]  #: (place, name) of those without a default; place -1: by keyword only
    accepts_any: bool  #: has ``**kwargs``
    pipe_parameter: str | None  #: the parameter that takes the pipe value
    contract: Contract
    nature: Nature | None
    environment: str | None
    timeout: float | None  #: seconds, per attempt
    retries: int
    retry_on: tuple[type[BaseException], ...]
    idempotent: bool
    bound: dict[str, Any]  #: arguments fixed by ``bind``
    definition: str  #: of a root: what other processes are the same, once that was asked (see identity.py)
    root: Process[Any, Any]  #: the process as it was defined, before ``bind`` or access through an instance

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        nature: Nature | None = None,
        environment: str | None = None,
        reads: Sequence[str] | None = None,
        writes: Sequence[str] | None = None,
        exclusive: Sequence[str] = (),
        timeout: float | None = None,
        retries: int = 0,
        retry_on: type[BaseException] | tuple[type[BaseException], ...] = Exception,
        idempotent: bool = False,
    ) -> None:
        if isinstance(fn, (staticmethod, classmethod)):
            raise DefinitionError(f"@process stands inside @{type(fn).__name__}; swap them: @process goes next to def.")
        if isinstance(fn, Process):
            raise DefinitionError(
                f"{fn.name!r} is a process already. Give its options where it is made, in one @process(...); for another"
                f" one of the same function write process({fn.name}.fn, ...)."
            )
        if isinstance(fn, type) or not callable(fn):
            what = (
                f"{fn!r} is a class" if isinstance(fn, type) else f"a value of type {type(fn).__name__} is not callable"
            )
            raise DefinitionError(f"a process is made from a function; {what}.")
        self.fn = fn
        self.name = _name(fn)
        self._read_signature()
        self._check_options(nature, environment, timeout, retries, retry_on)
        self.nature = nature
        self.environment = environment
        self.timeout = None if timeout is None else float(timeout)
        self.retries = retries
        self.retry_on = retry_on if isinstance(retry_on, tuple) else (retry_on,)
        self.idempotent = idempotent
        self.contract = Contract.parse(reads, writes, exclusive, self.parameters, self.name)
        self.bound = {}
        self.definition = ""
        self.root = self
        self.__doc__ = fn.__doc__
        self.__module__ = getattr(fn, "__module__", __name__)
        self.__wrapped__ = fn

    # --- what the definition says ---

    def _read_signature(self) -> None:
        try:
            signature = inspect.signature(self.fn)
        except (ValueError, TypeError) as error:
            raise DefinitionError(
                f"{self.name} does not tell its parameters ({error}); wrap it: @process def {self.name}_step(value): ..."
            ) from None
        found = list(signature.parameters.values())
        # A method as it stands in its class begins with self; access through an instance removes it.
        # (The self of a builtin type's method, as in str.strip, is an argument like any other.)
        builtin = isinstance(self.fn, types.MethodDescriptorType)
        is_method = bool(found) and found[0].name in ("self", "cls") and not builtin
        self.is_method = is_method
        self.takes_context = len(found) > is_method and _is_context(found[is_method])
        rest = found[self.takes_context + is_method :]
        kinds = inspect.Parameter
        named = [p for p in rest if p.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)]
        by_position = [p for p in named if p.kind is not kinds.KEYWORD_ONLY]
        self.parameters = tuple(p.name for p in named)
        self.accepts_any = any(p.kind is kinds.VAR_KEYWORD for p in rest)
        self.positional = sys.maxsize if any(p.kind is kinds.VAR_POSITIONAL for p in rest) else len(by_position)
        self.positional_only = frozenset(p.name for p in named if p.kind is kinds.POSITIONAL_ONLY)
        self.required = tuple(
            (index if p.kind is not kinds.KEYWORD_ONLY else -1, p.name)
            for index, p in enumerate(named)
            if p.default is p.empty
        )
        self.pipe_parameter = by_position[0].name if by_position else None
        if taken := RESERVED.intersection(self.parameters):
            name = sorted(taken)[0]
            raise DefinitionError(
                f"process {self.name!r} has a parameter {name!r}, which engine.run(...) uses itself; call it {name}_ or so."
            )
        function = _function(self.fn)
        self.is_async = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
        self.is_source = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)

    def _check_options(
        self, nature: object, environment: object, timeout: object, retries: object, retry_on: object
    ) -> None:
        def refuse(option: str, value: object, accepted: str) -> DefinitionError:
            return DefinitionError(f"process {self.name!r}: {option}={value!r} is not {accepted}.")

        if nature is not None and nature not in NATURES:
            raise refuse(
                "nature", nature, "one of " + ", ".join(map(repr, NATURES)) + " or None (found out by the engine)"
            )
        if environment is not None and environment not in ENVIRONMENTS:
            raise refuse("environment", environment, "one of " + ", ".join(map(repr, ENVIRONMENTS)))
        if timeout is not None and not (isinstance(timeout, (int, float)) and timeout > 0):
            raise refuse("timeout", timeout, "a number of seconds above 0")
        if not isinstance(retries, int) or isinstance(retries, bool) or retries < 0:
            raise refuse("retries", retries, "a whole number of further attempts, 0 or more")
        kinds = retry_on if isinstance(retry_on, tuple) else (retry_on,)
        if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
            raise refuse("retry_on", retry_on, "an exception type or a tuple of them")
        if nature == "state" and self.is_async:
            raise DefinitionError(
                f"process {self.name!r} is async def, but nature='state' means that it never waits: make it def, "
                "or leave nature= out."
            )
        if self.is_async and environment in ("inline", "thread"):
            raise DefinitionError(
                f"process {self.name!r} is async def and runs on an event loop; environment={environment!r} is for def."
            )
        if not self.is_async and environment == "loop":
            raise DefinitionError(f"process {self.name!r} is def and would stall the loop; use environment='thread'.")
        if self.is_source and (retries or timeout):
            raise DefinitionError(
                f"process {self.name!r} is a generator, a source of items: retries= and timeout= belong on the step after it."
            )

    # --- use ---

    def bind(self, **arguments: Any) -> Process[Any, Out]:
        """Fix arguments of this step by name; gives a new step. Raises DefinitionError for a name it does not have."""
        self.check_names(arguments)
        copy = self._copy()
        copy.bound = {**self.bound, **arguments}
        if self.pipe_parameter in copy.bound:
            copy.pipe_parameter = None
        return copy

    def _copy(self) -> Process[Any, Any]:
        copy: Process[Any, Any] = object.__new__(type(self))
        copy.__setstate__(self.__getstate__())
        return copy

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.fn(*args, **self.bound, **kwargs) if self.bound else self.fn(*args, **kwargs)

    def __get__(self, instance: object, owner: type | None = None) -> Process[Any, Out]:
        if instance is None:
            return self
        copy = self._copy()
        copy.fn = self.fn.__get__(instance)
        copy.is_method = False
        return copy

    def __repr__(self) -> str:
        fixed = "".join(f", {name}={value!r}" for name, value in self.bound.items())
        return f"<process {self.name}{fixed}>"

    # --- arguments ---

    def check_names(self, names: Mapping[str, Any]) -> None:
        """Refuse arguments that the function does not have, or not by name."""
        if taken := self.positional_only.intersection(names):
            name = sorted(taken)[0]
            raise DefinitionError(
                f"process {self.name!r} takes {name!r} by position only (it stands before the / in its definition); "
                "remove the /, or give the value by position."
            )
        if not self.accepts_any:
            for name in names:
                if name not in self.parameters:
                    close = closest(name, self.parameters)
                    hint = f" Did you mean {close!r}?" if close else ""
                    raise DefinitionError(f"process {self.name!r} has no argument {name!r}; {self.usage()}.{hint}")

    def check_arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Refuse a call with too many, unknown, doubled or missing arguments."""
        given = len(args)
        if given > self.positional:
            arguments = "1 argument" if given == 1 else f"{given} arguments"
            raise DefinitionError(f"process {self.name!r} got {arguments}; {self.usage()}.")
        if kwargs:
            self.check_names(kwargs)
            for name in self.parameters[:given]:
                if name in kwargs:
                    raise DefinitionError(f"process {self.name!r} got {name!r} twice, by position and by name.")
        for place, name in self.required:
            if (place < 0 or place >= given) and name not in kwargs:
                raise DefinitionError(f"process {self.name!r} needs an argument {name!r}; {self.usage()}.")

    def usage(self) -> str:
        """What the function takes, in words for a message."""
        optional = set(self.parameters) - {name for _, name in self.required}
        shown = [f"{name}=…" if name in optional else name for name in self.parameters]
        return f"it takes ({', '.join(shown)})" if shown else "it takes no arguments"

    def arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The call's arguments by name, defaults filled in (for patterns like ``stock.{sku}``)."""
        found = {**self._defaults(), **dict(zip(self.parameters, args, strict=False)), **kwargs}
        return found

    def _defaults(self) -> dict[str, Any]:
        defaults: dict[str, Any] | None = self.__dict__.get("_default_values")
        if defaults is None:
            signature = inspect.signature(self.fn).parameters
            defaults = {n: signature[n].default for n in self.parameters if signature[n].default is not inspect._empty}
            self.__dict__["_default_values"] = defaults
        return defaults

    def hint(self, name: str) -> Any:
        """The type that a parameter, or the result (``"return"``), is annotated with; Any where that is not known."""
        hints: dict[str, Any] | None = self.__dict__.get("_hints")
        if hints is None:
            try:
                hints = get_type_hints(_function(self.fn))
            except (NameError, TypeError, AttributeError, SyntaxError):  # imported for the type checker only
                hints = {}
            self.__dict__["_hints"] = hints
        return hints.get(name, Any)

    # --- travel: by reference where the far side can import it, by value otherwise ---

    @property
    def qualified_name(self) -> str:
        """Where its definition stands in its module: ``Till.tax``."""
        return str(getattr(self.root.fn, "__qualname__", self.root.name))

    def __reduce__(self) -> tuple[Any, ...]:
        root, name = self.root, self.qualified_name
        if root.__module__ != "__main__" and _lookup(root.__module__, name) is root:
            instance = getattr(self.fn, "__self__", None) if self is not root and not self.is_method else None
            return _found, (root.__module__, name, instance, self.bound)
        return _blank, (type(self),), self.__getstate__()

    def __getstate__(self) -> dict[str, Any]:
        state = {slot: getattr(self, slot) for slot in Process.__slots__ if slot not in ("__dict__", "definition")}
        state["name"] = self.name
        state["__dict__"] = {k: v for k, v in self.__dict__.items() if k not in _FOUND_OUT}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.definition = ""
        for slot, value in state.items():
            if slot == "__dict__":
                self.__dict__.update(value)
            else:
                setattr(self, slot, value)


def _blank(kind: type[Process[Any, Any]]) -> Process[Any, Any]:
    return object.__new__(kind)


def _found(module: str, qualified_name: str, instance: Any, bound: dict[str, Any]) -> Process[Any, Any]:
    """The process of that name, with its instance and its bound arguments."""
    found: Process[Any, Any] = _lookup(module, qualified_name)
    if instance is not None:
        found = found.__get__(instance)
    return found.bind(**bound) if bound else found


def _lookup(module: str, qualified_name: str) -> Any:
    """The object of that name, or None; imports the module if it is not there yet."""
    try:
        found: Any = sys.modules.get(module) or __import__(module, fromlist=["_"])
        for part in qualified_name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return None
    return found


def _name(fn: Any) -> str:
    if isinstance(fn, functools.partial):
        return _name(fn.func)
    name = getattr(fn, "__name__", None)
    return str(name) if name else type(fn).__name__


def _function(fn: Any) -> Any:
    """The function whose kind (async, generator) counts: behind partials, methods and ``__call__``."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    if inspect.isfunction(fn) or inspect.ismethod(fn) or inspect.isbuiltin(fn):
        return fn
    return type(fn).__call__


def _is_context(parameter: inspect.Parameter) -> bool:
    if parameter.name == "ctx":
        return True
    annotation = parameter.annotation
    text = (
        annotation
        if isinstance(annotation, str)
        else getattr(getattr(annotation, "__origin__", annotation), "__name__", "")
    )
    return str(text).split("[")[0].split(".")[-1] == "Context"


def as_process(fn: Any) -> Process[Any, Any]:
    """A plain function used as a step is a process with no options."""
    return fn if isinstance(fn, Process) else Process(fn)


if TYPE_CHECKING:
    # A checker follows the value from step to step: what a function takes after ctx, and what it gives.
    #
    # mypy gives up choosing among overloads for a function with an Any somewhere (Context[Any], dict[str, Any])
    # unless all that fit see it as the same type. So each shape spells its parameters out, and the shapes that fit
    # nearly everything (Callable[P, O], needed for functions with required keywords) stand in a union with
    # Positional: what is Positional fits both of its sides, which mypy takes for no fit.
    Ctx: TypeAlias = Context[Any]
    Waits: TypeAlias = Coroutine[Any, Any, O]
    Q = ParamSpec("Q")
    W = TypeVar("W")
    Y = TypeVar("Y")
    Z = TypeVar("Z")
    Positional: TypeAlias = Callable[[], Z] | Callable[[Y], Z] | Callable[Concatenate[Y, W, Q], Z]

    class _Process:
        @overload
        def __call__(self, fn: Callable[Concatenate[Ctx, I, P], AsyncIterator[O]], /) -> Process[I, Iterable[O]]: ...
        @overload
        def __call__(self, fn: Callable[Concatenate[Ctx, I, P], Waits[O]], /) -> Process[I, O]: ...
        @overload
        def __call__(self, fn: Callable[Concatenate[Ctx, I, P], O], /) -> Process[I, O]: ...
        @overload
        def __call__(self, fn: Callable[[Ctx], AsyncIterator[O]], /) -> Process[object, Iterable[O]]: ...
        @overload
        def __call__(self, fn: Callable[[Ctx], Waits[O]], /) -> Process[object, O]: ...
        @overload
        def __call__(self, fn: Callable[[Ctx], O], /) -> Process[object, O]: ...
        @overload
        def __call__(self, fn: Callable[[I], AsyncIterator[O]], /) -> Process[I, Iterable[O]]: ...
        @overload
        def __call__(self, fn: Callable[[I], Waits[O]], /) -> Process[I, O]: ...
        @overload
        def __call__(self, fn: Callable[[I], O], /) -> Process[I, O]: ...
        @overload
        def __call__(self, fn: Callable[Concatenate[I, W, P], AsyncIterator[O]], /) -> Process[I, Iterable[O]]: ...
        @overload
        def __call__(self, fn: Callable[Concatenate[I, W, P], Waits[O]], /) -> Process[I, O]: ...
        @overload
        def __call__(self, fn: Callable[Concatenate[I, W, P], O], /) -> Process[I, O]: ...
        @overload
        def __call__(self, fn: Callable[[], AsyncIterator[O]], /) -> Process[object, Iterable[O]]: ...
        @overload
        def __call__(self, fn: Callable[[], Waits[O]], /) -> Process[object, O]: ...
        @overload
        def __call__(self, fn: Callable[[], O], /) -> Process[object, O]: ...
        @overload
        def __call__(
            self, fn: Positional[Waits[Z], Y, W, Q] | Callable[Concatenate[Ctx, P], Waits[O]], /
        ) -> Process[object, O]: ...
        @overload
        def __call__(self, fn: Positional[Z, Y, W, Q] | Callable[Concatenate[Ctx, P], O], /) -> Process[object, O]: ...
        @overload
        def __call__(
            self, fn: Positional[Waits[Z], Y, W, Q] | Callable[Concatenate[I, P], Waits[O]], /
        ) -> Process[I, O]: ...
        @overload
        def __call__(self, fn: Positional[Z, Y, W, Q] | Callable[Concatenate[I, P], O], /) -> Process[I, O]: ...
        @overload
        def __call__(self, fn: Positional[Waits[Z], Y, W, Q] | Callable[P, Waits[O]], /) -> Process[object, O]: ...
        @overload
        def __call__(self, fn: Positional[Z, Y, W, Q] | Callable[P, O], /) -> Process[object, O]: ...
        @overload
        def __call__(
            self,
            /,
            *,
            nature: Nature | None = None,
            environment: str | None = None,
            reads: Sequence[str] | None = None,
            writes: Sequence[str] | None = None,
            exclusive: Sequence[str] = (),
            timeout: float | None = None,
            retries: int = 0,
            retry_on: type[BaseException] | tuple[type[BaseException], ...] = Exception,
            idempotent: bool = False,
        ) -> _Process: ...
        def __call__(self, fn: Any = None, /, **options: Any) -> Any: ...


def _process(fn: Any = None, /, **options: Any) -> Any:
    """Make a process of a function: ``@process``, ``@process(nature="cpu", timeout=5)`` or ``process(function)``.

    The function may be ``def`` or ``async def``, a generator (a source of items), a method, a partial or a
    lambda. If its first parameter is called ``ctx`` it gets the ``Context``; the value that the
    previous step returned goes to the parameter after it.

    Args:
        nature: ``"io"`` waits, ``"cpu"`` computes (consent to run on a copy elsewhere), ``"state"`` is short,
            never waits and runs on the newest state in the commit itself. None: the engine finds out.
        environment: a place by hand: inline, loop, thread, interpreter, worker, ray, dask. Wins over nature.
        reads, writes: the contract: path patterns such as ``orders``, ``users.*.name``, ``stock.{sku}``. Giving
            one makes the other empty; giving neither leaves the process undeclared.
        exclusive: paths to queue for before the call starts.
        timeout: seconds for one attempt, queueing excluded.
        retries: how many further attempts after a failure; the wait doubles from 0.1 s to 30 s, with jitter.
        retry_on: the exception types that are worth another attempt.
        idempotent: may run more than once, early, or again after a lost worker.

    Raises:
        DefinitionError: the function or an option cannot work, with what to write instead.
    """
    unknown = set(options) - set(_OPTIONS)
    if unknown:
        name = sorted(unknown)[0]
        renamed = {"inputs": "reads", "outputs": "writes"}.get(name) or closest(name, _OPTIONS)
        hint = f" Write {renamed}= instead." if renamed else f" It takes {', '.join(_OPTIONS)}."
        raise DefinitionError(f"@process has no option {name}=.{hint}")
    if fn is None:
        return functools.partial(Process, **options)
    return Process(fn, **options)


_OPTIONS = tuple(name for name in inspect.signature(Process.__init__).parameters if name not in ("self", "fn"))
_process.__name__ = _process.__qualname__ = "process"
process: _Process = cast("_Process", _process)
