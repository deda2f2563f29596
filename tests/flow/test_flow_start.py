"""What a run may be started with, and what each refusal says."""

import pytest
from flow_tools import (
    Shelf,
    clean,
    count,
    fetch,
    index,
    is_big,
    is_long,
    lines,
    load_urls,
    look,
    parse,
    place,
    summary,
    tick,
    train,
)

from theus.errors import DefinitionError
from theus.workflow import branch, check_start, each, flow, parallel, repeat

STARTS = {
    "value": (flow(load_urls, summary), ("a",), {}),
    "by name": (flow(load_urls, summary), (), {"path": "a"}),
    "value and names": (flow(place, summary), ("tea",), {"qty": 2}),
    "all by name": (flow(place, summary), (), {"sku": "tea", "qty": 2, "note": "x"}),
    "deeper": (flow(flow(flow(place), summary), parse), ("tea",), {"qty": 2}),
    "bound": (flow(place.bind(sku="tea")), (), {"qty": 2}),
    "bound, value in ctx.pipe": (flow(place.bind(sku="tea", qty=2)), ("x",), {}),
    "defaults": (flow(count), (), {}),
    "no parameter": (flow(look, parse), (), {}),
    "no parameter, value in ctx.pipe": (flow(look, parse), ("x",), {}),
    "none is a value": (flow(load_urls), (None,), {}),
    "source": (flow(lines, each(parse)), ("a",), {}),
    "each": (each(fetch), (["a"],), {}),
    "parallel": (parallel(index, train), ("a",), {}),
    "parallel without need": (parallel(count, look, flow(tick, parse)), (), {}),
    "branch": (branch(is_big, index, train), ("a",), {}),
    "branch without need": (branch(is_big, count, look), (), {}),
    "branch looks at the value": (branch(is_long, count), ("a",), {}),
    "repeat without need": (repeat(count, while_=is_big, limit=3), (), {}),
    "lone process": (place, ("tea", 2), {"note": "x"}),
    "lone process by name": (place, (), {"sku": "tea", "qty": 2}),
    "lone process, bound": (place.bind(sku="tea", qty=2), (), {"note": "x"}),
    "lone method": (Shelf().put, ("tea",), {}),
    "lone source": (lines, ("a",), {}),
}

REFUSED = {
    "two values": (flow(load_urls, summary), ("a", "b"), {}, ["got 2 arguments by position", "takes one", "tuple"]),
    "no value": (
        flow(load_urls, summary),
        (),
        {},
        ["flow(load_urls, summary) needs a first value", "engine.run(workflow, value)", "'load_urls' needs 'path'"],
    ),
    "no value, and more": (flow(place), (), {}, ["engine.run(workflow, value, qty=...)", "needs 'sku' and 'qty'"]),
    "one is missing": (
        flow(place),
        ("tea",),
        {},
        ["begins with 'place'", "needs 'qty'", "run(workflow, value, qty=...)"],
    ),
    "missing, by name": (flow(place), (), {"sku": "tea"}, ["needs 'qty' as well", "run(workflow, qty=...)"]),
    "bound, one is missing": (flow(place.bind(sku="tea")), (), {}, ["needs 'qty'"]),
    "unknown": (flow(place), ("tea",), {"quantity": 2}, ["'place' has no argument 'quantity'"]),
    "misspelled": (flow(load_urls), (), {"pth": "a"}, ["Did you mean 'path'"]),
    "twice": (flow(load_urls), ("a",), {"path": "b"}, ["got 'path' twice", "by name"]),
    "already bound": (
        flow(place.bind(sku="tea")),
        (),
        {"sku": "cup", "qty": 2},
        ["'sku'", "bind already fixed to 'tea'"],
    ),
    "nobody sees it": (flow(tick, parse), ("a",), {}, ["'tick' has no parameter", "nobody would see it"]),
    "names for each": (each(fetch), (["a"],), {"url": "b"}, ["'url' by name", "begins with each(fetch)", "value only"]),
    "names for a later process": (flow(parallel(index, train), summary), ("a",), {"both": 1}, ["begins with parallel"]),
    "each without items": (flow(each(fetch), summary), (), {}, ["needs a first value", "takes the items"]),
    "parallel without value": (parallel(count, index), (), {}, ["needs a first value", "'index' needs 'pages'"]),
    "branch without value": (branch(is_big, index), (), {}, ["'index' needs 'pages'"]),
    "predicate without value": (branch(is_long, count), (), {}, ["predicate of branch(is_long) looks at the value"]),
    "condition without value": (repeat(count, while_=is_long, limit=2), (), {}, ["predicate of repeat(count)"]),
    "inside without value": (parallel(flow(branch(is_big, each(fetch)))), (), {}, ["begins with each(fetch)"]),
    "lone, missing": (place, ("tea",), {}, ["process 'place' needs an argument 'qty'"]),
    "lone, too many": (load_urls, ("a", "b"), {}, ["got 2 arguments"]),
    "lone, unknown": (load_urls, ("a",), {"x": 1}, ["no argument 'x'"]),
    "lone, twice": (load_urls, ("a",), {"path": 1}, ["'path' twice"]),
    "lone, already bound": (place.bind(qty=3), ("tea",), {"qty": 4}, ["'qty'", "bind already fixed to 3"]),
    "lone, bound and by position": (place.bind(sku="tea"), ("cup",), {"qty": 4}, ["'sku' twice"]),
    "lone method of the class": (Shelf.put, ("tea",), {}, ["method 'put'", "instance.put"]),
}


@pytest.mark.parametrize("case", STARTS)
def test_a_run_may_start(case):
    check_start(*STARTS[case])


@pytest.mark.parametrize("case", REFUSED)
def test_a_run_is_refused_with_what_to_do(case):
    step, args, kwargs, words = REFUSED[case]
    with pytest.raises(DefinitionError) as caught:
        check_start(step, args, kwargs)
    for word in words:
        assert word in str(caught.value)


def test_a_flow_of_a_plain_function_starts_like_a_process():
    check_start(flow(clean), ("x",), {})
    with pytest.raises(DefinitionError, match="needs a first value"):
        check_start(flow(clean), (), {})
