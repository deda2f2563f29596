"""Work for all cores: index the crawled pages, then train four models. All of them change one shared state."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

from theus import Context, Tally, each, flow, parallel, process
from theus.demo.crawl import Page

MODELS = ("forest", "boosting", "network", "kernel")

# --- the shared state ------------------------------------------------------------------------------------------------


@dataclass
class Library:
    """The domain: one counter and one index, changed by all cores."""

    done: Tally = 0  #: the one counter: pages read and models trained
    words: Tally = 0  #: how many words were read
    index: dict[str, list[str]] = field(default_factory=dict)  #: word -> the pages that it is typical of
    scores: dict[str, float] = field(default_factory=dict)  #: model -> how often it is right


# --- the index -------------------------------------------------------------------------------------------------------


class Text(HTMLParser):
    """Takes the text out of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []

    def handle_data(self, data: str) -> None:
        """Called with each piece of text."""
        self.parts.append(data)


def words_of(html: str) -> Counter[str]:
    """The words of a page, with how often each is there."""
    parser = Text()
    parser.feed(html)
    return Counter(re.findall(r"[a-z]{3,}", " ".join(parser.parts).lower()))


def typical(words: Counter[str]) -> list[str]:
    """The words that a page is about."""
    return [word for word, _ in words.most_common(20)]


@process(nature="cpu")
def index(ctx: Context[Library], page: Page) -> int:
    """Read a page, and say what it is about."""
    words = words_of(page.html)
    ctx.domain.words += words.total()  # all cores add to it
    ctx.domain.done += 1
    ctx.send(enter, name=page.name, words=typical(words))
    return words.total()


@process(nature="state")
def enter(ctx: Context[Library], name: str, words: list[str]) -> None:
    """A message: runs in the sender's commit, on the newest state, so no page is ever read twice."""
    for word in words:
        ctx.domain.index.setdefault(word, []).append(name)


read_all = each(index)


# --- the models ------------------------------------------------------------------------------------------------------


def make(model: str, size: float) -> Any:
    """A model that has learnt nothing yet; ``size`` 1 is about a second of work."""
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.model_selection import GridSearchCV
    from sklearn.neural_network import MLPClassifier
    from sklearn.svm import SVC

    if model == "forest":
        return RandomForestClassifier(round(400 * size), random_state=1)
    if model == "boosting":
        return HistGradientBoostingClassifier(max_iter=round(45 * size), early_stopping=False, random_state=1)
    if model == "network":
        return MLPClassifier((round(500 * size), round(200 * size)), max_iter=400, tol=1e-3, random_state=1)
    return GridSearchCV(SVC(), {"C": [0.1, 1, 10], "gamma": [1e-4, 3e-4, 1e-3] if size == 1 else [1e-3]}, cv=3)


@process(nature="cpu")
def train(ctx: Context[Library], model: str, size: float = 1) -> float:
    """Learn from three quarters of the images; be asked about the rest."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped,import-not-found,unused-ignore]  # comes with scikit-learn

    ctx.report(f"{model} in process {os.getpid()}")
    seen, asked, digits, answers = digits_to_learn()
    with threadpool_limits(1):  # a core for each: several learn at once
        learnt = make(model, size).fit(seen, digits)
    ctx.domain.scores[model] = learnt.score(asked, answers)
    ctx.domain.done += 1
    return ctx.domain.scores[model]


def digits_to_learn() -> list[Any]:
    """1,797 handwritten digits as 8×8 pixels, three quarters to learn from and the rest to be asked about."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    return list(train_test_split(*load_digits(return_X_y=True), random_state=1))


@process(nature="cpu")
def open_data() -> int:
    """Load scikit-learn and its data once in each worker process, so that no training waits for it."""
    make("kernel", 1)
    seen, asked, _, _ = digits_to_learn()
    return len(seen) + len(asked)


trainings = [train.bind(model=model) for model in MODELS]
one_by_one = flow(trainings)
at_once = parallel(*trainings)  # the same steps, one word changed
