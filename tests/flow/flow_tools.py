"""The processes that the tests of workflows are made of. In a module, so that they can be pickled by name."""

from theus.processes import process
from theus.workflow import Workflow, each, flow, parallel


@process
def load_urls(ctx, path): ...


@process(timeout=2, retries=3)
async def fetch(ctx, url): ...


@process
def index(ctx, pages): ...


@process(nature="cpu")
def train(ctx, pages): ...


@process
def summary(ctx, both): ...


@process
def place(ctx, sku, qty, note=""): ...


@process(nature="state")
def count(ctx, n=1): ...


@process
def tick(): ...


@process
def look(ctx): ...


@process
def lines(path):
    yield path


@process
async def pages(ctx, path):
    yield path


def parse(text): ...


def clean(text): ...


def is_big(domain):
    return domain > 10


def is_long(domain, value):
    return value > domain


class Shelf:
    @process
    def put(self, ctx, sku): ...

    def take(self, sku): ...


def crawl() -> Workflow:
    """The example of the first page."""
    return flow(load_urls, each(fetch, limit=100), parallel(index, train), summary)
