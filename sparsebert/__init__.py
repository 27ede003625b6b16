"""Sparse attention for encoders: patterns, plans, learned degrees, fine-tuning, and the book's chapters.

>>> from sparsebert import Global, Neighbour
>>> print(Neighbour(2) | Global("cls"))
neighbour(2) | global(cls)

The names below are what a user imports. Each is loaded when it is first asked for: patterns, kernels, models
and degrees need torch, transformers, jaxtyping and pydantic alone, and what needs more says which extra to
install.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsebert.degrees import DegreeConfig, LearnedDegrees
    from sparsebert.degrees.training import attach_degrees
    from sparsebert.errors import InputError
    from sparsebert.models.encoders import load_classifier, load_tokenizer
    from sparsebert.models.sparsified import Sparsified, sparsify
    from sparsebert.patterns import (
        Copies,
        Dense,
        Dilated,
        Global,
        Learned,
        Lexical,
        Neighbour,
        Pattern,
        Random,
        Segments,
        Syntax,
        Weighted,
        parse_pattern,
    )
    from sparsebert.patterns.batches import Batch
    from sparsebert.patterns.plans import Placement, Plan, parse_plan
    from sparsebert.registry import register
    from sparsebert.sweeps.running import run_all
    from sparsebert.training.finetuning import evaluate, finetune
    from sparsebert.training.runs import RunConfig, RunRecord, RunStore
    from sparsebert.training.saving import load

__version__ = "0.1.0"

# GNU's OpenMP, which torch's wheels for Linux bring, reads this when torch is loaded. A thread that waits for
# the others spins 300,000 turns by default, and where other processes want its core that slows training to a
# quarter. The pauses between two operations of a model take fewer turns than these.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

_NAMES = {
    "sparsebert.degrees": ("DegreeConfig", "LearnedDegrees"),
    "sparsebert.degrees.training": ("attach_degrees",),
    "sparsebert.errors": ("InputError",),
    "sparsebert.models.encoders": ("load_classifier", "load_tokenizer"),
    "sparsebert.models.sparsified": ("Sparsified", "sparsify"),
    "sparsebert.patterns": (
        *(
            "Copies",
            "Dense",
            "Dilated",
            "Global",
            "Learned",
            "Lexical",
            "Neighbour",
            "Pattern",
            "Random",
            "Segments",
            "Syntax",
        ),
        *("Weighted", "parse_pattern"),
    ),
    "sparsebert.patterns.batches": ("Batch",),
    "sparsebert.patterns.plans": ("Placement", "Plan", "parse_plan"),
    "sparsebert.registry": ("register",),
    "sparsebert.sweeps.running": ("run_all",),
    "sparsebert.training.finetuning": ("evaluate", "finetune"),
    "sparsebert.training.runs": ("RunConfig", "RunRecord", "RunStore"),
    "sparsebert.training.saving": ("load",),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [*sorted(_MODULE_OF), "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'sparsebert' has no attribute '{name}'")
    try:
        return getattr(importlib.import_module(_MODULE_OF[name]), name)
    except ModuleNotFoundError as error:
        from sparsebert.errors import how_to_install

        raise ImportError(f"sparsebert.{name}: {how_to_install(error)}") from error


def __dir__() -> list[str]:
    return __all__
