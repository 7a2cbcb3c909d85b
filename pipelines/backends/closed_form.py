"""Soft alpha from a hard person mask: trimap, then closed-form matting by the package pymatting.

Levin, Lischinski, Weiss, "A Closed-Form Solution to Natural Image Matting" (2008).
"""

from __future__ import annotations

import warnings

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

_LONG_SIDE_PX = 224  # the linear system has one unknown per pixel
_BAND = 0.03  # half width of the unknown band, of the picture's longer side


def refine_mask(picture: UInt8[np.ndarray, "h w 3"], mask: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    """Alpha in 0..1 that follows the picture's edges within a band around the mask's outline."""
    scale = min(1.0, _LONG_SIDE_PX / max(picture.shape[:2]))
    size = max(8, round(picture.shape[1] * scale)), max(8, round(picture.shape[0] * scale))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.float64) / 255
    trimap = _trimap(cv2.resize(mask, size, interpolation=cv2.INTER_AREA))
    if not ((trimap == 0).any() and (trimap == 1).any()):
        return mask
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its import and solver announce performance hints
        from pymatting import estimate_alpha_cf

        alpha = estimate_alpha_cf(small, trimap, cg_kwargs={"rtol": 1e-5})
    soft = np.clip(alpha, 0, 1).astype(np.float32)
    return np.asarray(cv2.resize(soft, picture.shape[1::-1], interpolation=cv2.INTER_LINEAR), np.float32)


def _trimap(mask: Float32[np.ndarray, "h w"]) -> np.ndarray:
    """1 well inside, 0 well outside, 0.5 in the band where the picture decides."""
    radius = max(2, round(_BAND * max(mask.shape)))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    hard = (mask >= 0.5).astype(np.uint8)
    trimap = np.full(mask.shape, 0.5)
    trimap[cv2.erode(hard, kernel) == 1] = 1
    trimap[cv2.dilate(hard, kernel) == 0] = 0
    return trimap
