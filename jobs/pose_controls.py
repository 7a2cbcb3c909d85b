"""What the sliders of the viewer do: named turns of joints, laid over a pose or a motion.

Turns are about the axes of SMPL-X's rest pose (x: the person's left, y: up, z: forward) and come after the joint's own
rotation, so every slider at zero leaves a motion as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float32
from scipy.spatial.transform import Rotation

from lhmforge.datasets.body.joints import LEFT_HAND_JOINTS, RIGHT_HAND_JOINTS, joint
from lhmforge.datasets.body.model import full_pose
from lhmforge.datasets.body.motion_file import with_expression_size
from lhmforge.datasets.body.params import BodyParams

NUM_EXPRESSION_SLIDERS = 6
Axis = Literal["x", "y", "z"]
EXPRESSION_LIMIT = 3.0  # coefficients are in standard deviations


@dataclass(frozen=True, slots=True, kw_only=True)
class PoseControl:
    """One slider in degrees: at 1 degree every joint of `joints` turns by `sign` degrees about `axis`."""

    group: str
    label: str
    joints: tuple[str, ...]
    axis: Axis
    sign: int
    low: float
    high: float


def _fingers(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if "thumb" not in name)


def _one(group: str, label: str, name: str, axis: Axis, sign: int, low: int, high: int) -> PoseControl:
    return PoseControl(group=group, label=label, joints=(name,), axis=axis, sign=sign, low=low, high=high)


def _limbs(side: Literal["left", "right"]) -> tuple[PoseControl, ...]:
    outward = 1 if side == "left" else -1
    group, hand = f"{side.capitalize()} side", LEFT_HAND_JOINTS if side == "left" else RIGHT_HAND_JOINTS
    return (
        _one(group, "arm up", f"{side}_shoulder", "z", outward, -20, 150),
        _one(group, "arm forward", f"{side}_shoulder", "x", -1, -60, 120),
        _one(group, "elbow", f"{side}_elbow", "y", -outward, 0, 140),
        _one(group, "wrist", f"{side}_wrist", "z", outward, -60, 60),
        PoseControl(group=group, label="fist", joints=_fingers(hand), axis="z", sign=-outward, low=-10, high=80),
        _one(group, "leg forward", f"{side}_hip", "x", -1, -40, 100),
        _one(group, "leg out", f"{side}_hip", "z", outward, -15, 60),
        _one(group, "knee", f"{side}_knee", "x", 1, 0, 130),
    )


CONTROLS: tuple[PoseControl, ...] = (
    _one("Body", "turn", "pelvis", "y", 1, -180, 180),
    _one("Body", "bend", "spine2", "x", 1, -30, 70),
    _one("Body", "lean", "spine2", "z", -1, -40, 40),
    _one("Body", "twist", "spine3", "y", 1, -50, 50),
    _one("Body", "head nod", "head", "x", 1, -40, 40),
    _one("Body", "head turn", "head", "y", 1, -70, 70),
    *_limbs("left"),
    *_limbs("right"),
    _one("Face", "jaw", "jaw", "x", 1, 0, 25),
    PoseControl(group="Face", label="look", joints=("left_eye", "right_eye"), axis="y", sign=1, low=-30, high=30),
)


def apply_controls(
    body: BodyParams, degrees: Mapping[PoseControl, float], expression: Float32[np.ndarray, " E"]
) -> BodyParams:
    """The first frame of `body` with the turns and the added expression coefficients.

    The pelvis turns about the vertical of the body, before its own orientation in the world.
    """
    pose = full_pose(body.select(np.array([0])))[0].astype(np.float64)
    for control, angle in degrees.items():
        if not angle:
            continue
        turn = Rotation.from_euler(control.axis, control.sign * angle, degrees=True)
        for name in control.joints:
            own = Rotation.from_rotvec(pose[joint(name)])
            pose[joint(name)] = (own * turn if name == "pelvis" else turn * own).as_rotvec()
    size = max(len(expression), body.expression.shape[1])
    moved = with_expression_size(body.select(np.array([0])), size)
    added = np.pad(expression, (0, size - len(expression)))[None].astype(np.float32)
    return replace(_with_pose(moved, pose.astype(np.float32)), expression=moved.expression + added)


def _with_pose(body: BodyParams, pose: Float32[np.ndarray, "55 3"]) -> BodyParams:
    """Inverse of `full_pose` for one frame."""
    root, limbs, jaw, left_eye, right_eye, left, right = np.split(pose[None], (1, 22, 23, 24, 25, 40), axis=1)
    return replace(
        body,
        global_orient=root[:, 0],
        body_pose=limbs,
        jaw_pose=jaw[:, 0],
        leye_pose=left_eye[:, 0],
        reye_pose=right_eye[:, 0],
        left_hand_pose=left,
        right_hand_pose=right,
    )
