"""Alpha mattes of one person: support from a person mask, holes, edges, exclusion of others, and windows as PNG."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from lhmforge.datasets.codecs import decode_png, encode_png
from lhmforge.datasets.records import AlphaCrop
from lhmforge.pipelines.boxes import Window

_SURE = 0.8  # of a person mask: what it claims so strongly is the person's
_EDGE_REGULARISER = 3e-4  # variance of a colour in 0..1 below which it says nothing about the alpha
_STEEPNESS = 2.5  # a coarse mask's ramp is wider than that of hair and cloth


def encode_alpha(alpha: Float32[np.ndarray, "h w"], window: Window) -> AlphaCrop:
    """A matte in 0..1 over `window` as 8-bit grey PNG."""
    x0, y0, x1, y1 = window
    assert alpha.shape == (y1 - y0, x1 - x0), f"matte {alpha.shape} does not fill window {window}"
    return AlphaCrop(window_px=window, png=encode_png(np.round(np.clip(alpha, 0, 1) * 255).astype(np.uint8)))


def full_alpha(crop: AlphaCrop, *, width: int, height: int) -> UInt8[np.ndarray, "H W"]:
    """The matte over the whole frame, 0..255, zero outside its window."""
    x0, y0, x1, y1 = crop.window_px
    alpha = np.zeros((height, width), np.uint8)
    alpha[y0:y1, x0:x1] = decode_png(crop.png)
    return alpha


def mask_iou(a: Float32[np.ndarray, "h w"], b: Float32[np.ndarray, "h w"]) -> float:
    """Intersection over union of two soft masks cut at 0.5; 1 where both are empty."""
    first, second = a >= 0.5, b >= 0.5
    union = int((first | second).sum())
    return 1.0 if union == 0 else float((first & second).sum()) / union


def grow(mask: Float32[np.ndarray, "h w"], radius_px: float) -> Float32[np.ndarray, "h w"]:
    """A mask widened by `radius_px` with a soft edge of about the same width."""
    size = max(1, round(radius_px))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * size + 1, 2 * size + 1))
    wide = cv2.dilate((mask >= 0.5).astype(np.float32), kernel)
    return np.asarray(cv2.GaussianBlur(wide, (0, 0), size / 3 + 0.5), np.float32)


def inside_boxes(
    boxes_px: Float32[np.ndarray, "M 4"], window: Window, shape: tuple[int, int]
) -> Float32[np.ndarray, "h w"]:
    """1 where any of the boxes covers the window's picture of size `shape` (height, width), else 0."""
    height, width = shape
    x0, y0, x1, y1 = window
    scale = np.array([width / (x1 - x0), height / (y1 - y0)] * 2)
    covered = np.zeros(shape, np.float32)
    for box in boxes_px:
        left, top, right, bottom = np.round((box - [x0, y0, x0, y0]) * scale).astype(int)
        covered[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = 1
    return covered


def keep_touching(alpha: Float32[np.ndarray, "h w"], seed: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    """Zeroes the islands of a matte that do not touch the seed mask: other people's parts and clutter."""
    count, labels = cv2.connectedComponents((alpha > 0.1).astype(np.uint8))
    touched = np.unique(labels[(seed >= 0.5) & (labels > 0)])
    if count <= 1 or len(touched) == 0:
        return alpha
    return np.where(np.isin(labels, touched), alpha, 0).astype(np.float32)


def missing_parts(
    alpha: Float32[np.ndarray, "h w"], mask: Float32[np.ndarray, "h w"], *, margin_px: float, min_share: float = 0.002
) -> Float32[np.ndarray, "h w"]:
    """1 where the matte has holes well inside a person mask: pixels that the mask is sure of and the matte is not.

    Nothing within `margin_px` of the mask's outline counts, nor holes smaller than `min_share` of the mask.
    """
    size = max(1, round(margin_px))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * size + 1, 2 * size + 1))
    core = cv2.erode((mask >= _SURE).astype(np.uint8), kernel)
    holes = ((core > 0) & (alpha < 0.5)).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(holes)
    smallest = min_share * float((mask >= 0.5).sum())
    large = [index for index in range(1, count) if stats[index, cv2.CC_STAT_AREA] >= smallest]
    return np.isin(labels, large).astype(np.float32)


def follow_edges(
    picture: UInt8[np.ndarray, "h w 3"], mask: Float32[np.ndarray, "h w"], *, radius_px: float
) -> Float32[np.ndarray, "h w"]:
    """A soft alpha from a coarse mask: in every window of `radius_px` the alpha is a linear function of the colour.

    He, Sun, Tang, "Guided Image Filtering" (2013), equations 14 to 16, with coefficients at half the resolution (He and
    Sun, "Fast Guided Filter", 2015), then a steeper ramp around one half.
    """
    height, width = mask.shape
    half = max(1, width // 2), max(1, height // 2)
    guide = cv2.resize(picture, half, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    level = cv2.resize(mask, half, interpolation=cv2.INTER_AREA)
    side = 2 * max(1, round(radius_px / 2)) + 1

    def mean(values: np.ndarray) -> np.ndarray:
        return np.asarray(cv2.boxFilter(values, -1, (side, side)))

    colour, average = mean(guide), mean(level)
    shared = mean(guide * level[..., None]) - colour * average[..., None]
    products = (guide[..., :, None] * guide[..., None, :]).reshape(*level.shape, 9)
    spread = np.stack([mean(products[..., entry]) for entry in range(9)], axis=-1).reshape(*level.shape, 3, 3)
    spread += _EDGE_REGULARISER * np.eye(3, dtype=np.float32) - colour[..., :, None] * colour[..., None, :]
    slope = np.linalg.solve(spread, shared[..., None])[..., 0]
    offset = average - (slope * colour).sum(axis=-1)
    line = np.concatenate([mean(slope), mean(offset)[..., None]], axis=-1)
    full = cv2.resize(line, (width, height), interpolation=cv2.INTER_LINEAR)
    alpha = (full[..., :3] * picture).sum(axis=-1) / 255 + full[..., 3]
    return np.clip((alpha - 0.5) * _STEEPNESS + 0.5, 0, 1).astype(np.float32)
