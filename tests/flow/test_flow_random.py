"""Any tree that can be built can be walked, drawn and sent."""

import pickle

import cloudpickle
from flow_tools import clean, count, fetch, index, is_big, is_long, look, parse, place, train
from hypothesis import given, strategies as st
from test_flow_drawing import check_mermaid, check_svg, named

from theus.processes import Process
from theus.workflow import as_step, branch, check_start, each, first_step, flow, leaves, parallel, repeat

names = st.text(min_size=1, max_size=60).map(lambda name: named(name if name != "<lambda>" else "x"))
processes = st.sampled_from([clean, count, fetch, index, look, parse, train, place.bind(qty=2)]) | names
predicates = st.sampled_from([is_big, is_long, lambda d: d.n < 3, lambda d, v: v and not d])
limits = st.integers(1, 10**6)


def nodes(steps):
    several = st.lists(steps, min_size=1, max_size=5)
    return (
        several.map(lambda steps: flow(*steps))
        | several
        | several.map(lambda steps: parallel(*map(as_step, steps)))
        | st.builds(
            each,
            steps,
            limit=st.none() | limits,
            rate=st.none() | limits.map("{}/min".format),
            on_error=st.sampled_from(["raise", "collect"]),
        )
        | st.builds(branch, predicates, steps, st.none() | steps)
        | st.builds(repeat, steps, while_=predicates, limit=limits)
    )


trees = st.recursive(processes, nodes, max_leaves=25).map(as_step)


def walked(step):
    return [step] if isinstance(step, Process) else [p for child in step.steps for p in walked(child)]


def inner(step):
    return 0 if isinstance(step, Process) else 1 + sum(map(inner, step.steps))


@given(trees)
def test_leaves_are_the_processes_of_the_walk(step):
    assert list(leaves(step)) == walked(step)


@given(trees)
def test_every_tree_can_be_drawn(step):
    workflow = flow(step)
    text = str(workflow)
    assert len(text.splitlines()) == len(list(walked(workflow))) + inner(workflow)
    defined, links = check_mermaid(workflow.mermaid())
    assert len(defined) >= len(list(leaves(workflow))) + 2
    assert len(links) >= len(list(leaves(workflow)))
    check_svg(workflow, workflow.svg())


@given(trees)
def test_every_tree_travels(step):
    again = pickle.loads(cloudpickle.dumps(flow(step)))
    assert [p.name for p in leaves(again)] == [p.name for p in leaves(step)]
    assert str(again).count("\n") == str(flow(step)).count("\n")


@given(trees)
def test_every_tree_starts_with_a_value(step):
    first = first_step(flow(step))
    if isinstance(first, Process) and not first.pipe_parameter and not first.takes_context:
        return
    check_start(flow(step), ("value",), {})
