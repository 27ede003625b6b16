"""Tiny random models of every architecture that can be sparsified."""

from sparsebert.models.architectures import ARCHITECTURES
from sparsebert.selftest.models import tiny_batch, tiny_config, tiny_model  # noqa: F401

CONFIGS = {kind: tiny_config(kind) for kind in sorted(ARCHITECTURES)}
