"""What a chapter puts on its page: a finding in a sentence, a figure, a table."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from IPython.display import display
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from sparsebert.errors import InputError
from sparsebert.figures.look import PIXELS_PER_INCH, style
from sparsebert.study.captions import origin
from sparsebert.training.runs import RunRecord

MOST_COLUMNS = 6  # of a table: what a laptop shows without scrolling
AGREES = "sparsebert-agrees"  # an output's metadata: whether the runs bear out the sentence of a finding
_BREAK = "\N{LINE SEPARATOR}"  # stands for a line break, which pandas would write as a backslash and an n


def show(
    figure: Figure, name: str, caption: str, alt: str, made_from: Sequence[RunRecord | Mapping] = ()
) -> None:
    """Display a figure once, as a PNG, and close it; a cell of a chapter ends with this call.

    `name` is the figure's label in the book (``{numref}`name` ``), `caption` stands below it in Markdown, and
    `alt` says to those who can't see it what it shows. Rendering the chapter reads them from the output's
    metadata. To the caption is added when, where and by which commit the runs, or the measurements with these
    provenances, were made that the figure is `made_from`. Raises `InputError` if any text is empty.
    """
    given = {"name": name, "caption": caption, "alt": alt}
    for what, text in given.items():
        if not text.strip():
            raise InputError(f"figure '{name}' has no {what}: give it a name, a caption and an alt text")
    given["caption"] = f"{caption} {origin(made_from)}".strip()
    image, width = _png(figure)
    plt.close(figure)
    display(
        {"image/png": image, "text/plain": f"Figure: {alt}"},
        metadata={"image/png": {"width": width}, "sparsebert": given},
        raw=True,
    )


def _png(figure: Figure) -> tuple[str, int]:
    """A figure as a PNG in base64, and how many pixels wide it is shown."""
    stream = io.BytesIO()
    with style():
        figure.savefig(stream, format="png", dpi=2 * PIXELS_PER_INCH, bbox_inches="tight", pad_inches=0.12)
    pixels = int.from_bytes(stream.getvalue()[16:20])  # the width in a PNG's header
    return base64.b64encode(stream.getvalue()).decode(), pixels // 2


class Picture:
    """A figure with its caption and alt text as HTML, to `glue` for another page.

    A page gets none of the three from a figure that another page shows. `caption`, `alt` and `made_from` are
    as in `show`, but the caption is plain text.
    """

    def __init__(
        self, figure: Figure, caption: str, alt: str, made_from: Sequence[RunRecord | Mapping] = ()
    ) -> None:
        self.image, self.width = _png(figure)
        self.caption, self.alt = f"{caption} {_plain_origin(made_from)}".strip(), alt

    def _repr_html_(self) -> str:
        source = f'src="data:image/png;base64,{self.image}" width="{self.width}"'
        caption = f"<figcaption><p>{html.escape(self.caption, quote=False)}</p></figcaption>"
        return f'<figure>\n<img {source} alt="{html.escape(self.alt)}">\n{caption}\n</figure>'

    def __repr__(self) -> str:
        return f"Figure: {self.alt}"


def _plain_origin(made_from: Sequence[RunRecord | Mapping]) -> str:
    return re.sub(r"\\(.)", r"\1", origin(made_from))  # it is meant for Markdown


@dataclass(frozen=True)
class Finding:
    """A sentence that opens a section of results, written by hand and filled in from runs.

    As the last line of a cell it shows the sentence where the runs bear it out (`agrees`), else `instead`,
    which only gives the numbers. Both texts are Markdown, and `agrees` is computed from the runs. The tests
    of the book fail where its own recorded runs do not agree.
    """

    sentence: str
    agrees: bool
    instead: str

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict, dict]:
        differs = f"**These runs do not show what the book's own runs show.** {self.instead}"
        text = f"**{self.sentence}**" if self.agrees else differs
        return {"text/markdown": text, "text/plain": text}, {AGREES: bool(self.agrees)}


finding = Finding  # as chapters call it


def _with_breaks(cell: Any) -> Any:
    return cell.replace("\n", _BREAK) if isinstance(cell, str) else cell


@dataclass(frozen=True)
class Table:
    """A table with a caption, as a page shows it; the last line of a cell, or given to `glue`."""

    frame: pd.DataFrame
    caption: str
    styles: Mapping[str, str]

    def _repr_html_(self) -> str:
        frame = self.frame.map(_with_breaks).rename(columns=_with_breaks)
        with pd.option_context("display.max_colwidth", None, "display.max_rows", None):
            body = frame.to_html(index=False, border=0, na_rep="–", justify="left")
        body = body.replace(_BREAK, "<br>")
        for text, name in self.styles.items():
            body = re.sub(rf"<td>(?={re.escape(html.escape(text))}\b)", f'<td class="{name}">', body)
        caption = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(self.caption, quote=False))
        return body.replace("<thead>", f"<caption>{caption}</caption>\n  <thead>", 1)

    def __repr__(self) -> str:
        return f"{self.caption}\n{self.frame.to_string(index=False, na_rep='–')}"


def table(
    frame: pd.DataFrame,
    caption: str,
    made_from: Sequence[RunRecord | Mapping] = (),
    styles: Mapping[str, str] | None = None,
) -> Table:
    """A frame as a table with a caption; levels of the index that have a name become columns.

    The caption is plain text with names in backquotes; `made_from` is as in `show`. A line break in a cell
    stays one. `styles` gives cells that begin with a text a class of the book's style sheet. Raises
    `InputError` for more than six columns, a column without a name, and an empty caption.
    """
    named = [name for name in frame.index.names if name is not None]
    flat = (frame.reset_index(level=named) if named else frame).rename_axis(columns=None)
    if len(flat.columns) > MOST_COLUMNS:
        raise InputError(
            f"a table of {len(flat.columns)} columns is too wide for a page: {MOST_COLUMNS} at most"
        )
    if not all(str(column).strip() for column in flat.columns) or not caption.strip():
        raise InputError("a table wants a caption and a name for each column")
    return Table(flat, f"{caption} {_plain_origin(made_from)}".strip(), styles or {})
