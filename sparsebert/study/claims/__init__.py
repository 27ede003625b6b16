"""The paper's claims C1 to C6: the rule of each, and its verdict on each task, computed from recorded runs.

The rules and their numbers stand in `sparsebert.study.claims.rules`, and in words on the page "The rules,
written before the runs". `verdicts` applies them. A *point* is 0.01 of a task's first metric, or 0.01 of
density. Differences are paired: two runs of one seed and one setting (the same task, data, sizes, encoder,
training and precision) that differ in the plan alone. Their intervals hold the luck of seeds and of
evaluation rows together where predictions are on record, and of seeds alone where they are not.

A claim holds if all that its rule asks for is met, and does not hold if a part of it is refuted. It is at
the floor if what is left cannot be told from [CLS] alone. Anything else is undecided, and the reason says
what is missing or too uncertain.
"""

from sparsebert.study.claims.degrees import by_connection, chosen_degrees, learned_before, taken_apart
from sparsebert.study.claims.rules import (
    CLAIMS,
    Estimate,
    Verdict,
    after_holm,
    best_known,
    deciding,
    exploring,
    judge,
    verdicts,
)
from sparsebert.study.claims.tables import (
    by_density,
    by_interval,
    by_method,
    caveats,
    content_rivals,
    counted,
    estimates,
    in_short,
    in_words,
    losses,
    pairing,
    parts_left_out,
    readable,
    reasons,
    rules,
    seen_before,
    summary,
)

__all__ = [
    "CLAIMS",
    "Estimate",
    "Verdict",
    "after_holm",
    "best_known",
    "by_connection",
    "by_density",
    "by_interval",
    "by_method",
    "caveats",
    "chosen_degrees",
    "content_rivals",
    "counted",
    "deciding",
    "estimates",
    "exploring",
    "in_short",
    "in_words",
    "judge",
    "learned_before",
    "losses",
    "pairing",
    "parts_left_out",
    "readable",
    "reasons",
    "rules",
    "seen_before",
    "summary",
    "taken_apart",
    "verdicts",
]
