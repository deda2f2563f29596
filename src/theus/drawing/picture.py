"""A workflow as an SVG.

It is built of blocks. A block is drawn around a vertical axis, x = 0: the way goes in at (0, 0) and out at
(0, height); it reaches ``left`` and ``right`` of the axis. So blocks stack and stand side by side without
knowing each other. Text is never wider than what is reserved for it: names are set in a monospace font,
whose advance is known, captions are measured by the widest of the common sans fonts.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

from theus.drawing.words import bound, colour, condition, each_header, kind, marks, printable, short, title
from theus.processes import Process, Step

if TYPE_CHECKING:
    from theus.workflow import Branch, Each, Flow, Parallel, Repeat

GAP = 28.0  #: from a block to the next, the arrow's length
SPACE = 24.0  #: between blocks side by side
PAD = 14.0  #: inside a box or container
MARGIN = 16.0
NAME, CAPTION = 13.0, 11.0  #: sizes of text
MONO = 0.61  #: advance of a monospace character, in parts of its size

STYLE = """\
.theus-bg{fill:#fff;stroke:#d8dee4}
.theus-name{font:600 13px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:#1f2328}
.theus-text{font:11px system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;fill:#59636e}
.theus-line{fill:none;stroke:#8c959f;stroke-width:1.4}
.theus-tip{fill:#8c959f}
.theus-plain{fill:#f6f8fa;stroke:#afb8c1}
.theus-waits{fill:#ddf4ff;stroke:#54aeff}
.theus-computes{fill:#fff1e5;stroke:#fb8f44}
.theus-state{fill:#dafbe1;stroke:#4ac26b}
.theus-question{fill:#fbefff;stroke:#c297ff}
.theus-many{fill:#fafbfc;stroke:#8c959f;stroke-dasharray:5 4}
@media(prefers-color-scheme:dark){
.theus-bg{fill:#0d1117;stroke:#30363d}
.theus-name{fill:#e6edf3}
.theus-text{fill:#9ba4ae}
.theus-line{stroke:#7d8590}
.theus-tip{fill:#7d8590}
.theus-plain{fill:#1c2128;stroke:#545d68}
.theus-waits{fill:#0f2440;stroke:#388bfd}
.theus-computes{fill:#33200f;stroke:#db6d28}
.theus-state{fill:#12301c;stroke:#2ea043}
.theus-question{fill:#271a3d;stroke:#8957e5}
.theus-many{fill:#12171e;stroke:#6e7681}
}
"""


class Block(NamedTuple):
    """A drawn piece around its axis."""

    left: float
    right: float
    height: float
    body: str


def svg(step: Step[Any, Any]) -> str:
    """A self-contained SVG, top to bottom; its colours follow the reader's light or dark scheme."""
    block = _BLOCKS[kind(step)](step)
    left, right = max(block.left, 30.0), max(block.right, 30.0)
    top = MARGIN + 10 + GAP
    width, height = left + right + 2 * MARGIN, top + block.height + GAP + 14 + MARGIN
    axis = left + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_n(width)}" height="{_n(height)}" '
        f'viewBox="0 0 {_n(width)} {_n(height)}" role="img" style="max-width:100%;height:auto">',
        f"<title>{escape(printable(step.name))}</title><style>{STYLE}</style>",
        f'<rect class="theus-bg" x=".5" y=".5" width="{_n(width - 1)}" height="{_n(height - 1)}" rx="10"/>',
        f'<g transform="translate({_n(axis)},{_n(top)})">',
        f'<circle class="theus-tip" cy="{_n(-GAP - 5)}" r="5"/>',
        _path((0, -GAP), (0, 0)),
        block.body,
        _path((0, block.height), (0, block.height + GAP)),
        f'<circle class="theus-line" cy="{_n(block.height + GAP + 7)}" r="6.3"/>',
        f'<circle class="theus-tip" cy="{_n(block.height + GAP + 7)}" r="3.5"/>',
        "</g></svg>",
    ]
    return "\n".join(parts)


def _process_block(process: Process[Any, Any]) -> Block:
    name = short(title(process), 36)
    lines = list(_wrapped([*bound(process), *marks(process)], 40))
    half = max([_width(name, NAME, MONO), *(_width(line, CAPTION) for line in lines), 44.0]) / 2 + PAD
    height = 34.0 + 15 * len(lines)
    text = [_text("name", 0, 22, name)]
    text.extend(_text("text", 0, 38 + 15 * number, line) for number, line in enumerate(lines))
    whole = "\n".join([title(process), *bound(process), *marks(process)])
    return Block(
        half,
        half,
        height,
        f'<g><title>{escape(whole)}</title><rect class="theus-{colour(process)}" x="{_n(-half)}" y="0" '
        f'width="{_n(2 * half)}" height="{_n(height)}" rx="8"/>{"".join(text)}</g>',
    )


def _flow_block(node: Flow[Any, Any]) -> Block:
    left = right = y = 0.0
    parts: list[str] = []
    for child in node.steps:
        if parts:
            parts.append(_path((0, y), (0, y + GAP)))
            y += GAP
        block = _BLOCKS[kind(child)](child)
        parts.append(_moved(block, 0, y))
        left, right, y = max(left, block.left), max(right, block.right), y + block.height
    return Block(left, right, y, "\n".join(parts))


def _parallel_block(node: Parallel[Any, Any]) -> Block:
    blocks = []
    for child in node.steps:  # a loop: each level of nesting costs one frame of Python's stack
        blocks.append(_BLOCKS[kind(child)](child))
    axes, x = [], 0.0
    for block in blocks:
        axes.append(x + block.left)
        x += block.left + block.right + SPACE
    middle = (axes[0] + axes[-1]) / 2
    inner = max(block.height for block in blocks)
    bottom = 5 + GAP + inner + GAP
    reach = max((axes[-1] - axes[0]) / 2 + 24, 36.0)
    bar = f'<rect class="theus-tip" x="{_n(-reach)}" y="{{}}" width="{_n(2 * reach)}" height="5" rx="2.5"/>'
    parts = [bar.format(0)]
    for block, axis in zip(blocks, axes, strict=True):
        x, y = axis - middle, 5 + GAP + (inner - block.height) / 2
        parts += [_path((x, 5), (x, y)), _moved(block, x, y), _path((x, y + block.height), (x, bottom))]
    parts.append(bar.format(_n(bottom)))
    left = max(middle, reach)
    right = max(axes[-1] + blocks[-1].right - middle, reach)
    return Block(left, right, bottom + 5, "\n".join(parts))


def _each_block(node: Each[Any, Any]) -> Block:
    block = _BLOCKS[kind(node.step)](node.step)
    header = each_header(node)
    wider = max(0.0, _width(header, CAPTION) + 8 - block.left - block.right) / 2
    left, right = block.left + PAD + wider, block.right + PAD + wider
    top = 30.0
    height = top + block.height + PAD
    sheet = f'<rect class="theus-many" x="{{}}" y="{{}}" width="{_n(left + right)}" height="{_n(height)}" rx="10"/>'
    parts = [
        sheet.format(_n(5 - left), 5),  # a sheet behind: there are many of it
        sheet.format(_n(-left), 0),
        _text("text", -left + 12, 19, header, "start"),
        _moved(block, 0, top),
    ]
    return Block(left, right + 5, height + 5, "\n".join(parts))


def _question(text: str, hint: str) -> tuple[float, float, str]:
    """A diamond with its top at (0, 0): half its width, half its height, itself."""
    text = short(text, 32)
    tall = 25.0
    wide = max(_width(text, NAME, MONO) / 2 / (1 - 9 / tall), 44.0)
    shape = f"M0,0L{_n(wide)},{_n(tall)}L0,{_n(2 * tall)}L{_n(-wide)},{_n(tall)}Z"
    body = (
        f'<g><title>{escape(hint)}</title><path class="theus-question" stroke-linejoin="round" d="{shape}"/>'
        f"{_text('name', 0, tall + 4.5, text)}</g>"
    )
    return wide, tall, body


def _branch_block(node: Branch[Any, Any]) -> Block:
    text = condition(node.predicate)
    wide, tall, body = _question(text, f"branch: {text}")
    top = 2 * tall + 12
    yes = _BLOCKS[kind(node.then)](node.then)
    no = _BLOCKS[kind(node.otherwise)](node.otherwise) if node.otherwise else None
    beside = wide + 32
    x_yes = -max(yes.right + SPACE / 2, beside)
    x_no = max(no.left + SPACE / 2, beside) if no else max(beside, yes.right + x_yes + SPACE)
    end = top + max(yes.height, no.height if no else 0.0) + 24
    parts = [body, _text("text", -wide - 6, tall - 6, "yes", "end"), _text("text", wide + 6, tall - 6, "no", "start")]
    parts += [_path((-wide, tall), (x_yes, tall), (x_yes, top)), _moved(yes, x_yes, top)]
    parts.append(_path((x_yes, top + yes.height), (x_yes, end), (0, end), tip=False))
    if no:
        parts += [_path((wide, tall), (x_no, tall), (x_no, top)), _moved(no, x_no, top)]
        parts.append(_path((x_no, top + no.height), (x_no, end), (0, end), tip=False))
    else:
        parts.append(_path((wide, tall), (x_no, tall), (x_no, end), (0, end), tip=False))
    parts.append(f'<circle class="theus-tip" cy="{_n(end)}" r="3.5"/>')
    return Block(yes.left - x_yes, x_no + (no.right if no else 4), end + 3, "\n".join(parts))


def _repeat_block(node: Repeat[Any, Any]) -> Block:
    text = condition(node.while_)
    wide, tall, body = _question(text, f"repeat while {text}, at most {node.limit} rounds")
    block = _BLOCKS[kind(node.step)](node.step)
    limit = f"at most {node.limit} rounds"
    top = 2 * tall + GAP + 4
    back = top + block.height + 18  # the way back to the question, on the left
    end = back + 32  # the way out, on the right
    lane = max(block.left + 20, wide + 24, _width(limit, CAPTION) + 18)
    out = max(block.right + 20, wide + 30)
    parts = [
        body,
        _path((0, 2 * tall), (0, top)),
        _text("text", 7, 2 * tall + 16, "yes", "start"),
        _moved(block, 0, top),
        _path((0, top + block.height), (0, back), (-lane, back), (-lane, tall), (-wide, tall)),
        _text("text", -lane + 8, back + 15, limit, "start"),
        _path((wide, tall), (out, tall), (out, end - 16), (0, end - 16), (0, end), tip=False),
        _text("text", wide + 6, tall - 6, "no", "start"),
    ]
    return Block(lane + 2, out + 2, end, "\n".join(parts))


_BLOCKS: dict[str, Callable[[Any], Block]] = {
    "process": _process_block,
    "flow": _flow_block,
    "parallel": _parallel_block,
    "each": _each_block,
    "branch": _branch_block,
    "repeat": _repeat_block,
}


def _moved(block: Block, x: float, y: float) -> str:
    return block.body if not x and not y else f'<g transform="translate({_n(x)},{_n(y)})">{block.body}</g>'


def _path(*points: tuple[float, float], tip: bool = True) -> str:
    """A line of straight pieces with rounded corners, with an arrow's tip at its end."""
    shape = f"M{_n(points[0][0])},{_n(points[0][1])}"
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        near, far = _toward(corner, before, 8), _toward(corner, after, 8)
        shape += f"L{_n(near[0])},{_n(near[1])}Q{_n(corner[0])},{_n(corner[1])} {_n(far[0])},{_n(far[1])}"
    end = points[-1]
    stop = _toward(end, points[-2], 6) if tip else end
    line = f'<path class="theus-line" d="{shape}L{_n(stop[0])},{_n(stop[1])}"/>'
    if not tip:
        return line
    base, across = _toward(end, points[-2], 8), (4.0, 0.0) if points[-2][0] == end[0] else (0.0, 4.0)
    one, two = (base[0] - across[0], base[1] - across[1]), (base[0] + across[0], base[1] + across[1])
    corners = "L".join(f"{_n(x)},{_n(y)}" for x, y in (end, one, two))
    return f'{line}<path class="theus-tip" d="M{corners}Z"/>'


def _toward(start: tuple[float, float], goal: tuple[float, float], most: float) -> tuple[float, float]:
    """The point up to ``most`` from ``start`` on the way to ``goal``, at the most half the way."""
    x, y = goal[0] - start[0], goal[1] - start[1]
    length = abs(x) + abs(y)  # lines are level or upright
    part = min(most, length / 2) / length if length else 0.0
    return start[0] + x * part, start[1] + y * part


def _text(kind: str, x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text class="theus-{kind}" x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}">{escape(text)}</text>'


def _wrapped(words: Sequence[str], most: int) -> Iterator[str]:
    line = ""
    for word in words:
        word = short(word, most)
        if line and len(line) + len(word) + 3 > most:
            yield line
            line = ""
        line = f"{line} · {word}" if line else word
    if line:
        yield line


def _width(text: str, size: float, advance: float | None = None) -> float:
    """How wide the text is at the most. ``advance``: of a monospace font, in parts of its size."""
    return size * sum(advance if advance and ord(c) < 0x250 else _advance(c) for c in text)


_WIDTHS = ((0.41, " .,:;'|!()[]ijlft/·"), (1.0, "mwMW@%æÆ"), (0.84, "=+<>#×~&"))


def _advance(c: str) -> float:
    """Of DejaVu Sans, the widest of the common fonts, in parts of its size; beyond Latin, of any that may be taken."""
    if ord(c) < 0x250:
        for width, group in _WIDTHS:
            if c in group:
                return width
        return 0.8 if c.isupper() else 0.66
    if unicodedata.combining(c):
        return 0.0
    return 1.25 if unicodedata.east_asian_width(c) in "WF" else 0.8 if ord(c) < 0x600 else 1.1


def _n(number: float) -> str:
    """A coordinate, to a tenth of a pixel."""
    return f"{round(number, 1) + 0.0:g}"  # + 0.0: no -0
