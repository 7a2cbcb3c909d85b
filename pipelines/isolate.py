"""Pictures in which only one person is left: what pose models see, so that they do not mix people."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from lhmforge.datasets.records import AlphaCrop
from lhmforge.pipelines.alpha import full_alpha

_REACH = 0.05  # of the box height: limbs that the matte missed stay visible this far around it
_BLUR = 0.04  # of the box height
_MIN_MATTE_PX = 64


def isolate_person(
    frame: UInt8[np.ndarray, "H W 3"],
    alpha: AlphaCrop,
    box_px: Float32[np.ndarray, 4],
    other_boxes_px: Float32[np.ndarray, "M 4"],
) -> UInt8[np.ndarray, "H W 3"]:
    """The frame with other persons' boxes blurred away wherever this person's matte does not reach.

    The frame itself when nobody else is near or the matte is empty.
    """
    height, width = frame.shape[:2]
    window = _surroundings(box_px, width, height)
    near = [box for box in other_boxes_px if _meets(box, window)]
    matte = full_alpha(alpha, width=width, height=height)
    if not near or int((matte >= 128).sum()) < _MIN_MATTE_PX:
        return frame
    x0, y0, x1, y1 = window
    # A quarter of the resolution is plenty for a mask and bounds the cost of wide kernels.
    small = cv2.resize(matte[y0:y1, x0:x1], None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    size_px = float(box_px[3] - box_px[1])
    radius = max(1, round(_REACH * size_px / 4))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    keep = cv2.dilate((small >= 64).astype(np.float32), kernel)
    keep = cv2.resize(cv2.GaussianBlur(keep, (0, 0), radius / 2 + 0.5), (x1 - x0, y1 - y0))
    for_others = np.zeros((y1 - y0, x1 - x0), np.float32)
    for box in near:
        left, top, right, bottom = np.round(box - [x0, y0, x0, y0]).astype(int)
        for_others[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = 1
    hide = (for_others * (1 - keep))[..., None]
    picture = frame[y0:y1, x0:x1].astype(np.float32)
    blurred = cv2.blur(picture, (2 * max(1, round(_BLUR * size_px)) + 1,) * 2)
    isolated = frame.copy()
    isolated[y0:y1, x0:x1] = np.round(picture * (1 - hide) + blurred * hide).astype(np.uint8)
    return isolated


def _surroundings(box: Float32[np.ndarray, 4], width: int, height: int) -> tuple[int, int, int, int]:
    """All that a crop of twice the box may show."""
    size = box[2:] - box[:2]
    low, high = np.floor(box[:2] - size / 2).astype(int), np.ceil(box[2:] + size / 2).astype(int)
    left, top = max(int(low[0]), 0), max(int(low[1]), 0)
    return left, top, min(max(int(high[0]), left + 4), width), min(max(int(high[1]), top + 4), height)


def _meets(box: Float32[np.ndarray, 4], window: tuple[int, int, int, int]) -> bool:
    return bool(box[0] < window[2] and box[2] > window[0] and box[1] < window[3] and box[3] > window[1])
