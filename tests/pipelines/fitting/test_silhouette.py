"""Which points lie on a matte."""

from __future__ import annotations

import numpy as np

from lhmforge.datasets.codecs import encode_png
from lhmforge.datasets.records import AlphaCrop
from lhmforge.pipelines.fitting.silhouette import near_matte


def test_points_on_and_beside_a_matte() -> None:
    crop = np.zeros((100, 80), np.uint8)
    crop[20:80, 30:50] = 255
    alpha = AlphaCrop(window_px=(200, 100, 280, 200), png=encode_png(crop))
    points = np.array([[240.0, 150], [252, 150], [270, 150], [240, 190], [20, 20], [np.nan, 150], [1e9, -1e9]])
    expected = [True, True, False, False, False, False, False]
    np.testing.assert_array_equal(near_matte(alpha, points, 4.0), expected)


def test_an_empty_matte_supports_nothing() -> None:
    alpha = AlphaCrop(window_px=(0, 0, 8, 8), png=encode_png(np.zeros((8, 8), np.uint8)))
    assert not near_matte(alpha, np.array([[4.0, 4.0]]), 3.0).any()
