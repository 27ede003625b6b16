"""What stands beside results in a chapter: names from data, shown as they are, and where runs come from."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from sparsebert.study.intervals import mean_points
from sparsebert.training.runs import RunRecord

_NAMED = 3  # of several devices or commits


def plain(text: object) -> str:
    """Text from data, such as a label or a review, for Markdown: one line, and nothing in it is markup.

    >>> plain("<b> *50* [mg]")
    '\\\\<b\\\\> \\\\*50\\\\* \\\\[mg\\\\]'
    """
    return re.sub(r"([\\`*_{}\[\]()<>#!|~$&])", r"\\\1", _on_one_line(text))


def code(text: object) -> str:
    """A name from data, such as a plan or a file, as code in Markdown, also if backquotes are in it.

    >>> code("neighbour(2)"), code("a`b")
    ('`neighbour(2)`', '``a`b``')
    """
    text = _on_one_line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " * (text.startswith("`") or text.endswith("`"))
    return f"{fence}{pad}{text}{pad}{fence}"


def titled(label: str) -> str:
    """A task as a page names it, or its test part, with what tells its settings apart, if anything does.

    >>> titled("glue/sst2+test"), titled("headlines, epochs 2")
    ('SST-2', 'headlines, epochs 2')
    """
    from sparsebert.data.tasks.glue import GLUE  # takes long to import

    task, *setting = label.split(", ")
    task = task.removesuffix("+test")
    return ", ".join([GLUE[task].folder if task in GLUE else task, *setting])


def listed(names: Sequence[str]) -> str:
    """Names in a sentence.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def rounded(value: float) -> str:
    """A number of points with one digit, rounded in the same way wherever it stands.

    >>> rounded(0.65), rounded(-0.04), rounded(float("nan"))
    ('0.7', '0.0', '–')
    """
    return "–" if math.isnan(value) else f"{round(float(value), 1) + 0.0:.1f}"


def between(low: float, high: float) -> str:
    """An interval in points; a dash where there is none.

    >>> between(-0.04, 1.26), between(float("nan"), 1.0)
    ('0.0 to 1.3', '–')
    """
    return "–" if math.isnan(low) else f"{rounded(low)} to {rounded(high)}"


def points(mean: float, low: float, high: float) -> str:
    """A number of points with its interval, for a sentence.

    >>> points(2.64, 1.0, 4.2), points(2.64, float("nan"), float("nan"))
    ('2.6 points (1.0 to 4.2)', '2.6 points')
    """
    return f"{rounded(mean)} points" + ("" if math.isnan(low) else f" ({between(low, high)})")


def points_lost(runs: pd.DataFrame) -> str:
    """The mean of the column `loss` over seeds, with its 95 % interval, as `mean_points` finds it."""
    return points(*mean_points(runs))


def origin(sources: Sequence[RunRecord | Mapping]) -> str:
    """When, on what and by which commit runs or measurements were made; empty for none.

    Measurements are given by their provenance. The text is for Markdown.
    """
    told = [source if isinstance(source, Mapping) else vars(source) for source in sources]
    if not told:
        return ""
    days = sorted({str(one["finished"])[:10] for one in told if one.get("finished")})
    said = [f"Made {' to '.join(dict.fromkeys((days[0], days[-1])))}"] if days else ["Made"]
    said.append(f"on {_some(one.get('device') for one in told)}")
    return f"{' '.join(said)}, commit {_some(one.get('commit') for one in told)}."


def _some(values: Iterable[object]) -> str:
    """The distinct values, the first few by name."""
    distinct = list(dict.fromkeys(plain(value or "unknown") for value in values))
    more = len(distinct) - _NAMED
    return "; ".join(distinct[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _on_one_line(text: object) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
