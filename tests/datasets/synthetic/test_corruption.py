"""Corruptions do what they say, by as much as they say, and the same for equal seeds."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lhmforge.datasets.body.params import BodyParams
from lhmforge.datasets.codecs import decode_png, encode_png
from lhmforge.datasets.records import AlphaCrop, Keypoints
from lhmforge.datasets.synthetic.corruption import (
    PIXEL_KINDS,
    PixelCorruption,
    mirrored_keypoints,
    pixel_corruption,
    shaken_keypoints,
    shaken_pose,
    wrong_mattes,
)

BOX = np.array([20, 10, 60, 110], np.float32)
FRAME = np.random.default_rng(0).integers(0, 255, (120, 80, 3)).astype(np.uint8)


def make(kind: str, seed: int) -> PixelCorruption:
    return pixel_corruption(kind, np.random.default_rng(seed), height=120, width=80, box_px=BOX)


@pytest.mark.parametrize("kind", PIXEL_KINDS)
def test_equal_seeds_spoil_alike(kind: str) -> None:
    first, again = make(kind, 3).apply(FRAME, 7), make(kind, 3).apply(FRAME, 7)
    np.testing.assert_array_equal(first, again)
    assert first.dtype == np.uint8 and (first != FRAME).any() and (make(kind, 4).apply(FRAME, 7) != first).any()


def test_pixels_get_blurred_darker_or_hidden() -> None:
    def sharpness(image: np.ndarray) -> float:
        return float(cv2.Laplacian(image, cv2.CV_64F).var())

    for seed in range(5):
        assert sharpness(make("blur", seed).apply(FRAME, 0)) < sharpness(FRAME)
        assert make("low_light", seed).apply(FRAME, 0).mean() < 0.4 * FRAME.mean()
        bars = make("bars", seed)
        share = bars.hidden[10:110, 20:60].mean()
        assert 0.03 < share < 0.75
        np.testing.assert_array_equal(bars.apply(FRAME, 0)[~bars.hidden], FRAME[~bars.hidden])
        assert not bars.visible_truth(np.full((120, 80), 255, np.uint8))[bars.hidden].any()


def test_mattes_get_worse() -> None:
    alpha = np.zeros((100, 60), np.uint8)
    alpha[10:90, 15:45] = 255
    crop = AlphaCrop(window_px=(5, 6, 65, 106), png=encode_png(alpha))
    overlaps = []
    for seed in range(30):
        (spoiled,) = wrong_mattes((crop,), np.random.default_rng(seed))
        found = decode_png(spoiled.png, what="m")
        assert found.shape == alpha.shape and spoiled.window_px == crop.window_px
        overlaps.append(((found > 127) & (alpha > 127)).sum() / ((found > 127) | (alpha > 127)).sum())
    assert min(overlaps) < 0.7 and max(overlaps) > 0.9


def keypoints(count: int) -> Keypoints:
    rng = np.random.default_rng(0)
    return Keypoints(
        points_px=rng.uniform(0, 100, (count, 133, 2)).astype(np.float32),
        scores=rng.random((count, 133)).astype(np.float32),
        landmark_set="mediapipe_33",
        landmarks_m=rng.normal(size=(count, 33, 3)).astype(np.float32),
        landmark_scores=rng.random((count, 33)).astype(np.float32),
        blendshapes=np.zeros((count, 0), np.float32),
        face_px=np.zeros((count, 0, 2), np.float32),
    )


def test_mirroring_twice_is_nothing() -> None:
    given, mirror = keypoints(6), np.arange(133)
    mirror[[5, 6]] = [6, 5]
    once = mirrored_keypoints(given, mirror, np.random.default_rng(1))
    changed = (once.points_px != given.points_px).any((1, 2))
    assert changed.any()
    np.testing.assert_array_equal(once.landmarks_m[changed][:, 11], given.landmarks_m[changed][:, 12])
    again = mirrored_keypoints(once, mirror, np.random.default_rng(1))
    np.testing.assert_array_equal(again.points_px, given.points_px)
    np.testing.assert_array_equal(again.landmarks_m, given.landmarks_m)


def test_shaking_grows_with_the_person() -> None:
    given = keypoints(50)
    boxes = np.tile(BOX, (50, 1))
    moves = [
        np.abs(shaken_keypoints(given, boxes * size, np.random.default_rng(2)).points_px - given.points_px).mean()
        for size in (1, 2)
    ]
    assert moves[1] == pytest.approx(2 * moves[0], rel=1e-3) and 0.5 < moves[0] < 10


def test_a_shaken_pose_keeps_the_rest_of_the_body() -> None:
    body = BodyParams.rest(200)
    shaken = shaken_pose(body, np.random.default_rng(5))
    turns = np.linalg.norm(shaken.body_pose, axis=-1)
    assert 0.02 < np.sqrt((turns**2).mean()) < 0.6
    np.testing.assert_array_equal(shaken.global_orient, body.global_orient)
