"""The scaling law: recovery, coverage of the interval, and its refusals."""

from __future__ import annotations

import numpy as np
import pytest

from lhmforge.jobs.scaling_law import ScalingPoint, expected_exponent_width, fit_power_law, judge

SIZES = [int(size) for size in np.geomspace(1_000, 300_000, 7)]
EXPONENT = 0.30


def _points(rng: np.random.Generator, *, sizes: list[int], seeds: int, noise: float) -> list[ScalingPoint]:
    def error(size: int) -> float:
        return float((0.03 + 0.07 * (size / 1_000) ** -EXPONENT) * np.exp(rng.normal(0, noise)))

    return [ScalingPoint(size=size, seed=seed, error=error(size)) for size in sizes for seed in range(seeds)]


def test_noiseless_points_give_the_law_back() -> None:
    law = fit_power_law(_points(np.random.default_rng(0), sizes=SIZES, seeds=1, noise=0.0))
    assert law.exponent == pytest.approx(EXPONENT, abs=0.005)
    assert law.floor == pytest.approx(0.03, rel=0.02)
    assert law.error(np.array([1_000.0]))[0] == pytest.approx(0.10, rel=1e-3)


def test_one_outlier_moves_the_exponent_little() -> None:
    points = _points(np.random.default_rng(0), sizes=SIZES, seeds=3, noise=0.003)
    spoiled = [*points[1:], ScalingPoint(size=points[0].size, seed=0, error=points[0].error * 1.5)]
    assert abs(fit_power_law(spoiled).exponent - fit_power_law(points).exponent) < 0.05


def test_interval_covers_the_truth_and_the_largest_size_is_predicted() -> None:
    verdicts = [
        judge(_points(np.random.default_rng(i), sizes=SIZES, seeds=2, noise=0.015), num_bootstrap=80, seed=i)
        for i in range(16)
    ]
    intervals = [verdict.exponent for verdict in verdicts if verdict.exponent is not None]
    covered = np.mean([interval.low <= EXPONENT <= interval.high for interval in intervals])
    held_out = [verdict.held_out for verdict in verdicts if verdict.held_out is not None]
    assert len(intervals) == len(held_out) == 16
    assert covered >= 0.79
    assert np.mean([test.inside for test in held_out]) >= 0.75
    assert np.median([interval.width for interval in intervals]) < 0.25
    assert all(test.size == SIZES[-1] for test in held_out)


def test_a_wide_interval_withholds_the_exponent() -> None:
    verdict = judge(_points(np.random.default_rng(1), sizes=[10, 14, 20, 28], seeds=1, noise=0.05), num_bootstrap=100)
    assert not verdict.exponent_is_known
    assert "none is given" in verdict.sentence and "Exponent" not in verdict.sentence


def test_a_narrow_interval_gives_it() -> None:
    verdict = judge(_points(np.random.default_rng(1), sizes=SIZES, seeds=3, noise=0.005), num_bootstrap=100)
    assert verdict.exponent_is_known and verdict.sentence.startswith("Exponent 0.")


def test_three_sizes_get_an_honest_sentence_and_no_fit() -> None:
    verdict = judge(_points(np.random.default_rng(1), sizes=[3, 6, 9], seeds=1, noise=0.0))
    assert verdict.law is None and verdict.exponent is None and verdict.band == ()
    assert "3 sizes" in verdict.sentence and "lower" in verdict.sentence


def test_one_size_is_no_curve() -> None:
    assert "at least two sizes" in judge([ScalingPoint(size=5, seed=0, error=0.1)]).sentence


def test_span_narrows_the_forecast_more_than_seeds() -> None:
    narrow = [100_000, 170_000, 300_000]
    base = expected_exponent_width(narrow, [1] * 3, relative_noise=0.015)
    more_seeds = expected_exponent_width(narrow, [3] * 3, relative_noise=0.015)
    more_span = expected_exponent_width([1_000, 17_000, 300_000], [1] * 3, relative_noise=0.015)
    assert more_span < more_seeds < base
    assert expected_exponent_width([1, 2], [3, 3], relative_noise=0.01) == float("inf")
