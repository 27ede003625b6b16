"""Means with their errors: over seeds, over seeds and rows, and with variances that are shrunk."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sparsebert.errors import InputError
from sparsebert.study.intervals import (
    Scatter,
    mean_interval,
    mean_points,
    over_seeds,
    over_seeds_and_rows,
    scatter_of,
)


def test_over_seeds_is_students_interval():
    values = [1.0, 2.5, 0.5, 1.5]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert over_seeds(values).interval() == pytest.approx((expected.low, expected.high))
    assert mean_interval(values)[1:] == pytest.approx(
        tuple(stats.ttest_1samp(values, 0).confidence_interval())
    )


def test_a_chance_is_that_of_the_one_sided_test():
    values = [1.0, 2.5, 0.5, 1.5]
    expected = stats.ttest_1samp(values, 0.7, alternative="greater").pvalue
    assert over_seeds(values).chance(0.7) == pytest.approx(expected)
    low, _ = over_seeds(values).interval()
    assert over_seeds(values).chance(low) == pytest.approx(0.05)


def test_one_seed_tells_no_error_and_no_seed_no_mean():
    assert math.isnan(over_seeds([3.0]).error) and over_seeds([3.0]).value == 3
    assert math.isnan(over_seeds_and_rows(np.ones((1, 5))).chance(0))
    with pytest.raises(InputError, match="at least one value"):
        over_seeds([])


def test_seeds_and_rows_are_the_two_way_analysis_of_variance():
    """Against the mean squares of the textbook's table."""
    points = np.random.default_rng(0).normal(size=(4, 50)) + np.linspace(-2, 2, 50)
    seeds, rows = points.shape
    of_seeds = rows * ((points.mean(1) - points.mean()) ** 2).sum() / (seeds - 1)
    of_rows = seeds * ((points.mean(0) - points.mean()) ** 2).sum() / (rows - 1)
    total = ((points - points.mean()) ** 2).sum()
    rest = (total - (seeds - 1) * of_seeds - (rows - 1) * of_rows) / ((seeds - 1) * (rows - 1))
    expected = (of_seeds + of_rows - rest) / (seeds * rows)
    assert over_seeds_and_rows(points).error == pytest.approx(math.sqrt(expected))


def test_a_single_row_is_refused():
    with pytest.raises(InputError, match="one evaluation row"):
        over_seeds_and_rows(np.ones((3, 1)))


def test_differences_without_scatter_have_no_error():
    assert over_seeds_and_rows(np.zeros((3, 9))).interval() == (0, 0)
    assert over_seeds_and_rows(np.full((3, 9), 2.0)).chance(1) == 0


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("moderated", [False, True])
def test_one_in_twenty_intervals_lies_above_the_truth(seeds, moderated):
    random, missed, many = np.random.default_rng(1), 0, 400
    for _ in range(many):
        luck = random.normal(size=(seeds, 12))
        scatter = scatter_of(pd.DataFrame(luck)) if moderated else None
        if scatter:
            scatter = scatter._replace(variance=2 * scatter.variance)
        rows = random.normal(size=(1, 300)) * 10 + random.normal(size=(seeds, 300)) * 10
        points = (luck[:, 0] - luck[:, 1])[:, None] + rows
        missed += over_seeds_and_rows(points, scatter).interval()[0] > 0
    assert 0.02 < missed / many < 0.09


def test_what_scatters_alike_is_shrunk_far_and_what_does_not_is_not():
    random = np.random.default_rng(2)
    alike = scatter_of(pd.DataFrame(random.normal(size=(9, 200))))
    unlike = scatter_of(pd.DataFrame(random.normal(size=(9, 200)) * np.exp(random.normal(size=200) * 2)))
    assert alike.variance == pytest.approx(1, rel=0.3)
    assert alike.freedom > 10 > unlike.freedom
    assert scatter_of(pd.DataFrame(random.normal(size=(3, 2)))) is None
    own = over_seeds([0.0, 0.1, 0.2])
    assert over_seeds([0.0, 0.1, 0.2], alike).error > own.error
    assert over_seeds([0.0, 0.1, 0.2], Scatter(0.01, 1e9)).freedom > 1e9


def test_what_a_seed_does_to_all_conditions_is_no_scatter():
    luck = np.random.default_rng(3).normal(size=(3, 20))
    moved = luck + np.array([[5.0], [-9.0], [4.0]])
    assert scatter_of(pd.DataFrame(moved)).variance == pytest.approx(scatter_of(pd.DataFrame(luck)).variance)


def test_a_seed_that_only_some_conditions_have_leaves_no_condition_out():
    scores = pd.DataFrame(np.random.default_rng(5).normal(size=(4, 15)))
    scores.iloc[3, 4:] = np.nan
    assert scatter_of(scores) == scatter_of(scores.iloc[:3])
    scores.iloc[3, 4:14] = 0.0
    assert scatter_of(scores) == scatter_of(scores.iloc[:, :14])


def test_points_are_means_over_seeds_of_the_means_of_each_seed():
    runs = pd.DataFrame({"seed": [0, 0, 1, 1], "loss": [0.01, 0.03, 0.05, 0.07]})
    mean, low, high = mean_points(runs)
    half = 12.7062047 * math.sqrt(8) / math.sqrt(2)  # of the seeds' means 2 and 6
    assert (mean, low, high) == pytest.approx((4, 4 - half, 4 + half))
    assert mean_points(runs.assign(worth=runs["loss"]), "worth") == (mean, low, high)
    assert mean_points(runs[:1])[0] == pytest.approx(1) and math.isnan(mean_points(runs[:1])[1])
    assert all(map(math.isnan, mean_points(runs[:0])))
