"""Degrees that are learned: `learning` (soft), `hardening` (edges), `training` (both within a run)."""

from sparsebert.degrees.learning import DegreeConfig, LearnedDegrees
from sparsebert.degrees.training import DegreeTraining, attach_degrees

__all__ = ["DegreeConfig", "DegreeTraining", "LearnedDegrees", "attach_degrees"]
