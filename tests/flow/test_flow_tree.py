"""The nodes: what they hold, that nothing changes them, that they travel."""

import copy
import functools
import gc
import operator
import pickle
import weakref

import cloudpickle
import pytest
from flow_tools import clean, count, crawl, fetch, index, is_big, is_long, load_urls, parse, summary, train

from theus.errors import DefinitionError
from theus.processes import Process
from theus.workflow import (
    Branch,
    Each,
    Flow,
    Parallel,
    Repeat,
    Workflow,
    as_step,
    branch,
    each,
    first_step,
    flow,
    leaves,
    parallel,
    repeat,
)

NODES = {
    "flow": lambda: flow(load_urls, summary),
    "parallel": lambda: parallel(index, train),
    "each": lambda: each(fetch, limit=3, rate="5/min", on_error="collect"),
    "branch": lambda: branch(is_big, index, train),
    "branch without otherwise": lambda: branch(is_long, index),
    "repeat": lambda: repeat(index, while_=is_big, limit=3),
    "crawl": crawl,
}


def test_nodes_hold_what_they_were_given():
    one = flow(load_urls, summary)
    assert isinstance(one, Flow)
    assert one.steps == (load_urls, summary)
    two = parallel(index, train)
    assert isinstance(two, Parallel)
    assert two.steps == (index, train)
    three = each(fetch, limit=3, rate="5/min", on_error="collect")
    assert isinstance(three, Each)
    assert (three.step, three.steps, three.limit, three.rate, three.interval, three.on_error) == (
        fetch,
        (fetch,),
        3,
        "5/min",
        12.0,
        "collect",
    )
    four = branch(is_big, index, train)
    assert isinstance(four, Branch)
    assert (four.predicate, four.then, four.otherwise, four.steps) == (is_big, index, train, (index, train))
    five = branch(is_big, index)
    assert isinstance(five, Branch)
    assert (five.otherwise, five.steps) == (None, (index,))
    six = repeat(index, while_=is_long, limit=3)
    assert isinstance(six, Repeat)
    assert (six.step, six.steps, six.while_, six.limit) == (index, (index,), is_long, 3)


@pytest.mark.parametrize(
    ("workflow", "name"),
    [
        (flow(load_urls), "flow(load_urls)"),
        (flow(load_urls, summary), "flow(load_urls, summary)"),
        (crawl(), "flow(load_urls, …, summary)"),
        (each(crawl()), "each(flow)"),
        (parallel(index, each(fetch)), "parallel(index, each)"),
        (branch(is_big, index), "branch(is_big)"),
        (branch(functools.partial(is_long, 3), index), "branch(is_long)"),
        (repeat(index, while_=is_big, limit=2), "repeat(index)"),
    ],
)
def test_a_workflow_has_a_short_name(workflow, name):
    assert workflow.name == name


@pytest.mark.parametrize("case", NODES)
def test_a_node_is_immutable(case):
    node = NODES[case]()
    for name in ("steps", "name", "depth", "limit", "anything"):
        with pytest.raises(AttributeError, match="immutable"):
            setattr(node, name, None)
        with pytest.raises(AttributeError, match="immutable"):
            delattr(node, name)
    assert isinstance(node.steps, tuple)
    assert not hasattr(node, "__dict__")


@pytest.mark.parametrize("case", NODES)
def test_a_node_is_equal_only_to_itself_and_hashable(case):
    node, other = NODES[case](), NODES[case]()
    assert node == node  # noqa: PLR0124 - that is the question
    assert node != other
    assert len({node, other, node}) == 2


@pytest.mark.parametrize("case", NODES)
def test_a_node_can_be_referenced_weakly(case):
    node = NODES[case]()
    reference = weakref.ref(node)
    assert reference() is node
    del node
    gc.collect()
    assert reference() is None


def same(one, other):
    """Same kind, options and children; processes are the very same objects."""
    if isinstance(one, Process):
        return one is other
    return (
        type(one) is type(other)
        and one.name == other.name
        and all(
            getattr(one, f) == getattr(other, f)
            for f in ("limit", "rate", "interval", "on_error", "arity")
            if hasattr(one, f)
        )
        and len(one.steps) == len(other.steps)
        and all(map(same, one.steps, other.steps))
    )


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
@pytest.mark.parametrize("case", NODES)
def test_a_node_survives_pickling(case, dumps):
    node = NODES[case]()
    assert same(node, pickle.loads(dumps(node)))


def test_lambdas_travel_by_value():
    limit = 3
    node = repeat(lambda n: n + 1, while_=lambda d, v: v < limit, limit=9)
    again = pickle.loads(cloudpickle.dumps(node))
    assert again.test(None, 2)
    assert not again.test(None, 3)
    assert again.step(4) == 5


def test_a_node_can_be_copied():
    node = crawl()
    assert same(node, copy.copy(node))
    assert copy.deepcopy(node).steps[0] is load_urls


# --- what becomes a step


def test_a_process_and_a_workflow_stay_themselves():
    workflow = crawl()
    assert as_step(load_urls) is load_urls
    assert as_step(workflow) is workflow


def test_a_list_becomes_a_flow():
    step = as_step([load_urls, [parse, clean]])
    assert isinstance(step, Flow)
    assert isinstance(step.steps[1], Flow)
    assert [p.name for p in leaves(step)] == ["load_urls", "parse", "clean"]


def test_one_list_is_the_steps_of_the_flow():
    assert flow([load_urls, summary]).steps == (load_urls, summary)


def test_nested_flows_stay_as_written():
    assert isinstance(flow(flow(load_urls), summary).steps[0], Flow)


def test_a_plain_function_is_one_process_within_one_build():
    step = flow(parse, [clean, parse], parse)
    first, inner, last = step.steps
    assert isinstance(first, Process)
    assert first.fn is parse
    assert first is last is inner.steps[1]


def test_leaves_are_all_processes_in_order():
    step = flow(
        load_urls,
        parallel(index, flow(parse, train)),
        branch(is_big, count, each(fetch)),
        repeat(clean, while_=is_big, limit=2),
    )
    assert [p.name for p in leaves(step)] == ["load_urls", "index", "parse", "train", "count", "fetch", "clean"]
    assert list(leaves(index)) == [index]


def test_the_first_step_is_behind_flows_only():
    fan = each(fetch)
    assert first_step(flow(flow(load_urls, summary), index)) is load_urls
    assert first_step(flow(fan, index)) is fan
    assert first_step(index) is index


# --- predicates


class Wants:
    def __call__(self, domain, value):
        return domain and value

    def method(self, domain):
        return domain


@pytest.mark.parametrize(
    ("predicate", "arity"),
    [
        (is_big, 1),
        (is_long, 2),
        (lambda d: d, 1),
        (lambda d, v: v, 2),
        (lambda *rest: rest[0], 1),
        (lambda d=0: d, 1),
        (lambda d, *, n=3: d, 1),
        (lambda d, v, *, n=3: v, 2),
        (lambda d, v, w=3: v, 2),
        (Wants(), 2),
        (Wants().method, 1),
        (functools.partial(is_long, 3), 1),
        (operator.not_, 1),
        (operator.attrgetter("real"), 1),
        (operator.lt, 2),
    ],
)
def test_a_predicate_gets_the_domain_or_domain_and_value(predicate, arity):
    node = branch(predicate, index)
    assert node.arity == arity
    assert node.test(1, 1) in (True, False)
    assert repeat(index, while_=predicate, limit=3).arity == arity


def test_what_a_predicate_gives_becomes_a_boolean():
    assert branch(lambda d: [1], index).test(None, None) is True
    assert branch(lambda d: "", index).test(None, None) is False
    assert repeat(index, while_=lambda d, v: v, limit=3).test(None, 0) is False


def test_a_predicate_that_gives_a_coroutine_is_an_error_not_a_yes():
    async def ask(): ...

    with pytest.raises(TypeError, match="cannot wait"):
        branch(lambda d: ask(), index).test(None, None)


# --- depth


def deep(levels):
    step = flow(parse)
    for _ in range(levels - 1):
        step = flow(step)
    return step


def test_depth_is_counted():
    assert flow(parse).depth == 1
    assert flow(parse, each(flow(clean))).depth == 3
    assert deep(200).depth == 200


def test_too_deep_is_refused_with_the_reason():
    assert deep(500).depth == 500
    with pytest.raises(DefinitionError, match=r"more than 500 levels.*flow\(\*steps\)"):
        deep(501)


def test_a_deep_workflow_works_and_travels():
    step = deep(200)
    assert [p.name for p in leaves(step)] == ["parse"]
    assert first_step(step) is next(leaves(step))
    assert pickle.loads(cloudpickle.dumps(step)).depth == 200


def test_a_long_workflow_is_no_matter():
    step = flow(*[parse, clean] * 5000)
    assert len(list(leaves(step))) == 10_000
    assert isinstance(step, Workflow)
