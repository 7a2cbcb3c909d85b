"""From other keypoint sets to COCO-WholeBody 133: by the number of points a model gives.

| points | set               | what is taken                                                                           |
|---|---|---|
| 17     | COCO              | the body; feet, face and hands score 0                                                  |
| 133    | COCO-WholeBody    | everything, same order                                                                  |
| 308    | Goliath (Sapiens) | body, feet, both hands (whose fingers run from tip to base); of the face: chin, brow    |
|        |                   | ends, nose root, tip, base and wings, eye corners and lids, lip corners and centres. Ja |
|        |                   | line, inner brow points and other lip points score 0: the set has none at these places  |
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64

from lhmforge.datasets.errors import BackendError
from lhmforge.pipelines import wholebody as order

_GOLIATH_SIZE = 308
_GOLIATH_RIGHT_HAND, _GOLIATH_RIGHT_WRIST = 21, 41
_GOLIATH_LEFT_HAND, _GOLIATH_LEFT_WRIST = 42, 62
# COCO body point of Goliath's first 15, which leave out the wrists; then the feet in COCO-WholeBody's order.
_GOLIATH_BODY = (0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22)
# iBUG-68 point -> Goliath point. A lid's points 1 and 2 lie at the quarters: 1 outside on the right eye, inside on the
# left one.
_GOLIATH_FACE = {
    8: 77, 17: 80, 21: 78, 22: 87, 26: 89, 27: 71, 30: 178, 31: 180, 33: 179, 35: 181,
    36: 121, 37: 123, 38: 124, 39: 120, 40: 165, 41: 164, 42: 96, 43: 100, 44: 99, 45: 97, 46: 147, 47: 148,
    48: 188, 51: 190, 54: 189, 57: 191, 60: 204, 62: 206, 64: 205, 66: 207,
}  # fmt: skip


def wholebody_target(num_points: int, *, what: str) -> Int64[np.ndarray, " K"]:
    """Per point of a model its index among the 133 (-1: none); raises `BackendError` for an unknown set size."""
    if num_points == order.NUM_POINTS:
        return np.arange(order.NUM_POINTS, dtype=np.int64)
    if num_points == 17:
        return np.arange(17, dtype=np.int64)
    if num_points == _GOLIATH_SIZE:
        return _goliath_target()
    raise BackendError(
        f"{what} gives {num_points} keypoints; known sets have 17 (COCO), 133 (whole body), 308 (Goliath)"
    )


def _goliath_target() -> Int64[np.ndarray, 308]:
    target = np.full(_GOLIATH_SIZE, -1, np.int64)
    target[: len(_GOLIATH_BODY)] = _GOLIATH_BODY
    # The wrists exist once: they go to the body, and `fill_hand_wrists` copies them to the hands.
    target[_GOLIATH_LEFT_WRIST], target[_GOLIATH_RIGHT_WRIST] = 9, 10
    for first, part in ((_GOLIATH_LEFT_HAND, order.LEFT_HAND), (_GOLIATH_RIGHT_HAND, order.RIGHT_HAND)):
        for finger in range(5):
            for joint in range(4):
                target[first + 4 * finger + joint] = part.start + 1 + 4 * finger + (3 - joint)
    for face_point, source in _GOLIATH_FACE.items():
        target[source] = order.FACE.start + face_point
    return target


def fill_hand_wrists(points: np.ndarray, scores: np.ndarray) -> None:
    """Copies the body's wrists to hand wrists without a score; in place, arrays [N, 133, 2] and [N, 133]."""
    for wrist, part in ((9, order.LEFT_HAND), (10, order.RIGHT_HAND)):
        missing = (scores[:, part.start] == 0) & (scores[:, part].max(axis=1) > 0)
        points[missing, part.start], scores[missing, part.start] = points[missing, wrist], scores[missing, wrist]
