"""Contracts: how patterns are read, what they grant, and what the errors say."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from typing import Any

import pytest
from state_tools import Session

from theus.errors import ContractError, DefinitionError
from theus.state.access import Contract, show
from theus.state.fields import Tally
from theus.state.transaction import Transaction
from theus.state.values import plain


@dataclass
class User:
    name: str = "n"
    score: int = 0


@dataclass
class Shop:
    stock: dict[Any, int] = field(default_factory=lambda: {"tea": 3, "a.b": 1, 5: 2})
    orders: list[str] = field(default_factory=lambda: ["o"])
    users: dict[str, User] = field(default_factory=lambda: {"u": User()})
    tags: set[str] = field(default_factory=lambda: {"t"})
    hits: Tally = 0
    n: int = 0


def contract(reads: Any = None, writes: Any = None, exclusive: Any = (), parameters: Any = ("sku", "qty")) -> Contract:
    return Contract.parse(reads, writes, exclusive, parameters, "place")


@pytest.mark.parametrize(
    ("reads", "message"),
    [
        ("orders", r"reads='orders' is one text; write reads=\['orders'\]"),
        ({"a": 1}, "takes a list of path patterns, not dict"),
        (5, "takes a list of path patterns, not int"),
        ([5], r"takes patterns as text, not 5 \(int\)"),
        (["domain.orders"], "patterns begin below the domain; write 'orders' instead"),
        (["ctx.domain.stock.tea"], "write 'stock.tea' instead"),
        ([""], "a segment is empty"),
        (["a..b"], "a segment is empty; write 'a.b'"),
        ([".a"], "a segment is empty; write 'a'"),
        (["a."], "a segment is empty; write 'a'"),
        (["stock.{skv}"], r"no parameter 'skv'; did you mean \{sku\}\?"),
        (["stock.{zzz}"], r"no parameter 'zzz'; the parameters are \['qty', 'sku'\]"),
        (["stock.**"], "grants all that is below it; leave '\\*\\*' out"),
        (["stock.tea*"], "each must be a whole segment"),
        (["stock.{sku}x"], "each must be a whole segment"),
        (["stock[sku]"], r"write 'stock\.\{sku\}'"),
        (["stock['tea']"], r"write 'stock\.tea'"),
        (["stock.'tea"], "a quoted segment must end"),
    ],
)
def test_wrong_patterns(reads: Any, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        contract(reads)
    with pytest.raises(DefinitionError, match=message.replace("reads", "writes")):
        contract(writes=reads)


def test_check_against_the_domain() -> None:
    contract(["stock.{sku}", "*"], exclusive=["orders"]).check_against(Shop)
    contract(["anything"]).check_against(dict)
    with pytest.raises(DefinitionError, match=r"Shop has no field 'order'; did you mean 'orders\.0'\?"):
        contract(["order.0"]).check_against(Shop)
    with pytest.raises(DefinitionError, match="its fields are"):
        contract(writes=["qqqqqq"]).check_against(Shop)


def test_undeclared() -> None:
    free = contract()
    assert not free.declared
    assert free.grant({"sku": 1}) is None
    assert (free.reads, free.writes) == (None, None)
    one = contract(writes=["n"])
    assert one.declared
    assert (one.reads, one.writes) == ((), ("n",))
    assert contract(["n"]).grant({}) is contract(["n"]).grant({}) or True
    static = contract(["n"])
    assert static.grant({"sku": 1}) is static.grant({"sku": 2})
    assert contract(exclusive=["stock.{sku}", "users.*.name"]).tickets({"sku": 5}) == (
        ("stock", 5),
        ("users", "*", "name"),
    )
    assert not contract(exclusive=["n"]).declared


def attempt(reads: Any, writes: Any, body: Any, **arguments: Any) -> list[str]:
    """What a body does beyond its contract, as 'kind path'."""
    session = Session(Shop())
    bound = contract(reads, writes).grant({"sku": "tea", "qty": 1} | arguments)
    violations: list[ContractError] = []
    tx = Transaction(session.head.snapshot, process="place", grant=bound, violations=violations)
    body(tx.domain)
    tx.finish()
    strict = session.begin("place", bound)
    if violations:
        with pytest.raises(ContractError) as caught:
            (body(strict.domain), strict.finish())
        assert str(caught.value) == str(violations[0])
    else:
        body(strict.domain)
        strict.finish()
    return [f"{'read' if ' read ' in str(error) else 'wrote'} {error.path}" for error in violations]


def run_all(*actions: Any) -> Any:
    def body(d: Any) -> None:
        for action in actions:
            action(d)

    return body


def test_what_is_granted() -> None:
    assert attempt(["stock.{sku}"], ["stock.{sku}", "orders"], lambda d: (d.stock["tea"], d.orders.append("x"))) == []

    def place(d: Any) -> None:
        d.stock["tea"] -= 1
        d.orders += ["x"]
        d.orders.extend(["y"])

    assert attempt(["stock.{sku}"], ["stock.{sku}", "orders"], place) == []
    assert attempt(["stock.*"], [], lambda d: (len(d.stock), list(d.stock), dict(d.stock), d.stock["tea"])) == []
    assert attempt(["stock"], [], lambda d: plain(d.stock)) == []
    assert attempt(["users.*.name"], [], lambda d: [u.name for u in d.users.values()]) == []
    assert attempt(["users.*.name"], [], lambda d: ("u" in d.users, d.users.get("none"))) == []
    assert attempt([], ["users.*.name"], lambda d: setattr(d.users["u"], "name", "x")) == []
    assert attempt([], ["hits"], lambda d: setattr(d, "hits", d.hits.__iadd__(1))) == []
    assert attempt([], ["n"], lambda d: (setattr(d, "n", 5), d.n)) == []
    assert attempt([], ["stock"], lambda d: (d.stock.__setitem__("k", 5), d.stock["k"], d.stock.__delitem__("k"))) == []
    assert attempt([], ["stock.{sku}"], lambda d: d.stock.__delitem__("tea")) == []
    assert attempt([], ["tags.t"], lambda d: d.tags.remove("t")) == []
    assert attempt([], ["tags"], lambda d: (d.tags.add("z"), d.tags.discard("t"), "z" in d.tags)) == []
    assert attempt([], ["orders"], lambda d: (d.orders.insert(0, "x"), d.orders.sort(), d.orders.clear())) == []
    assert attempt(["stock.'a.b'"], [], lambda d: d.stock["a.b"]) == []
    assert attempt(["stock.{sku}"], [], lambda d: d.stock["a.b"], sku="a.b") == []
    assert attempt(["stock.{sku}"], [], lambda d: d.stock[5], sku=5) == []
    assert attempt(["stock.tea", "*.tea"], ["stock"], lambda d: d.stock["tea"]) == []
    assert attempt(["*"], ["*"], lambda d: (plain(d.users), setattr(d, "n", d.n + 1))) == []


def test_patterns_that_overlap() -> None:
    both = ["users.{sku}.name", "users.*.score"]
    assert attempt(both, ["users.v"], lambda d: d.users.__setitem__("v", User())) == []
    assert attempt(both, ["users.v"], lambda d: (d.users["u"].name, d.users["u"].score), sku="u") == []
    assert attempt(both, ["users.u.name"], lambda d: d.users["u"].name, sku="zz") == ["read users.u.name"]
    assert attempt([*both, "users.u.name"], [], lambda d: d.users["u"].name, sku="zz") == []
    assert attempt(["users.{sku}", "users.{qty}.name"], [], lambda d: plain(d.users["u"]), sku="u", qty="u") == []
    assert attempt(["users.u", "users.{sku}.name"], [], lambda d: d.users["u"].score, sku="u") == []
    assert attempt(["{sku}"], [], lambda d: d.n, sku="n") == []
    assert attempt(["{sku}.{qty}"], [], lambda d: d.stock["tea"], sku="stock", qty="tea") == []
    assert attempt(["stock.{sku}"], [], lambda d: d.stock["tea"], sku=[1]) == ["read stock.tea"]


def test_what_is_not() -> None:
    assert attempt(["orders"], [], lambda d: d.stock["tea"]) == ["read stock.tea"]
    assert attempt(["stock.{sku}"], [], lambda d: d.stock["a.b"]) == ["read stock.'a.b'"]
    assert attempt(["stock.{sku}"], [], lambda d: d.stock[5], sku="5") == ["read stock.5"]
    assert attempt(["stock.{sku}"], [], lambda d: len(d.stock)) == ["read stock"]
    assert attempt(["stock.{sku}"], [], lambda d: list(d.stock)) == ["read stock"]
    assert attempt(["stock.{sku}"], [], lambda d: plain(d.stock)) == ["read stock"]
    assert attempt(["stock.{sku}"], [], lambda d: d.stock.get("zzz")) == ["read stock.zzz"]
    assert attempt(["stock.{sku}"], [], lambda d: "zzz" in d.stock) == ["read stock.zzz"]
    assert attempt([], ["n"], lambda d: d.n) == ["read n"]
    assert attempt(["n"], [], lambda d: setattr(d, "n", 1)) == ["wrote n"]
    assert attempt(["n"], [], lambda d: setattr(d, "n", d.n + 1)) == ["wrote n"]
    assert attempt([], ["n"], lambda d: setattr(d, "n", d.n + 1)) == ["read n"]
    assert attempt([], ["hits"], lambda d: int(d.hits)) == ["read hits"]
    assert attempt(["hits"], [], lambda d: setattr(d, "hits", d.hits.__iadd__(1))) == ["wrote hits"]
    assert attempt([], ["orders"], lambda d: d.orders.pop()) == ["read orders"]
    assert attempt([], ["orders"], lambda d: d.orders[0]) == ["read orders.0"]
    assert attempt(["orders"], [], lambda d: d.orders.append(1)) == ["wrote orders"]
    assert attempt(["users.*.name"], [], lambda d: d.users["u"].score) == ["read users.u.score"]
    assert attempt(["users.*.name"], [], lambda d: plain(d.users)) == ["read users"]
    assert attempt([], ["users.*.name"], lambda d: d.users.__setitem__("w", User())) == ["wrote users.w"]
    assert attempt([], ["stock.{sku}"], lambda d: d.stock.clear()) == ["wrote stock"]
    assert attempt([], [], run_all(lambda d: d.n, lambda d: setattr(d, "n", 1))) == ["read n", "wrote n"]
    assert attempt([], ["tags"], lambda d: "t" in d.tags) == ["read tags.t"]
    assert attempt([], ["n"], lambda d: d.users == {}) == ["read users"]
    assert attempt(["orders"], ["n"], lambda d: setattr(d, "n", d.users)) == ["read users"]


def test_the_message() -> None:
    session = Session(Shop())
    grant = contract(["orders"]).grant({"sku": "tea", "qty": 1})
    with pytest.raises(ContractError) as caught:
        session.begin("place", grant).domain.stock["tea"]
    error = caught.value
    assert str(error) == (
        "process 'place' read stock.tea but declares reads=['orders']. Add 'stock.tea' or 'stock.{sku}' to reads=[...]"
    )
    assert (error.process, error.path, error.declared) == ("place", "stock.tea", ("orders",))
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    with pytest.raises(ContractError, match=r"wrote n but declares writes=\[\]. Add 'n' to writes"):
        session.begin("place", grant).domain.n = 1


def test_show() -> None:
    assert show(("users", "a b", "name")) == "users.'a b'.name"
    assert show(("a", 3, None, (1, 2))) == "a.3.None.(1, 2)"
    assert show(()) == "the domain"
