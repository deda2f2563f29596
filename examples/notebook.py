# %% [markdown]
# # Theus in a notebook
# Open this file as a notebook (Jupyter with jupytext, VS Code, PyCharm), or run it as a script. Nobody types `await`.

# %%
from dataclasses import dataclass, field

from theus import Engine, each, flow, parallel, process


@dataclass
class Study:
    seen: list[str] = field(default_factory=list)


engine = Engine(Study())

# %% [markdown]
# Plain functions are steps. A process is a function that may use `ctx`: what the engine gives it.


# %%
def measure(word):
    return len(word)


def shortest(lengths):
    return min(lengths)


@process
def remember(ctx, words):
    ctx.domain.seen.extend(words)
    return words


study = flow(remember, each(measure), parallel(shortest, sum))
study  # noqa: B018 - a notebook draws it

# %%
least, together = engine.run(study, ["snapshot", "draft", "commit"])
print(least, together)

# %% [markdown]
# The state is what was committed. A cell that fails changes nothing.

# %%
list(engine.state.seen)


# %%
@process
def fail(ctx):
    ctx.domain.seen.clear()
    raise RuntimeError("halfway")


try:
    engine.run(fail)
except RuntimeError as error:
    print(error, "|", *error.__notes__)
print(list(engine.state.seen))

# %% [markdown]
# Where did it run, and why?

# %%
print(engine.explain(study))

# %%
engine.close()
