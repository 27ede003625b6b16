"""The paper's claims C1 to C6: the rule of each, and its verdict on each task, computed from recorded runs.

The rules and their numbers stand in `sparsebert.study.claims.rules`, and in words on the page "The rules,
written before the runs". `verdicts` applies them. A *point* is 0.01 of a task's first metric, or 0.01 of
density. Differences are paired: two runs of one seed and one setting (the same task, data, sizes, encoder,
training and precision) that differ in the plan alone. Their intervals hold the luck of seeds and of
evaluation rows together where predictions are on record, and of seeds alone where they are not.

A claim holds if all that its rule asks for is met, and does not hold if a part of it is refuted. It is at
the floor if what is left cannot be told from [CLS] alone. Anything else is undecided: runs are `missing`, or
a number is too uncertain.
"""

from sparsebert.study.claims.degrees import (
    KINDS,
    by_connection,
    chosen_degrees,
    open_heads,
    regained,
    taken_apart,
)
from sparsebert.study.claims.rules import (
    CLAIMS,
    Estimate,
    Verdict,
    after_holm,
    best_known,
    deciding,
    exploratory,
    judge,
    verdicts,
)
from sparsebert.study.claims.runs import runs_by_setting
from sparsebert.study.claims.tables import (
    best_verdicts,
    by_density,
    by_method,
    caveats,
    counted,
    estimates,
    in_short,
    in_short_to_read,
    in_words,
    losses,
    missing,
    parts_left_out,
    preferred,
    runs_behind,
    stated,
    summary,
    table_of_rules,
    told,
)
