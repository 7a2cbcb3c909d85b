"""Cameras: the one place that states axes and units, and the intrinsics arithmetic of crops and resizes.

Axes: OpenCV (x right, y down, z forward), metres. Pixels: centres at +0.5, so a W x H image spans [0, W] x [0, H].
Intrinsics always describe the stored image. Colour: sRGB in 0..1.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Float64


def crop_and_resize_intrinsics(
    intrinsics: Float32[np.ndarray, "3 3"], *, window_px: tuple[float, float, float, float], width: int, height: int
) -> Float32[np.ndarray, "3 3"]:
    """Intrinsics after cutting `window_px` (x0, y0, x1, y1; may reach outside the image) and resizing it."""
    x0, y0, x1, y1 = window_px
    if x1 <= x0 or y1 <= y0:
        raise ValueError(f"window {window_px} is empty")
    scale_x, scale_y = width / (x1 - x0), height / (y1 - y0)
    transform = np.array([[scale_x, 0, -x0 * scale_x], [0, scale_y, -y0 * scale_y], [0, 0, 1]], np.float64)
    return (transform @ intrinsics.astype(np.float64)).astype(np.float32)


def project(
    points_m: Float64[np.ndarray, "*batch 3"], intrinsics: Float64[np.ndarray, "3 3"]
) -> Float64[np.ndarray, "*batch 2"]:
    """Pixels of camera-frame points; points at or behind the camera plane give NaN."""
    depth = np.where(points_m[..., 2:] > 1e-6, points_m[..., 2:], np.nan)
    normalised = points_m[..., :2] / depth
    focal, centre = intrinsics[[0, 1], [0, 1]], intrinsics[:2, 2]
    result: np.ndarray = normalised * focal + centre
    return result


def default_intrinsics(width_px: int, height_px: int) -> Float32[np.ndarray, "3 3"]:
    """The guess for an unknown camera: focal length 1.2 x the longer side, principal point at the centre."""
    focal = 1.2 * max(width_px, height_px)
    return np.array([[focal, 0, width_px / 2], [0, focal, height_px / 2], [0, 0, 1]], np.float32)
