"""What cannot run is refused when it is built; each message names what was given and what to write instead."""

import functools

import pytest
from flow_tools import (
    Shelf,
    clean,
    count,
    crawl,
    fetch,
    index,
    is_big,
    is_long,
    lines,
    load_urls,
    look,
    pages,
    parse,
    place,
    summary,
    tick,
    train,
)

from theus.errors import DefinitionError
from theus.processes import process
from theus.workflow import Each, as_step, branch, each, flow, parallel, repeat


def itself():
    steps = [parse]
    steps.append(steps)
    return steps


def nested(levels):
    steps = [parse]
    for _ in range(levels):
        steps = [steps]
    return steps


async def async_predicate(domain): ...


def generator_predicate(domain):
    yield True


def sample():
    yield 1


async def asample():
    yield 1


async def waits():
    """A plain async function that somebody calls by mistake."""


true = staticmethod(lambda d: True).__func__

REFUSED = {
    # what is no step
    "no steps": (lambda: flow(), ["flow got no steps", "a plain function"]),
    "no branches": (lambda: parallel(), ["parallel got no steps"]),
    "empty list": (lambda: flow([]), ["flow got no steps"]),
    "empty list inside": (lambda: flow(parse, []), ["step 2 is an empty list"]),
    "none": (
        lambda: flow(load_urls, None),
        ["step 2 is None", "looks like you called it", "flow(load)", "load.bind(...)"],
    ),
    "only none": (lambda: flow(None), ["flow: its step is None"]),
    "number": (lambda: parallel(index, 3), ["parallel: step 2 is 3, of type int", "looks like you called it"]),
    "dict": (lambda: each({"a": 1}), ["each: its step is {'a': 1}, of type dict"]),
    "string": (lambda: flow("load"), ["is the string 'load'", "the function itself"]),
    "class": (lambda: flow(load_urls, dict), ["step 2 is the class dict", "def make(value): return dict(value)"]),
    "coroutine": (lambda: flow(waits()), ["coroutine of 'waits'", "looks like you called it", "waits.bind(...)"]),
    "coroutine of a process": (lambda: flow(load_urls, fetch(None, "a")), ["step 2", "coroutine of 'fetch'"]),
    "generator": (lambda: flow(sample()), ["generator of 'sample'", "looks like you called it"]),
    "async generator": (lambda: flow(asample()), ["generator of 'asample'"]),
    "generator expression": (lambda: parallel(s for s in (index, train)), ["generator expression", "parallel(*["]),
    "in a list": (lambda: flow(parse, [clean, None]), ["flow: step 2, item 2 is None"]),
    "as target": (lambda: as_step(7), ["the target is 7, of type int"]),
    "a method of the class": (lambda: flow(Shelf.put), ["method 'put'", "instance.put"]),
    "a plain method of the class": (lambda: each(Shelf.take), ["method 'take'", "instance.take"]),
    "list of branches": (lambda: parallel([index, train]), ["one list", "parallel(*steps)"]),
    "a list in itself": (lambda: flow(itself()), ["list that contains itself", "repeat"]),
    "a list as target in itself": (lambda: as_step(itself()), ["list that contains itself"]),
    "too deep": (lambda: flow(nested(600)), ["more than 500 levels"]),
    # arguments that nothing provides
    "one too many": (
        lambda: flow(load_urls, place),
        ["step 'place' needs 'qty'", "goes to 'sku'", "place.bind(qty=...)", "it a default"],
    ),
    "first is bound": (lambda: flow(load_urls, place.bind(sku="tea")), ["needs 'qty'", "no parameter takes"]),
    "several": (
        lambda: each(process(lambda a, b, *, c: 0)),
        ["needs 'b' and 'c'", ".bind(b=..., c=...)", "them defaults"],
    ),
    "in parallel": (lambda: parallel(index, place), ["parallel: step 'place' needs 'qty'"]),
    "in each": (lambda: each(place), ["each: step 'place' needs 'qty'"]),
    "in branch": (lambda: branch(is_big, place), ["branch: step 'place' needs 'qty'"]),
    "in repeat": (lambda: repeat(place, while_=is_big, limit=3), ["repeat: step 'place' needs 'qty'"]),
    "first of an inner flow": (lambda: flow(load_urls, flow(place, summary)), ["step 'place' needs 'qty'"]),
    "first of a flow in parallel": (lambda: parallel(flow(flow(place))), ["step 'place' needs 'qty'"]),
    # generators
    "source at the end": (lambda: flow(load_urls, lines), ["'lines' is a generator", "each(...)", "the last step"]),
    "source alone": (lambda: flow(pages), ["'pages' is a generator", "flow(pages, each(...))"]),
    "source before a process": (lambda: flow(lines, parse), ["right after it", "here comes 'parse'"]),
    "source before parallel": (
        lambda: flow(lines, parallel(each(parse), each(clean))),
        ["here comes 'parallel(each, each)'"],
    ),
    "source in parallel": (lambda: parallel(index, lines), ["parallel: 'lines' is a generator"]),
    "source in branch": (lambda: branch(is_big, lines), ["branch: 'lines' is a generator"]),
    "source in each": (lambda: each(lines), ["each: 'lines' is a generator"]),
    "source in repeat": (lambda: repeat(lines, while_=is_big, limit=3), ["repeat: 'lines' is a generator"]),
    # options of each
    "limit 0": (lambda: each(fetch, limit=0), ["each: limit=0", "1 or more", "in hand"]),
    "limit true": (lambda: each(fetch, limit=True), ["limit=True"]),
    "limit float": (lambda: each(fetch, limit=1.5), ["limit=1.5", "whole number"]),
    "limit string": (lambda: each(fetch, limit="3"), ["limit='3'"]),
    "on_error": (lambda: each(fetch, on_error="ignore"), ["on_error='ignore'", "'raise'", "'collect'"]),
    "rate number": (lambda: each(fetch, rate=100), ["rate=100", "'100/s'"]),
    "rate unit": (lambda: each(fetch, rate="100/fortnight"), ["'100/fortnight'", "'5/min'"]),
    "rate 0": (lambda: each(fetch, rate="0/s"), ["rate='0/s'"]),
    "rate negative": (lambda: each(fetch, rate="-5/s"), ["rate='-5/s'"]),
    "rate empty": (lambda: each(fetch, rate=""), ["rate=''"]),
    # repeat
    "no limit": (lambda: repeat(parse, while_=is_big), ["repeat needs limit="]),
    "no condition": (lambda: repeat(parse, limit=3), ["repeat needs while_=", "lambda"]),
    "limit none": (lambda: repeat(parse, while_=is_big, limit=None), ["limit=None", "rounds"]),
    "repeat true": (lambda: repeat(parse, while_=is_big, limit=True), ["limit=True"]),
    # predicates
    "value as predicate": (lambda: branch(True, parse), ["predicate=True", "asked at its turn", "lambda d"]),
    "string as predicate": (lambda: repeat(parse, while_="n < 3", limit=3), ["while_='n < 3'"]),
    "class as predicate": (lambda: branch(bool, parse), ["bool", "not a function"]),
    "async predicate": (lambda: branch(async_predicate, parse), ["async def", "cannot wait", "process before it"]),
    "generator predicate": (lambda: branch(generator_predicate, parse), ["is a generator"]),
    "async partial": (lambda: branch(functools.partial(async_predicate), parse), ["async def"]),
    "process as predicate": (lambda: branch(look, parse), ["'look' is a process".replace("'", ""), "plain function"]),
    "workflow as predicate": (lambda: branch(flow(parse), is_big), ["flow(parse)", "predicate comes first"]),
    "no argument": (lambda: branch(lambda: True, parse), ["takes ()", "(domain, value)"]),
    "three arguments": (lambda: branch(lambda a, b, c: True, parse), ["takes (a, b, c)"]),
    "by keyword": (lambda: branch(lambda d, *, n: True, parse), ["takes (d, *, n)"]),
    "ctx": (lambda: branch(lambda ctx: True, parse), ["takes ctx", "the domain itself"]),
    "default": (lambda: branch(lambda d, n=3: True, parse), ["default for 'n'", "lambda d, *, n=n"]),
    "both defaults": (lambda: branch(lambda d=0, v=0: True, parse), ["default for 'v'"]),
    "builtin": (lambda: branch(max, parse), ["max"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_workflow_is_refused_with_what_to_do(case):
    build, words = REFUSED[case]
    with pytest.raises(DefinitionError) as caught:  # and no warning, an error here, of a coroutine never awaited
        build()
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("case", REFUSED)
def test_a_message_is_one_line_of_whole_sentences(case):
    with pytest.raises(DefinitionError) as caught:
        REFUSED[case][0]()
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert ".." not in message.replace("...", "")
    assert len(message) < 400


ACCEPTED = {
    "place first": lambda: flow(place, summary),
    "place first, deeper": lambda: flow(flow(flow(place), parse), summary),
    "bound": lambda: flow(load_urls, place.bind(qty=3)),
    "all bound": lambda: parallel(index, place.bind(sku="tea", qty=3)),
    "no parameters": lambda: flow(load_urls, tick, look),
    "defaults": lambda: each(count),
    "source": lambda: flow(lines, each(parse)),
    "source later": lambda: flow(load_urls, pages, each(parse), summary),
    "source in a flow in parallel": lambda: parallel(index, flow(lines, each(parse))),
    "source in a flow in branch": lambda: branch(is_big, flow(lines, each(parse))),
    "builtin": lambda: flow(load_urls, len),
    "bound method": lambda: flow(Shelf().put, Shelf().take),
    "partial": lambda: flow(functools.partial(parse), clean),
    "tuple of steps": lambda: flow((parse, clean)),
    "constant of a predicate": lambda: branch(lambda d, *, n=3: d > n, parse),
    "partial predicate": lambda: branch(functools.partial(is_long, 3), parse),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_can_run_is_accepted(case):
    workflow = ACCEPTED[case]()
    assert str(workflow)


@pytest.mark.parametrize(
    ("rate", "interval"), [("100/s", 0.01), ("5/min", 12.0), ("1000/h", 3.6), ("0.5 / second", 2.0), (None, None)]
)
def test_a_rate_becomes_seconds_between_starts(rate, interval):
    step = each(fetch, rate=rate)
    assert isinstance(step, Each)
    assert step.interval == (None if interval is None else pytest.approx(interval))
    assert step.rate == rate


def test_the_first_page_builds():
    assert [step.kind if hasattr(step, "kind") else step.name for step in crawl().steps] == [
        "load_urls",
        "each",
        "parallel",
        "summary",
    ]


def test_a_value_with_a_broken_repr_is_still_refused_properly():
    class Broken:
        def __repr__(self):
            raise RuntimeError("no repr")

    with pytest.raises(DefinitionError, match="of type Broken"):
        flow(Broken())
