"""Top-down pose: crops put points back where they were, heatmaps and SimCC decode to known places."""

from __future__ import annotations

import numpy as np

from lhmforge.pipelines.topdown import crop_person, decode_heatmaps, decode_simcc


def test_a_dot_in_the_frame_is_found_through_the_crop() -> None:
    frame = np.zeros((240, 320, 3), np.uint8)
    frame[100:104, 200:204] = 255
    crop = crop_person(frame, np.array([150, 50, 250, 200], np.float32), width=192, height=256)
    rows, columns = np.nonzero(crop.picture[..., 0] > 127)
    centre = np.array([[columns.mean() + 0.5, rows.mean() + 0.5]], np.float32)
    np.testing.assert_allclose(crop.to_frame(centre)[0], (202, 102), atol=0.6)


def test_heatmap_decoding_is_finer_than_a_cell() -> None:
    truth = np.array([[100.3, 200.8], [50.0, 300.2]])
    y, x = np.mgrid[:64, :48]
    scale = np.array([(192 - 1) / 47, (256 - 1) / 63])
    cells = (np.array([[100.3, 180.8], [50.0, 220.2]]) - 0.5) / scale
    maps = np.stack([np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 2.0**2)) for cx, cy in cells]).astype(np.float32)
    found = decode_heatmaps(maps, width=192, height=256)
    np.testing.assert_allclose(found[:, 0], truth[:, 0], atol=0.6)
    np.testing.assert_allclose(found[:, 1], [180.8, 220.2], atol=0.6)
    assert (found[:, 2] > 0.9).all()


def test_simcc_decoding_uses_both_axes_and_the_smaller_score() -> None:
    simcc_x, simcc_y = np.zeros((1, 96), np.float32), np.zeros((1, 128), np.float32)
    simcc_x[0, 40], simcc_y[0, 100] = 0.9, 0.4
    np.testing.assert_allclose(decode_simcc(simcc_x, simcc_y, width=48, height=64), [[20.5, 50.5, 0.4]], atol=1e-5)
