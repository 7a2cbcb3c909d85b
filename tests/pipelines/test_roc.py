"""ROC curves: what is known of perfect, useless and partly missing scores, and that thresholds mean what gates do."""

from __future__ import annotations

import numpy as np
import pytest

from lhmforge.pipelines.qa.roc import RocCurve, roc_curve

GROUPS = [f"clip{n % 10}" for n in range(200)]
BAD = np.arange(200) % 4 == 0


def curve(values: np.ndarray, *, low_is_bad: bool = False, threshold: float | None = None) -> RocCurve:
    found = roc_curve("score", values, BAD, GROUPS, low_is_bad=low_is_bad, threshold=threshold, max_fpr=0.05)
    assert found is not None
    return found


def test_a_score_that_tells_everything() -> None:
    found = curve(np.where(BAD, 2.0, 1.0), threshold=1.5)
    assert found.auc == 1 and found.is_informative
    assert found.now is not None and (found.now.tpr, found.now.fpr) == (1, 0)
    assert (found.chosen.threshold, found.chosen.tpr, found.chosen.fpr) == (1.0, 1, 0)


def test_a_score_that_tells_nothing() -> None:
    found = curve(np.random.default_rng(0).normal(size=200))
    assert abs(found.auc - 0.5) < 0.1 and not found.is_informative and found.now is None


def test_the_chosen_threshold_keeps_its_promise_and_is_in_the_scores_units() -> None:
    rng = np.random.default_rng(1)
    values = 5 - (rng.normal(size=200) + 1.5 * BAD)  # low is bad
    found = curve(values, low_is_bad=True, threshold=4.0)
    assert found.chosen.fpr <= 0.05 < found.chosen.tpr
    away = values < found.chosen.threshold  # as GateStage decides
    assert away[BAD].mean() == pytest.approx(found.chosen.tpr)
    assert away[~BAD].mean() == pytest.approx(found.chosen.fpr)
    assert found.now is not None and found.now.tpr == pytest.approx((values < 4)[BAD].mean())
    assert 0.5 < found.auc_low < found.auc < found.auc_high < 1


def test_what_cannot_be_measured_is_not_turned_away() -> None:
    values = np.where(BAD, np.nan, 1.0)
    found = curve(values, threshold=0.5)
    assert found.auc == 0 and found.now is not None and (found.now.tpr, found.now.fpr) == (0, 1)


def test_no_curve_without_both_kinds() -> None:
    assert roc_curve("s", np.ones(3), np.ones(3, bool), "abc", low_is_bad=False, threshold=None, max_fpr=0.1) is None
