"""Left-right swaps: frames in which a pose model took a person's left for the right, found over time and undone.

Two hidden states per frame, as given or mirrored; the cheapest sequence (Viterbi) pays for how far points jump between
frames and a little for every mirrored frame, so that the majority decides what left means. Upper body and legs are
judged apart, because models often swap the legs alone.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float64, Int64

from lhmforge.datasets.records import Keypoints
from lhmforge.pipelines import wholebody as order

_UPPER_POINTS, _LEG_POINTS = tuple(range(5, 11)), tuple(range(11, 17))  # the joints that decide
_UPPER_PART = (*range(11), *range(order.LEFT_HAND.start, order.NUM_POINTS))
_LEG_PART = tuple(range(11, order.FEET.stop))
_SEEN = 0.3
_MIRROR_COST = 0.02  # of the body's size per frame
_MAX_GAP = 3  # frames; points further apart in time say nothing
# MediaPipe pose: pairs of left and right.
_POSE_UPPER_PAIRS = ((1, 4), (2, 5), (3, 6), (7, 8), (9, 10), *((left, left + 1) for left in range(11, 23, 2)))
_POSE_LEG_PAIRS = tuple((left, left + 1) for left in range(23, 33, 2))


def repair_swaps(keypoints: Keypoints, frame_indices: Int64[np.ndarray, " N"], *, step: int) -> Keypoints:
    """Keypoints with swapped frames mirrored back; the 68 face points keep their side.

    `step` is the usual distance of neighbouring frame indices.
    """
    gap_ok = np.diff(frame_indices) <= _MAX_GAP * step
    upper = _mirrored_frames(keypoints, _UPPER_POINTS, gap_ok)
    keypoints = _mirror(keypoints, upper, _UPPER_PART, _POSE_UPPER_PAIRS)
    legs = _mirrored_frames(keypoints, _LEG_POINTS, gap_ok)
    return _mirror(keypoints, legs, _LEG_PART, _POSE_LEG_PAIRS)


def _mirrored_frames(keypoints: Keypoints, points: tuple[int, ...], gap_ok: Bool[np.ndarray, " n"]) -> np.ndarray:
    """Which frames are cheaper to explain as mirrored."""
    index = list(points)
    mirrored_index = order.mirror_index()[index]
    given, mirrored = keypoints.points_px[:, index], keypoints.points_px[:, mirrored_index]
    seen = (keypoints.scores[:, index] >= _SEEN) & (keypoints.scores[:, mirrored_index] >= _SEEN)
    size = _body_size(keypoints)
    stay = _jump(given[:-1], given[1:], seen[:-1] & seen[1:], size) * gap_ok
    switch = _jump(given[:-1], mirrored[1:], seen[:-1] & seen[1:], size) * gap_ok
    return _cheapest(stay, switch)


def _body_size(keypoints: Keypoints) -> float:
    """Median diagonal of the seen body points in px."""
    sizes = [
        float(np.linalg.norm(np.ptp(points[seen], axis=0)))
        for points, seen in zip(
            keypoints.points_px[:, order.BODY], keypoints.scores[:, order.BODY] >= _SEEN, strict=True
        )
        if seen.sum() >= 4
    ]
    return max(float(np.median(sizes)), 1.0) if sizes else 1.0


def _jump(before: np.ndarray, after: np.ndarray, seen: np.ndarray, size: float) -> Float64[np.ndarray, " n"]:
    """Mean displacement of the points seen in both frames, relative to the body's size; 0 where none is."""
    distance = np.linalg.norm(after - before, axis=-1) / size
    count = np.maximum(seen.sum(axis=1), 1)
    return np.asarray((distance * seen).sum(axis=1) / count, np.float64)


def _cheapest(stay: Float64[np.ndarray, " n"], switch: Float64[np.ndarray, " n"]) -> Bool[np.ndarray, " N"]:
    """Viterbi over the states 0 (as given) and 1 (mirrored)."""
    num_frames = len(stay) + 1
    cost = np.array([0.0, _MIRROR_COST])
    came_from = np.zeros((num_frames, 2), np.int64)
    for frame in range(1, num_frames):
        step = np.array([[stay[frame - 1], switch[frame - 1]], [switch[frame - 1], stay[frame - 1]]])
        total = cost[:, None] + step + np.array([0.0, _MIRROR_COST])[None]
        came_from[frame] = total.argmin(axis=0)
        cost = total.min(axis=0)
    states = np.zeros(num_frames, np.int64)
    states[-1] = int(cost.argmin())
    for frame in range(num_frames - 1, 0, -1):
        states[frame - 1] = came_from[frame, states[frame]]
    return np.asarray(states == 1)


def _mirror(
    keypoints: Keypoints, frames: Bool[np.ndarray, " N"], part: tuple[int, ...], pose_pairs: tuple[tuple[int, int], ...]
) -> Keypoints:
    if not frames.any():
        return keypoints
    source = np.arange(order.NUM_POINTS)
    source[list(part)] = order.mirror_index()[list(part)]
    points, scores = keypoints.points_px.copy(), keypoints.scores.copy()
    points[frames], scores[frames] = points[frames][:, source], scores[frames][:, source]
    landmarks, landmark_scores = keypoints.landmarks_m.copy(), keypoints.landmark_scores.copy()
    if keypoints.landmark_set == "mediapipe_33":
        pose = np.arange(33)
        for left, right in pose_pairs:
            pose[left], pose[right] = right, left
        landmarks[frames] = landmarks[frames][:, pose]
        landmark_scores[frames] = landmark_scores[frames][:, pose]
    return dataclasses.replace(
        keypoints, points_px=points, scores=scores, landmarks_m=landmarks, landmark_scores=landmark_scores
    )
