"""Mattes: PNG round trip, islands, and pictures with only one person left."""

from __future__ import annotations

import cv2
import numpy as np

from lhmforge.pipelines.alpha import encode_alpha, follow_edges, full_alpha, keep_touching, mask_iou, missing_parts
from lhmforge.pipelines.isolate import isolate_person


def test_a_matte_comes_back_in_its_window() -> None:
    alpha = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    full = full_alpha(encode_alpha(alpha, (5, 2, 9, 5)), width=20, height=10)
    np.testing.assert_array_equal(full[2:5, 5:9], np.round(alpha * 255))
    assert full.sum() == np.round(alpha * 255).sum()


def test_islands_that_do_not_touch_the_person_vanish() -> None:
    alpha, seed = np.zeros((20, 20), np.float32), np.zeros((20, 20), np.float32)
    alpha[2:8, 2:8] = alpha[12:18, 12:18] = 1
    seed[3:5, 3:5] = 1
    kept = keep_touching(alpha, seed)
    assert kept[2:8, 2:8].all()
    assert not kept[10:].any()
    assert mask_iou(kept, alpha) == 0.5


def test_a_neighbour_is_blurred_and_the_person_is_not() -> None:
    frame = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    own, other = np.array([20, 10, 60, 110], np.float32), np.array([50, 10, 90, 110], np.float32)
    alpha = encode_alpha(np.ones((100, 40), np.float32), (20, 10, 60, 110))
    isolated = isolate_person(frame, alpha, own, other[None])
    np.testing.assert_array_equal(isolated[20:100, 22:50], frame[20:100, 22:50])
    assert isolated[20:100, 70:79].std() < 0.5 * frame[20:100, 70:79].std()
    assert isolate_person(frame, alpha, own, np.zeros((0, 4), np.float32)) is frame


def _person() -> tuple[np.ndarray, np.ndarray]:
    """A dark figure before a bright wall, 200x120 px, and its true mask."""
    truth = np.zeros((200, 120), np.float32)
    cv2.circle(truth, (60, 30), 16, 1, -1)
    cv2.rectangle(truth, (40, 45), (80, 120), 1, -1)
    cv2.rectangle(truth, (42, 120), (56, 190), 1, -1)
    cv2.rectangle(truth, (66, 120), (80, 190), 1, -1)
    picture = np.where(truth[..., None] > 0, (60, 50, 90), (200, 190, 180)).astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 6, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8), truth


def test_a_lost_leg_is_missed_and_a_gap_between_the_legs_is_not() -> None:
    _, truth = _person()
    assert missing_parts(truth, truth, margin_px=3.0).sum() == 0
    alpha = truth.copy()
    alpha[140:190, 64:84] = 0
    holes = missing_parts(alpha, truth, margin_px=3.0)
    assert 0.5 * 50 * 15 < holes.sum() < 50 * 15
    assert holes[:, :60].sum() == 0
    unsure = truth * 0.7
    assert missing_parts(alpha, unsure, margin_px=3.0).sum() == 0
    alpha[50:53, 50:53] = 0  # too small to matter
    assert missing_parts(alpha, truth, margin_px=3.0).sum() == holes.sum()


def test_a_coarse_mask_is_drawn_to_the_edges_of_the_picture() -> None:
    picture, truth = _person()
    small = cv2.resize(truth, (15, 25), interpolation=cv2.INTER_AREA)
    coarse = cv2.resize(small, (120, 200), interpolation=cv2.INTER_LINEAR)
    fine = follow_edges(picture, coarse, radius_px=6.0)
    assert fine.min() >= 0 and fine.max() <= 1
    assert mask_iou(fine, truth) > 0.97 > mask_iou(coarse, truth)
    assert np.abs(fine - truth).mean() < 0.4 * np.abs(coarse - truth).mean()


def test_without_edges_in_the_picture_the_mask_stays_where_it_is() -> None:
    _, truth = _person()
    plain = np.full((200, 120, 3), 90, np.uint8)
    assert mask_iou(follow_edges(plain, truth, radius_px=4.0), truth) > 0.9
