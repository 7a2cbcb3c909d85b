"""The outline of a fitted body as a small mask, to be compared with the matte."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, Float64, Int64

from lhmforge.datasets.records import AlphaCrop

_SUBPIXEL_BITS = 4
_FAINT_MATTE = 32  # mean alpha of a cell, of 255


def body_mask(
    vertices_m: Float64[np.ndarray, "V 3"],
    faces: Int64[np.ndarray, "F 3"],
    intrinsics: Float64[np.ndarray, "3 3"],
    *,
    window_px: tuple[float, float, float, float],
    width: int,
    height: int,
) -> Bool[np.ndarray, "height width"]:
    """Silhouette of a camera-frame mesh in a window of the image, resampled to `width` x `height`.

    Faces that look away are skipped: the mesh is closed, so those in front cover the same area.
    """
    x0, y0, x1, y1 = window_px
    depth = vertices_m[:, 2:]
    pixels = vertices_m[:, :2] / np.maximum(depth, 1e-3) * intrinsics[[0, 1], [0, 1]] + intrinsics[:2, 2]
    pixels = (pixels - [x0, y0]) * [width / (x1 - x0), height / (y1 - y0)]
    corners = pixels[faces]
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
    near = (depth[faces, 0] > 0.05).all(1)
    low, high = corners.min(1), corners.max(1)
    inside = (high >= 0).all(1) & (low[:, 0] <= width) & (low[:, 1] <= height)
    # Counter-clockwise faces, seen with y down, have negative area.
    chosen = corners[near & inside & (area < 0)]
    fixed = np.round((chosen - 0.5) * 2**_SUBPIXEL_BITS).astype(np.int32)
    mask = np.zeros((height, width), np.uint8)
    for triangle in fixed:
        cv2.fillConvexPoly(mask, triangle, 1, lineType=cv2.LINE_8, shift=_SUBPIXEL_BITS)
    return mask.astype(bool)


def matte_mask(
    alpha: AlphaCrop, *, window_px: tuple[float, float, float, float], width: int, height: int
) -> Bool[np.ndarray, "height width"]:
    """A matte (>= 0.5) in a window of the image, resampled to `width` x `height`; zero outside the matte's window."""
    crop = cv2.imdecode(np.frombuffer(alpha.png, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert crop is not None, "a matte is not a readable PNG"
    x0, y0, x1, y1 = window_px
    left, top = alpha.window_px[:2]
    scale = np.array([width / (x1 - x0), height / (y1 - y0)])
    shift = (np.array([left, top]) + 0.5 - [x0, y0]) * scale - 0.5
    transform = np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]]], np.float64)
    resampled = cv2.warpAffine(crop, transform, (width, height), flags=cv2.INTER_LINEAR)
    return resampled >= 128


def near_matte(alpha: AlphaCrop, points_px: Float64[np.ndarray, "K 2"], reach_px: float) -> Bool[np.ndarray, " K"]:
    """Which image points lie within `reach_px` (roughly: a square's half side) of a matte of at least a quarter."""
    x0, y0, x1, y1 = alpha.window_px
    crop = cv2.imdecode(np.frombuffer(alpha.png, np.uint8), cv2.IMREAD_GRAYSCALE)
    cell = max(reach_px, 1.0)
    size = (max(1, int(np.ceil((x1 - x0) / cell))), max(1, int(np.ceil((y1 - y0) / cell))))
    cells = cv2.resize(crop, size, interpolation=cv2.INTER_AREA) >= _FAINT_MATTE
    cells = np.pad(cells, 1)
    around = cv2.dilate(cells.astype(np.uint8), np.ones((3, 3), np.uint8))
    place = np.nan_to_num((points_px - [x0, y0]) * [size[0] / (x1 - x0), size[1] / (y1 - y0)], nan=-9.0)
    column, row = np.floor(np.clip(place, -2, [size[0] + 1, size[1] + 1])).astype(int).T + 1
    inside = (row >= 0) & (row < around.shape[0]) & (column >= 0) & (column < around.shape[1])
    result = np.zeros(len(points_px), bool)
    result[inside] = around[row[inside], column[inside]] > 0
    return result


def intersection_over_union(a: Bool[np.ndarray, "H W"], b: Bool[np.ndarray, "H W"]) -> float:
    """IoU of two masks; NaN where both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else float("nan")
