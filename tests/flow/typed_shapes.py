"""What a checker sees of every shape of function, also with an Any in it. Never run; see tests/typing."""

import functools
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any, assert_type

from theus import Context, Process, Workflow, branch, each, flow, parallel, process, repeat


class Page:
    pass


class Shop:
    hits: int = 0


@process
def load(ctx: Context[Any], path: str) -> list[str]:
    return [path]


@process
async def fetch(ctx: Context[Any], url: str) -> Page:
    return Page()


@process(timeout=3)
def index(ctx: Context[Any], pages: list[Page], size: int = 3) -> dict[str, int]:
    return {}


@process(nature="cpu")
def train(ctx: Context[Any], pages: list[Page]) -> float:
    return 0.0


@process
def summary(ctx: Context[Any], both: tuple[dict[str, int], float]) -> str:
    return ""


@process
def lines(path: str) -> Iterator[str]:
    yield path


@process
async def pages(ctx: Context[Any], path: str) -> AsyncIterator[str]:
    yield path


@process
def no_value(ctx: Context[Any]) -> int:
    return 1


@process
async def nothing() -> bytes:
    return b""


@process
def by_name(ctx: Context[Shop], *, sku: str) -> int:
    return 1


@process
async def by_name_only(*, sku: str) -> int:
    return 1


@process
def resize(image: bytes, *, width: int) -> str:
    return ""


@process
def both_ways(ctx: Context[Any], image: bytes, *, width: int) -> str:
    return ""


@process
def default(ctx: Context[Shop], n: int = 1) -> str:
    return ""


@process
def rows(ctx: Context[Any], rows: dict[str, Any]) -> list[dict[str, Any]]:
    return [rows]


@process
def many(*numbers: int) -> str:
    return ""


@process
def improve(ctx: Context[Any], model: float) -> float:
    return model


assert_type(load, Process[str, list[str]])
assert_type(fetch, Process[str, Page])
assert_type(index, Process[list[Page], dict[str, int]])
assert_type(lines, Process[str, Iterator[str]])
assert_type(pages, Process[str, Iterable[str]])
assert_type(no_value, Process[object, int])
assert_type(nothing, Process[object, bytes])
assert_type(by_name, Process[object, int])
assert_type(by_name_only, Process[object, int])
assert_type(resize, Process[bytes, str])
assert_type(both_ways, Process[bytes, str])
assert_type(default, Process[int, str])
assert_type(rows, Process[dict[str, Any], list[dict[str, Any]]])
assert_type(many, Process[int, str])

assert_type(flow(load, each(fetch, limit=100), parallel(index, train), summary), Workflow[str, str])
assert_type(flow(pages, each(fetch)), Workflow[str, list[Page]])
assert_type(each(fetch, on_error="collect"), Workflow[Iterable[str], list[Page | Exception]])
assert_type(branch(lambda d, v: v > d, fetch), Workflow[str, str | Page])
assert_type(repeat(improve, while_=lambda d: d.n < 3, limit=3), Workflow[float, float])
assert_type(flow(no_value, nothing), Workflow[object, bytes])
assert_type(flow(load, functools.partial(len)), Workflow[Any, Any])
assert_type(flow(*[improve] * 9), Workflow[Any, Any])

flow(load, fetch)  # type: ignore[misc]
flow(load, each(train))  # type: ignore[misc]
flow(improve, improve, improve, improve, improve, improve, improve, load)  # type: ignore[misc]
