"""Which steps meet without an order of their own."""

from theus import branch, each, flow, parallel, process
from theus.workflow.ambiguities import Ambiguity


@process(reads=["stock.{sku}"], writes=["stock.{sku}", "orders"], idempotent=True)
def place(ctx, sku): ...


@process(reads=["orders"])
def count(ctx): ...


@process(writes=["stock.tea.price"], idempotent=True)
def price(ctx): ...


@process(idempotent=True)
def undeclared(ctx): ...


def of(workflow):
    return [(a.first, a.second, a.paths, a.decided_by) for a in workflow.ambiguities()]


def test_branches_of_a_parallel_that_meet():
    tea, milk = place.bind(sku="tea"), place.bind(sku="milk")
    assert of(parallel(tea, price, undeclared)) == [("place", "price", ("stock.tea.price",), "timing")]
    assert of(parallel(milk, price)) == []
    assert of(parallel(tea, milk)) == [("place", "place", ("orders",), "timing")]
    assert of(parallel(flow(price, milk), flow(undeclared, count))) == [("place", "count", ("orders",), "timing")]
    assert of(parallel(count, count)) == []


def test_items_of_an_each_that_meet():
    assert of(each(place)) == [("place", "place", ("orders",), "timing")]  # each item has a key of its own
    assert of(each(price)) == [("price", "price", ("stock.tea.price",), "timing")]
    assert of(each(flow(undeclared, place))) == [("place", "place", ("orders", "stock.{sku}"), "timing")]


def test_steps_of_a_flow_that_only_the_list_puts_in_order():
    tea = place.bind(sku="tea")
    assert of(flow(count, tea)) == [("count", "place", ("orders",), "list position")]
    assert of(flow(tea, count)) == []  # count is not idempotent: it never starts early
    assert of(flow(tea, place)) == []  # place takes the pipe value
    assert of(flow(place, price)) == [("place", "price", ("stock.tea.price",), "list position")]  # any key may be tea


def test_the_whole_tree_is_looked_at_and_it_reads_well():
    work = flow(undeclared, branch(lambda d: True, flow(parallel(count, place.bind(sku="tea")))))
    [found] = work.ambiguities()
    assert found == Ambiguity("count", "place", ("orders",), "parallel(count, place)", "timing")
    assert str(found) == "'count' and 'place' meet at orders in parallel(count, place): timing decides who comes first"
    [twice] = each(price).ambiguities()
    assert str(twice) == "two calls of 'price' meet at stock.tea.price in each(price): timing decides who comes first"
