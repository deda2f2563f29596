"""Where state is kept: in memory, on disk, on a server."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl

from theus.errors import DefinitionError, NotTransferable

if TYPE_CHECKING:
    from theus.protocols import Store
    from theus.stores.driver import Driver

#: scheme -> module, and the extra of that name; the driver in it
_REDIS, _POSTGRES = ("redis", "RedisDriver"), ("postgres", "PostgresDriver")
_SERVERS = {"redis": _REDIS, "rediss": _REDIS, "postgresql": _POSTGRES, "postgres": _POSTGRES}


def open_store(url: str | os.PathLike[str], domain: Any) -> Store:
    """The store that a path or URL names; ``domain`` is the state that an empty one begins with. Opens nothing yet.

    ``shop.db``, ``sqlite:shop.db?sync=normal``, ``redis://...``, ``postgresql://...``.

    Raises:
        DefinitionError: the URL says nothing that is known, or what it needs is not installed.
    """
    from theus.stores.codec import Codec
    from theus.stores.replica import Replica

    if domain is None:
        raise DefinitionError(
            f"Engine(store={url!r}) needs to know the type of the state: write Engine(Shop(), store={url!r}); "
            f"where there is none and the store keeps runs only, Engine({{}}, store={url!r})."
        )
    return Replica(driver_of(url), Codec(domain.__class__), domain)


def driver_of(url: str | os.PathLike[str]) -> Callable[[], Driver]:
    """What makes the driver of the store that a path or URL names. Opens nothing yet.

    Raises:
        DefinitionError: the URL says nothing that is known, or what it needs is not installed.
    """
    text = os.fspath(url)
    scheme, separator, _ = text.partition(":")
    made: Callable[[], Driver] = (
        _server(scheme, text) if separator and scheme in _SERVERS else _file(text, is_path=not isinstance(url, str))
    )
    return made


def _server(scheme: str, url: str) -> Any:
    name, driver = _SERVERS[scheme]
    try:
        module = import_module(f"theus.stores.{name}")
    except ModuleNotFoundError as missing:
        raise DefinitionError(
            f"a store at {scheme}://... needs {missing.name}, which is not installed: pip install 'theus[{name}]'"
        ) from missing
    make = getattr(module, driver)
    make(url)  # connects when first used; a URL that makes no sense is refused now
    return lambda: make(url)


def _file(url: str, *, is_path: bool) -> Any:
    from theus.stores.sqlite import SqliteDriver

    if not is_path and (not url or ":memory:" in url or url.removesuffix(":") == "memory"):
        raise DefinitionError(f"store={url!r} names no file: leave store= out to keep the state in memory.")
    if is_path or not url.startswith("sqlite:"):
        if not is_path and ("://" in url or url.startswith("file:")):
            raise DefinitionError(
                f"store={url!r}: give a path, or a URL that begins with sqlite:, redis://, rediss:// or postgresql://."
            )
        if not is_path and "?" in url:  # options that would be taken for a part of the file's name
            raise DefinitionError(f"store={url!r}: only a URL has options: write sqlite:{url}.")
        return lambda: SqliteDriver(url)
    path, _, query = url.removeprefix("sqlite:").partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    sync = options.pop("sync", "full")
    if not path or path.startswith("//") or options or sync not in ("full", "normal"):
        raise DefinitionError(
            f"store={url!r}: write sqlite:shop.db or sqlite:/var/lib/shop.db, and behind it ?sync=normal or ?sync=full."
        )
    return lambda: SqliteDriver(path, sync)  # type: ignore[arg-type]  # it is one of the two words: checked above


def open_later(url: str | os.PathLike[str], domain: Any) -> Store:
    """The store of an engine that a worker has because it imported the module that makes it. It is made at its first use:
    few are used there, and what it needs is slow to load, or does not load (in a sub-interpreter).
    """
    return cast("Store", _Later(url, domain))


class _Later:
    """A store that is made when something of it is asked for."""

    def __init__(self, url: str | os.PathLike[str], domain: Any) -> None:
        self._url = url
        self._domain = domain
        self._lock = threading.Lock()
        self._made: Store | None = None

    def __getattr__(self, name: str) -> Any:
        with self._lock:
            if self._made is None:
                self._made = self._make()
        return getattr(self._made, name)

    def _make(self) -> Store:
        try:
            return open_store(self._url, self._domain)
        except ImportError as error:
            raise NotTransferable(
                f"an engine on the store {os.fspath(self._url)!r} cannot be used in this worker ({error}). Say"
                " environment='worker' or environment='thread' for the process.",
                process="",
                what="the store of an engine",
            ) from error

    def close(self) -> None:
        """Close it if it was made."""
        if self._made is not None:
            self._made.close()
