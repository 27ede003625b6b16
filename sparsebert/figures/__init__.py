"""The book's figures: each function takes data and returns a matplotlib Figure; `show` puts it on the page.

`finding` and `table` put a sentence and a table there.

A figure is 720 pixels wide. It has its own background, so that it reads on light and dark pages, and colours
that colour-blind readers can tell apart; whatever a colour says, a marker or a place says, too.

Figures of patterns and of runs' scores are imported here. The others stand in their modules: `learned` is
about degrees and heads, `verdicts` about points lost and the rules, `costs` about time and memory, and
`advice` about a search.
"""

from sparsebert.figures import advice, costs, learned, look, verdicts
from sparsebert.figures.graphs import arcs, degrees, densities, grid, influence, lines
from sparsebert.figures.page import Picture, finding, show, table
from sparsebert.figures.scores import by_placement, by_task, heat_maps, means
