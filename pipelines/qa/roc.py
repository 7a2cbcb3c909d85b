"""How well a score tells bad from good: the ROC curve, with confidence from redrawing whole clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from scipy.stats import rankdata

_NUM_DRAWS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """A threshold in the score's own units, and which share of the bad (tpr) and good (fpr) it turns away."""

    threshold: float
    tpr: float
    fpr: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RocCurve:
    """`auc` is the chance that a bad one scores worse than a good one; low and high are its 5th and 95th percentile.

    `now` is the threshold in use (None: the score is not gated); `chosen` the one that turns away the asked share of
    the good at most.
    """

    name: str
    num_bad: int
    num_good: int
    auc: float
    auc_low: float
    auc_high: float
    fpr: Float64[np.ndarray, " P"]
    tpr: Float64[np.ndarray, " P"]
    now: OperatingPoint | None
    chosen: OperatingPoint

    @property
    def is_informative(self) -> bool:
        """Whether chance alone (0.5) is out of the question, to the good side."""
        return self.auc_low > 0.5


def roc_curve(
    name: str,
    values: Float64[np.ndarray, " N"],
    bad: Bool[np.ndarray, " N"],
    groups: Sequence[str],
    *,
    low_is_bad: bool,
    threshold: float | None,
    max_fpr: float,
) -> RocCurve | None:
    """The curve of one score; None where there is no bad or no good one. A NaN never turns anything away.

    `groups` names the clip of each value: values of one clip are drawn together.
    """
    assert len(values) == len(bad) == len(groups)
    if bad.all() or not bad.any():
        return None
    sign = -1.0 if low_is_bad else 1.0
    badness = np.where(np.isnan(values), -np.inf, sign * values)
    low, high = _confidence(badness, bad, np.asarray(groups))
    fpr, tpr = _curve(badness, bad)
    good_enough = np.flatnonzero(fpr <= max_fpr)[-1]
    edges = np.concatenate([[np.inf], np.unique(badness)[::-1]])
    limit = edges[good_enough]
    # A gate turns away what lies strictly beyond its threshold, so the threshold is the worst value that stays.
    stays = badness[badness < limit]
    chosen = float(stays.max()) if len(stays) and np.isfinite(stays.max()) else float(np.nanmax(badness))
    return RocCurve(
        name=name,
        num_bad=int(bad.sum()),
        num_good=int((~bad).sum()),
        auc=_auc(badness, bad),
        auc_low=low,
        auc_high=high,
        fpr=fpr,
        tpr=tpr,
        now=None if threshold is None else _point(badness, bad, sign * threshold, sign),
        chosen=_point(badness, bad, chosen, sign),
    )


def _auc(badness: np.ndarray, bad: np.ndarray) -> float:
    """The Mann-Whitney statistic, ties counted half."""
    ranks = rankdata(badness)
    num_bad, num_good = int(bad.sum()), int((~bad).sum())
    return float((ranks[bad].sum() - num_bad * (num_bad + 1) / 2) / (num_bad * num_good))


def _curve(badness: np.ndarray, bad: np.ndarray) -> tuple[Float64[np.ndarray, " P"], Float64[np.ndarray, " P"]]:
    """False and true positive rates when everything at or beyond each value, worst first, is turned away."""
    order = np.unique(badness)[::-1]
    of_bad, of_good = np.sort(badness[bad]), np.sort(badness[~bad])
    tpr = 1 - np.searchsorted(of_bad, order, side="left") / len(of_bad)
    fpr = 1 - np.searchsorted(of_good, order, side="left") / len(of_good)
    return np.concatenate([[0.0], fpr]), np.concatenate([[0.0], tpr])


def _point(badness: np.ndarray, bad: np.ndarray, limit: float, sign: float) -> OperatingPoint:
    away = badness > limit
    return OperatingPoint(threshold=sign * limit, tpr=float(away[bad].mean()), fpr=float(away[~bad].mean()))


def _confidence(badness: np.ndarray, bad: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    names = np.unique(groups)
    members = [np.flatnonzero(groups == name) for name in names]
    found = []
    for _ in range(_NUM_DRAWS):
        rows = np.concatenate([members[i] for i in rng.integers(0, len(names), len(names))])
        if bad[rows].any() and not bad[rows].all():
            found.append(_auc(badness[rows], bad[rows]))
    return (float(np.percentile(found, 5)), float(np.percentile(found, 95))) if found else (0.0, 1.0)
