"""From a track's whole-body keypoints to what the solver observes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64

from lhmforge.datasets.records import KeypointTrack
from lhmforge.pipelines.fitting.landmarks import (
    MEDIAPIPE_INDEX,
    MIRRORED,
    POINT_NAMES,
    POINT_WEIGHTS,
    WHOLEBODY_INDEX,
    point_index,
)
from lhmforge.pipelines.fitting.objective import Observations
from lhmforge.pipelines.fitting.silhouette import near_matte

_TORSO = [point_index(f"{side}_{part}") for side in ("left", "right") for part in ("shoulder", "hip")]
_FAINT = 1e-3  # enough to start from a torso that the detector only guessed, too little to pull
# Cost, in person sizes of mean point movement, of beginning or ending an exchange and of every exchanged frame: in a
# side view left and right coincide and either reading moves as little, so the detector's word must win there.
_SWITCH_COST, _EXCHANGED_COST = 0.08, 0.02
_LEGS = np.array([any(part in name for part in ("hip", "knee", "ankle", "toe", "heel")) for name in POINT_NAMES])


@dataclass(frozen=True, slots=True, kw_only=True)
class ObserveConfig:
    """How scores become weights: 0 up to `score_low`, 1 from `score_high`."""

    score_low: float = 0.3
    score_high: float = 0.8
    matte_reach: float = 0.02  # points farther from the matte than this share of the box height are unseen; 0: any
    faint_weight: float = 0.05  # least weight of a point inside the image and near the matte, whatever its score
    frame_margin: float = 0.01  # points this far outside the image (share of its longer side) count as unseen


def observe_track(record: KeypointTrack, intrinsics: Float64[np.ndarray, "3 3"], config: ObserveConfig) -> Observations:
    """The solver's points of every frame; `sigma_px` is provisional until a depth is known (`set_noise`)."""
    keypoints, track = record.keypoints, record.matted.track
    video = track.clip.video
    points = keypoints.points_px[:, WHOLEBODY_INDEX].astype(np.float64)
    weights = _confidence(keypoints.scores[:, WHOLEBODY_INDEX], config)
    margin = config.frame_margin * max(video.width_px, video.height_px)
    size = np.array([video.width_px, video.height_px])
    inside = ((points > -margin) & (points < size + margin)).all(-1)
    inside &= np.isfinite(points).all(-1)
    if config.matte_reach > 0 and len(record.matted.alphas):
        inside &= _on_matte(record, points, config.matte_reach)
    weights = np.where(inside, np.maximum(weights, config.faint_weight), 0.0)
    landmarks, landmark_weights = _landmarks(record, config)
    observations = Observations(
        times_s=track.frame_indices.astype(np.float64) / video.fps,
        points_px=np.where(weights[..., None] > 0, points, 0.0),
        weights_px=weights * POINT_WEIGHTS,
        sigma_px=np.maximum(0.01 * (track.boxes_px[:, 3] - track.boxes_px[:, 1]).astype(np.float64), 1.0),
        landmarks_m=landmarks,
        weights_m=landmark_weights * POINT_WEIGHTS,
        intrinsics=intrinsics,
    )
    return repair_swaps(observations)


def set_noise(observations: Observations, transl: Float64[np.ndarray, "N 3"], sigma_m: float) -> Observations:
    """The observations with `sigma_px` as the size of `sigma_m` at the body's depth, at least half a pixel."""
    focal = float(observations.intrinsics[0, 0])
    sigma = np.maximum(sigma_m * focal / np.maximum(transl[:, 2], 0.5), 0.5)
    return replace(observations, sigma_px=sigma)


def repair_swaps(observations: Observations) -> Observations:
    """Exchanges left and right in frames where that makes the points follow their neighbours in time.

    First for the whole body (a detector that took a back for a front), then for the legs alone (side views). The
    cheapest sequence of "as detected" and "exchanged" is found by dynamic programming.
    """
    for group in (np.ones(len(POINT_NAMES), bool), _LEGS):
        swapped = _swapped_frames(observations, group)
        if swapped.any():
            observations = _swap(observations, swapped, group)
    return observations


def _on_matte(record: KeypointTrack, points: Float64[np.ndarray, "N K 2"], reach: float) -> Bool[np.ndarray, "N K"]:
    """Points near the person's matte: a detector that guesses a hidden limb often puts it beside the person."""
    boxes = record.matted.track.boxes_px
    heights = (boxes[:, 3] - boxes[:, 1]).astype(np.float64)
    rows = zip(record.matted.alphas, points, reach * heights, strict=True)
    return np.stack([near_matte(alpha, row, float(radius)) for alpha, row, radius in rows])


def _confidence(scores: np.ndarray, config: ObserveConfig) -> Float64[np.ndarray, "N K"]:
    share = (np.nan_to_num(scores.astype(np.float64)) - config.score_low) / (config.score_high - config.score_low)
    return np.clip(share, 0.0, 1.0)


def _landmarks(
    record: KeypointTrack, config: ObserveConfig
) -> tuple[Float64[np.ndarray, "N K 3"], Float64[np.ndarray, "N K"]]:
    keypoints = record.keypoints
    num_frames, known = keypoints.num_frames, MEDIAPIPE_INDEX >= 0
    landmarks, weights = np.zeros((num_frames, len(known), 3)), np.zeros((num_frames, len(known)))
    if keypoints.landmark_set != "mediapipe_33":
        return landmarks, weights
    chosen = MEDIAPIPE_INDEX[known]
    values, scores = keypoints.landmarks_m[:, chosen].astype(np.float64), keypoints.landmark_scores[:, chosen]
    finite = np.isfinite(values).all(-1) & (scores > 0)
    landmarks[:, known] = np.where(finite[..., None], values, 0.0)
    weights[:, known] = np.where(finite, _confidence(scores, config), 0.0)
    torso = np.zeros(len(known), bool)
    torso[_TORSO] = True
    present = np.zeros_like(weights, bool)
    present[:, known] = finite
    weights = np.where(torso & present, np.maximum(weights, _FAINT), weights)
    return landmarks, weights


def _swapped_frames(observations: Observations, group: np.ndarray) -> np.ndarray:
    points, weights = observations.points_px, observations.weights_px * group
    n = len(points)
    if n < 3:
        return np.zeros(n, bool)
    extent = _extent_px(points, weights)
    step = np.zeros((n, 2, 2))
    mirrored, mirrored_weights = points[:, MIRRORED], weights[:, MIRRORED]
    for a in range(2):
        for b in range(2):
            before, before_weights = (points, weights) if a == 0 else (mirrored, mirrored_weights)
            after, after_weights = (points, weights) if b == 0 else (mirrored, mirrored_weights)
            joint_weight = np.minimum(before_weights[:-1], after_weights[1:])
            distance = np.linalg.norm(after[1:] - before[:-1], axis=-1)
            step[1:, a, b] = (joint_weight * distance).sum(1) / np.maximum(joint_weight.sum(1), 1e-6) / extent[1:]
    step[:, 0, 1] += _SWITCH_COST + _EXCHANGED_COST
    step[:, 1, 0] += _SWITCH_COST
    step[:, 1, 1] += _EXCHANGED_COST
    best, choice = np.array([0.0, _SWITCH_COST]), np.zeros((n, 2), np.int64)
    for frame in range(1, n):
        total = best[:, None] + step[frame]
        choice[frame] = total.argmin(0)
        best = total.min(0)
    state = np.zeros(n, np.int64)
    state[-1] = best.argmin()
    for frame in range(n - 1, 0, -1):
        state[frame - 1] = choice[frame, state[frame]]
    return state == 1


def _extent_px(points: np.ndarray, weights: np.ndarray) -> Float64[np.ndarray, " N"]:
    low = np.where(weights[..., None] > 0, points, np.inf).min(1)
    high = np.where(weights[..., None] > 0, points, -np.inf).max(1)
    extent = np.where(np.isfinite(high), high - low, 0.0).max(1)
    result: np.ndarray = np.maximum(extent, 10.0)
    return result


def _swap(observations: Observations, frames: np.ndarray, group: np.ndarray) -> Observations:
    index = np.where(group, MIRRORED, np.arange(len(MIRRORED)))
    landmarks = observations.landmarks_m[:, index].copy()
    if group.all():
        landmarks[..., 2] *= -1  # a back taken for a front: the depths are mirrored as well

    def pick(old: np.ndarray, new: np.ndarray) -> np.ndarray:
        result = old.copy()
        result[frames] = new[frames]
        return result

    return replace(
        observations,
        points_px=pick(observations.points_px, observations.points_px[:, index]),
        weights_px=pick(observations.weights_px, observations.weights_px[:, index]),
        landmarks_m=pick(observations.landmarks_m, landmarks),
        weights_m=pick(observations.weights_m, observations.weights_m[:, index]),
    )
