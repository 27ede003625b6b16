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
        Placement,
        Plan,
        Random,
        Segments,
        Syntax,
        Weighted,
        parse_pattern,
        parse_plan,
    )
    from sparsebert.patterns.batches import Batch
    from sparsebert.reductions import attach_reduction
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
    "degrees": "DegreeConfig LearnedDegrees",
    "degrees.training": "attach_degrees",
    "errors": "InputError",
    "models.encoders": "load_classifier load_tokenizer",
    "models.sparsified": "Sparsified sparsify",
    "patterns": "Copies Dense Dilated Global Learned Lexical Neighbour Pattern Random Segments Syntax "
    "Weighted Placement Plan parse_pattern parse_plan",
    "patterns.batches": "Batch",
    "reductions": "attach_reduction",
    "registry": "register",
    "sweeps.running": "run_all",
    "training.finetuning": "evaluate finetune",
    "training.runs": "RunConfig RunRecord RunStore",
    "training.saving": "load",
}
_MODULE_OF = {name: f"sparsebert.{module}" for module, names in _NAMES.items() for name in names.split()}

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
