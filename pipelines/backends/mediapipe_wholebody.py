"""MediaPipe's body, hand and face points in COCO-WholeBody 133 order.

| COCO-WholeBody        | from MediaPipe                                                                   |
|---|---|
| 17 body points        | pose points of the same name (eye = eye centre)                                  |
| big toe, heel         | pose foot index, pose heel                                                       |
| small toe             | not given: score 0                                                               |
| 68 face points        | mesh points that lie on the iBUG contour; not found: score 0                     |
| 21 points per hand    | hand points, same order; no hand found: wrist, thumb, index and little finger    |
|                       | knuckles of the pose with half their score, the rest score 0                     |
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32

from lhmforge.pipelines import wholebody as order
from lhmforge.pipelines.backends.mediapipe_tasks import FaceFound, HandFound

LEFT_ELBOW, RIGHT_ELBOW, LEFT_WRIST, RIGHT_WRIST = 13, 14, 15, 16
HEAD = slice(0, 11)
_FACE_SCORE = 0.9  # the landmarker gives none; below 1 because contours are less exact than a dedicated detector's
_KNUCKLE_SHARE = 0.5

# COCO-17 point, then pose point.
_BODY = (0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28)
# Position in the 133, then pose point: big toes and heels.
_FEET = ((17, 31), (19, 29), (20, 32), (22, 30))
# Position in a hand, then left and right pose point: wrist, thumb joint, index knuckle, little finger knuckle.
_KNUCKLES = ((0, 15, 16), (2, 21, 22), (5, 19, 20), (17, 17, 18))

# iBUG-68 point -> mesh point; right (image left in a frontal view) before left, as iBUG counts.
FACE_68 = (
    162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389,  # jaw
    71, 63, 105, 66, 107, 336, 296, 334, 293, 301,  # brows
    168, 197, 5, 4, 75, 97, 2, 326, 305,  # nose
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,  # eyes
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,  # outer lips
    78, 82, 13, 312, 308, 317, 14, 87,  # inner lips
)  # fmt: skip


def to_wholebody(
    pose_px: Float32[np.ndarray, "33 2"],
    pose_scores: Float32[np.ndarray, 33],
    face: FaceFound | None,
    left_hand: HandFound | None,
    right_hand: HandFound | None,
) -> Float32[np.ndarray, "133 3"]:
    """Rows of x, y in px and score; everything in pixels of the frame."""
    rows = np.zeros((order.NUM_POINTS, 3), np.float32)
    pose = np.concatenate([pose_px, pose_scores[:, None]], axis=1)
    rows[order.BODY] = pose[list(_BODY)]
    for target, source in _FEET:
        rows[target] = pose[source]
    if face is not None:
        rows[order.FACE, :2], rows[order.FACE, 2] = face.points_px[list(FACE_68)], _FACE_SCORE
    for side, (part, hand) in enumerate(((order.LEFT_HAND, left_hand), (order.RIGHT_HAND, right_hand))):
        if hand is not None:
            rows[part, :2], rows[part, 2] = hand.points_px, hand.score
        else:
            for target, *sides in _KNUCKLES:
                rows[part.start + target] = pose[sides[side]] * (1, 1, _KNUCKLE_SHARE)
    return rows
