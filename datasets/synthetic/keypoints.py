"""Exact COCO-WholeBody 133 keypoints of a posed body, with visibility from the rendered depth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from lhmforge.datasets.body.joints import joint
from lhmforge.datasets.body.model import BodyModel, BodyOutput

NUM_POINTS, FACE_START, HANDS_START = 133, 23, 91
_BODY = (
    "*nose", "*left_eye", "*right_eye", "*left_ear", "*right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle", "*left_big_toe", "*left_small_toe", "*left_heel", "*right_big_toe", "*right_small_toe",
    "*right_heel",
)  # fmt: skip  # a star marks a surface point, the rest are joints
_INSIDE_M, _SURFACE_M = 0.16, 0.03  # how far behind the visible surface a joint / a surface point may lie
# MediaPipe face-mesh indices of the 68 iBUG landmarks (the usual correspondence, contour first).
IBUG_OF_MESH = (
    162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389, 71, 63, 105, 66, 107, 336, 296,
    334, 293, 301, 168, 197, 5, 4, 75, 97, 2, 326, 305, 33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380, 61,
    39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class WholebodyPoints:
    """3D points in the order on disk; `known` is false for those the body file cannot give (face without embedding)."""

    points_m: Float32[np.ndarray, "N 133 3"]
    known: Bool[np.ndarray, " 133"]


def wholebody_points(body: BodyModel, posed: BodyOutput) -> WholebodyPoints:
    """Joints and surface points of the posed body, in its frame."""
    joints, vertices = posed.joints.numpy(), posed.vertices.numpy()
    surface = dict(body.extra_vertices)
    points = np.zeros((len(joints), NUM_POINTS, 3), np.float32)
    known = np.ones(NUM_POINTS, bool)

    def point(name: str) -> np.ndarray:
        row: np.ndarray = vertices[:, surface[name[1:]]] if name.startswith("*") else joints[:, joint(name)]
        return row

    for index, name in enumerate((*_BODY, *([""] * 68), *_hand("left"), *_hand("right"))):
        if name:
            points[:, index] = point(name)
    if body.face_landmark_faces is not None and body.face_landmark_bary is not None:
        mesh = list(IBUG_OF_MESH)
        corner = vertices[:, body.faces.numpy()[body.face_landmark_faces.numpy()[mesh]]]
        points[:, FACE_START:HANDS_START] = np.einsum("npkc,pk->npc", corner, body.face_landmark_bary.numpy()[mesh])
    else:
        known[FACE_START:HANDS_START] = False
    return WholebodyPoints(points_m=points, known=known)


def visible_points(
    points_m: Float32[np.ndarray, "133 3"],
    points_px: Float32[np.ndarray, "133 2"],
    depth: Float32[np.ndarray, "H W"],
    alpha: UInt8[np.ndarray, "H W"],
) -> Bool[np.ndarray, " 133"]:
    """Whether a point lies in the picture, on its own person, at or just behind the visible surface."""
    height, width = depth.shape
    x, y = np.floor(np.nan_to_num(points_px, nan=-1e6)).astype(np.int64).T
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    tolerance = np.full(NUM_POINTS, _SURFACE_M, np.float32)
    tolerance[5:17] = _INSIDE_M
    tolerance[HANDS_START:] = _SURFACE_M
    in_front = points_m[:, 2] <= depth[y, x] + tolerance
    result: np.ndarray = inside & (alpha[y, x] > 76) & (depth[y, x] > 0) & in_front
    return result


def _hand(side: str) -> tuple[str, ...]:
    names = [f"{side}_wrist"]
    for finger in ("thumb", "index", "middle", "ring", "pinky"):
        names += [f"{side}_{finger}{k}" for k in (1, 2, 3)] + [f"*{side}_{finger}_tip"]
    return tuple(names)
