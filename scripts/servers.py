"""Print where redis-server and PostgreSQL are, and get them into ``.tools`` if they are missing. The system stays untouched.

In this order: REDIS_SERVER and POSTGRES_BIN, those that were fetched earlier, PATH, Debian's folders; else, on Debian, the
packages are downloaded with apt's own mirror and keys and unpacked into a folder.

    python3 scripts/servers.py              # a line for each: name and path

Programs in ``.tools/servers`` need ``LD_LIBRARY_PATH`` (``libraries()``).
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

from debian import TOOLS, Unavailable, check, download, run

ROOT = TOOLS / "servers"
#: name -> (variable that names it, Debian's package, folders below a root where it may be)
SERVERS = {
    "redis-server": ("REDIS_SERVER", "redis-server", ["usr/bin"]),
    "postgres": ("POSTGRES_BIN", "postgresql", ["usr/lib/postgresql/*/bin"]),
}


def libraries() -> str:
    """Where the libraries are that came with what was fetched."""
    return str(ROOT / f"usr/lib/{platform.machine()}-linux-gnu")


def found(name: str) -> Path | None:
    """The program, if it is here."""
    variable, _, folders = SERVERS[name]
    if named := os.environ.get(variable):
        path = Path(named)
        return path / name if path.is_dir() else path
    for root in (ROOT, Path("/")):
        for folder in folders:
            for path in sorted(root.glob(f"{folder}/{name}"), reverse=True):
                return path
    on_path = shutil.which(name)
    return None if on_path is None else Path(on_path).resolve()


def fetch(packages: list[str]) -> None:
    """Download packages and what they need beside what is installed, and unpack them."""
    check()
    TOOLS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TOOLS) as temporary:
        folder = Path(temporary)
        for package in download(folder, packages):
            run("dpkg", "-x", package, folder / "root")
        shutil.copytree(folder / "root", ROOT, symlinks=True, dirs_exist_ok=True)


def servers() -> dict[str, Path]:
    """Where each server's program is; those that are missing are fetched."""
    here = {name: found(name) for name in SERVERS}
    if missing := [name for name, path in here.items() if path is None]:
        print(f"{' and '.join(missing)} not found: fetching into .tools/ from Debian's packages ...", file=sys.stderr)
        fetch([SERVERS[name][1] for name in missing])
    programs: dict[str, Path] = {}
    for name in SERVERS:
        path = found(name)
        if path is None or not path.exists():
            raise Unavailable(f"{name} is not there ({path})")
        programs[name] = path
    return programs


def main() -> int:
    """Print the paths, or say on stderr what is missing."""
    try:
        for name, path in servers().items():
            print(name, path)
    except Unavailable as error:
        print(f"{error}\nInstall redis-server and postgresql, or set REDIS_SERVER and POSTGRES_BIN.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
