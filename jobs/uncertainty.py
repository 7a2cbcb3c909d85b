"""Whether a fit knows how wrong it is: reported standard deviations of joint rotations against true errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2, spearmanr

from lhmforge.datasets.synthetic.evaluate_fits import FitEvaluation
from lhmforge.pipelines.uncertainty import UncertaintyLaw

# Share of joints within one and two standard deviations if their errors were normal in three equal axes.
EXPECTED_1, EXPECTED_2 = (float(chi2.cdf(3 * k * k, 3)) for k in (1, 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class UncertaintyCalibration:
    """Reported and true root mean square angles over all frames; shares are of frames, or of single joints.

    `factor` is what the reported values must be multiplied with to equal the true ones in the mean square;
    `law_scale_rad` and `law_exponent` are the `UncertaintyLaw` that fits these frames best.
    """

    num_frames: int
    factor: float
    factor_low: float  # over draws of tracks: 5th and 95th percentile
    factor_high: float
    reported_rad: float
    true_rad: float
    rank_correlation: float  # Spearman, reported against true, over frames
    track_rank_correlation: float  # the same over tracks' means
    frames_within_1: float
    frames_within_2: float
    joints_within_1: float  # a normal error would have EXPECTED_1
    joints_within_2: float
    law_scale_rad: float
    law_exponent: float


def calibrate_uncertainty(fits: Sequence[FitEvaluation], *, num_draws: int = 200) -> UncertaintyCalibration:
    """Compares what fits report with what the truth says; needs at least one frame."""
    reported = np.concatenate([fit.reported_rad for fit in fits])
    true = np.concatenate([fit.angle_rad for fit in fits])
    joints = np.concatenate([fit.joint_angles_rad for fit in fits])
    rng = np.random.default_rng(0)
    draws = [
        _factor([fits[i] for i in rng.integers(0, len(fits), len(fits))])
        for _ in range(num_draws if len(fits) > 1 else 1)
    ]
    law = fit_law(np.concatenate([fit.reprojection_share for fit in fits]), true)
    means = np.array([(fit.reported_rad.mean(), np.sqrt((fit.angle_rad**2).mean())) for fit in fits])
    return UncertaintyCalibration(
        num_frames=len(reported),
        factor=_factor(fits),
        factor_low=float(np.percentile(draws, 5)),
        factor_high=float(np.percentile(draws, 95)),
        reported_rad=float(np.sqrt((reported**2).mean())),
        true_rad=float(np.sqrt((true**2).mean())),
        rank_correlation=_spearman(reported, true),
        track_rank_correlation=_spearman(means[:, 0], means[:, 1]),
        frames_within_1=float((true <= reported).mean()),
        frames_within_2=float((true <= 2 * reported).mean()),
        joints_within_1=float((joints <= reported[:, None]).mean()),
        joints_within_2=float((joints <= 2 * reported[:, None]).mean()),
        law_scale_rad=law.scale_rad,
        law_exponent=law.exponent,
    )


def fit_law(reprojection_share: np.ndarray, true_rad: np.ndarray) -> UncertaintyLaw:
    """The exponent by least squares of the logarithms, the scale so that the mean squares agree."""
    seen = np.isfinite(reprojection_share) & (true_rad > 0)
    share, true = np.clip(reprojection_share[seen], 1e-3, 0.05), true_rad[seen]
    if len(share) < 3 or np.ptp(share) == 0:
        return UncertaintyLaw(scale_rad=float(np.sqrt((true_rad**2).mean())) or 1.0, exponent=0.0)
    exponent = max(0.0, float(np.polyfit(np.log(share), np.log(true), 1)[0]))
    scale = float(np.sqrt((true**2).mean() / (share ** (2 * exponent)).mean()))
    return UncertaintyLaw(scale_rad=scale, exponent=exponent)


def _factor(fits: Sequence[FitEvaluation]) -> float:
    reported = np.concatenate([fit.reported_rad for fit in fits])
    true = np.concatenate([fit.angle_rad for fit in fits])
    return float(np.sqrt((true**2).mean() / (reported**2).mean()))


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    return float(spearmanr(a, b).statistic) if len(a) > 2 and np.ptp(a) > 0 and np.ptp(b) > 0 else float("nan")
