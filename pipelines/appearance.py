"""Appearance of a person in a box as a colour descriptor: enough to tell clothes apart, cheap, and no weights."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from lhmforge.pipelines.boxes import intersection, window_around

NUM_STRIPES = 3  # head and shoulders, trunk, legs
_LIGHTNESS_BINS = 6
_COLOUR_BINS = 7
DESCRIPTOR_SIZE = NUM_STRIPES * (_LIGHTNESS_BINS + _COLOUR_BINS**2)
_STRIPE_HEIGHT_PX = 24
_STRIPE_WIDTH_PX = 24
_INNER_WIDTH = 0.6  # the box's sides are mostly background
_MIN_FREE = 0.25


def describe_persons(
    frame: UInt8[np.ndarray, "H W 3"], boxes_px: Float32[np.ndarray, "K 4"]
) -> Float32[np.ndarray, "K D"]:
    """Unit descriptors, one per box: CIE Lab histograms of three stripes, pixels of overlapping boxes left out.

    Two boxes of one person give a cosine near 1; square roots of the bins make it the Bhattacharyya coefficient.
    """
    height, width = frame.shape[:2]
    descriptors = np.zeros((len(boxes_px), DESCRIPTOR_SIZE), np.float32)
    for index, box in enumerate(boxes_px):
        x0, y0, x1, y1 = window_around(_inner(box), padding=1.0, width=width, height=height)
        size = (_STRIPE_WIDTH_PX, NUM_STRIPES * _STRIPE_HEIGHT_PX)
        patch = cv2.resize(np.ascontiguousarray(frame[y0:y1, x0:x1]), size, interpolation=cv2.INTER_AREA)
        free = _free_pixels((x0, y0, x1, y1), box, np.delete(boxes_px, index, axis=0), size)
        descriptors[index] = _describe(patch, free)
    return descriptors


def _inner(box: Float32[np.ndarray, 4]) -> Float32[np.ndarray, 4]:
    shrink = (box[2] - box[0]) * (1 - _INNER_WIDTH) / 2
    return np.array([box[0] + shrink, box[1], box[2] - shrink, box[3]], np.float32)


def _free_pixels(
    window: tuple[int, int, int, int], box: np.ndarray, others: Float32[np.ndarray, "M 4"], size: tuple[int, int]
) -> Bool[np.ndarray, "h w"]:
    """Pixels of the patch that no person in front covers (a lower box edge means nearer to the camera)."""
    free = np.ones((size[1], size[0]), bool)
    x0, y0, x1, y1 = window
    scale = np.array([size[0] / (x1 - x0), size[1] / (y1 - y0)] * 2)
    for other in others:
        if intersection(box[None], other[None])[0, 0] > 0:
            left, top, right, bottom = np.round((other - [x0, y0, x0, y0]) * scale).astype(int)
            free[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = False
    return free if free.mean() >= _MIN_FREE else np.ones_like(free)


def _describe(patch: UInt8[np.ndarray, "h w 3"], free: Bool[np.ndarray, "h w"]) -> Float32[np.ndarray, " D"]:
    lab = cv2.cvtColor(patch, cv2.COLOR_RGB2LAB)
    parts: list[np.ndarray] = []
    for stripe in range(NUM_STRIPES):
        rows = slice(stripe * _STRIPE_HEIGHT_PX, (stripe + 1) * _STRIPE_HEIGHT_PX)
        mask = free[rows].astype(np.uint8)
        lightness = cv2.calcHist([lab[rows]], [0], mask, [_LIGHTNESS_BINS], [0, 256]).ravel()
        # Clothes lie in the middle of the a-b plane; bins over 64..192 keep its resolution.
        colour = cv2.calcHist([lab[rows]], [1, 2], mask, [_COLOUR_BINS] * 2, [64, 192, 64, 192]).ravel()
        parts += [np.sqrt(lightness / max(lightness.sum(), 1.0)), np.sqrt(colour / max(colour.sum(), 1.0))]
    descriptor = np.concatenate(parts).astype(np.float32)
    return np.asarray(descriptor / max(float(np.linalg.norm(descriptor)), 1e-6), np.float32)
