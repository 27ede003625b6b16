"""Degrees that are learned.

`methods` says how, `learning` has their parameters while they are soft, `hardening` turns them into edges,
and `training` does both within a run.
"""

from sparsebert.degrees.learning import DegreeConfig, LearnedDegrees
from sparsebert.degrees.methods import Method
