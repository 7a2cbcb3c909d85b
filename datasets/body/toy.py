"""A small tube body in the SMPL-X npz format, for tests and smoke runs; it resembles a person only roughly.

Every bone is a six-sided tube, so that the file has the joint tree, arrays and meaning of the real format at a few
hundred vertices. Not a body model to train or fit with.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lhmforge.datasets.body.joints import JOINT_NAMES, NUM_JOINTS, PARENTS, joint
from lhmforge.datasets.body.npz_writer import write_body_file

_LEFT = {  # offset from the parent joint in metres, left side and midline; the right side mirrors x
    "left_hip": (0.09, -0.09, 0.0),
    "left_knee": (0.02, -0.40, 0.0),
    "left_ankle": (0.01, -0.42, -0.02),
    "left_foot": (0.02, -0.06, 0.13),
    "spine1": (0.0, 0.11, -0.02),
    "spine2": (0.0, 0.13, 0.0),
    "spine3": (0.0, 0.06, 0.0),
    "neck": (0.0, 0.20, -0.02),
    "head": (0.0, 0.09, 0.03),
    "jaw": (0.0, 0.01, 0.03),
    "left_eye": (0.03, 0.06, 0.08),
    "left_collar": (0.05, 0.12, 0.0),
    "left_shoulder": (0.12, 0.03, 0.0),
    "left_elbow": (0.26, 0.0, 0.0),
    "left_wrist": (0.25, 0.0, 0.0),
}
_FINGER_ROOT = {"thumb": (0.03, -0.01, 0.03), "index": (0.09, 0.0, 0.03), "middle": (0.1, 0.0, 0.0)}
_FINGER_ROOT |= {"ring": (0.09, 0.0, -0.02), "pinky": (0.08, 0.0, -0.04)}
_TIP = {"head": (0.0, 0.18, 0.02), "jaw": (0.0, -0.02, 0.09), "foot": (0.0, -0.01, 0.08), "eye": (0.0, 0.0, 0.015)}
_SIDES = 6


def toy_body_arrays(*, num_shape: int = 10, num_expression: int = 10) -> dict[str, np.ndarray]:
    """The arrays of a small body file (980 vertices), the same on every call."""
    joints = _toy_joints()
    vertices, faces, weights, radial = _tubes(joints)
    num_vertices = len(vertices)
    regressor = np.zeros((NUM_JOINTS, num_vertices), np.float32)
    ring_start = _first_ring()
    for j in range(NUM_JOINTS):
        regressor[j, ring_start[j] : ring_start[j] + _SIDES] = 1 / _SIDES
    rng = np.random.default_rng(0)
    shapedirs = np.zeros((num_vertices, 3, num_shape + num_expression), np.float32)
    per_joint = 0.004 * rng.normal(size=(NUM_JOINTS, 3, num_shape + num_expression))
    shapedirs[:] = np.einsum("vj,jcs->vcs", weights, per_joint)
    shapedirs[:, :, 0], shapedirs[:, :, 1] = 0.04 * vertices, 0.1 * radial
    face = np.isin(weights.argmax(1), [joint("jaw"), joint("left_eye"), joint("right_eye")])
    shapedirs[~face, :, num_shape:] = 0
    posedirs = 0.003 * rng.normal(size=(1, 3, (NUM_JOINTS - 1) * 9)) * (weights.max(1) < 0.9)[:, None, None]
    tree = np.stack([np.array(PARENTS, np.int64), np.arange(NUM_JOINTS, dtype=np.int64)])
    tree[0, 0] = 2**32 - 1
    return {
        "v_template": vertices,
        "f": faces,
        "shapedirs": shapedirs,
        "num_shape_columns": np.array(num_shape, np.int64),
        "posedirs": posedirs.astype(np.float32),
        "J_regressor": regressor,
        "weights": weights,
        "kintree_table": tree,
    }


def write_toy_body(path: Path) -> Path:
    """Writes the toy body to `path` (.npz) and returns it."""
    write_body_file(path, toy_body_arrays())
    return path


def _toy_joints() -> np.ndarray:
    offsets = dict(_LEFT)
    for finger, root in _FINGER_ROOT.items():
        offsets[f"left_{finger}1"] = root
        step = (0.02, -0.005, 0.02) if finger == "thumb" else (0.03, 0.0, 0.0)
        offsets[f"left_{finger}2"] = offsets[f"left_{finger}3"] = step
    joints = np.zeros((NUM_JOINTS, 3))
    joints[0] = (0.0, -0.35, 0.01)
    for j, name in enumerate(JOINT_NAMES[1:], start=1):
        mirrored = name.replace("right_", "left_")
        sign = -1.0 if name.startswith("right_") else 1.0
        joints[j] = joints[PARENTS[j]] + np.array(offsets[mirrored]) * (sign, 1, 1)
    return joints


def _bones(joints: np.ndarray) -> list[tuple[int, int, np.ndarray]]:
    """(joint it starts at, joint that its end belongs to, end point); leaf joints get a short end of their own."""
    bones = [(PARENTS[j], j, joints[j]) for j in range(1, NUM_JOINTS)]
    for j in sorted(set(range(NUM_JOINTS)) - set(PARENTS)):
        name = JOINT_NAMES[j].removeprefix("left_").removeprefix("right_")
        tip = np.array(_TIP[name]) if name in _TIP else 0.8 * (joints[j] - joints[PARENTS[j]])
        bones.append((j, j, joints[j] + tip))
    bones.append((joint("head"), joint("head"), joints[joint("head")] + np.array(_TIP["head"])))
    return bones


def _first_ring() -> list[int]:
    """Index of the first vertex of a ring around each joint."""
    starts = [start for start, _, _ in _bones(_toy_joints())]
    return [starts.index(j) * (2 * _SIDES + 2) for j in range(NUM_JOINTS)]


def _radius(start: int) -> float:
    name = JOINT_NAMES[start]
    thick = {"pelvis": 0.1, "spine": 0.12, "hip": 0.07, "knee": 0.05, "head": 0.08, "neck": 0.05, "eye": 0.012}
    hands = any(f in name for f in _FINGER_ROOT)
    return 0.009 if hands else next((r for key, r in thick.items() if key in name), 0.04)


def _tubes(joints: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    vertices: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    radial: list[np.ndarray] = []
    faces: list[tuple[int, int, int]] = []
    for start, end, tip in _bones(joints):
        base, along = len(vertices), tip - joints[start]
        axis = along / np.linalg.norm(along)
        side = np.cross(axis, (0.31, 0.27, 0.9))
        side /= np.linalg.norm(side)
        up, radius = np.cross(axis, side), _radius(start)
        ring = [np.cos(a) * side + np.sin(a) * up for a in 2 * np.pi * np.arange(_SIDES) / _SIDES]
        for point, share in ((joints[start], 0.0), (tip, 0.5)):
            for direction in ring:
                vertices.append(point + radius * direction)
                radial.append(radius * direction)
                weights.append(_blend(start, end, share))
        for point, share in ((joints[start], 0.0), (tip, 0.5)):
            vertices.append(point)
            radial.append(np.zeros(3))
            weights.append(_blend(start, end, share))
        for k in range(_SIDES):
            a, b = base + k, base + (k + 1) % _SIDES
            c, d = a + _SIDES, b + _SIDES
            faces += [(a, b, d), (a, d, c), (b, a, base + 2 * _SIDES), (c, d, base + 2 * _SIDES + 1)]
    as_float = [np.array(rows, np.float32) for rows in (vertices, weights, radial)]
    return as_float[0], np.array(faces, np.int64), as_float[1], as_float[2]


def _blend(start: int, end: int, share: float) -> np.ndarray:
    row = np.zeros(NUM_JOINTS)
    row[start] += 1 - share
    row[end] += share
    return row
