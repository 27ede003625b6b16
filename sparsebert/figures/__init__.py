"""The book's figures: each function takes data and returns a matplotlib Figure; `show` puts it on the page.

Figures are drawn for a column of 720 pixels, on a background of their own so that they read on light and dark
pages, in colours that colour-blind readers can tell apart; where colours matter, so do markers or places.

Those of patterns and of scores are at hand here; `learned`, `verdicts` and `costs` hold those of one chapter
each.
"""

from sparsebert.figures import costs, learned, look, verdicts
from sparsebert.figures.graphs import arcs, degrees, densities, grid, influence, reach
from sparsebert.figures.look import show, style
from sparsebert.figures.scores import (
    accuracy_against_density,
    accuracy_against_sparsity,
    by_placement,
    from_layer,
    heat_maps,
    marginal_values,
)
from sparsebert.study.intervals import mean_interval

__all__ = [
    "accuracy_against_density",
    "accuracy_against_sparsity",
    "arcs",
    "by_placement",
    "costs",
    "degrees",
    "densities",
    "from_layer",
    "grid",
    "heat_maps",
    "influence",
    "learned",
    "look",
    "marginal_values",
    "mean_interval",
    "reach",
    "show",
    "style",
    "verdicts",
]
