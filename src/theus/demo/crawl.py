"""A crawl: one page that links to others, then all of them at once. Run it with ``engine.run`` or ``engine.arun``."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

import httpx

from theus import Context, each, flow, process

TLS = ssl.create_default_context()  # loads the certificates: once, not for each client
LINK = re.compile(r'href="(\w+\.html)"')


@dataclass(frozen=True)
class Page:
    """What came back from a URL."""

    url: str
    html: str

    @property
    def name(self) -> str:
        """``http://…/asyncio.html`` -> ``asyncio``."""
        return self.url.rpartition("/")[2].removesuffix(".html")


def make_client() -> httpx.AsyncClient:
    """The HTTP client of a loop: at most 100 connections, and nobody waits for ever."""
    limits = httpx.Limits(max_connections=100, max_keepalive_connections=100)
    return httpx.AsyncClient(limits=limits, timeout=30.0, verify=TLS, trust_env=False)


@process
async def fetch(ctx: Context[Any], url: str) -> Page:
    """Wait for a page."""
    answer = await ctx.resource("http").get(url)
    answer.raise_for_status()
    return Page(url, answer.text)


@process
def links(page: Page) -> list[str]:
    """The pages that this one links to, each once."""
    found = dict.fromkeys(LINK.findall(page.html))
    return [urljoin(page.url, link) for link in found]


crawl = flow(fetch, links, each(fetch, limit=100))
