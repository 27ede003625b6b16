"""The paper's claims C1 to C6: the rule of each, and its verdict on each task, computed from recorded runs.

The rules and their numbers stand in `CLAIMS` and in the constants above it; chapter 07 says what was written
down before the runs and what was not. `verdicts` applies them. A *point* is 0.01 of a task's first metric, or
0.01 of density. Differences are paired: two runs of one seed and one setting (the same task, data, sizes,
encoder, training and precision) that differ in the plan alone. An interval is Student's 95 % interval over
seeds.

A claim holds if all that its rule asks for is met, and does not hold if a part of it is refuted. Anything
else is undecided, and the reason says what is missing or too uncertain.
"""

from sparsebert.study.claims.degrees import by_connection, chosen_degrees, learned_before
from sparsebert.study.claims.rules import CLAIMS, Estimate, Verdict, judge, verdicts
from sparsebert.study.claims.tables import (
    by_density,
    caveats,
    estimates,
    in_short,
    losses,
    pairing,
    parts_left_out,
    reasons,
    rules,
    summary,
)

__all__ = [
    "CLAIMS",
    "Estimate",
    "Verdict",
    "by_connection",
    "by_density",
    "caveats",
    "chosen_degrees",
    "estimates",
    "in_short",
    "judge",
    "learned_before",
    "losses",
    "pairing",
    "parts_left_out",
    "reasons",
    "rules",
    "summary",
    "verdicts",
]
