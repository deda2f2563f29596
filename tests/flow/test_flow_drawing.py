"""The three pictures: a tree of text, Mermaid, SVG."""

import itertools
import re
import unicodedata
import xml.etree.ElementTree as ET

import pytest
from flow_tools import (
    clean,
    count,
    crawl,
    fetch,
    index,
    is_big,
    is_long,
    lines,
    load_urls,
    pages,
    parse,
    place,
    summary,
    train,
)

from theus.drawing.chart import mermaid
from theus.drawing.picture import svg
from theus.drawing.words import condition, title as title_of
from theus.processes import process
from theus.workflow import branch, each, flow, leaves, parallel, repeat

SVG = "{http://www.w3.org/2000/svg}"


def named(name, **options):
    def function(x): ...

    function.__name__ = name
    return process(**options)(function)


EXAMPLES = {
    "linear": lambda: flow(load_urls, parse, count, summary),
    "crawl": crawl,
    "nested": lambda: flow(
        lines,
        each(flow(fetch, branch(is_big, parse, clean)), limit=20, rate="100/s", on_error="collect"),
        summary,
    ),
    "repeat": lambda: flow(load_urls, repeat(flow(train, count), while_=lambda d: d.loss > 0.1, limit=1000), summary),
    "twelve": lambda: flow(*[load_urls, parse, clean, fetch, index, train] * 2),
    "six": lambda: flow(load_urls, parallel(index, train, fetch, flow(parse, clean), count, each(fetch)), summary),
    "wild": lambda: flow(
        branch(is_big, flow(parse, repeat(fetch, while_=is_long, limit=3))),
        parallel(each(each(fetch)), branch(is_long, train, parallel(index, count))),
        repeat(branch(is_big, clean), while_=is_big, limit=5),
    ),
    "only a branch": lambda: branch(is_big, parse),
    "only an each": lambda: each(parse),
    "one": lambda: flow(parse),
    "wide and long": lambda: parallel(named("a" * 200), branch(named("x" * 90).fn and is_big, named("b" * 90))),
}


# --- text


def test_the_first_page_as_a_tree():
    assert str(crawl()) == (
        "flow\n"
        "├── load_urls\n"
        "├── each(limit=100)\n"
        "│   └── fetch  (async) timeout=2s retries=3\n"
        "├── parallel\n"
        "│   ├── index\n"
        "│   └── train  cpu\n"
        "└── summary"
    )


def test_all_nodes_and_marks_as_a_tree():
    step = flow(
        pages,
        each(parse, rate="5/min", on_error="collect"),
        branch(is_big, flow(clean), named("apart", environment="worker", idempotent=True)),
        repeat(lambda text: text.strip(), while_=lambda domain, text: len(text) > domain.most, limit=9),
        place.bind(qty=3, note="n" * 100),
    )
    assert str(step).splitlines() == [
        "flow",
        "├── pages  (async) source",
        "├── each(rate='5/min', on_error='collect')",
        "│   └── parse",
        "├── branch(is_big)",
        "│   ├── yes: flow",
        "│   │   └── clean",
        "│   └── no: apart  environment=worker idempotent",
        "├── repeat(while len(text) > domain.most, limit=9)",
        "│   └── text.strip()",
        "└── place(qty=3, note='nnnnnnnnn...nnnnnnnnnn')",
    ]


def test_repr_is_the_tree():
    assert repr(crawl()) == str(crawl())


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (is_big, "is_big"),
        (lambda d: d.n < 10, "d.n < 10"),
        (lambda d: (d.a) and (d.b or d.c), "(d.a) and (d.b or d.c)"),
        (lambda d: not d["käse"], 'not d["käse"]'),
        (lambda d, v: [x for x in v if x], "[x for x in v if x]"),
        (
            lambda d: d.one
            and d.two,
            "d.one and d.two",
        ),
        (eval("lambda d: d.nowhere"), "lambda"),
    ],
)  # fmt: skip
def test_a_lambda_is_shown_as_what_it_says(function, text):
    assert condition(function) == text


def test_a_lambda_whose_source_changed_is_not_shown_as_something_else(tmp_path):
    file = tmp_path / "changing.py"
    file.write_text("test = lambda d: d.old_name\n")
    space = {}
    exec(compile(file.read_text(), file, "exec"), space)
    file.write_text("test = lambda d: d.new_name\n")
    assert condition(space["test"]) == "lambda"


# --- Mermaid


def test_the_first_page_as_mermaid():
    assert crawl().mermaid().split("    classDef")[0] == (
        "flowchart TD\n"
        '    n1(["start"]):::plain\n'
        '    n2["load_urls"]:::plain\n'
        '    subgraph n3 ["each ×100"]\n'
        "        direction TB\n"
        '        n4["fetch<br/>async · timeout=2s · retries=3"]:::waits\n'
        "    end\n"
        '    n5((" ")):::point\n'
        '    n6["index"]:::plain\n'
        '    n7["train<br/>cpu"]:::computes\n'
        '    n8((" ")):::point\n'
        '    n9["summary"]:::plain\n'
        '    n10(["end"]):::plain\n'
        "    n1 --> n2\n"
        "    n2 --> n3\n"
        "    n3 --> n5\n"
        "    n5 --> n6\n"
        "    n5 --> n7\n"
        "    n6 --> n8\n"
        "    n7 --> n8\n"
        "    n8 --> n9\n"
        "    n9 --> n10\n"
        "    class n3 many\n"
    )


def test_branch_and_repeat_as_mermaid():
    text = flow(branch(is_big, parse), repeat(clean, while_=lambda d: d.n < 3, limit=7)).mermaid()
    assert '{"is_big"}:::question' in text
    assert '{"while d.n #60; 3"}:::question' in text
    links = [line.strip() for line in text.splitlines() if "-->" in line]
    assert links == [
        "n1 --> n2",
        'n2 -->|"yes"| n3',
        "n3 --> n4",
        'n2 -->|"no"| n4',
        'n4 -->|"yes"| n5',
        'n5 -->|"again, at most 7×"| n4',
        'n4 -->|"no"| n6',
    ]


LINK = re.compile(r'    (n\d+) -->(?:\|"[^"]*"\|)? (n\d+)')
NODE = re.compile(r'(n\d+)(\(\["[^"]*"\]\)|\["[^"]*"\]|\{"[^"]*"\}|\(\(" "\)\)):::(\w+)')
GROUP = re.compile(r'subgraph (n\d+) \["[^"]*"\]')


def check_mermaid(text):
    """The grammar that we use, ids defined once, every link between defined ids, every node on the way from start."""
    first, *rest = text.splitlines()
    assert first == "flowchart TD"
    defined, links, classes, used, open_groups = [], [], set(), set(), 0
    for line in rest:
        if match := NODE.fullmatch(line.strip()):
            defined.append(match[1])
            used.add(match[3])
        elif match := GROUP.fullmatch(line.strip()):
            defined.append(match[1])
            open_groups += 1
        elif line.strip() == "end":
            open_groups -= 1
        elif match := LINK.fullmatch(line):
            links.append((match[1], match[2]))
        elif line.startswith("    classDef "):
            classes.add(line.split()[1])
        else:
            assert line.strip() == "direction TB" or re.fullmatch(r"    class n\d+(,n\d+)* many", line), line
    assert open_groups == 0
    assert len(defined) == len(set(defined))
    assert {end for link in links for end in link} <= set(defined)
    assert len(links) == len(set(links))
    assert used <= classes
    return defined, links


@pytest.mark.parametrize("case", EXAMPLES)
def test_mermaid_is_well_formed(case):
    step = EXAMPLES[case]()
    text = step.mermaid()
    check_mermaid(text)
    for process_ in leaves(step):
        assert process_.name[:50] in text


def test_mermaid_labels_are_escaped():
    text = flow(named('a"b#c<d>e&f`g\\h%%i;j|k')).mermaid()
    check_mermaid(text)
    assert "a#34;b#35;c#60;d#62;e#38;f#96;g#92;h#37;#37;i#59;j#124;k" in text


# --- SVG


def shapes(element, x=0.0, y=0.0, path=()):
    """Every element with its absolute offset and its ancestors."""
    match = re.fullmatch(r"translate\(([-\d.e]+),([-\d.e]+)\)", element.get("transform", ""))
    if match:
        x, y = x + float(match[1]), y + float(match[2])
    yield element, x, y, path
    for child in element:
        yield from shapes(child, x, y, (*path, element))


def boxes(root):
    """The rectangles of processes: left, top, right, bottom."""
    found = []
    for element, x, y, _ in shapes(root):
        kind = element.get("class", "").removeprefix("theus-")
        if element.tag == f"{SVG}rect" and kind in ("plain", "waits", "computes", "state"):
            left, top = x + float(element.get("x")), y + float(element.get("y"))
            found.append((left, top, left + float(element.get("width")), top + float(element.get("height"))))
    return found


def check_svg(step, text):
    """Well-formed, every name there, nothing outside, no box upon another, text within its box."""
    root = ET.fromstring(text)
    width, height = float(root.get("width")), float(root.get("height"))
    assert root.get("viewBox") == f"0 0 {root.get('width')} {root.get('height')}"
    titles = [element.text for element in root.iter(f"{SVG}title")]
    for process_ in leaves(step):
        assert any(title_of(process_) in title for title in titles)
    found = boxes(root)
    assert len(found) == len(list(leaves(step)))
    for left, top, right, bottom in found:
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
    for one, other in itertools.combinations(found, 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1], (one, other)
    for element, x, y, path in shapes(root):
        if element.tag != f"{SVG}text":
            continue
        size = 13 * 0.602 if element.get("class") == "theus-name" else 11 * 0.56  # of usual letters
        length = sum(1.7 if unicodedata.east_asian_width(c) in "WF" else 1 for c in element.text) * size
        start = (
            x + float(element.get("x")) - {"start": 0, "middle": length / 2, "end": length}[element.get("text-anchor")]
        )
        assert start >= 0
        assert start + length <= width
        assert 0 < y + float(element.get("y")) < height
        rect = path[-1].find(f"{SVG}rect")
        if path[-1].find(f"{SVG}title") is not None and rect is not None:
            assert length <= float(rect.get("width"))


@pytest.mark.parametrize("case", EXAMPLES)
def test_an_svg_is_well_formed_and_in_order(case):
    step = EXAMPLES[case]()
    check_svg(step, step.svg())


def test_an_svg_needs_nothing_from_elsewhere_and_knows_the_dark():
    text = crawl().svg()
    assert "prefers-color-scheme:dark" in text
    assert not re.search(r"href|url\(|@import|https?://(?!www\.w3\.org/2000/svg)", text)
    assert not re.search(r"\bid=", text)  # several in one page do not get into each other's way


def test_notebooks_show_the_svg():
    assert crawl()._repr_svg_() == crawl().svg()


def test_the_same_workflow_gives_the_same_pictures():
    assert crawl().svg() == crawl().svg()
    assert crawl().mermaid() == crawl().mermaid()


def test_names_are_escaped_in_an_svg():
    step = flow(
        named('<b>&"quoted"</b>'), named("日本語の関数"), named("bell\a\x00\ud800"), place.bind(sku="<&>", qty=1)
    )
    text = step.svg()
    root = ET.fromstring(text)
    shown = [element.text for element in root.iter(f"{SVG}text")]
    assert '<b>&"quoted"</b>' in shown
    assert "日本語の関数" in shown
    assert any("sku='<&>'" in line for line in shown)


def test_colours_tell_what_a_process_does():
    def colour(process_):
        return re.search(r'rect class="theus-(plain|waits|computes|state)"', svg(process_))[1]

    assert colour(load_urls) == "plain"
    assert colour(fetch) == "waits"
    assert colour(named("n", nature="io")) == "waits"
    assert colour(train) == "computes"
    assert colour(named("n", environment="interpreter")) == "computes"
    assert colour(count) == "state"


def test_a_lone_process_can_be_drawn():
    check_svg(train, svg(train))
    check_mermaid(mermaid(train))


@pytest.mark.parametrize(
    "wrap", [flow, each, parallel, lambda s: branch(is_big, s), lambda s: repeat(s, while_=is_big, limit=2)]
)
def test_the_deepest_workflow_can_be_drawn(wrap):
    step = wrap(parse)
    for _ in range(499):
        step = wrap(step)
    assert step.depth == 500
    assert str(step).count("\n") == 500
    check_mermaid(step.mermaid())
    assert step.svg().endswith("</svg>")
