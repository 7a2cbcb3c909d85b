"""Built-in motions: a person who walks on the spot and waves, and a turntable. OpenCV axes, y down.

Angles are chosen by eye for a natural look; nothing is learned or recorded.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float, Float32
from scipy.spatial.transform import Rotation

from lhmforge.datasets.body.joints import BODY_JOINTS
from lhmforge.datasets.body.motion_file import Motion
from lhmforge.datasets.body.params import BodyParams

_UPRIGHT = Rotation.from_euler("x", np.pi)  # SMPL-X stands with y up; the camera's y points down
_ARMS_DOWN_RAD = 1.15


def walk_and_wave(*, seconds: float = 6.0, fps: float = 24.0) -> Motion:
    """Walks on the spot, facing the camera; in the second half the right hand waves. Loops without a jump."""
    phase = np.linspace(0.0, 1.0, round(seconds * fps), endpoint=False)
    stride = 2 * np.pi * phase * round(seconds)  # one stride a second
    waving = np.clip(np.minimum((phase - 0.45) / 0.1, (0.97 - phase) / 0.1), 0.0, 1.0)
    waving = waving * waving * (3 - 2 * waving)
    body = replace(_standing(len(phase)), body_pose=_walking_pose(stride, waving, phase * seconds))
    bob = 0.012 * np.cos(2 * stride)
    transl = np.stack([0.008 * np.sin(stride), bob, np.zeros_like(bob)], axis=1)
    sway = _about("y", 0.06 * np.sin(stride)) * _UPRIGHT
    orient = sway.as_rotvec().astype(np.float32)
    body = replace(body, transl=transl.astype(np.float32), global_orient=orient)
    return Motion(name="walk_and_wave", body=body, fps=fps)


def turntable(*, seconds: float = 4.0, fps: float = 24.0) -> Motion:
    """Stands with the arms lowered and turns once about the vertical."""
    num_frames = round(seconds * fps)
    angles = np.linspace(0.0, 2 * np.pi, num_frames, endpoint=False)
    turned = _about("y", angles) * _UPRIGHT
    body = replace(_standing(num_frames), global_orient=turned.as_rotvec().astype(np.float32))
    return Motion(name="turntable", body=body, fps=fps)


def _standing(num_frames: int) -> BodyParams:
    pose = np.zeros((num_frames, 21, 3))
    _turn(pose, "left_shoulder", "z", -_ARMS_DOWN_RAD)
    _turn(pose, "right_shoulder", "z", _ARMS_DOWN_RAD)
    orient = np.tile(_UPRIGHT.as_rotvec(), (num_frames, 1))
    return replace(
        BodyParams.rest(num_frames), body_pose=pose.astype(np.float32), global_orient=orient.astype(np.float32)
    )


def _walking_pose(
    stride: Float[np.ndarray, " N"], waving: Float[np.ndarray, " N"], seconds: Float[np.ndarray, " N"]
) -> Float32[np.ndarray, "N 21 3"]:
    pose = np.zeros((len(stride), 21, 3))
    swing = np.sin(stride)
    for side, sign in (("left", 1.0), ("right", -1.0)):
        step = sign * swing
        _turn(pose, f"{side}_hip", "x", -0.38 * step)
        lifted = np.clip(sign * np.cos(stride), 0.0, None)  # the knee bends while the leg comes forward
        _turn(pose, f"{side}_knee", "x", 0.15 + 0.75 * lifted)
        _turn(pose, f"{side}_ankle", "x", 0.1 * step - 0.1)
        _turn(pose, f"{side}_elbow", "y", -sign * 0.35)
    _turn(pose, "spine1", "y", 0.05 * swing)
    _turn(pose, "spine3", "y", -0.1 * swing)
    down = _ARMS_DOWN_RAD
    _turn(pose, "left_shoulder", "z", -down)
    _turn(pose, "left_shoulder", "x", 0.35 * swing)
    _turn(pose, "right_shoulder", "z", down * (1 - waving) - 0.25 * waving)
    _turn(pose, "right_shoulder", "x", -0.35 * swing * (1 - waving))
    _turn(pose, "right_elbow", "z", -waving * (1.45 + 0.35 * np.sin(2 * np.pi * 2.0 * seconds)))
    _turn(pose, "head", "y", 0.12 * waving)
    return pose.astype(np.float32)


def _turn(pose: Float[np.ndarray, "N 21 3"], joint: str, axis: str, angle_rad: Float[np.ndarray, " N"] | float) -> None:
    """Turns a joint further about an axis of the rest pose."""
    column = pose[:, BODY_JOINTS.index(joint) - 1]
    angles = np.broadcast_to(np.asarray(angle_rad, np.float64), len(pose))
    column[:] = (_about(axis, angles) * Rotation.from_rotvec(column)).as_rotvec()


def _about(axis: str, angles_rad: Float[np.ndarray, " N"]) -> Rotation:
    return Rotation.from_rotvec(np.outer(angles_rad, np.eye(3)["xyz".index(axis)]))
