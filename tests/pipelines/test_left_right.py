"""Left-right swaps are found and undone; a body that was right stays as it is."""

from __future__ import annotations

import dataclasses

import numpy as np

from lhmforge.datasets.records import Keypoints
from lhmforge.pipelines import wholebody as order
from lhmforge.pipelines.left_right import repair_swaps


def _walk(num_frames: int) -> Keypoints:
    random = np.random.default_rng(1)
    body = random.uniform(0, 300, (1, 133, 2))
    drift = np.linspace(0, 40, num_frames)[:, None, None]
    points = (body + drift + random.normal(0, 1, (num_frames, 133, 2))).astype(np.float32)
    landmarks = np.repeat(random.normal(size=(1, 33, 3)), num_frames, axis=0).astype(np.float32)
    return Keypoints(
        points_px=points, scores=np.ones((num_frames, 133), np.float32), landmark_set="mediapipe_33",
        landmarks_m=landmarks, landmark_scores=np.ones((num_frames, 33), np.float32),
        blendshapes=np.zeros((num_frames, 0), np.float32), face_px=np.zeros((num_frames, 0, 2), np.float32),
    )  # fmt: skip


def _swapped(keypoints: Keypoints, frames: list[int], part: list[int], pose: list[tuple[int, int]]) -> Keypoints:
    points, landmarks = keypoints.points_px.copy(), keypoints.landmarks_m.copy()
    points[np.ix_(frames, part)] = keypoints.points_px[np.ix_(frames, order.mirror_index()[part])]
    for left, right in pose:
        landmarks[np.ix_(frames, [left, right])] = keypoints.landmarks_m[np.ix_(frames, [right, left])]
    return dataclasses.replace(keypoints, points_px=points, landmarks_m=landmarks)


def test_whole_body_swaps_are_undone() -> None:
    truth = _walk(12)
    part = [index for index in range(133) if not order.FACE.start <= index < order.FACE.stop]
    pose = [(1, 4), (2, 5), (3, 6), (7, 8), (9, 10), *((left, left + 1) for left in range(11, 33, 2))]
    repaired = repair_swaps(_swapped(truth, [4, 5, 9], part, pose), np.arange(12), step=1)
    np.testing.assert_array_equal(repaired.points_px, truth.points_px)
    np.testing.assert_array_equal(repaired.landmarks_m, truth.landmarks_m)


def test_swapped_legs_are_undone_without_touching_the_arms() -> None:
    truth = _walk(10)
    pose = [(left, left + 1) for left in range(23, 33, 2)]
    repaired = repair_swaps(_swapped(truth, [3], list(range(11, 23)), pose), np.arange(10), step=1)
    np.testing.assert_array_equal(repaired.points_px, truth.points_px)


def test_a_person_who_really_turned_during_a_gap_is_left_alone() -> None:
    turned = _walk(10)
    part = list(range(17))
    turned = _swapped(turned, list(range(5, 10)), part, [])
    frames = np.concatenate([np.arange(5), np.arange(50, 55)])
    np.testing.assert_array_equal(repair_swaps(turned, frames, step=1).points_px, turned.points_px)
