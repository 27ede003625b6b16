"""Bundles: a grid with all that its runs need, in one archive for a machine with torch and transformers.

Inside are the package, the encoders, the prepared data of the tasks, the files that plans name, and wheels of
the small packages that such a machine may lack. The same inputs give the same archive, byte for byte. What it
does on arrival is in `sparsebert.sweeps.remote`.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path, PurePosixPath

import sparsebert
from sparsebert.data.tasks.metrics import OF_SENTENCES
from sparsebert.data.tokenizing import write_prepared
from sparsebert.errors import InputError, first_line, say, shown
from sparsebert.fetching import pip
from sparsebert.machine import COMMIT_FILE, commit
from sparsebert.models.encoders import FROM_HUB, load_classifier
from sparsebert.models.packaged import ENCODERS
from sparsebert.paths import Folders, output_file, project_root
from sparsebert.reading import path_of
from sparsebert.sweeps.grids import load_grid
from sparsebert.sweeps.remote import BROUGHT, GRID, NEEDED, PREPARED, WHEELS, WITH
from sparsebert.sweeps.running import check_runs
from sparsebert.training.resolved import Run

TOP = "sparsebert-bundle"
SUFFIX = ".tar.gz"
PYTHONS = ("3.11", "3.12")
# pip takes wheels of the platforms that it is told, not of older ones besides.
PLATFORMS = ("manylinux2014", *(f"manylinux_2_{version}" for version in (12, 17, 24, 28)))
ENCODER_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")  # all that `folder_hash` reads, too

RUN = """\
#!/bin/sh
# Trains the runs of grid.yaml; options are those of `sparsebert sweep`, such as --budget 2h.
# Behind the name of another command, such as selftest, or of a script they are those of that one.
cd "$(dirname "$0")" && exec "${PYTHON:-python3}" -m sparsebert.sweeps.remote "$@"
"""
README = """\
Run `sh run.sh` (options of `sparsebert sweep` may follow); it needs Python 3.11 or 3.12,
torch and transformers. Take the folder `runs/` back to the project; `sparsebert results merge` adds it to the
recorded runs. `sh run.sh COMMAND ...` is any other command of sparsebert, such as selftest.
"""
# What a chapter runs with, and what of it a machine has to have: these wheels are large.
CHAPTER = ("papermill", "ipykernel", "ipython", "jupyter-client", "myst-nb", "nbformat", "traitlets")
LARGE = ("matplotlib", "pandas", "pyyaml", "scipy", "seaborn")


def bundle(
    grid: str | Path,
    out: str | Path,
    folders: Folders | None = None,
    prepared: str | Path | None = None,
    pythons: Sequence[str] = PYTHONS,
    chapters: bool = False,
) -> Path:
    """Write the archive of a grid to `out`; returns its path, and says on stderr how far it is.

    With `chapters` it holds the notebooks, too, and wheels of what they run with, but for those in `LARGE`.

    `prepared` is a folder of prepared data to take from; what it lacks is made there. `pythons` are the
    versions that wheels are brought for, on x86-64 Linux; without any the machine has to have the packages.
    Raises `InputError` for a grid with a run that cannot be made, a path that would not lead to the same file
    inside the bundle, and wheels that cannot be had.
    """
    if str(grid).startswith("recorded:"):
        raise InputError(f"'{shown(grid)}': a bundle takes its grid along; give the path of a grid's file")
    out = output_file(out, "--out", SUFFIX)
    configs = load_grid(grid)
    # Whether the other machine computes in bf16 is seen there.
    runs = check_runs([config.model_copy(update={"precision": "auto"}) for config in configs], folders)
    here = Path(sparsebert.__file__).resolve().parent
    files = {path.relative_to(here.parent).as_posix(): path for path in here.rglob("*.py")}
    files[GRID] = path_of(grid)
    encoders = dict.fromkeys(["tiny", *(run.config.encoder for run in runs)])  # "tiny" for a selftest
    for name in encoders:
        files |= _encoder(name, weights=name != "tiny")
    files |= _chapters() if chapters else {}
    for path in dict.fromkeys(path for run in runs for path in run.plan.files):
        files[_inside(path, "file of a plan")] = path_of(path)
    with tempfile.TemporaryDirectory() as temporary:
        for place in _prepare(runs, Path(prepared or temporary)):
            files |= {f"{PREPARED}/{place.name}/{path.name}": path for path in place.iterdir()}
        if pythons:
            say(f"  wheels for Python {', '.join(pythons)}")
            used = {OF_SENTENCES[name] for run in runs for name in run.task.metrics if name in OF_SENTENCES}
            wheels = _download(Path(temporary) / WHEELS, pythons, (*CHAPTER * chapters, *sorted(used)))
            files |= {f"{WHEELS}/{path.name}": path for path in wheels}
        texts = {"run.sh": RUN, "README.md": README, f"sparsebert/{COMMIT_FILE}": f"{commit() or ''}\n"}
        texts |= {f"{name}/{FROM_HUB}": "" for name in encoders if _of_hub(name)}
        say("  packing")
        return _pack(files, texts, out)


def _chapters() -> dict[str, Path]:
    """The notebooks, where `sparsebert run` finds them, and the script that spends a GPU's minutes on all."""
    if not (root := project_root()):
        raise InputError("--chapters: the notebooks are not here; call this from a clone of the project")
    named = ("_config.yml", "notebooks/profiles.yaml", "book/studies/spend_gpu.py")
    found = [*(root / name for name in named), *root.glob("notebooks/*.ipynb")]
    return {path.relative_to(root).as_posix(): path for path in found}


def _encoder(name: str, weights: bool = True) -> dict[str, Path]:
    """The files of an encoder, where the same name finds them when runs start in the bundle's folder."""
    if name in ENCODERS:
        place, folder = f"sparsebert/models/packaged/{name}", ENCODERS[name].get()
    elif _of_hub(name):
        place, folder = name, _from_hub(name)
    else:
        place, folder = _inside(name, "encoder"), path_of(name)
    found = {path for pattern in ENCODER_FILES for path in folder.glob(pattern) if path.is_file()}
    return {f"{place}/{path.name}": path for path in found if weights or path.suffix != ".safetensors"}


def _of_hub(name: str) -> bool:
    return name not in ENCODERS and not path_of(name).is_dir()


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(ENCODER_FILES)))
    except Exception as error:  # the hub's client lets through whatever its HTTP library raises
        raise InputError(f"encoder '{name}' could not be taken from the hub ({first_line(error)})") from None


def _inside(path: str, what: str) -> str:
    """A relative path, which names the same file in the bundle's folder."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or path.startswith("~"):
        raise InputError(
            f"{what} '{path}': in a bundle, paths start at its own folder; write a path that is relative to "
            "the folder you call this from"
        )
    return str(pure)


def _prepare(runs: Iterable[Run], folder: Path) -> list[Path]:
    """The places of prepared data that the runs read; each holds the most that one of them asks for."""
    model = cache(lambda encoder: load_classifier(encoder, ["any"]))
    needs: dict[tuple[str, str, int], list[Run]] = {}
    for run in runs:
        encoder = run.config.encoder
        needs.setdefault((run.config.task, encoder, run.length(model(encoder))), []).append(run)
    places = []
    for (_, encoder, length), alike in needs.items():
        asked = zip(*((run.config.train_size, run.config.eval_size) for run in alike), strict=True)
        sizes = [None if None in each else max(each) for each in asked]
        parsed = any(run.parsed for run in alike)
        places.append(write_prepared(alike[0].task, encoder, folder, length, *sizes, parsed))
    return list(dict.fromkeys(places))


def _with_needs(names: Iterable[str]) -> set[str]:
    """Installed packages with all that they need, by name."""
    from packaging.requirements import Requirement

    found, waiting = set(), list(names)
    while waiting:
        name = waiting.pop().lower().replace("_", "-").replace(".", "-")
        if name in found:
            continue
        with suppress(metadata.PackageNotFoundError):
            needs = [Requirement(text) for text in metadata.requires(name) or []]
            found.add(name)
            waiting += [need.name for need in needs if not need.marker or need.marker.evaluate({"extra": ""})]
    return found


def _download(folder: Path, pythons: Sequence[str], more: Sequence[str] = ()) -> list[Path]:
    """Wheels of the versions that are installed here."""
    names = [package for name in BROUGHT for package in (name, *WITH.get(name, ()))]
    if more:
        names += sorted(_with_needs(more) - _with_needs([*NEEDED, *LARGE]) - set(names))
    wanted = [f"{name}=={metadata.version(name)}" for name in names]
    platforms = [part for platform in PLATFORMS for part in ("--platform", f"{platform}_x86_64")]
    how = ["--only-binary", ":all:", "--implementation", "cp", *platforms, "-d", str(folder), *wanted]
    for python in pythons:
        if reason := pip("download", "--python-version", python, *how):
            raise InputError(
                f"pip could not download the wheels for Python {python} ({reason}); "
                f"fix that, or write --no-wheels if the machine has {', '.join(BROUGHT)}"
            )
    return sorted(folder.iterdir())


def _pack(files: dict[str, Path], texts: dict[str, str], out: Path) -> Path:
    """Tar and gzip without times, owners and the order of folders; whole or not at all."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".writing-") as temporary:
            whole = Path(temporary) / out.name
            with (
                open(whole, "wb") as file,
                gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as packed,
                tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive,
            ):
                for place in sorted({*files, *texts}):
                    content = texts[place].encode() if place in texts else files[place].read_bytes()
                    entry = tarfile.TarInfo(f"{TOP}/{place}")
                    entry.size, entry.mode = len(content), 0o755 if place == "run.sh" else 0o644
                    archive.addfile(entry, io.BytesIO(content))
            return whole.replace(out)
    except OSError as error:
        raise InputError(f"'{out}' cannot be written: {error.strerror}; give another --out") from None
