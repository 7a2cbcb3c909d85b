"""Boxes: overlap, suppression, interpolation, windows."""

from __future__ import annotations

import numpy as np

from lhmforge.pipelines.boxes import covered_share, interpolate_boxes, iou, suppress, window_around


def test_iou_of_known_boxes() -> None:
    a = np.array([[0, 0, 10, 10], [20, 20, 30, 30]], np.float32)
    b = np.array([[5, 0, 15, 10]], np.float32)
    np.testing.assert_allclose(iou(a, b)[:, 0], [50 / 150, 0], atol=1e-6)


def test_suppress_keeps_the_best_of_each_cluster() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [40, 0, 50, 10]], np.float32)
    assert suppress(boxes, np.array([0.5, 0.9, 0.3], np.float32), max_iou=0.5).tolist() == [1, 2]


def test_covered_share_counts_the_larger_cover() -> None:
    box = np.array([0, 0, 10, 10], np.float32)
    assert covered_share(box, np.array([[0, 0, 5, 10], [0, 0, 2, 10]], np.float32)) == 0.5
    assert covered_share(box, np.zeros((0, 4), np.float32)) == 0


def test_interpolation_is_linear_between_known_positions() -> None:
    boxes = interpolate_boxes(
        np.array([0, 1, 2, 3]), np.array([0, 2]), np.array([[0, 0, 2, 2], [4, 4, 6, 6]], np.float32)
    )
    np.testing.assert_allclose(boxes[:, 0], [0, 2, 4, 4])


def test_window_stays_inside_the_frame_even_for_a_box_outside() -> None:
    for box in ([-50, -50, -20, -20], [90, 90, 300, 300], [10, 10, 20, 20]):
        x0, y0, x1, y1 = window_around(np.array(box, np.float32), padding=1.5, width=100, height=80)
        assert 0 <= x0 < x1 <= 100
        assert 0 <= y0 < y1 <= 80
