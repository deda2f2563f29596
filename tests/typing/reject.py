"""Calls that a type checker must refuse. Never run: an ignore that is not needed turns the check red."""

from dataclasses import dataclass

from theus import CallTimeout, Context, Engine, each, flow, parallel, process, repeat


@dataclass
class Shop:
    hits: int = 0


@process
def load(ctx: Context[Shop], file: str) -> list[str]:
    ctx.domain.hits = "three"  # type: ignore[assignment]
    ctx.domain.misses += 1  # type: ignore[attr-defined]
    ctx.domian  # type: ignore[attr-defined]
    ctx.scratch = 1  # type: ignore[attr-defined]
    return [file]


@process
async def fetch(ctx: Context[Shop], url: str) -> bytes:
    return url.encode()


@process
def measure(body: bytes) -> int:
    return len(body)


engine = Engine(Shop())

# options of @process
process(nature="gpu")  # type: ignore[call-overload]
process(timeout="5 s")  # type: ignore[call-overload]
process(inputs=["hits"])  # type: ignore[call-overload]
process(reads=[1])  # type: ignore[list-item]

# a value that the next step does not take
flow(load, measure)  # type: ignore[misc]
flow(load, each(measure))  # type: ignore[misc]
flow(fetch, each(fetch))  # type: ignore[misc]
repeat(fetch, while_=lambda shop: True, limit=3)  # type: ignore[misc]

# what is no step; options that are missing or wrong
flow(load, "measure")  # type: ignore[call-overload]
flow(load, b"measure")  # type: ignore[call-overload]
parallel(load, 3)  # type: ignore[call-overload]
each(fetch, on_error="ignore")  # type: ignore[call-overload]
each(fetch, limit="3")  # type: ignore[call-overload]
repeat(measure, while_=lambda shop: True)  # type: ignore[call-overload]

# results and state have types
text: str = engine.run(measure, b"a")  # type: ignore[assignment]
engine.state.misses  # type: ignore[attr-defined]
Engine(Shop(), loop_factory=3)  # type: ignore[arg-type]
Engine(Shop(), unknown=1)  # type: ignore[call-arg]
CallTimeout()  # type: ignore[call-arg]


async def service() -> None:
    number: str = await engine.arun(measure, b"a")  # type: ignore[arg-type]
    print(number)
