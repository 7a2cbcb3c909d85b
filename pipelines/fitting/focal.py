"""The focal length of an unknown camera, where the clip says something about it.

Only perspective tells a near wide-angle camera from a far narrow one, so most clips say little: the guess
(1.2 x the longer side) stays unless another candidate explains clearly more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lhmforge.pipelines.fitting.clip_fit import ClipFitConfig, fit_clip, select_state
from lhmforge.pipelines.fitting.keypoint_body import KeypointBody
from lhmforge.pipelines.fitting.objective import FitState, Observations


@dataclass(frozen=True, slots=True, kw_only=True)
class FocalConfig:
    """Candidates relative to the guess, and the relative gain in cost that a candidate must bring."""

    candidates: tuple[float, ...] = (0.7, 1.45)
    num_frames: int = 24
    min_gain: float = 0.08


def refine_focal(
    body: KeypointBody,
    observations: Observations,
    clip: ClipFitConfig,
    config: FocalConfig,
    start: FitState | None = None,
) -> Observations:
    """The observations with the candidate focal length that fits a few frames best."""
    num_frames = len(observations.times_s)
    if not config.candidates or num_frames < 2:
        return observations
    chosen = np.unique(np.linspace(0, num_frames - 1, config.num_frames).round().astype(np.int64))
    few = observations.select(chosen)
    few_start = None if start is None else select_state(start, chosen)
    costs = [
        fit_clip(body, _scaled(few, factor), clip, start=few_start).cost_per_frame
        for factor in (1.0, *config.candidates)
    ]
    best = int(np.argmin(costs))
    if costs[best] > (1 - config.min_gain) * costs[0]:
        return observations
    return _scaled(observations, (1.0, *config.candidates)[best])


def _scaled(observations: Observations, factor: float) -> Observations:
    intrinsics = observations.intrinsics.copy()
    intrinsics[[0, 1], [0, 1]] *= factor
    return replace(observations, intrinsics=intrinsics)
