"""Errors of mattes and keypoints against the truth, in the pixels of the stored frame."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

PCK_SHARES = (0.02, 0.05)  # of the person's height
GROUPS = {"body": slice(0, 17), "feet": slice(17, 23), "face": slice(23, 91), "hands": slice(91, 133)}


@dataclass(frozen=True, slots=True, kw_only=True)
class MatteErrors:
    """IoU at one half; mean absolute difference x 1000; mean difference of gradient magnitudes x 1000."""

    iou: float
    mad: float
    gradient: float


def matte_errors(estimate: UInt8[np.ndarray, "H W"], truth: UInt8[np.ndarray, "H W"]) -> MatteErrors:
    """Compares two mattes of one frame over the whole stored window."""
    a, b = estimate.astype(np.float32) / 255, truth.astype(np.float32) / 255
    inside, outside = (a >= 0.5) & (b >= 0.5), (a >= 0.5) | (b >= 0.5)
    return MatteErrors(
        iou=float(inside.sum() / outside.sum()) if outside.any() else 1.0,
        mad=1000 * float(np.abs(a - b).mean()),
        gradient=1000 * float(np.abs(_gradient(a) - _gradient(b)).mean()),
    )


def cut_out(
    picture: UInt8[np.ndarray, "H W"], window: tuple[float, float, float, float], width: int, height: int
) -> UInt8[np.ndarray, "h w"]:
    """The part of a full frame that a stored frame shows, at its size."""
    x0, y0, x1, y1 = (round(edge) for edge in window)
    part = picture[y0:y1, x0:x1]
    if part.shape == (height, width):
        return np.ascontiguousarray(part)
    return np.asarray(cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def correct_keypoints(
    points_px: Float32[np.ndarray, "N 133 2"],
    scores: Float32[np.ndarray, "N 133"],
    truth_px: Float32[np.ndarray, "N 133 2"],
    visible: Bool[np.ndarray, "N 133"],
    heights_px: Float32[np.ndarray, " N"],
) -> dict[str, float]:
    """PCK per group ("body@0.05", ...): share of visible true points that were found within a share of the height.

    A point that was not given (score 0) counts as missed; groups without a visible true point are left out.
    """
    distance = np.linalg.norm(points_px - truth_px, axis=-1) / heights_px[:, None]
    distance = np.where(scores > 0, distance, np.inf)
    result = {}
    for name, group in GROUPS.items():
        seen = visible[:, group]
        for share in PCK_SHARES:
            if seen.any():
                result[f"{name}@{share}"] = float((distance[:, group][seen] <= share).mean())
    return result


def _gradient(alpha: Float32[np.ndarray, "H W"]) -> Float32[np.ndarray, "H W"]:
    smooth = cv2.GaussianBlur(alpha, (0, 0), 1.4)
    magnitude: np.ndarray = np.hypot(np.gradient(smooth, axis=0), np.gradient(smooth, axis=1))
    return magnitude.astype(np.float32)
