"""Anomalies in histories of list appends, found in the manner of Elle.

Transactions append values to lists, each value once per list, and read lists. Such reads tell more than what they hold:
a read of ``[3, 1, 7]`` names the three transactions that wrote the list, in their order. From that follows who must
come before whom in *any* serial order (Adya's dependencies; Kingsbury & Alvaro, "Elle: Inferring Isolation Anomalies
from Experimental Observations", VLDB 2020):

======  =====================================================================================
``ww``  A appended to a list, and B's append came next in it
``wr``  A's append is the last that B saw in a list
``rw``  A read a list without B's append, the next one
``rt``  A had ended before B began; only where the history says when (``began``, ``ended``)
======  =====================================================================================

::

    reads ──> what is wrong with one read: values of somebody aborted, of nobody, half of somebody's, own ones missing
      └─────> the longest read of a list is its order; each other read has to be a beginning of it
                 └─> graph of the committed transactions ──> its cycles

A history has a serial order only if the graph has no cycle. If its last transaction reads all lists, the order of each
list is known to its end and the reverse holds as well: what has no serial order is found. Which edges a cycle needs
tells what went wrong. For each knot of the graph (strongly connected component) one shortest cycle of each kind is
reported, the weakest kinds only where no other finding explains the knot.

Nothing here knows of Theus: histories of any store will do.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any, Literal

Operation = tuple[Literal["append"], Hashable, Any] | tuple[Literal["read"], Hashable, Sequence[Any]]
TRIES = 100  #: how many edges of a knot are tried for a shorter cycle, once there is one
SHOWN = 6  #: how many values of a list are shown


@dataclass(frozen=True, slots=True)
class Observed:
    """A transaction as its client saw it: what it appended, and what each list that it read held, in its order.

    A call that ran twice is two transactions, the first one not committed; each appends values of its own.
    """

    id: str
    ops: Sequence[Operation]
    committed: bool = True
    began: float | None = None  #: when the client asked for it
    ended: float | None = None  #: when the client knew of the commit


class Kind(StrEnum):
    """What went wrong."""

    INTERNAL = "internal"  #: own appends missing or too early, or a list that changed while it was being read
    GARBAGE = "garbage read"  #: a value that nobody appended
    DUPLICATE = "duplicate"  #: one value twice in a list
    ABORTED_READ = "aborted read (G1a)"  #: a value of a transaction that was rolled back
    INTERMEDIATE_READ = "intermediate read (G1b)"  #: some appends of a transaction and not all
    DIRTY_UPDATE = "dirty update"  #: a committed append after one that was rolled back
    ORDER = "incompatible order"  #: two reads of which neither is a beginning of the other
    LOST_UPDATE = "lost update"  #: two transactions read a list alike and both appended to it
    G0 = "write cycle (G0)"  #: of ww
    G1C = "circular information flow (G1c)"  #: of ww and wr
    G_SINGLE = "read skew (G-single)"  #: with one rw
    WRITE_SKEW = "write skew"  #: of two rw: each of two read what the other was about to change
    G2 = "anti-dependency cycle (G2)"  #: with more rw than one
    REAL_TIME = "real-time order"  #: serial orders exist, but in none comes first what had ended first


@dataclass(frozen=True, slots=True)
class Anomaly:
    """One finding. ``transactions``: the ids of those in it; of a cycle, in its order."""

    kind: Kind
    transactions: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return self.text


def anomalies(history: Iterable[Observed]) -> list[Anomaly]:
    """Everything in ``history`` that no serial execution shows; empty if it may have been one.

    Raises:
        ValueError: two transactions have one id, or a value was appended to one list twice.
    """
    return _History(history).check()


# --- reads -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Read:
    """The first read of a list by a committed transaction. ``seen``: without what the reader itself had appended."""

    reader: Observed
    key: Hashable
    seen: tuple[Any, ...]
    whole: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{self.reader.id} read {_list(self.whole)} from {self.key!r}"


class _History:
    """One history, what is inferred from it, and the findings."""

    def __init__(self, history: Iterable[Observed]) -> None:
        everyone = list(history)
        self.found: list[Anomaly] = []
        self.committed = [transaction for transaction in everyone if transaction.committed]
        self.appended: dict[tuple[str, Hashable], list[Any]] = {}  #: (id, list) -> values in order
        self.writers: dict[tuple[Hashable, Any], Observed] = {}
        twice = [name for name, count in Counter(transaction.id for transaction in everyone).items() if count > 1]
        if twice:
            raise ValueError(f"two transactions are called {twice[0]!r}; an id names one.")
        for transaction in everyone:
            for op in transaction.ops:
                if op[0] == "append":
                    self._register(transaction, op[1], op[2])

    def _register(self, transaction: Observed, key: Hashable, value: Any) -> None:
        other = self.writers.get((key, value))
        if other is not None:
            raise ValueError(
                f"{value!r} was appended to {key!r} twice, by {other.id} and by {transaction.id}; "
                "each value of a list must name the one who appended it."
            )
        self.writers[key, value] = transaction
        self.appended.setdefault((transaction.id, key), []).append(value)

    def check(self) -> list[Anomaly]:
        reads = [read for transaction in self.committed for read in self._reads_of(transaction)]
        for read in reads:
            self._check_values(read)
        orders: dict[Hashable, _Read] = {}
        for read in reads:
            if read.key not in orders or len(read.whole) > len(orders[read.key].whole):
                orders[read.key] = read
        self._check_orders(orders, reads)
        self._check_lost_updates(reads)
        graph = _Graph()
        self._relate_by_lists(graph, orders, reads)
        self._relate_by_time(graph)
        lost = {name for anomaly in self.found if anomaly.kind is Kind.LOST_UPDATE for name in anomaly.transactions}
        self.found += _cycles(graph, lost)
        return self.found

    def _note(self, kind: Kind, transactions: Sequence[Observed], text: str) -> None:
        names = tuple(dict.fromkeys(transaction.id for transaction in transactions))
        self.found.append(Anomaly(kind, names, f"{kind}: {text}"))

    def _committed_writer(self, key: Hashable, value: Any) -> Observed | None:
        writer = self.writers.get((key, value))
        return writer if writer is not None and writer.committed else None

    def _reads_of(self, reader: Observed) -> Iterator[_Read]:
        """The first read of each list. Notes a read that does not follow from the reader's own reads and appends."""
        own: dict[Hashable, tuple[Any, ...]] = {}
        first: dict[Hashable, tuple[Any, ...]] = {}
        for op in reader.ops:
            key = op[1]
            mine = own.get(key, ())
            if op[0] == "append":
                own[key] = (*mine, op[2])
                continue
            values = tuple(op[2])
            said = f"{reader.id} read {_list(values)} from {key!r}"
            cut = len(values) - len(mine)
            seen = values[: max(0, cut)]
            if cut < 0 or values[cut:] != mine:
                self._note(Kind.INTERNAL, [reader], f"{said}, after it had appended {_list(mine)}")
            elif any(self.writers.get((key, value)) is reader for value in seen):
                self._note(Kind.INTERNAL, [reader], f"{said}, with what it was yet to append")
            elif key not in first:
                first[key] = seen
                if len(set(values)) < len(values):
                    self._note(Kind.DUPLICATE, [reader], said)
                yield _Read(reader, key, tuple(dict.fromkeys(seen)), tuple(dict.fromkeys(values)))
            elif first[key] != seen:
                self._note(Kind.INTERNAL, [reader], f"{said}, where {_list(first[key] + mine)} was to be expected")

    def _check_values(self, read: _Read) -> None:
        """Whose values are they: somebody's, committed, and all that he appended?"""
        key = read.key
        theirs: dict[str, list[Any]] = defaultdict(list)
        for value in read.seen:
            writer = self.writers.get((key, value))
            if writer is None:
                self._note(Kind.GARBAGE, [read.reader], f"{read}, but nobody appended {value!r}")
            elif not writer.committed:
                text = f"{read}, but {writer.id}, which appended {value!r}, was rolled back"
                self._note(Kind.ABORTED_READ, [read.reader, writer], text)
            else:
                theirs[writer.id].append(value)
        for name, values in theirs.items():
            appended = self.appended[name, key]
            if values != appended:
                kind = Kind.ORDER if len(values) == len(appended) else Kind.INTERMEDIATE_READ
                writers = [read.reader, self.writers[key, values[0]]]
                self._note(kind, writers, f"{read}, but {name} appended {_list(appended)}")

    def _check_orders(self, orders: Mapping[Hashable, _Read], reads: Sequence[_Read]) -> None:
        for read in reads:
            longest = orders[read.key]
            if longest.whole[: len(read.whole)] != read.whole:
                self._note(Kind.ORDER, [read.reader, longest.reader], f"{read}, but {longest}")
        for key, longest in orders.items():
            rolled_back: Observed | None = None
            for value in longest.whole:
                writer = self.writers.get((key, value))
                if writer is not None and not writer.committed:
                    rolled_back = writer
                elif writer is not None and rolled_back is not None:
                    text = f"{longest}: {writer.id} appended {value!r} after {rolled_back.id}, which was rolled back"
                    self._note(Kind.DIRTY_UPDATE, [rolled_back, writer], text)
                    break

    def _check_lost_updates(self, reads: Sequence[_Read]) -> None:
        """Of all that read a list and append to it, one only may have read it in any one state."""
        alike: dict[tuple[Hashable, tuple[Any, ...]], list[Observed]] = defaultdict(list)
        for read in reads:
            if (read.reader.id, read.key) in self.appended:
                alike[read.key, read.seen].append(read.reader)
        for (key, seen), readers in alike.items():
            if len(readers) > 1:
                appends = _and([f"{reader.id} appended {_list(self.appended[reader.id, key])}" for reader in readers])
                text = f"{_and([reader.id for reader in readers])} all read {_list(seen)} from {key!r}, and {appends}"
                self._note(Kind.LOST_UPDATE, readers, text)

    # --- dependencies ---

    def _relate_by_lists(self, graph: _Graph, orders: Mapping[Hashable, _Read], reads: Sequence[_Read]) -> None:
        chains: dict[Hashable, list[_Append]] = defaultdict(list)  # committed appends in the order of their list
        later: dict[Hashable, list[_Append]] = defaultdict(
            list
        )  # those that nobody saw: they come after all that was read
        shown = {key: set(longest.whole) for key, longest in orders.items()}
        for (key, value), writer in self.writers.items():
            if writer.committed and value not in shown.get(key, ()):
                later[key].append(_Append(key, value, writer))
        for key, longest in orders.items():
            chain = chains[key] = [
                _Append(key, value, author)
                for value in longest.whole
                if (author := self._committed_writer(key, value)) is not None
            ]
            for before, after in pairwise(chain):
                graph.add("ww", before.writer, after.writer, f"{before}, then {after}")
            for after in later[key] if chain else ():
                graph.add("ww", chain[-1].writer, after.writer, f"{chain[-1]}, and later {after}")
        for read in reads:
            key, reader = read.key, read.reader
            if orders[key].whole[: len(read.seen)] != read.seen:
                continue  # it was said that this does not fit; nothing follows from it
            chain = chains[key]
            place = sum(self._committed_writer(key, value) is not None for value in read.seen)
            if place:
                last = chain[place - 1]
                graph.add("wr", last.writer, reader, f"{last}, and {reader.id} read it")
            for missed in chain[place : place + 1] or later[key]:
                graph.add("rw", reader, missed.writer, f"{read} before {missed}")

    def _relate_by_time(self, graph: _Graph) -> None:
        """What had ended comes before what began later; only the latest such are noted, the others follow from them."""
        moments: list[tuple[float, int, Observed]] = []
        for transaction in self.committed:
            if transaction.began is not None and transaction.ended is not None:
                moments += [(transaction.began, 0, transaction), (transaction.ended, 1, transaction)]
        moments.sort(key=lambda moment: moment[:2])
        latest: dict[str, Observed] = {}
        earlier: dict[str, list[Observed]] = {}
        for _, ends, transaction in moments:
            if ends:
                for one in earlier.pop(transaction.id):
                    latest.pop(one.id, None)
                latest[transaction.id] = transaction
            else:
                earlier[transaction.id] = list(latest.values())
                for one in latest.values():
                    graph.add("rt", one, transaction, f"{one.id} had ended when {transaction.id} began")


@dataclass(frozen=True, slots=True)
class _Append:
    key: Hashable
    value: Any
    writer: Observed

    def __str__(self) -> str:
        return f"{self.writer.id} appended {self.value!r} to {self.key!r}"


# --- cycles ----------------------------------------------------------------------------------------------------------

#: For each kind of cycle: the edge that makes it one of this kind, and those that it may have besides, dearest last.
_CYCLES: tuple[tuple[Kind, str, tuple[str, ...]], ...] = (
    (Kind.G0, "ww", ("ww",)),
    (Kind.G1C, "wr", ("ww", "wr")),
    (Kind.G_SINGLE, "rw", ("ww", "wr")),
    (Kind.WRITE_SKEW, "rw", ("rw",)),
    (Kind.G2, "rw", ("ww", "wr", "rw")),
    (Kind.REAL_TIME, "rt", ("ww", "wr", "rw", "rt")),
)
_WEAKEST = (Kind.G2, Kind.REAL_TIME)


def _cycles(graph: _Graph, lost: set[str]) -> Iterator[Anomaly]:
    """A shortest cycle of each kind in each knot. ``lost``: those that are in lost updates, which look like write skew."""
    explained = set(lost)
    for kind, first, rest in _CYCLES:
        for knot in graph.knots({first, *rest}):
            if kind in _WEAKEST and not explained.isdisjoint(knot):
                continue
            cycle = graph.cycle(knot, first, rest, 2 if kind is Kind.WRITE_SKEW else len(knot))
            if cycle is not None and not (kind is Kind.WRITE_SKEW and lost.issuperset(cycle)):
                explained |= set(cycle)
                yield graph.tell(kind, cycle, first, rest)


class _Graph:
    """Who comes before whom, and why: ``edges[a][b][kind]`` is the reason in words."""

    def __init__(self) -> None:
        self.edges: dict[str, dict[str, dict[str, str]]] = {}

    def add(self, kind: str, before: Observed, after: Observed, why: str) -> None:
        if before.id != after.id:
            self.edges.setdefault(before.id, {}).setdefault(after.id, {}).setdefault(kind, why)

    def after(self, name: str, kinds: Collection[str]) -> Iterator[str]:
        """Those that come right after one, by an edge of one of ``kinds``."""
        for other, why in self.edges.get(name, {}).items():
            if not why.keys().isdisjoint(kinds):
                yield other

    def knots(self, kinds: Collection[str]) -> list[set[str]]:
        """The strongly connected components of more than one (Tarjan 1972, without recursion)."""
        index: dict[str, int] = {}
        low: dict[str, int] = {}
        stack: list[str] = []
        waiting: set[str] = set()  # what is on the stack
        found: list[set[str]] = []
        for root in self.edges:
            walk: list[tuple[str, Iterator[str]]] = [] if root in index else [(root, self.after(root, kinds))]
            while walk:
                name, others = walk[-1]
                if name not in index:
                    index[name] = low[name] = len(index)
                    stack.append(name)
                    waiting.add(name)
                for other in others:
                    if other not in index:
                        walk.append((other, self.after(other, kinds)))
                        break
                    if other in waiting:
                        low[name] = min(low[name], index[other])
                else:
                    walk.pop()
                    if walk:
                        above = walk[-1][0]
                        low[above] = min(low[above], low[name])
                    if low[name] == index[name]:
                        knot: set[str] = set()
                        while name not in knot:
                            knot.add(stack.pop())
                        waiting -= knot
                        if len(knot) > 1:
                            found.append(knot)
        return found

    def cycle(self, knot: set[str], first: str, rest: Collection[str], most: int) -> list[str] | None:
        """A short cycle inside ``knot``, an edge of kind ``first`` and then ``rest``, of ``most`` transactions at most."""
        found: list[str] | None = None
        tries = 0
        for name in sorted(knot):
            for other in self.after(name, (first,)):
                if other in knot:
                    way = self._way(other, name, rest, knot, most)
                    if way is not None:
                        found, most = [name, *way[:-1]], len(way) - 1
                    tries += 1
                    if found is not None and (most < 2 or tries >= TRIES):
                        return found
        return found

    def _way(self, start: str, end: str, kinds: Collection[str], within: set[str], most: int) -> list[str] | None:
        """The shortest way from ``start`` to ``end`` over ``most`` transactions at most, both included."""
        came: dict[str, str] = {start: start}
        reached = deque([(start, 1)])
        while reached:
            name, length = reached.popleft()
            if name == end:
                way = [end]
                while way[-1] != start:
                    way.append(came[way[-1]])
                return way[::-1]
            if length < most:
                for other in self.after(name, kinds):
                    if other in within and other not in came:
                        came[other] = name
                        reached.append((other, length + 1))
        return None

    def tell(self, kind: Kind, cycle: list[str], first: str, rest: Collection[str]) -> Anomaly:
        """A cycle in words: who comes before whom, and then why, line by line."""
        arrows, reasons = [cycle[0]], []
        for place, name in enumerate(cycle):
            following = cycle[(place + 1) % len(cycle)]
            why = self.edges[name][following]
            edge = first if place == 0 else next(edge for edge in rest if edge in why)
            arrows.append(f"-{edge}-> {following}")
            reasons.append(f"\n  {edge}: {why[edge]}")
        return Anomaly(kind, tuple(cycle), f"{kind}: {' '.join(arrows)}{''.join(reasons)}")


# --- words -----------------------------------------------------------------------------------------------------------


def _list(values: Sequence[Any]) -> str:
    if len(values) <= SHOWN:
        return repr(list(values))
    return f"[... {len(values) - SHOWN} more, {repr(list(values[-SHOWN:]))[1:]}"


def _and(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"
