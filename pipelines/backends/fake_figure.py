"""The figure that the fake keypoint backend draws: a standing adult in MediaPipe's 33 landmarks."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Float64

from lhmforge.pipelines import wholebody as order

HEAD_TOP_M = 0.86  # above the hips
HEIGHT_M = 1.76

# The subject's left side and midline, metres: x to the image's right (the subject's left), y down, z away; hips at 0.
_LEFT: dict[str, tuple[int, int, tuple[float, float, float]]] = {
    "eye_inner": (1, 4, (0.020, -0.76, -0.10)),
    "eye": (2, 5, (0.032, -0.76, -0.09)),
    "eye_outer": (3, 6, (0.045, -0.76, -0.08)),
    "ear": (7, 8, (0.075, -0.74, 0.01)),
    "mouth": (9, 10, (0.025, -0.67, -0.10)),
    "shoulder": (11, 12, (0.180, -0.50, 0.00)),
    "elbow": (13, 14, (0.310, -0.27, 0.02)),
    "wrist": (15, 16, (0.420, -0.05, -0.02)),
    "pinky": (17, 18, (0.470, 0.03, -0.02)),
    "index": (19, 20, (0.455, 0.04, -0.06)),
    "thumb": (21, 22, (0.430, 0.00, -0.06)),
    "hip": (23, 24, (0.090, 0.00, 0.00)),
    "knee": (25, 26, (0.105, 0.42, -0.02)),
    "ankle": (27, 28, (0.105, 0.82, 0.02)),
    "heel": (29, 30, (0.105, 0.88, 0.06)),
    "toe": (31, 32, (0.135, 0.89, -0.12)),
}
_NOSE = (0.0, -0.72, -0.12)
_ARM = {"elbow", "wrist", "pinky", "index", "thumb"}
_SWAY_M = 0.04
_SWAY_FRAMES = 40.0
_NUM_LANDMARKS = 33

# COCO-WholeBody index -> landmark, for what both orders name.
_BODY_TO_LANDMARK = (0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28, 31, 31, 29, 32, 32, 30)
_HANDS = ((order.LEFT_HAND, (15, 21, 19, 17)), (order.RIGHT_HAND, (16, 22, 20, 18)))  # wrist, thumb, index, pinky


def landmarks(frame_index: int) -> Float64[np.ndarray, "33 3"]:
    """Landmarks in metres; the arms swing a little with the frame's number, both sides alike."""
    sway = _SWAY_M * np.sin(2 * np.pi * frame_index / _SWAY_FRAMES)
    points = np.zeros((_NUM_LANDMARKS, 3))
    points[0] = _NOSE
    for name, (left, right, place) in _LEFT.items():
        x, y, z = place
        shift = sway * (y - _LEFT["shoulder"][2][1]) / 0.5 if name in _ARM else 0.0
        points[left], points[right] = (x + shift, y, z), (-x - shift, y, z)
    return points


def wholebody(
    points_px: Float32[np.ndarray, "N 33 2"],
) -> tuple[Float32[np.ndarray, "N 133 2"], Float32[np.ndarray, "N 133"]]:
    """The 33 landmarks in the image as COCO-WholeBody points: body and feet copied, face and hands interpolated."""
    num_frames = len(points_px)
    points = np.zeros((num_frames, order.NUM_POINTS, 2), np.float32)
    scores = np.full((num_frames, order.NUM_POINTS), 0.7, np.float32)
    points[:, : order.FEET.stop] = points_px[:, list(_BODY_TO_LANDMARK)]
    scores[:, : order.FEET.stop] = 0.95
    points[:, order.FACE] = _face(points_px)
    for part, (wrist, thumb, index, pinky) in _HANDS:
        points[:, part] = _hand(points_px[:, wrist], points_px[:, thumb], points_px[:, index], points_px[:, pinky])
    return points, scores


def _face(points_px: Float32[np.ndarray, "N 33 2"]) -> Float32[np.ndarray, "N 68 2"]:
    """68 points on an ellipse around the nose; the mouth's corners (48 and 54 of the face) where the landmarks are."""
    width = np.linalg.norm(points_px[:, 7] - points_px[:, 8], axis=1)[:, None]
    angles = np.linspace(0, 2 * np.pi, 68, endpoint=False)
    ring = np.stack([-np.cos(angles), np.sin(angles)], 1)
    face = (points_px[:, 0, None] + 0.4 * width[..., None] * ring).astype(np.float32)
    face[:, 48], face[:, 54] = points_px[:, 10], points_px[:, 9]
    return face


def _hand(
    wrist: Float32[np.ndarray, "N 2"],
    thumb: Float32[np.ndarray, "N 2"],
    index: Float32[np.ndarray, "N 2"],
    pinky: Float32[np.ndarray, "N 2"],
) -> Float32[np.ndarray, "N 21 2"]:
    """Wrist, then four joints per finger; the landmarks are the fingers' first knuckles."""
    knuckles = [thumb, *(index + share * (pinky - index) for share in (0.0, 1 / 3, 2 / 3, 1.0))]
    joints = [wrist]
    for knuckle in knuckles:
        joints += [wrist + reach * (knuckle - wrist) for reach in (1.0, 1.35, 1.6, 1.8)]
    hand: Float32[np.ndarray, "N 21 2"] = np.stack(joints, 1).astype(np.float32)
    return hand
