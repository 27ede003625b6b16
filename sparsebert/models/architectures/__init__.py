"""What is known of each architecture: a class, registered under its `model_type`."""

from sparsebert.models.architectures import bert, mpnet  # which register their classes
from sparsebert.models.architectures.architecture import Architecture, architecture_of, check_architecture
from sparsebert.registry import ARCHITECTURES
