"""COCO-WholeBody 133: the one keypoint order on disk, its parts, its mirror pairs, and the way in from other sets.

Order: 17 COCO body points, 6 foot points, 68 face points (iBUG order), 21 left-hand and 21 right-hand points.
Left and right are the subject's. A point that a model does not give has score 0.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int64

NUM_POINTS = 133
BODY = slice(0, 17)
FEET = slice(17, 23)
FACE = slice(23, 91)
LEFT_HAND = slice(91, 112)
RIGHT_HAND = slice(112, 133)

BODY_NAMES = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip
FOOT_NAMES = (
    "left_big_toe", "left_small_toe", "left_heel", "right_big_toe", "right_small_toe", "right_heel",
)  # fmt: skip
_FINGERS = ("thumb", "index", "middle", "ring", "pinky")
HAND_NAMES = ("wrist", *(f"{finger}_{joint}" for finger in _FINGERS for joint in range(1, 5)))

NAMES: tuple[str, ...] = (
    *BODY_NAMES,
    *FOOT_NAMES,
    *(f"face_{index}" for index in range(68)),
    *(f"left_hand_{name}" for name in HAND_NAMES),
    *(f"right_hand_{name}" for name in HAND_NAMES),
)

# Bones to draw or to measure, over body and feet.
LIMBS: tuple[tuple[int, int], ...] = (
    (0, 1), (0, 2), (1, 3), (2, 4), (5, 6), (5, 7), (7, 9), (6, 8), (8, 10), (5, 11), (6, 12), (11, 12),
    (11, 13), (13, 15), (12, 14), (14, 16), (15, 17), (15, 18), (15, 19), (16, 20), (16, 21), (16, 22),
)  # fmt: skip

# iBUG-68: which point is the mirror of which, counted inside the face.
_FACE_MIRROR = (
    16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0,
    26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 27, 28, 29, 30, 35, 34, 33, 32, 31,
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,
    54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65,
)  # fmt: skip


def mirror_index() -> Int64[np.ndarray, 133]:
    """For every point the index of the point on the other side of the body (itself on the mid-line)."""
    index = np.arange(NUM_POINTS, dtype=np.int64)
    for left, name in enumerate(NAMES[: FACE.start]):
        if name.startswith("left_"):
            right = NAMES.index("right_" + name.removeprefix("left_"))
            index[left], index[right] = right, left
    index[FACE] = FACE.start + np.array(_FACE_MIRROR)
    index[LEFT_HAND] = np.arange(RIGHT_HAND.start, RIGHT_HAND.stop)
    index[RIGHT_HAND] = np.arange(LEFT_HAND.start, LEFT_HAND.stop)
    return index


def from_subset(
    points_px: Float32[np.ndarray, "N K 2"], scores: Float32[np.ndarray, "N K"], target: Int64[np.ndarray, " K"]
) -> tuple[Float32[np.ndarray, "N 133 2"], Float32[np.ndarray, "N 133"]]:
    """Places a model's `K` points at `target` (-1: no such point); what is not covered has score 0."""
    full_points = np.zeros((len(points_px), NUM_POINTS, 2), np.float32)
    full_scores = np.zeros((len(points_px), NUM_POINTS), np.float32)
    used = target >= 0
    full_points[:, target[used]] = points_px[:, used]
    full_scores[:, target[used]] = scores[:, used]
    return full_points, full_scores
