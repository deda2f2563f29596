"""Real documents: what pydoc says about a hundred modules of the standard library, as HTML, with links between them."""

from __future__ import annotations

import contextlib
import importlib
import io
import pydoc
import warnings
import zlib
from collections.abc import Iterator

INDEX = "index"

#: Modules whose import does nothing but define; those that an interpreter does not have are left out.
# fmt: off
MODULES = [
    "abc", "argparse", "array", "ast", "asyncio", "base64", "bdb", "binascii", "bisect", "builtins", "bz2",
    "calendar", "cmath", "cmd", "code", "codecs", "codeop", "collections", "compileall", "configparser",
    "contextlib", "contextvars", "copy", "copyreg", "csv", "ctypes", "dataclasses", "datetime", "decimal",
    "difflib", "dis", "doctest", "email", "enum", "errno", "faulthandler", "fcntl", "filecmp", "fileinput",
    "fnmatch", "fractions", "ftplib", "functools", "gc", "getopt", "getpass", "gettext", "glob", "graphlib", "gzip",
    "hashlib", "heapq", "hmac", "html", "http", "imaplib", "inspect", "io", "ipaddress", "itertools", "json",
    "keyword", "linecache", "locale", "logging", "lzma", "mailbox", "marshal", "math", "mimetypes", "mmap",
    "modulefinder", "netrc", "numbers", "operator", "optparse", "os", "pathlib", "pdb", "pickle", "pickletools",
    "pkgutil", "platform", "plistlib", "poplib", "posixpath", "pprint", "profile", "pstats", "pty", "py_compile",
    "pyclbr", "queue", "quopri", "random", "re", "reprlib", "resource", "sched", "secrets", "select", "selectors",
    "shelve", "shlex", "shutil", "signal", "smtplib", "socket", "socketserver", "sqlite3", "ssl", "stat",
    "statistics", "string", "stringprep", "struct", "subprocess", "symtable", "sysconfig", "tarfile", "tempfile",
    "textwrap", "threading", "timeit", "tokenize", "trace", "traceback", "types", "typing", "unittest", "urllib",
    "uuid", "warnings", "wave", "weakref", "xml", "zipfile", "zoneinfo",
]
# fmt: on


def make_pages(count: int) -> Iterator[tuple[str, str]]:
    """Name and HTML of so many pages, one after the other."""
    document = pydoc.HTMLDoc()
    found = 0
    for name in MODULES:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # some modules are on their way out and say so
            try:
                module = importlib.import_module(name)
            except ImportError:
                continue
            html = document.page(pydoc.describe(module), document.document(module, name))
        yield name, html
        found += 1
        if found == count:
            return


def make_index(names: list[str]) -> str:
    """A page that links to all others, as pydoc makes it."""
    document = pydoc.HTMLDoc()
    links = document.multicolumn(names, lambda name: f'<a href="{name}.html">{name}</a>')
    return document.page("Index of Modules", document.bigsection("Index of Modules", "index", links))


def delays(names: list[str], fast: float, slow: float) -> dict[str, float]:
    """Seconds that each page takes, spread evenly from ``fast`` to ``slow`` in an order that is always the same."""
    order = sorted(names, key=lambda name: zlib.crc32(name.encode()))
    steps = max(1, len(order) - 1)
    return {name: round(fast + (slow - fast) * place / steps, 4) for place, name in enumerate(order)}
