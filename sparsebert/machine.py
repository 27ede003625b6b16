"""The machine and the code that a number comes from: device, precision, memory, versions, commit."""

from __future__ import annotations

import platform
import re
import resource
import subprocess
import sys
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path

import huggingface_hub
import torch

from sparsebert import __version__
from sparsebert.errors import InputError

COMMIT_FILE = "COMMIT"  # beside the package's modules, where a bundle was made of them


def resolve_precision(precision: str) -> str:
    """`auto` is bf16 where the device computes in it, else fp32; `InputError` for emulated bf16."""
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()
        native = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    if precision == "bf16" and not native:
        raise InputError("precision=bf16: this device does not compute in bf16; write precision=fp32 or auto")
    return ("bf16" if native else "fp32") if precision == "auto" else precision


@cache
def device_name() -> str:
    """What the model runs on: the GPU's name, or the processor's with the number of threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    if hasattr(torch.cpu, "get_capabilities"):
        name = torch.cpu.get_capabilities().get("cpu_name") or name
    return f"{name}, {torch.get_num_threads()} threads"


@cache
def versions() -> dict[str, str]:
    """Versions of what a run's numbers depend on."""
    found = {"python": platform.python_version(), "sparsebert": __version__}
    for package in ("torch", "transformers", "tokenizers", "datasets", "spacy"):
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


@cache
def commit() -> str | None:
    """The commit of the package's clone, with a `+` if files were changed since; None outside a clone.

    A bundle has it in a file.
    """
    here = Path(__file__).resolve().parent
    if (here / COMMIT_FILE).is_file():
        return (here / COMMIT_FILE).read_text().strip() or None
    git = ["git", "describe", "--always", "--dirty=+", "--abbrev=10", "--exclude=*"]
    with suppress(OSError, subprocess.TimeoutExpired):
        said = subprocess.run(git, cwd=here, capture_output=True, text=True, timeout=10).stdout
        return said.strip() or None
    return None


def forget_peak_memory() -> None:
    """A process that makes several runs would give each the peak of those before it."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # Linux alone can forget it
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> float:
    """The process's peak in MiB (the GPU's where there is one), since it was last forgotten."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    with suppress(OSError):  # on Linux, where what getrusage says begins with the parent's peak
        return int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def hub_reachable() -> bool:
    """Whether the hub answers at once; asked first because its client retries for half a minute and more."""
    try:
        response = huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=5)
    except Exception:  # whatever it is: the hub's client raises errors of several libraries
        return False
    return response.status_code < 500
