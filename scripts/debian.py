"""Packages of Debian in a folder, downloaded with apt's own mirror and keys. The system stays untouched."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

TOOLS = Path(__file__).resolve().parent.parent / ".tools"


class Unavailable(Exception):
    """Why something cannot be had on this machine."""


def run(*command: str | Path) -> None:
    """Run a command quietly; its output is shown only if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        output = f"{done.stdout[-1000:]}{done.stderr[-2000:]}"
        raise Unavailable(f"{Path(command[0]).name} ended with {done.returncode}:\n{output}")


def check() -> None:
    """Refuse a system without Debian's tools."""
    if missing := [name for name in ("apt-get", "dpkg") if not shutil.which(name)]:
        raise Unavailable(f"{' and '.join(missing)} not found: this is not a Debian system")


def download(folder: Path, packages: list[str], options: Mapping[str, str | Path] = {}) -> list[Path]:
    """Packages and what they need beside what is installed. ``options``: of apt, beside those that keep it in ``folder``."""
    for part in ("lists/partial", "archives/partial"):
        (folder / part).mkdir(parents=True)
    own = {
        "Dir::State::lists": folder / "lists",
        "Dir::Cache::archives": folder / "archives",
        "Dir::Cache::pkgcache": "",
        "Dir::Cache::srcpkgcache": "",
        "APT::Sandbox::User": "root",
        "APT::Update::Post-Invoke-Success": "",
        "Debug::NoLocking": "true",
    }
    apt = ["apt-get", *(part for key, value in {**own, **options}.items() for part in ("-o", f"{key}={value}"))]
    run(*apt, "update")
    run(*apt, "install", "--yes", "--no-install-recommends", "--download-only", *packages)
    return sorted((folder / "archives").glob("*.deb"))
