"""The degrees that three runs of experiment 3 learned on QNLI, for `book/grids/degrees_again.yaml`.

    $ python book/studies/degrees_again.py    # from the project's folder: the plans hold the files' paths
    $ sparsebert sweep book/grids/degrees_again.yaml --data-dir GLUE --executor processes --workers 2

Four files a run are written into `runs/`: the degrees as they were (`own`), without their weights
(`unweighted`), and moved to other `heads` of each layer or to other `layers`. A gain that is left when they
are moved is not due to which head or layer got which degree.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Literal

from sparsebert.patterns.hard_degrees import HardDegrees
from sparsebert.study.results import run_named
from sparsebert.training.runs import RunStore

RUNS = ("ec71057ba6a7b67d", "1435da6b01b7a2bd", "5aa778ef4c1fef99")  # by seed


def shuffled(degrees: HardDegrees, over: Literal["heads", "layers"], seed: int) -> HardDegrees:
    """The same degrees at other places: each layer's given to other heads of it, or to other layers."""
    order = random.Random(seed)
    places = [layer for layer, rows in enumerate(degrees.kept) if rows is not None]
    sources = order.sample(places, len(places)) if over == "layers" else places
    count = degrees.heads
    heads = [order.sample(range(count), count) if over == "heads" else range(count) for _ in places]

    def moved(tables: list) -> list:
        found: list = [None] * len(tables)
        for place, source, order_of_heads in zip(places, sources, heads, strict=True):
            found[place] = [tables[source][head] for head in order_of_heads]
        return found

    given = {"kept": degrees.kept, "weights": degrees.weights}
    return degrees.model_copy(update={name: table and moved(table) for name, table in given.items()})


def main(folder: Path = Path("runs")) -> None:
    """Write the twelve files."""
    for seed, name in enumerate(RUNS):
        own = run_named(name, RunStore()).learning.degrees
        written = {
            "own": own,
            "unweighted": own.model_copy(update={"weights": None}),
            "heads": shuffled(own, "heads", seed),
            "layers": shuffled(own, "layers", seed),
        }
        for treatment, degrees in written.items():
            print(degrees.save(folder / f"degrees-{treatment}-qnli-0.1-{seed}.json"))


if __name__ == "__main__":
    main()
