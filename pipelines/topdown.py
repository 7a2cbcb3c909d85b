"""Top-down pose models: the crop of a person at the network's aspect, and decoding of heatmaps and SimCC back to px."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

_BOX_PADDING = 1.25  # what the public whole-body models were trained with


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """A picture of `width x height` px and where its corner and pixels lie in the frame."""

    picture: UInt8[np.ndarray, "h w 3"]
    corner_px: Float32[np.ndarray, 2]
    scale: float  # frame px per crop px

    def to_frame(self, points: Float32[np.ndarray, "K 2"]) -> Float32[np.ndarray, "K 2"]:
        """Points of the crop (pixel centres at +0.5) in the frame."""
        return np.asarray(points * self.scale + self.corner_px, np.float32)


def crop_person(frame: UInt8[np.ndarray, "H W 3"], box_px: Float32[np.ndarray, 4], *, width: int, height: int) -> Crop:
    """The box enlarged 1.25 times and widened to the network's aspect; beyond the frame's border it is black."""
    size = (box_px[2:] - box_px[:2]) * _BOX_PADDING
    scale = float(max(size[0] / width, size[1] / height, 1e-3))
    corner = (box_px[:2] + box_px[2:]) / 2 - np.array([width, height], np.float32) * scale / 2
    # Pixel centres lie at +0.5, warpAffine counts them as integers.
    shift = corner + 0.5 * scale - 0.5
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]], np.float64)
    picture = cv2.warpAffine(frame, matrix, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return Crop(picture=np.asarray(picture, np.uint8), corner_px=corner.astype(np.float32), scale=scale)


def normalise(
    picture: UInt8[np.ndarray, "h w 3"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float32[np.ndarray, "3 h w"]:
    """RGB 0..255 to zero mean and unit variance per channel."""
    scaled = (picture.astype(np.float32) - np.array(mean, np.float32)) / np.array(std, np.float32)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))


def decode_heatmaps(
    heatmaps: Float32[np.ndarray, "K h w"], *, width: int, height: int, blur: int = 11
) -> Float32[np.ndarray, "K 3"]:
    """x, y (px of a crop of `width x height`) and score per heatmap, by UDP with DARK refinement.

    Huang et al., "The Devil is in the Details: Unbiased Data Processing" (2020): heatmap and crop corners coincide, so
    coordinates scale by (W - 1) / (w - 1). Zhang et al., "Distribution-Aware Coordinate Representation" (2020): one
    Newton step on the logarithm of the blurred heatmap.
    """
    count, rows, columns = heatmaps.shape
    peak = heatmaps.reshape(count, -1).argmax(axis=1)
    scores = heatmaps.reshape(count, -1).max(axis=1)
    points = np.stack([peak % columns, peak // columns], axis=1).astype(np.float32)
    for index in range(count):
        smooth = np.log(np.maximum(cv2.GaussianBlur(heatmaps[index], (blur, blur), 0), 1e-6))
        points[index] += _newton_step(smooth, int(points[index, 0]), int(points[index, 1]))
    scale = np.array([(width - 1) / max(columns - 1, 1), (height - 1) / max(rows - 1, 1)], np.float32)
    return np.concatenate([points * scale + 0.5, np.clip(scores, 0, 1)[:, None]], axis=1).astype(np.float32)


def decode_simcc(
    simcc_x: Float32[np.ndarray, "K Wx"], simcc_y: Float32[np.ndarray, "K Hy"], *, width: int, height: int
) -> Float32[np.ndarray, "K 3"]:
    """x, y (px of a crop of `width x height`) and score from two 1D distributions per point.

    Li et al., "SimCC: a Simple Coordinate Classification Perspective" (2022). The score is the smaller of both maxima.
    """
    # Bin k stands for the crop coordinate k / bins per px, which counts pixel centres as integers; ours are at +0.5.
    x = simcc_x.argmax(axis=1) * (width / simcc_x.shape[1]) + 0.5
    y = simcc_y.argmax(axis=1) * (height / simcc_y.shape[1]) + 0.5
    scores = np.clip(np.minimum(simcc_x.max(axis=1), simcc_y.max(axis=1)), 0, 1)
    return np.stack([x, y, scores], axis=1).astype(np.float32)


def _newton_step(values: Float32[np.ndarray, "h w"], x: int, y: int) -> Float32[np.ndarray, 2]:
    """Offset to the maximum of the parabola through the neighbours; 0 at the border and where there is no maximum."""
    rows, columns = values.shape
    if not (1 <= x < columns - 1 and 1 <= y < rows - 1):
        return np.zeros(2, np.float32)
    around = values[y - 1 : y + 2, x - 1 : x + 2].astype(np.float64)
    gradient = np.array([around[1, 2] - around[1, 0], around[2, 1] - around[0, 1]]) / 2
    cross = (around[2, 2] - around[2, 0] - around[0, 2] + around[0, 0]) / 4
    second = [around[1, 2] - 2 * around[1, 1] + around[1, 0], around[2, 1] - 2 * around[1, 1] + around[0, 1]]
    hessian = np.array([[second[0], cross], [cross, second[1]]])
    if second[0] >= 0 or np.linalg.det(hessian) <= 1e-9:
        return np.zeros(2, np.float32)
    return np.asarray(np.clip(-np.linalg.solve(hessian, gradient), -1, 1), np.float32)
