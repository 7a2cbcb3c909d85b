"""Boxes `x0, y0, x1, y1` in pixels: overlap, suppression, interpolation, and integer windows around them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64

Window = tuple[int, int, int, int]


def box_area(boxes: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, " N"]:
    """Areas in px^2; a box with negative extent has area 0."""
    return np.asarray(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1))


def intersection(a: Float[np.ndarray, "N 4"], b: Float[np.ndarray, "M 4"]) -> Float[np.ndarray, "N M"]:
    """Areas of the pairwise intersections in px^2."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return np.asarray(np.clip(high - low, 0, None).prod(axis=2))


def iou(a: Float[np.ndarray, "N 4"], b: Float[np.ndarray, "M 4"]) -> Float[np.ndarray, "N M"]:
    """Intersection over union of all pairs; 0 where both boxes are empty."""
    shared = intersection(a, b)
    union = box_area(a)[:, None] + box_area(b)[None] - shared
    return np.asarray(shared / np.maximum(union, 1e-6))


def covered_share(box: Float[np.ndarray, 4], others: Float[np.ndarray, "M 4"]) -> float:
    """The largest share of `box` that one of `others` covers, 0..1."""
    if len(others) == 0:
        return 0.0
    area = max(float(box_area(box[None])[0]), 1e-6)
    return float(intersection(box[None], others).max() / area)


def suppress(
    boxes: Float[np.ndarray, "N 4"], scores: Float[np.ndarray, " N"], *, max_iou: float
) -> Int64[np.ndarray, " K"]:
    """Greedy non-maximum suppression; indices of the kept boxes, highest score first, ties by input order."""
    order = np.argsort(-scores, kind="stable")
    overlap = iou(boxes, boxes)
    alive: Bool[np.ndarray, " N"] = np.ones(len(boxes), bool)
    kept: list[int] = []
    for index in order:
        if alive[index]:
            kept.append(int(index))
            alive &= overlap[index] <= max_iou
            alive[index] = False
    return np.array(kept, np.int64)


def interpolate_boxes(
    at: Int64[np.ndarray, " M"], known_at: Int64[np.ndarray, " N"], boxes: Float[np.ndarray, "N 4"]
) -> Float32[np.ndarray, "M 4"]:
    """Linear interpolation of boxes over positions; `known_at` ascending, values outside it are held."""
    columns = [np.interp(at, known_at, boxes[:, column]) for column in range(4)]
    return np.stack(columns, axis=1).astype(np.float32)


def clip_boxes(boxes: Float[np.ndarray, "N 4"], *, width: int, height: int) -> Float32[np.ndarray, "N 4"]:
    """Boxes cut at the frame's border."""
    limit = np.array([width, height, width, height], np.float32)
    return np.asarray(np.clip(boxes, 0, limit), np.float32)


def window_around(box: Float[np.ndarray, 4], *, padding: float, width: int, height: int) -> Window:
    """The integer window inside the frame that holds `box` enlarged `padding` times about its centre.

    At least 2x2 pixels, even for a box at or beyond the border.
    """
    x0, y0, x1, y1 = (float(value) for value in box)
    half_w, half_h = (x1 - x0) * padding / 2, (y1 - y0) * padding / 2
    mid_x, mid_y = (x0 + x1) / 2, (y0 + y1) / 2
    left, top = int(np.floor(mid_x - half_w)), int(np.floor(mid_y - half_h))
    right, bottom = int(np.ceil(mid_x + half_w)), int(np.ceil(mid_y + half_h))
    left, top = min(max(left, 0), width - 2), min(max(top, 0), height - 2)
    return left, top, min(max(right, left + 2), width), min(max(bottom, top + 2), height)
