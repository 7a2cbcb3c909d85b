"""Mattes: PNG round trip, islands, and pictures with only one person left."""

from __future__ import annotations

import numpy as np

from lhmforge.pipelines.alpha import encode_alpha, full_alpha, keep_touching, mask_iou
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
