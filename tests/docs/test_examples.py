"""Every example of README.md and docs/ runs, and prints what the page says it prints.

A page is a script: its ``python`` blocks run one after the other in one namespace, which is ``__main__`` while they do;
``await`` may stand at the top, as in a notebook. What is shown is compared:

* a comment after ``print(...)``, or after an expression that stands alone, if the comment is a Python expression;
* a ``text`` block that follows a ``python`` block is all else that it prints; ``...`` stands for what differs from run
  to run.

A remark in front of a block says what is special about it::

    <!-- example: raises ContractError -->     the block raises it; its text block ends with the message
    <!-- example: needs starlette -->          left out where that is not installed
    <!-- example: skip, opens a debugger -->   left out, with the reason
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import doctest
import importlib.util
import inspect
import io
import re
import sys
import tokenize
import traceback
import types
from pathlib import Path
from typing import Any

import pytest
from pages import PAGES, Block, blocks_of

from theus import Engine

MODULE = re.compile(r"^[\w.]+\.(?=\w+:)")  # in front of an exception's name


class Shown(ast.NodeTransformer):
    """Turns ``print(x)  # 3`` and ``x  # 3`` into a comparison of what is printed, or of the value, with 3."""

    def __init__(self, comments: dict[int, str]) -> None:
        self.comments = comments

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            return node  # what runs inside is not what the page shows
        return super().visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        comment = self.comments.get(node.end_lineno or 0)
        if comment is None:
            return node
        value = node.value
        printed = isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "print"
        given = value.args if printed else [value]
        check = ast.Name("__printed__" if printed else "__valued__", ast.Load())
        call = ast.Call(check, [ast.Constant(node.end_lineno), ast.Constant(comment), *given], [])
        return ast.fix_missing_locations(ast.copy_location(ast.Expr(ast.copy_location(call, value)), node))


def comments_of(text: str) -> dict[int, str]:
    """The comments that are Python expressions, by line."""
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and token.line[: token.start[1]].strip():
            words = token.string.lstrip("# ")
            with contextlib.suppress(SyntaxError):
                ast.parse(words, mode="eval")
                found[token.start[0]] = words
    return found


class Page:
    """One page, run from top to bottom."""

    def __init__(self, path: Path, module: types.ModuleType) -> None:
        self.path = path
        self.module = module
        self.names = module.__dict__
        self.names |= {"__printed__": self.printed, "__valued__": self.valued, "__file__": str(path)}
        self.runner = asyncio.Runner()

    def run(self, block: Block) -> None:
        output = io.StringIO()
        expected = block.remarks.get("raises")
        with contextlib.redirect_stdout(output):
            try:
                self.execute(block)
            except BaseException as error:
                if expected is None or type(error).__name__ != expected:
                    raise
                print(MODULE.sub("", "".join(traceback.format_exception_only(error))))
            else:
                assert expected is None, f"{self.path.name}:{block.line} should raise {expected}"
        if block.shown is not None:
            self.same(block.line, block.shown.rstrip(), output.getvalue().rstrip())

    def execute(self, block: Block) -> None:
        text = "\n" * (block.line - 1) + block.text  # so that a traceback names the page's own line
        tree = Shown(comments_of(text)).visit(ast.parse(text, str(self.path)))
        code = compile(tree, str(self.path), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        work = types.FunctionType(code, self.names)()
        if code.co_flags & inspect.CO_COROUTINE:
            self.runner.run(work)

    def printed(self, line: int, comment: str, *values: Any) -> None:
        self.same(line, comment, " ".join(map(str, values)))

    def valued(self, line: int, comment: str, value: Any) -> None:
        self.same(line, comment, repr(value))

    def same(self, line: int, shown: str, got: str) -> None:
        options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE  # a page breaks long lines
        trimmed = "\n".join(text.rstrip() for text in got.splitlines())
        if not doctest.OutputChecker().check_output(shown + "\n", trimmed + "\n", options):
            pytest.fail(f"{self.path.name}:{line}\n--- the page shows\n{shown}\n--- it was\n{trimmed}", pytrace=False)

    def close(self) -> None:
        for value in list(self.names.values()):
            if isinstance(value, Engine):
                value.close()
        self.runner.close()
        self.names.clear()  # its classes live on in caches by type, and would keep all that the page has made


@pytest.fixture
def main_module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> types.ModuleType:
    """A ``__main__`` of its own, in an empty folder: what a script or notebook has."""
    module = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    monkeypatch.chdir(tmp_path)
    return module


def is_left_out(block: Block) -> bool:
    needs = block.remarks.get("needs")
    return "skip" in block.remarks or (needs is not None and importlib.util.find_spec(needs) is None)


def run_page(path: Path, main_module: types.ModuleType) -> None:
    blocks = [block for block in blocks_of(path) if block.language == "python"]
    page = Page(path, main_module)
    try:
        for block in blocks:
            if not is_left_out(block):
                page.run(block)
    finally:
        page.close()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_page(path: Path, main_module: types.ModuleType) -> None:
    run_page(path, main_module)


# --- the checks themselves


def check(tmp_path: Path, module: types.ModuleType, text: str) -> None:
    path = tmp_path / "page.md"
    path.write_text(text)
    run_page(path, module)


@pytest.mark.parametrize(
    "wrong",
    [
        "```python\nprint(1 + 1)  # 3\n```",
        "```python\n1 + 1  # 3\n```",
        "```python\nprint(2)\n```\n\n```text\n3\n```",
        "<!-- example: raises KeyError -->\n```python\n1\n```",
        "```python\nimport asyncio\nawait asyncio.sleep(0, 2)  # 3\n```",
    ],
)
def test_what_a_page_shows_wrongly_is_found(tmp_path: Path, main_module: types.ModuleType, wrong: str) -> None:
    with pytest.raises((pytest.fail.Exception, AssertionError)):
        check(tmp_path, main_module, wrong)


def test_what_a_page_shows_rightly_passes(tmp_path: Path, main_module: types.ModuleType) -> None:
    right = (
        "```python\nimport asyncio\nprint('a', 1 + 1)  # prints two words\nawait asyncio.sleep(0, 2)  # 2\n```\n\n"
        "```text\na ...\n```\n<!-- example: skip, it is only an example -->\n```python\n1 / 0\n```\n"
        "<!-- example: raises ZeroDivisionError -->\n```python\n1 / 0\n```\n"
        "```text\nZeroDivisionError: division by zero\n```\n"
    )
    check(tmp_path, main_module, right)
