"""A module that makes an engine, as the module of a service does."""

from theus import Engine, process

engine = Engine({"n": 0}, workers=1)


@process
def bump(ctx):
    ctx.domain["n"] += 1


@process(nature="cpu")
def look():
    return engine.state["n"]


@process(nature="cpu")
def write():
    return engine.run(bump)


@process(nature="cpu")
def through_context(ctx):
    return ctx.domain["n"]


@process(nature="cpu")
def own_engine():
    with Engine({"n": 5}) as own:
        own.run(bump)
        return own.state["n"]
