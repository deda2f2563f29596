"""Access: paths, what a transaction read, what it wants to change, and what a contract lets it touch.

One idea of access is used everywhere (house.md, principle 3): a contract *declares* it, a transaction
*observes* it, and the head of the state compares what was observed with what others wrote. The rule of
conflict is FoundationDB's: what you read decides whether you conflict, what you write does not.

**Read set** (``Reads``): a sequence of ``(path of a container, keys read in it, shape, deep)``.

=========  ==============================================================================================
keys       these fields, keys, indices or members were read; a key that is missing counts the same way
shape      the set of keys or the length was read (``len``, iteration over keys, truth, a negative index)
deep       everything at and below the container was read (``plain()``, equality, ``repr``, passing it on)
=========  ==============================================================================================

Walking through a path is no read, but an entry holds only while no container on its path was replaced.

**Operations** (``Ops``): a sequence of plain tuples, in the order in which they are to be applied.

=================================  ======================================================================
``("set", path, value)``           the field, key or index ``path[-1]`` gets ``value``; new keys go to the end
``("del", path)``                  the field or key goes away; ``del`` then ``set`` moves a key to the end
``("append", path, [values])``     the list at ``path`` grows at its end
``("add", path, number)``          the number at ``path`` grows (``Tally``)
``("include", path, {members})``   the set at ``path`` has these members
``("discard", path, {members})``   the set at ``path`` has none of these members
=================================  ======================================================================

Values inside operations are at rest (see ``values.py``): nobody changes them, so they may be shared.
Both sequences are plain data and travel by pickle.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

from theus.errors import ContractError, DefinitionError, Path, closest

__all__ = ["ANY", "Contract", "Grant", "Op", "Ops", "Path", "Reach", "Read", "Reads", "overlap", "reach_of", "show"]

Read = tuple[Path, Collection[Any], bool, bool]
Reads = Sequence[Read]
Op = tuple[Any, ...]
Ops = Sequence[Op]


def show(path: Path) -> str:
    """The path as text: ``users.'a b'.name``. Identifiers and numbers stand bare, other keys as Python writes them."""
    return ".".join(_show_segment(segment) for segment in path) or "the domain"


def _show_segment(segment: Any) -> str:
    if isinstance(segment, str) and segment.isidentifier():
        return segment
    return repr(segment)


# --- patterns --------------------------------------------------------------------------------------------------------


class _Star(NamedTuple):
    """``*``: any one segment."""


class _Argument(NamedTuple):
    """``{name}``: exactly the key that is equal to this argument of the call."""

    name: str


ANY = _Star()
Pattern = tuple[Any, ...]  #: literal strings, ``_Star`` and ``_Argument``


class Reach(NamedTuple):
    """What a call may read and write, as far as it is known before it runs: at and below these places."""

    reads: tuple[Path, ...]  #: with ``ANY`` where a segment may be any
    writes: tuple[Path, ...]


def overlap(one: Path, other: Path) -> bool:
    """Whether a place of one is a place of the other, or above it. Both with ``ANY`` where a segment may be any."""
    return all(
        type(a) is _Star or type(b) is _Star or a is b or (a == b) is True for a, b in zip(one, other, strict=False)
    )


MOST_PATHS = 64  #: of one transaction; one that touched more is described by the containers


def reach_of(reads: Reads, ops: Ops) -> Reach:
    """What a transaction read and wrote, in the words of a contract."""
    read: dict[Path, None] = {}
    for path, keys, shape, deep in reads:
        if shape or deep or len(keys) > MOST_PATHS:
            read[path] = None
        else:
            read.update(((*path, key), None) for key in keys)
    written = dict.fromkeys(op[1] for op in ops)
    if len(written) > MOST_PATHS:
        written = dict.fromkeys(path[:-1] for path in written)
    return Reach(tuple(read), tuple(written))


def _parse(pattern: object, option: str, parameters: Collection[str], process: str) -> Pattern:
    where = f"process {process!r}: {option}="
    if not isinstance(pattern, str):
        raise DefinitionError(f"{where} takes patterns as text, not {pattern!r} ({type(pattern).__name__})")
    for prefix in ("ctx.domain.", "domain."):
        if pattern.startswith(prefix):
            raise DefinitionError(
                f"{where}[{pattern!r}]: patterns begin below the domain; write {pattern[len(prefix) :]!r} instead"
            )
    return tuple(_segment(text, quoted, pattern, where, parameters) for text, quoted in _split(pattern, where))


def _split(pattern: str, where: str) -> Iterable[tuple[str, bool]]:
    """The segments of a pattern, and whether each was quoted (``stock.'black tea'``; a quoted one may hold dots)."""
    rest = pattern
    while True:
        if rest[:1] in ("'", '"'):
            end = rest.find(rest[0], 1)
            if end < 0 or rest[end + 1 : end + 2] not in ("", "."):
                raise DefinitionError(
                    f"{where}[{pattern!r}]: a quoted segment must end with {rest[0]} before the next dot"
                )
            text, quoted, rest, more = rest[1:end], True, rest[end + 2 :], rest[end + 1 : end + 2] == "."
        else:
            text, dot, rest = rest.partition(".")
            quoted, more = False, bool(dot)
        yield text, quoted
        if not more:
            return


def _segment(text: str, quoted: bool, pattern: str, where: str, parameters: Collection[str]) -> Any:
    if quoted:
        return text
    if not text:
        fixed = ".".join(part for part in pattern.split(".") if part)
        advice = f"; write {fixed!r}" if fixed else ""
        raise DefinitionError(f"{where}[{pattern!r}]: a segment is empty{advice}")
    if text == "*":
        return _Star()
    if text.startswith("{") and text.endswith("}"):
        name = text[1:-1]
        if name not in parameters:
            close = closest(name, parameters)
            known = f"; did you mean {{{close}}}?" if close else f"; the parameters are {sorted(parameters)}"
            raise DefinitionError(f"{where}[{pattern!r}]: the process has no parameter {name!r}{known}")
        return _Argument(name)
    if text == "**":
        raise DefinitionError(f"{where}[{pattern!r}]: a pattern grants all that is below it; leave '**' out")
    if "[" in text and text.endswith("]"):
        field, _, key = text[:-1].partition("[")
        bare = key.strip("'\"")
        fixed = f"{field}.{{{key}}}" if key in parameters else f"{field}.{bare}"
        raise DefinitionError(
            f"{where}[{pattern!r}]: a key is a segment of its own; write {pattern.replace(text, fixed)!r}"
        )
    if any(sign in text for sign in "*{}[]"):
        raise DefinitionError(
            f"{where}[{pattern!r}]: {text!r} is neither a name nor '*' nor '{{argument}}'; each must be a whole segment"
            " (quote a key that holds such signs)"
        )
    return text


def _patterns(option: str, value: object) -> tuple[object, ...]:
    if isinstance(value, (str, bytes)):
        raise DefinitionError(f"{option}={value!r} is one text; write {option}=[{value!r}]")
    if isinstance(value, Mapping) or not isinstance(value, Iterable):
        raise DefinitionError(f"{option}= takes a list of path patterns, not {type(value).__name__}")
    return tuple(value)


# --- grants ----------------------------------------------------------------------------------------------------------


class _Node:
    """Patterns as a tree: what is granted here, and by which segments more is granted further down."""

    __slots__ = ("arguments", "keys", "read", "star", "write")

    def __init__(self) -> None:
        self.read = False
        self.write = False
        self.keys: dict[str, _Node] = {}
        self.arguments: dict[str, _Node] = {}
        self.star: _Node | None = None

    def add(self, segments: Pattern, *, write: bool) -> None:
        node = self
        for segment in segments:
            if type(segment) is _Star:
                if node.star is None:
                    node.star = _Node()
                node = node.star
            elif type(segment) is _Argument:
                node = node.arguments.setdefault(segment.name, _Node())
            else:
                node = node.keys.setdefault(segment, _Node())
        if write:
            node.write = True
        else:
            node.read = True


class Grant:
    """What one call may touch at and below one place. ``None`` stands for: everything.

    A draft carries the grant of its place, so an access costs one dictionary lookup however many patterns
    the contract has; below a place that may be read and written freely there is nothing left to look up.

    Several patterns may lead to one place (``stock.tea``, ``stock.*``, ``stock.{sku}``). Their nodes are overlaid when the
    contract is made, as a nondeterministic automaton is made deterministic; only which keys equal an
    argument is decided for each call, by ``_Bound``.
    """

    __slots__ = (
        "_children",
        "_default",
        "_matched",
        "_nodes",
        "arguments",
        "contract",
        "enumerable",
        "is_bound",
        "names",
        "passable",
        "read",
        "write",
    )

    def __init__(self, nodes: list[_Node], read: bool, write: bool) -> None:
        self._nodes = nodes
        self.read = read  #: everything at and below may be read
        self.write = write  #: everything at and below may be written
        self.contract: Contract | None = None  #: set at the root, for the words of an error
        self.arguments: Mapping[str, Any] = {}
        stars = [node.star for node in nodes if node.star is not None]
        #: for keys that no pattern names; where no pattern goes further, it is the same at every depth
        self._default: Grant | None = _compile(stars, read, write) if stars else _flat(read, write, self)
        self._children: dict[Any, Grant | None] = {
            key: self._match((key,), ()) for key in dict.fromkeys(key for node in nodes for key in node.keys)
        }
        self.names = tuple(
            dict.fromkeys(name for node in nodes for name in node.arguments)
        )  #: arguments that are keys here
        self._matched: dict[tuple[Any, ...], Grant | None] = {}
        inner = [*self._children.values(), *(self._match((), (name,)) for name in self.names)]
        if self._default is not self:
            inner.append(self._default)
        #: leads to something readable
        self.passable: bool = read or any(child is None or child.passable for child in inner)
        #: the keys may be listed
        self.enumerable: bool = read or (bool(stars) and (self._default is None or self._default.passable))
        #: depends on arguments, here or below
        self.is_bound: bool = bool(self.names) or any(child is not None and child.is_bound for child in inner)

    def _match(self, keys: tuple[Any, ...], names: tuple[str, ...]) -> Grant | None:
        """The grant below a key that patterns name literally (``keys``) or by these arguments."""
        nodes = [node.star for node in self._nodes if node.star is not None]
        nodes += [node.keys[key] for node in self._nodes for key in keys if key in node.keys]
        nodes += [node.arguments[name] for node in self._nodes for name in names if name in node.arguments]
        return _compile(nodes, self.read, self.write)

    def child(self, key: Any) -> Grant | None:
        """The grant one segment further down."""
        return self._children.get(key, self._default)

    def may_read(self, key: Any) -> bool:
        """Whether all of what is at ``key`` may be read."""
        child = self.child(key)
        return child is None or child.read

    def may_find(self, key: Any) -> bool:
        """Whether it may be known if ``key`` is there: yes where a readable path leads through it."""
        child = self.child(key)
        return child is None or child.passable

    def may_write(self, key: Any) -> bool:
        """Whether ``key`` may be written."""
        child = self.child(key)
        return child is None or child.write


class _Bound(Grant):
    """A grant together with the arguments of one call."""

    __slots__ = ("_static",)

    def __init__(self, static: Grant, arguments: Mapping[str, Any]) -> None:  # no super: it is filled from ``static``
        self._static = static
        self.read = static.read
        self.write = static.write
        self.passable = static.passable
        self.enumerable = static.enumerable
        self.contract = static.contract
        self.arguments = arguments

    def child(self, key: Any) -> Grant | None:
        static = self._static
        arguments = self.arguments
        child = static._children.get(key, static._default)
        if static.names:
            names = tuple(name for name in static.names if arguments[name] is key or (arguments[name] == key) is True)
            if names:
                literal = (key,) if key in static._children else ()
                matched = static._matched
                if (literal, names) not in matched:
                    matched[literal, names] = static._match(literal, names)
                child = matched[literal, names]
        return child if child is None or not child.is_bound else _Bound(child, arguments)


def _flat(read: bool, write: bool, own: Grant) -> Grant | None:
    """The grant below the end of all patterns: what was granted on the way."""
    if read and write:
        return None
    return own if not own._nodes else _compile([], read, write)


def _compile(nodes: list[_Node], read: bool, write: bool) -> Grant | None:
    """Overlay the nodes to which one key leads, and hand down what was granted above."""
    read = read or any(node.read for node in nodes)
    write = write or any(node.write for node in nodes)
    if read and write:
        return None
    deeper = [node for node in nodes if node.keys or node.arguments or node.star is not None]
    return Grant(deeper, read, write)


# --- contract --------------------------------------------------------------------------------------------------------


class Contract:
    """What a process declares to read, to write and to have for itself.

    ``reads`` and ``writes`` are both ``None`` if the process declares nothing: then nothing is checked.
    Giving one of them makes the other empty.
    """

    __slots__ = (
        "_exclusive",
        "_grant",
        "_patterns",
        "declared",
        "exclusive",
        "fixed",
        "is_bound",
        "parameters",
        "process",
        "reads",
        "writes",
    )

    def __init__(
        self,
        process: str,
        parameters: tuple[str, ...],
        reads: dict[str, Pattern] | None,
        writes: dict[str, Pattern] | None,
        exclusive: dict[str, Pattern],
    ) -> None:
        self.process = process
        self.parameters = parameters
        self.declared = reads is not None
        self.reads = None if reads is None else tuple(reads)
        self.writes = None if writes is None else tuple(writes)
        self.exclusive = tuple(exclusive)
        self._exclusive = tuple(exclusive.values())
        self._patterns = (tuple((reads or {}).values()), tuple((writes or {}).values()))
        patterns = [(pattern, False) for pattern in (reads or {}).values()]
        patterns += [(pattern, True) for pattern in (writes or {}).values()]
        root = _Node()
        for pattern, write in patterns:
            root.add(pattern, write=write)
        self._grant = Grant([root], False, False)
        self._grant.contract = self
        self.is_bound = self._grant.is_bound  #: a pattern asks for an argument of the call
        #: what every call may touch, if it does not depend on its arguments; None: everything
        self.fixed = None if self.is_bound or not self.declared else self._grant

    @classmethod
    def parse(
        cls,
        reads: Sequence[str] | None,
        writes: Sequence[str] | None,
        exclusive: Sequence[str],
        parameters: Collection[str],
        process: str,
    ) -> Contract:
        """Read the patterns of ``@process``; ``DefinitionError`` says what is wrong and how to write it."""

        def read(option: str, value: Sequence[str]) -> dict[str, Pattern]:
            return {str(text): _parse(text, option, parameters, process) for text in _patterns(option, value)}

        declared = reads is not None or writes is not None
        return cls(
            process,
            tuple(parameters),
            read("reads", reads if reads is not None else ()) if declared else None,
            read("writes", writes if writes is not None else ()) if declared else None,
            read("exclusive", exclusive),
        )

    def grant(self, arguments: Mapping[str, Any]) -> Grant | None:
        """What a call with these arguments may touch; ``None``: everything."""
        return _Bound(self._grant, arguments) if self.is_bound else self.fixed

    def tickets(self, arguments: Mapping[str, Any]) -> tuple[Path, ...]:
        """The paths of ``exclusive=`` for these arguments; ``*`` stays as the text ``"*"``."""
        return tuple(
            tuple(
                arguments[part.name] if type(part) is _Argument else "*" if type(part) is _Star else part
                for part in pattern
            )
            for pattern in self._exclusive
        )

    def reach(self, arguments: Mapping[str, Any]) -> Reach | None:
        """What a call may touch if no more than these arguments are known of it; None: nothing is declared."""
        if self.reads is None:
            return None
        reads, writes = (
            tuple(
                tuple(arguments.get(part.name, ANY) if type(part) is _Argument else part for part in pattern)
                for pattern in patterns
            )
            for patterns in self._patterns
        )
        return Reach(reads, writes)

    def check_against(self, domain_type: type) -> None:
        """Refuse patterns whose first segment is no field of a dataclass domain."""
        if not is_dataclass(domain_type):
            return
        known = [field.name for field in fields(domain_type)]
        for option, patterns in (("reads", self.reads), ("writes", self.writes), ("exclusive", self.exclusive)):
            for text in patterns or ():
                first = _parse(text, option, self.parameters, self.process)[0]
                if isinstance(first, str) and first not in known and not hasattr(domain_type, first):
                    close = closest(first, known)
                    advice = f"did you mean {text.replace(first, close, 1)!r}?" if close else f"its fields are {known}"
                    raise DefinitionError(
                        f"process {self.process!r}: {option}=[{text!r}]: {domain_type.__name__} has no field"
                        f" {first!r}; {advice}"
                    )

    def violation(self, kind: str, path: Path, arguments: Mapping[str, Any]) -> ContractError:
        """The error for an access that this contract does not grant. ``kind``: ``"read"`` or ``"write"``."""
        option = "reads" if kind == "read" else "writes"
        declared = (self.reads if kind == "read" else self.writes) or ()
        exact = ".".join(_quote(segment) for segment in path)
        bound = ".".join(self._argument(segment, arguments) or _quote(segment) for segment in path)
        if not arguments and self.parameters and len(path) > 1:  # not known here: show how it is written
            bound = ".".join([*(_quote(segment) for segment in path[:-1]), f"{{{self.parameters[0]}}}"])
        advice = [repr(text) for text in dict.fromkeys((exact, bound)) if text]
        done = "read" if kind == "read" else "wrote"
        return ContractError(
            f"process {self.process!r} {done} {show(path)} but declares {option}={list(declared)}."
            + (
                f" Add {' or '.join(advice)} to {option}=[...]"
                if advice
                else f" {option}= must name each field it uses"
            ),
            process=self.process,
            path=show(path),
            declared=declared,
        )

    def _argument(self, segment: Any, arguments: Mapping[str, Any]) -> str | None:
        for name, value in arguments.items():
            if type(value) is type(segment) and value == segment:
                return f"{{{name}}}"
        return None


def _quote(segment: Any) -> str:
    """A path segment as a pattern would spell it."""
    if isinstance(segment, str):
        plain = segment and not any(sign in segment for sign in ".*{}[]'\"")
        return segment if plain else repr(segment)
    return "*"
