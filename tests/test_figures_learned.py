from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex

from sparsebert import figures
from sparsebert.errors import InputError


def legend_of(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def runs(**columns):
    """Two seeds of two methods: three points at nearly one density, and one elsewhere."""
    rows = []
    for method, point, density in [
        ("single width", "neighbour(1)", 0.151),
        ("learned, per head", "with weights", 0.150),
        ("learned, per head", "without weights", 0.150),
        ("single width", "neighbour(2)", 0.210),
    ]:
        for seed in range(2):
            row = {"method": method, "point": point, "density": density}
            rows.append(row | {"accuracy": 0.7 + 0.1 * seed, "seed": seed, "task": "reviews"} | columns)
    return pd.DataFrame(rows)


def by_density(frame, dense=()):
    return figures.means(frame, "density", dense=dense, colour="method", apart="point")


def markers_of(axes):
    """Places of the means, each a marker with error bars."""
    return [bars.lines[0] for bars in axes.containers]


# ---- graphs and codes ----


def test_two_rows_draw_each_edge_once_and_write_the_lower_degrees():
    graph = torch.tensor([[1, 0, 1], [1, 1, 0]], dtype=torch.bool)
    figure = figures.learned.two_rows({"code": ("checks", "bits", graph)})
    [axes] = figure.axes
    drawn = {tuple(line.get_xdata()) for line in axes.lines if line.get_linestyle() == "-"}
    upper, lower = np.linspace(0, 1, 4)[1:-1], np.linspace(0, 1, 5)[1:-1]
    assert drawn == {(upper[i], lower[j]) for i, j in ((0, 0), (0, 2), (1, 0), (1, 1))}
    assert [text.get_text() for text in axes.texts] == ["2", "1", "1", "checks", "bits"]
    strong = [line for line in axes.lines if to_hex(line.get_color()) == figures.look.BLUE.lower()]
    assert [line.get_xdata()[1] for line in strong] == [lower[0]] * 2


def test_lower_nodes_may_have_degrees_of_their_own():
    graph = torch.ones(1, 3, dtype=torch.bool)
    figure = figures.learned.two_rows({"window": ("keys", "queries", graph)}, {"window": [1, 4, 1]})
    assert [text.get_text() for text in figure.axes[0].texts][:3] == ["1", "4", "1"]


def test_in_a_regular_graph_no_edge_stands_out():
    figure = figures.learned.two_rows({"code": ("checks", "bits", torch.ones(2, 3, dtype=torch.bool))})
    edges = [line for line in figure.axes[0].lines if line.get_linestyle() == "-"]
    assert len(edges) == 6
    assert figures.look.BLUE.lower() not in {to_hex(line.get_color()) for line in edges}


def test_decoding_draws_a_line_per_code_in_percent():
    frame = pd.DataFrame({"code": ["a", "a", "b"], "round": [0, 1, 0], "unknown": [0.5, 0.25, 0.5]})
    figure = figures.lines(frame, "round", "unknown", "code")
    assert [line.get_ydata().tolist() for line in figure.axes[0].lines] == [[50, 25], [50]]
    assert legend_of(figure) == ["a", "b"]


# ---- degree distributions ----


def test_numbers_by_head_are_written_and_some_heads_framed():
    figure = figures.learned.by_head([[0.0, 12.6], [100.0, 50.0]], "{:.0f}", [(1, 0)])
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["0", "13", "100", "50"]
    (frame,) = axes.patches
    assert frame.get_xy() == (0, 1)


def test_survivals_start_at_one_and_have_a_line_per_head_and_one_for_their_mean():
    figure = figures.learned.survivals([[[0.5, 0.0], [1.0, 1.0]], [[0.2, 0.1], [0.4, 0.3]]])
    assert [axes.get_title() for axes in figure.axes] == ["layer 0", "layer 1"]
    drawn = [line.get_ydata().tolist() for line in figure.axes[0].lines]
    assert drawn == [[100, 50, 0], [100, 100, 100], [100, 75, 50]]


# ---- methods compared ----


def test_methods_are_drawn_at_their_mean():
    figure = by_density(runs(), [0.8, 0.9])
    [axes] = figure.axes
    means = markers_of(axes)
    assert len(means) == 4
    assert [line.get_ydata()[0] for line in means] == pytest.approx([75] * 4)
    assert legend_of(figure) == ["single width", "learned, per head", "dense"]


def test_points_of_nearly_equal_density_stand_apart_and_others_where_they_are():
    [axes] = by_density(runs()).axes
    places = sorted(line.get_xdata()[0] for line in markers_of(axes))
    assert places[3] == pytest.approx(21)
    assert np.mean(places[:3]) == pytest.approx(15.033, abs=0.01)
    assert min(np.diff(places)) > 0.05


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: figures.learned.two_rows({}), "nothing to draw"),
        (lambda: figures.learned.by_head([[0.5, -1.0]]), "has the number -1; give numbers of at least 0"),
        (lambda: figures.learned.survivals([]), "nothing to draw"),
        (
            lambda: by_density(pd.concat([runs(), runs(task="headlines")], ignore_index=True)),
            "mixes task",
        ),
    ],
)
def test_what_does_not_fit_is_refused(draw, message):
    with pytest.raises(InputError, match=message):
        draw()
