"""The traceback of a failed run leads from the caller's line to the user's own function."""

from __future__ import annotations

import asyncio
import json
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from theus import Context, Engine, flow, parallel, process
from theus.errors import ScopeError


@dataclass
class Shop:
    number: int = 0


@process
def fails(ctx: Context[Shop], text: str) -> Any:
    ctx.domain.number += 1
    return json.loads(text)


@process
async def fails_later(ctx: Context[Shop], text: str) -> Any:
    await asyncio.sleep(0)
    return json.loads(text)


@process(nature="cpu")
def fails_far(text: str) -> Any:
    return json.loads(text)


def frames_of(call: Callable[[], object]) -> list[str]:
    with pytest.raises(json.JSONDecodeError) as caught:
        call()
    return [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]


@pytest.mark.parametrize("step", [fails, fails_later, fails_far], ids=lambda step: step.name)
@pytest.mark.parametrize("shape", [lambda step: step, flow, lambda step: parallel(step, step)])
@pytest.mark.parametrize("is_async", [False, True])
def test_it_leaves_out_how_the_engine_came_to_the_function(step: Any, shape: Any, is_async: bool) -> None:
    with Engine(Shop(), workers=1) as engine:
        target = shape(step)
        names = frames_of(lambda: asyncio.run(engine.arun(target, "{")) if is_async else engine.run(target, "{"))
    assert names[-4:] == [step.name, "loads", "decode", "raw_decode"]  # what it called is whole
    of_a_run = names.index("_execute")
    assert names[of_a_run + 1] == step.name  # nothing between the run and the function


def test_an_error_of_the_engine_itself_keeps_its_frames() -> None:
    kept = []

    @process
    def keeps(ctx: Context[Shop]) -> None:
        kept.append(ctx)

    with Engine(Shop()) as engine:
        engine.run(keeps)
        with pytest.raises(ScopeError) as caught:
            engine.run(lambda: kept[0].domain.number)
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert "<lambda>" in names
    assert names[-1] != "<lambda>"  # where it was found out follows
