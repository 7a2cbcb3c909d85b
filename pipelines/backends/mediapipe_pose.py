"""One person's MediaPipe pose in a frame: crop, choose the right person, try again with other crops."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from lhmforge.pipelines.backends.mediapipe_tasks import PoseFinder, PoseFound
from lhmforge.pipelines.boxes import Window, iou, window_around

_PADDINGS = (1.3, 1.7, 1.1)  # first guess, then more context, then less
_MAX_CROP_PX = 512  # longer side; the pose model itself looks at 256
_MIN_IOU = 0.3  # of the landmarks' box with the track's box
_SURE_IOU = 0.5
_VISIBLE = 0.5


def find_person(
    frame: UInt8[np.ndarray, "H W 3"], box_px: Float32[np.ndarray, 4], finder: PoseFinder
) -> tuple[PoseFound, Window] | None:
    """The pose whose landmarks best fill the box, in pixels of the frame, and the window that its mask covers.

    None when no crop shows a person who fits the box.
    """
    best: tuple[float, PoseFound, Window] | None = None
    for padding in _PADDINGS:
        window = window_around(box_px, padding=padding, width=frame.shape[1], height=frame.shape[0])
        for found in _in_window(frame, window, finder):
            fit = _fit(found, box_px, frame.shape[1], frame.shape[0])
            if fit >= _MIN_IOU and (best is None or fit > best[0]):
                best = (fit, found, window)
        if best is not None and best[0] >= _SURE_IOU:
            break
    return None if best is None else (best[1], best[2])


def _in_window(frame: UInt8[np.ndarray, "H W 3"], window: Window, finder: PoseFinder) -> list[PoseFound]:
    x0, y0, x1, y1 = window
    crop = np.ascontiguousarray(frame[y0:y1, x0:x1])
    scale = min(1.0, _MAX_CROP_PX / max(crop.shape[:2]))
    if scale < 1:
        crop = cv2.resize(crop, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    to_frame = np.array([(x1 - x0) / crop.shape[1], (y1 - y0) / crop.shape[0]], np.float32)
    return [
        PoseFound(
            points_px=found.points_px * to_frame + np.array([x0, y0], np.float32),
            scores=found.scores,
            landmarks_m=found.landmarks_m,
            mask=found.mask,
        )
        for found in finder(crop)
    ]


def _fit(found: PoseFound, box_px: Float32[np.ndarray, 4], width: int, height: int) -> float:
    """IoU of the box with the box of the visible landmarks inside the frame, widened to skin from joints."""
    seen = found.points_px[found.scores >= _VISIBLE]
    if len(seen) < 5:
        return 0.0
    low, high = seen.min(axis=0), seen.max(axis=0)
    margin = 0.05 * float((high - low).max())
    limit = np.array([width, height, width, height], np.float32)
    around = np.clip(np.concatenate([low - margin, high + margin]), 0, limit)
    return float(iou(around[None].astype(np.float32), box_px[None])[0, 0])
