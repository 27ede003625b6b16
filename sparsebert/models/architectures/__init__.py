"""What is known of each architecture: one file, one class, registered under its `model_type`."""

from sparsebert.models.architectures import (  # each registers its class
    albert,
    bert,
    distilbert,
    electra,
    modernbert,
    mpnet,
    roberta,
    xlm_roberta,
)
from sparsebert.models.architectures.architecture import Architecture, architecture_of, check_architecture
from sparsebert.registry import ARCHITECTURES
