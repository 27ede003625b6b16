from __future__ import annotations

import base64
import io
import math
import re
from functools import partial

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from matplotlib.image import imread
from matplotlib.patches import FancyArrowPatch

from sparsebert import figures
from sparsebert.errors import InputError
from sparsebert.patterns import parse_pattern
from sparsebert.patterns.batches import Batch
from sparsebert.reductions import REDUCTIONS
from sparsebert.study import claims
from sparsebert.study.intervals import mean_interval

TOKENS = ["[CLS]", "a", "cl", "##unk", "##y", "film", "[SEP]"]
CONTROL = "random(like=syntax, besides=global(cls)) | global(cls)"
PATTERNS = ["neighbour(2) | global(cls)", "syntax | global(cls)", CONTROL]


def relation(text, length=7):
    return parse_pattern(text).allowed(Batch.of_lengths([length]))[0, 0]


def runs(patterns=tuple(PATTERNS), placements=("late", "all"), seeds=3, **columns):
    """One row per run; accuracy and density differ by pattern, placement and seed."""
    rows = []
    for i, pattern in enumerate(patterns):
        for j, placement in enumerate(placements):
            for seed in range(seeds):
                loss = 0.01 * (i + j + 1) + 0.002 * seed
                row = {"pattern": pattern, "placement": placement, "seed": seed, "first_layer": j}
                row |= {"accuracy": 0.8 - loss, "loss": loss, "sparsity": 0.5 + 0.1 * i + 0.03 * j}
                rows.append(row | columns)
    return pd.DataFrame(rows)


def legend_of(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def shown(monkeypatch, *arguments):
    calls = []
    monkeypatch.setattr(figures.page, "display", lambda *given, **options: calls.append((*given, options)))
    figures.show(*arguments)
    return calls


# ---- show ----


def test_show_displays_one_png_with_name_caption_and_alt(monkeypatch):
    figure = figures.grid({"dense": relation("dense")}, TOKENS)
    [(data, options)] = shown(monkeypatch, figure, "fig-x", "A caption.", "What is seen.")
    image = imread(io.BytesIO(base64.b64decode(data["image/png"])))
    expected = {"name": "fig-x", "caption": "A caption.", "alt": "What is seen."}
    assert options["raw"] and options["metadata"]["sparsebert"] == expected
    assert "What is seen." in data["text/plain"]
    # Twice as many pixels as it is shown wide, within the page's column and a margin.
    assert image.shape[1] // 2 == options["metadata"]["image/png"]["width"] <= 750


def test_a_picture_for_another_page_has_its_caption_its_alt_text_and_the_image_in_it():
    made = {"finished": "2026-11-02T10:00:00+00:00", "device": "a GPU", "commit": "a_b"}
    figure = figures.grid({"dense": relation("dense")}, TOKENS)
    shown = figures.Picture(figure, "Fewer < more.", 'What "is" seen.', [made])._repr_html_()
    assert "<p>Fewer &lt; more. Made 2026-11-02 on a GPU, commit a_b.</p>" in shown
    assert 'alt="What &quot;is&quot; seen."' in shown
    image = re.search(r'src="data:image/png;base64,([^"]+)" width="(\d+)"', shown)
    assert imread(io.BytesIO(base64.b64decode(image[1]))).shape[1] // 2 == int(image[2])


def test_a_finding_is_the_sentence_only_if_the_runs_agree():
    shown, told = figures.finding("It costs 1.2 points.", 1.2 > 1, "It costs 1.2.")._repr_mimebundle_()
    assert shown["text/markdown"] == "**It costs 1.2 points.**" and told[figures.page.AGREES]
    shown, told = figures.finding("It costs 0.2 points.", 0.2 > 1, "It costs 0.2.")._repr_mimebundle_()
    assert shown["text/markdown"].endswith("It costs 0.2.") and told[figures.page.AGREES] is False
    assert "points" not in shown["text/markdown"]


def test_a_table_has_a_caption_named_columns_and_lines_within_cells():
    frame = pd.DataFrame(
        {"loss": [1.25, None], "verdict": ["holds\na <b> & c", "holds not"]}, index=["a", "b"]
    )
    shown = figures.table(frame.rename_axis("task"), "Of `x` & <y>", styles={"holds": "green"})._repr_html_()
    assert "<caption>Of <code>x</code> &amp; &lt;y&gt;</caption>" in shown
    assert re.findall("<th>(.*?)</th>", shown) == ["task", "loss", "verdict"]
    assert '<td class="green">holds<br>a &lt;b&gt; &amp; c</td>' in shown and "<td>–</td>" in shown


def test_a_backslash_in_a_table_is_no_line_break():
    frame = pd.DataFrame({"plan": [r'learned("runs\new.json")'], "two\nlines": [1.5]})
    shown = figures.table(frame, "Plans")._repr_html_()
    assert r'<td>learned("runs\new.json")</td>' in shown and "<th>two<br>lines</th>" in shown


def test_the_name_of_a_tables_columns_is_no_head_of_its_own():
    shown = figures.table(pd.DataFrame({"a": [1]}).rename_axis(columns="way"), "Ways")._repr_html_()
    assert re.findall("<th>(.*?)</th>", shown) == ["a"]


def test_a_table_that_no_page_can_show_is_refused():
    wide = pd.DataFrame([range(7)], columns=list("abcdefg"))
    for frame, caption in [
        (wide, "A caption"),
        (wide[["a"]], " "),
        (wide.rename(columns={"a": ""})[[""]], "b"),
    ]:
        with pytest.raises(InputError, match="table"):
            figures.table(frame, caption)


def test_show_says_in_the_caption_when_where_and_by_which_commit_its_runs_were_made(monkeypatch):
    figure, _ = plt.subplots()
    made = {"finished": "2026-11-02T10:00:00+00:00", "device": "a GPU", "commit": "abc"}
    [(_, options)] = shown(monkeypatch, figure, "fig-x", "A caption.", "What is seen.", [made])
    expected = "A caption. Made 2026-11-02 on a GPU, commit abc."
    assert options["metadata"]["sparsebert"]["caption"] == expected


def test_show_paints_an_opaque_background_to_the_edge(monkeypatch):
    figure, _ = plt.subplots()  # even where it was not drawn in our style
    [(data, _)] = shown(monkeypatch, figure, "fig-x", "c", "a")
    image = imread(io.BytesIO(base64.b64decode(data["image/png"])))
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    assert {to_hex(pixel, keep_alpha=True) for pixel in border} == {figures.look.BACKGROUND + "ff"}


def test_show_closes_the_figure_so_that_a_notebook_does_not_show_it_again(monkeypatch):
    figure, _ = plt.subplots()
    shown(monkeypatch, figure, "fig-x", "c", "a")
    assert not plt.fignum_exists(figure.number)


@pytest.mark.parametrize("empty", ["name", "caption", "alt"])
def test_show_refuses_an_empty_name_caption_or_alt(empty):
    texts = {"name": "fig-x", "caption": "c", "alt": "a"} | {empty: " "}
    with pytest.raises(InputError, match=f"no {empty}"):
        figures.show(figures.grid({"dense": relation("dense")}, TOKENS), **texts)


def test_drawing_leaves_matplotlibs_settings_as_they_were():
    before = dict(mpl.rcParams)
    figures.grid({"dense": relation("dense")}, TOKENS)
    figures.by_placement(runs())
    assert dict(mpl.rcParams) == before


# ---- who may attend to whom ----


def test_a_grid_has_a_labelled_panel_per_relation_and_tells_self_loops_apart():
    texts = ["dense", "neighbour(1)", "random(2)", "global(cls)"]
    figure = figures.grid({text: relation(text) for text in texts}, TOKENS)
    assert [axes.get_title() for axes in figure.axes] == texts
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == TOKENS
    assert [label.get_text() for label in figure.axes[-1].get_xticklabels()] == TOKENS
    for axes, text in zip(figure.axes, texts, strict=True):
        drawn = axes.collections[0].get_array().reshape(len(TOKENS), -1)
        assert np.array_equal(drawn > 0, relation(text).numpy())
        assert np.array_equal(drawn == 2, np.eye(len(TOKENS), dtype=bool))


def test_a_grid_writes_degrees_at_the_ends_of_rows():
    figure = figures.grid({"neighbour(1)": relation("neighbour(1)")}, TOKENS, degrees=True)
    assert [text.get_text() for text in figure.axes[0].texts] == ["1", "2", "2", "2", "2", "2", "1"]


def test_influence_leaves_exact_zeros_blank_and_keeps_the_faintest_positive():
    strength = torch.tensor([[1.0, 0.0], [1e-9, 0.5]])
    panel, colours = figures.influence({"layer 0": strength}, ["a", "b"]).axes
    assert panel.collections[0].get_array().mask.reshape(2, 2).tolist() == [[False, True], [False, False]]
    assert "exactly zero" in colours.get_xlabel()


def test_influence_can_name_its_rows():
    panel, _ = figures.influence({"": torch.ones(1, 2)}, ["a", "b"], outputs=["syntax"]).axes
    assert [label.get_text() for label in panel.get_yticklabels()] == ["syntax"]


def arrows_of(figure):
    return [patch for patch in figure.axes[0].patches if isinstance(patch, FancyArrowPatch)]


def parsed(tokens, allowed, heads):
    """Tokens that are words, with their parse."""
    return figures.arcs(tokens, allowed, heads=heads, words=tokens, word_ids=range(len(tokens)))


def test_arcs_draw_an_arrow_for_each_word_but_the_root():
    figure = parsed(["a", "clunky", "film"], torch.eye(3, dtype=torch.bool), [2, 2, 2])
    assert len(arrows_of(figure)) == 2
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == [*["a", "clunky", "film"] * 2, "root"]


def test_arcs_draw_each_edge_once_and_no_self_loop():
    one_way = torch.eye(3, dtype=torch.bool)
    one_way[2, 0] = True
    for relation in (one_way, one_way | one_way.T):
        assert len(arrows_of(parsed(["a", "b", "c"], relation, [0, 1, 2]))) == 1


def test_arcs_draw_words_above_their_pieces():
    figure = figures.arcs(
        TOKENS,
        relation("neighbour(1)"),
        words=["a", "clunky", "film"],
        word_ids=[-1, 0, 1, 1, 1, 2, -1],
        heads=torch.tensor([2, 2, 2]),
    )
    at = {(text.get_text(), text.get_weight()): text.get_position() for text in figure.axes[0].texts}
    pieces = [at[piece, "normal"][0] for piece in ("cl", "##unk", "##y")]
    assert pieces[0] < at["clunky", "bold"][0] < pieces[2]
    assert len(arrows_of(figure)) == 2 + len(TOKENS) - 1


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: figures.grid({}, TOKENS), "nothing to draw"),
        (lambda: figures.influence({}, TOKENS), "nothing to draw"),
        (lambda: figures.influence({"x": -torch.ones(1, 1)}, ["a"]), "negative"),
        (lambda: parsed(TOKENS, relation("dense"), [0]), "1 heads and 7 words"),
    ],
)
def test_graphs_refuse_what_does_not_fit(draw, message):
    with pytest.raises(InputError, match=message):
        draw()


def test_what_has_another_shape_than_the_tokens_is_not_drawn():
    with pytest.raises(ValueError, match=r"\(3,3\) \(7,7\)"):
        figures.grid({"dense": relation("dense", 3)}, TOKENS)
    with pytest.raises(TypeError, match=r"Dimensions of C \(2, 3\)"):
        figures.influence({"x": torch.ones(2, 3)}, ["a", "b"])


# ---- how far, how dense ----


def test_lines_average_rows_and_draws_a_line_per_pattern_in_each_panel():
    rows = [
        {"pattern": pattern, "layers": layers, "share": share, "reader": reader}
        for pattern in ("dense", "syntax")
        for layers in (0, 1)
        for share in (0.2, 0.4)
        for reader in ("[CLS]", "average")
    ]
    figure = figures.lines(pd.DataFrame(rows), "layers", "share", col="reader")
    assert [axes.get_title() for axes in figure.axes] == ["[CLS]", "average"]
    for axes in figure.axes:
        assert [line.get_ydata().tolist() for line in axes.lines] == [pytest.approx([30, 30])] * 2
    assert legend_of(figure) == ["dense", "syntax"]


def test_densities_draw_both_counts_in_percent():
    frame = pd.DataFrame({"pattern": ["dense", "syntax"], "over_real": [1, 0.2], "over_padded": [0.1, 0.02]})
    figure = figures.densities(frame)
    widths = [[bar.get_width() for bar in bars] for bars in figure.axes[0].containers]
    assert widths == [pytest.approx([100, 20]), pytest.approx([10, 2])]
    assert len(legend_of(figure)) == 2


def test_degrees_draw_a_histogram_per_pattern():
    frame = pd.DataFrame({"pattern": ["syntax"] * 4 + ["neighbour(1)"] * 2, "degree": [0, 1, 1, 4, 2, 2]})
    figure = figures.degrees(frame)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["syntax\nmean 1.5", "neighbour(1)\nmean 2.0"]
    heights = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in figure.axes[0].patches}
    assert [heights.get(degree, 0) for degree in range(5)] == [25, 50, 0, 0, 25]


# ---- intervals ----


def test_one_run_has_no_interval():
    mean, low, high = mean_interval([0.8])
    assert mean == 0.8 and math.isnan(low) and math.isnan(high)


def test_equal_runs_have_an_interval_of_no_width():
    assert mean_interval([0.5, 0.5]) == (0.5, 0.5, 0.5)


def test_no_run_has_no_mean():
    with pytest.raises(InputError, match="at least one"):
        mean_interval([])


# ---- results ----


def by_sparsity(frame, dense=()):
    return figures.means(frame, "sparsity", dense=dense, apart="placement")


def by_first_layer(frame, dense=()):
    return figures.means(frame, "first_layer", dense=dense, apart="placement", line=True)


def by_density(frame, dense=()):
    return figures.means(frame, "density", dense=dense, colour="parts", apart="mixture")


def worth(frame):
    return figures.means(frame, "degree", "value", colour="part", apart="step", zero=True)


def intervals_of(axes):
    """Ends of every drawn interval, as a list of [[x, y], [x, y]]."""
    return [segment for bars in axes.containers for lines in bars[2] for segment in lines.get_segments()]


def means_of(axes):
    return [tuple(map(float, (bars[0].get_xdata()[0], bars[0].get_ydata()[0]))) for bars in axes.containers]


def test_means_against_sparsity_have_intervals_and_the_dense_line():
    frame = runs()
    figure = by_sparsity(frame, dense=[0.8, 0.81, 0.82])
    [axes] = figure.axes
    groups = frame.groupby(["pattern", "placement"], sort=False)
    expected = [(100 * own["sparsity"].mean(), 100 * own["accuracy"].mean()) for _, own in groups]
    assert means_of(axes) == [pytest.approx(point) for point in expected]
    for segment, (_, own) in zip(intervals_of(axes), groups, strict=True):
        ends = mean_interval(100 * own["accuracy"])[1:]
        assert segment[:, 1] == pytest.approx(ends)
    [line] = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert line.get_ydata() == pytest.approx([81, 81])
    [band] = axes.patches
    half = 4.302652729911275 / math.sqrt(3)  # points: the three dense runs have a standard deviation of 1
    assert (band.get_y(), band.get_height()) == pytest.approx((81 - half, 2 * half))


def test_labels_leave_out_global_tokens_that_all_share_and_controls_take_their_patterns_colour():
    figure = by_sparsity(runs(), dense=[0.8])
    control = "its degree-matched random control"
    assert legend_of(figure) == ["neighbour(2)", "syntax", control, "dense"]
    marks = [bars[0] for bars in figure.axes[0].containers]
    colours = [to_hex(mark.get_color()) for mark in marks]
    hollow = [to_hex(mark.get_markerfacecolor()) == figures.look.BACKGROUND for mark in marks]
    assert colours[0] != colours[2] == colours[4]
    assert hollow == [False] * 4 + [True] * 2


def test_labels_keep_global_tokens_that_differ():
    frame = runs(["neighbour(2) | global(cls)", "neighbour(2)", "dense"], ["all"])
    figure = by_sparsity(frame)
    assert legend_of(figure) == ["neighbour(2) | global(cls)", "neighbour(2)", "dense"]


def test_levels_that_are_no_patterns_are_taken_as_they_are():
    frame = runs(placements=["all"], cls=True)
    names = ["learned", "BigBird (2, 3)", "2"]
    frame["pattern"] = frame["pattern"].replace(PATTERNS, names)
    figure = by_sparsity(frame)
    assert legend_of(figure) == names


def test_a_kind_of_pattern_has_its_colour_in_every_figure():
    one = by_sparsity(runs(["syntax", "neighbour(2)"], ["all"]))
    other = by_first_layer(runs(["neighbour(4)", "lexical(2)", "syntax"]))

    def colours(figure):
        [legend] = figure.legends
        labels = [text.get_text() for text in legend.get_texts()]
        return dict(zip(labels, [to_hex(line.get_color()) for line in legend.get_lines()], strict=True))

    assert colours(one)["syntax"] == colours(other)["syntax"]
    assert colours(one)["neighbour(2)"] == colours(other)["neighbour(4)"]


def test_levels_look_apart_while_there_are_looks_left():
    levels = ["neighbour(1)", "syntax", "lexical(2)", "copies | syntax", "copies", "learned", "a", "b", "c"]
    looks = figures.look.looks_of(levels)
    assert len({(look["color"], look["marker"]) for look in looks.values()}) == len(levels)


def test_single_runs_are_drawn_without_intervals():
    [axes] = by_sparsity(runs(seeds=1), dense=[0.8]).axes
    assert len(means_of(axes)) == 6 and intervals_of(axes) == [] and len(axes.patches) == 0


def test_by_placement_puts_each_control_in_the_row_of_its_pattern():
    frame = runs()
    late, _ = figures.by_placement(frame).axes
    assert [axes.get_title() for axes in figures.by_placement(frame).axes] == ["late", "all"]
    assert [label.get_text() for label in late.get_yticklabels()] == ["neighbour(2)", "syntax"]
    rows = [round(y) for _, y in means_of(late)]
    assert rows == [0, 1, 1]
    own = frame[frame["placement"] == "late"].groupby("pattern", sort=False)["loss"].mean()
    assert [x for x, _ in means_of(late)] == pytest.approx((100 * own).tolist())
    without = figures.by_placement(runs(PATTERNS[:2])).axes[0]
    assert [y for _, y in means_of(without)] == [0, 1]  # in the middle of their rows


def test_means_are_joined_by_a_line_per_pattern_through_its_means():
    frame = runs(PATTERNS[:2], ["0-", "1-", "2-"])
    [axes] = by_first_layer(frame, dense=[0.8, 0.82]).axes
    lines = [line for line in axes.lines if len(line.get_xdata()) == 3 and line.get_marker() == "none"]
    for line, (_, own) in zip(lines, frame.groupby("pattern", sort=False), strict=True):
        means = 100 * own.groupby("first_layer")["accuracy"].mean()
        assert line.get_ydata() == pytest.approx(means.tolist())
        assert np.abs(line.get_xdata() - [0, 1, 2]).max() < 0.2
    assert len(intervals_of(axes)) == 6


# ---- how many connections of each kind ----


def mixtures(seeds=3, **columns):
    """One row per run of the mixtures (g, r, w), g and r and w being 0 or 2, without that of nothing."""
    rows = []
    for g, r, w in [(g, r, w) for g in (0, 2) for r in (0, 2) for w in (0, 2) if g + r + w]:
        parts = " | ".join(part for part, size in (("neighbour", w), ("random", r), ("global", g)) if size)
        for seed in range(seeds):
            row = {"g": g, "r": r, "w": w, "mixture": f"{(g, r, w)}", "parts": parts, "seed": seed}
            row |= {"density": 0.1 * (g + r + w), "accuracy": 0.5 + 0.03 * (g + w) + 0.01 * r + 0.002 * seed}
            rows.append(row | {"loss": row["accuracy"]} | columns)
    return pd.DataFrame(rows)


def steps(seeds=3, **columns):
    """Two steps, of a neighbour and of a random edge, worth 2 and 1 points a degree and a little by seed."""
    rows = [
        {"part": part, "step": part, "degree": degree, "value": value + 0.001 * seed}
        for part, degree, value in (("neighbour", 2.0, 0.02), ("random", 4.0, 0.01))
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows).assign(**columns)


def cells_of(axes):
    """What is written in each cell of a heat map, by (column, row) as the axes label them."""
    across, down = axes.get_xticklabels(), axes.get_yticklabels()
    return {
        (across[int(text.get_position()[0])].get_text(), down[int(text.get_position()[1])].get_text()): text
        for text in axes.texts
    }


def test_by_task_draws_each_run_the_mean_and_what_guessing_scores():
    frame = pd.DataFrame({"task": ["one", "one", "two"], "score": [60.0, 80.0, 95.0]})
    figure = figures.by_task(frame, {"one": 50.0, "two": 20.0})
    [axes] = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one", "two"]
    drawn = [list(line.get_xdata()) for line in axes.lines if line.get_marker() in "x|"]
    assert drawn == [[50.0], [60.0, 80.0], [20.0], [95.0]]
    assert legend_of(figure) == ["mean", "one run", "commonest label"]


def test_heat_maps_write_means_and_half_intervals_and_leave_blank_what_was_not_run():
    without, with_ = figures.heat_maps(mixtures()).axes
    assert [axes.get_title() for axes in (without, with_)] == ["g = 0", "g = 2"]
    half = 4.302652729911275 / math.sqrt(3) * 0.2  # points: the three seeds have a standard deviation of 0.2
    assert {cell: text.get_text() for cell, text in cells_of(with_).items()} == {
        ("0", "0"): f"56.2\n±{half:.1f}",
        ("2", "0"): f"62.2\n±{half:.1f}",
        ("0", "2"): f"58.2\n±{half:.1f}",
        ("2", "2"): f"64.2\n±{half:.1f}",
    }
    assert set(cells_of(without)) == {("2", "0"), ("0", "2"), ("2", "2")}
    assert not without.yaxis_inverted()  # more random keys further up


def test_heat_maps_share_one_scale_of_colours():
    scales = [axes.collections[0].get_clim() for axes in figures.heat_maps(mixtures()).axes]
    assert scales == [pytest.approx((52.2, 64.2))] * 2


def test_heat_maps_of_single_runs_write_means_alone():
    texts = [text.get_text() for axes in figures.heat_maps(mixtures(seeds=1)).axes for text in axes.texts]
    assert texts == ["56.0", "52.0", "58.0", "56.0", "62.0", "58.0", "64.0"]


def test_means_against_density_keep_mixtures_of_the_same_parts_apart():
    frame = mixtures()
    more = frame[frame["mixture"] == "(2, 2, 2)"].assign(mixture="(4, 2, 2)", density=0.9, accuracy=0.9)
    figure = by_density(pd.concat([frame, more]), dense=[0.8, 0.82])
    [axes] = figure.axes
    groups = pd.concat([frame, more]).groupby("mixture", sort=False)
    expected = [(100 * own["density"].mean(), 100 * own["accuracy"].mean()) for _, own in groups]
    assert sorted(y for _, y in means_of(axes)) == pytest.approx(sorted(y for _, y in expected))
    assert sum(x for x, _ in means_of(axes)) == pytest.approx(sum(x for x, _ in expected))
    assert len(intervals_of(axes)) == 8
    assert [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"] == [pytest.approx(81)]
    assert set(legend_of(figure)) == {*frame["parts"], "dense"}


def test_marginal_values_are_points_per_degree_with_intervals():
    figure = worth(steps())
    [axes] = figure.axes
    assert means_of(axes) == [pytest.approx((2, 2.1)), pytest.approx((4, 1.1))]
    half = 4.302652729911275 / math.sqrt(3) * 0.1
    assert intervals_of(axes)[0][:, 1] == pytest.approx([2.1 - half, 2.1 + half])
    assert legend_of(figure) == ["neighbour", "random"]


HOW_MANY = [figures.heat_maps, by_density, worth]


@pytest.mark.parametrize("draw", HOW_MANY)
def test_mixtures_of_different_tasks_are_not_averaged(draw):
    one, other = (pd.concat([mixtures(task=task), steps(task=task)]) for task in ("reviews", "topics"))
    with pytest.raises(InputError, match="mixes task: reviews, topics"):
        draw(pd.concat([one, other]))


# ---- all of them ----


def reached(frame):
    return figures.lines(frame, "layers", "share")


RESULTS = [by_sparsity, figures.by_placement, by_first_layer]


def by_task(frame):
    return figures.by_task(frame, {})


DRAWN = [*RESULTS, *HOW_MANY, reached, by_task, figures.degrees, figures.densities]


@pytest.mark.parametrize("draw", DRAWN)
def test_frames_without_rows_are_refused(draw):
    columns = {
        *runs(),
        *mixtures(),
        *steps(),
        "layers",
        "share",
        "degree",
        "over_real",
        "over_padded",
        "task",
        "score",
    }
    with pytest.raises(InputError, match="nothing to draw"):
        draw(pd.DataFrame(columns=sorted(columns)))


@pytest.mark.parametrize("column", ["task", "encoder", "train_size", "cls"])
def test_runs_that_differ_in_more_than_the_seed_are_not_averaged(column):
    mixed = pd.concat([runs(**{column: 1}), runs(**{column: 2})])
    for draw in RESULTS:
        with pytest.raises(InputError, match=f"mixes {column}: 1, 2"):
            draw(mixed)


def test_runs_that_differ_may_stand_beside_one_another():
    """Only what is averaged has to agree."""
    frame = pd.concat([runs(placements=[p], task=p) for p in ("late", "all")])
    assert len(figures.by_placement(frame).axes) == 2
    frame = pd.concat([runs(placements=["0-"]), runs(placements=["1-"]).assign(first_layer=1)])
    [axes] = figures.means(frame, "first_layer", line=True).axes
    assert len(means_of(axes)) == 6


# ---- ways to spend less ----------------------------------------------------------------------------


def test_ways_have_a_panel_per_task_and_a_look_of_their_own():
    columns = ["label", "kind", "cost", "mean", "low", "high"]
    ways = ["new", "lat", "lat", "ltp"]
    rows = [(t, way, 0.5 + 0.1 * i, 1.0, 0.0, 2.0) for t in ("QNLI", "reviews") for i, way in enumerate(ways)]
    drawn = partial(figures.verdicts.losses_by, x="cost", xlabel="cost", joined=True)
    figure = drawn(pd.DataFrame(rows, columns=columns))
    joined = [line.get_xdata().tolist() for line in figure.axes[0].lines if line.get_linewidth() == 1]
    assert sorted(joined) == [[0.5], pytest.approx([0.6, 0.7]), [pytest.approx(0.8)]]
    assert [axes.get_title() for axes in figure.axes] == ["QNLI", "reviews"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["lat", "ltp", "new"]
    with pytest.raises(InputError, match="nothing to draw"):
        drawn(pd.DataFrame(columns=columns))


def test_a_way_that_is_cheaper_than_dense_attention_is_not_drawn_beyond_it():
    costs = pd.DataFrame({"label": "reviews", "kind": "ltp", "cost": [0.987, 0.989, 0.995], "mean": 1.0})
    figure = figures.verdicts.losses_by(costs.assign(low=0.0, high=2.0), "cost", "cost", joined=True)
    places = [line.get_xdata().tolist() for line in figure.axes[0].lines if line.get_linewidth() == 1]
    assert places == [[0.987, 0.989, 0.995]]


@pytest.mark.parametrize(
    "kinds",
    [
        ", ".join(kind for kind in claims.KINDS.values() if kind != "dense"),
        "[CLS] alone, neighbours, random keys, both, learned degrees",
        ", ".join(["fixed patterns, learned degrees, segments, predicted, fewer layers", *REDUCTIONS]),
    ],
)
def test_kinds_that_stand_in_one_figure_look_apart(kinds):
    looks = [figures.verdicts._KINDS[kind] for kind in kinds.split(", ")]
    for part in ("color", "marker"):
        assert len({look[part] for look in looks}) == len(looks)
