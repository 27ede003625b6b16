"""Starts the runs of a bundle, in its folder: `python3 -m sparsebert.sweeps.remote [OPTION OF sweep]...`.

Or another command than `sweep`, or a script (its name ends in .py), if the first argument names one. Needs
torch and transformers, and the standard library until it has seen that the rest is there: some small
packages, which are installed into a folder of the bundle, from its own wheels, where the machine lacks them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

OLDEST_PYTHON = (3, 11)
NEEDED = {"torch": "2.10", "transformers": "5.10"}
BROUGHT = {"accelerate": "1.1", "click": "8.1", "jaxtyping": "0.3", "pydantic": "2.10"}
WITH = {  # what these need beside what torch and transformers have brought
    "accelerate": ("psutil",),
    "jaxtyping": ("wadler-lindig",),
    "pydantic": ("annotated-types", "pydantic-core", "typing-extensions", "typing-inspection"),
}
GRID, PREPARED, WHEELS = "grid.yaml", "prepared", "wheels"


def main(arguments: list[str], root: Path) -> None:
    """Replace this process by the command of the bundle in `root`; exit code 2 and a sentence if it can't."""
    if sys.version_info < OLDEST_PYTHON:
        _refuse(f"Python {_dotted(OLDEST_PYTHON)} or newer is needed, and this is {_python()}")
    if lacking := _lacking(NEEDED):
        _refuse(f"this machine needs {' and '.join(lacking)}, or newer; install it for {sys.executable}")
    site = root / f"site-{_python()}"
    sys.path.insert(0, str(site))
    lacking = [name.split()[0] for name in _lacking(BROUGHT)]
    brought = {path.name.split("-")[0].replace("_", "-") for path in (root / WHEELS).glob("*.whl")}
    for_chapters = sorted(name for name in brought - set(sum(WITH.values(), ())) if not _version(name))
    if wanted := list(dict.fromkeys([*lacking, *for_chapters])):
        _install(wanted, site, root / WHEELS)
    found = os.environ.get("PYTHONPATH")
    os.environ |= {
        "PYTHONPATH": os.pathsep.join([str(root), str(site), *([found] if found else [])]),
        "SPARSEBERT_PREPARED_DIR": str(root / PREPARED),
        "SPARSEBERT_CACHE_DIR": str(root / "cache"),
        "HF_HUB_OFFLINE": "1",
    }
    os.chdir(root)
    if not arguments or arguments[0].startswith("-"):
        arguments = ["sweep", GRID, "--runs-dir", "runs", *arguments]
    command = arguments if arguments[0].endswith(".py") else ["-m", "sparsebert", *arguments]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *command])


def _lacking(packages: dict[str, str]) -> list[str]:
    """Those that are not installed, or are older than they have to be."""
    return [f"{name} {oldest}" for name, oldest in packages.items() if _version(name) < _numbers(oldest)]


def _version(name: str) -> tuple[int, ...]:
    try:
        return _numbers(metadata.version(name))
    except metadata.PackageNotFoundError:
        return ()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def _install(names: list[str], site: Path, wheels: Path) -> None:
    wanted = [package for name in names for package in (name, *WITH.get(name, ()))]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade"]
    command += ["--no-index", "--no-deps", "--find-links", str(wheels), "--target", str(site), *wanted]
    pip = subprocess.run(command, capture_output=True, text=True, check=False)
    if pip.returncode:
        said = pip.stderr.strip().splitlines() or ["no message"]
        reason = next((line for line in said if "No matching" in line), said[-1]).removeprefix("ERROR: ")
        _refuse(
            f"this machine lacks {', '.join(names)} and pip could not install them from the bundle's wheels "
            f"({reason}); install them, or make the bundle with --python {_python()}"
        )


def _python() -> str:
    return _dotted(sys.version_info[:2])


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _refuse(reason: str) -> None:
    print(f"Error: {reason}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main(sys.argv[1:], Path(__file__).resolve().parents[2])
