"""Procedural motions: walking, dancing, turning, sitting down, crossing arms.

A motion lives in a world with y up, the subject facing +z at yaw zero; angles in radians, metres, SMPL-X joints.
The feet are put on the ground (y = 0) later, when the shape is known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float32, Float64

from lhmforge.datasets.body.free.hands import hand_pose, left_hand_space
from lhmforge.datasets.body.joints import joint


@dataclass(frozen=True, slots=True, kw_only=True)
class Motion:
    """Joint rotations and the pelvis path on the ground plane, `N` frames."""

    name: str
    fps: float
    full_pose: Float32[np.ndarray, "N 55 3"]
    path: Float32[np.ndarray, "N 3"]  # pelvis displacement; the height is set when the feet are put down
    expression: Float32[np.ndarray, "N E"]

    @property
    def num_frames(self) -> int:
        return len(self.path)


def make_motion(name: str, num_frames: int, fps: float, rng: np.random.Generator) -> Motion:
    """A motion of `MOTIONS` by name with random tempo, amplitude and phase."""
    time = np.arange(num_frames) / fps
    pose, path = np.zeros((num_frames, 55, 3)), np.zeros((num_frames, 3))
    _arms_down(pose)
    _hands(pose, time, rng)
    MOTIONS[name](pose, path, time, rng)
    _sway(pose, time, rng)
    return Motion(
        name=name,
        fps=fps,
        full_pose=pose.astype(np.float32),
        path=path.astype(np.float32),
        expression=_expression(time, rng).astype(np.float32),
    )


Pose: TypeAlias = Float64[np.ndarray, "N 55 3"]
Path: TypeAlias = Float64[np.ndarray, "N 3"]
Time: TypeAlias = Float64[np.ndarray, " N"]


def _walk(pose: Pose, path: Path, time: Time, rng: np.random.Generator) -> None:
    phase = 2 * np.pi * rng.uniform(0.8, 1.05) * time + rng.uniform(0, 6.3)
    stride, bend = rng.uniform(0.35, 0.5), rng.uniform(0.8, 1.15)
    for sign, hip, knee, ankle, shoulder, elbow in (
        (1, "left_hip", "left_knee", "left_ankle", "left_shoulder", "left_elbow"),
        (-1, "right_hip", "right_knee", "right_ankle", "right_shoulder", "right_elbow"),
    ):
        swing = np.sin(phase) * sign
        lifted = np.clip(np.sin(phase * 1.0 + 1.9) * sign, 0, 1)
        pose[:, joint(hip), 0] = -stride * swing - 0.08
        pose[:, joint(knee), 0] = 0.12 + bend * 0.75 * lifted
        pose[:, joint(ankle), 0] = 0.12 * np.sin(phase + 2.6) * sign
        pose[:, joint(shoulder), 1] += sign * stride * np.sin(phase) * sign * 0.9
        pose[:, joint(elbow), 1] += -sign * (0.3 + 0.2 * np.sin(phase) * sign)
    pose[:, joint("spine2"), 1] = 0.08 * np.sin(phase)
    pose[:, joint("spine3"), 0] = 0.05
    heading = rng.uniform(-np.pi, np.pi) if rng.random() < 0.3 else rng.uniform(-0.7, 0.7)
    curve = heading + rng.uniform(-0.3, 0.3) * time
    pose[:, 0, 1] = curve
    speed = 0.35 * rng.uniform(0.8, 1.1)  # slower than the stride, so that the walker stays in the picture
    velocity = speed * np.stack([np.sin(curve), 0 * curve, np.cos(curve)], axis=1)
    path[:] = np.cumsum(velocity, axis=0) * (time[1] - time[0] if len(time) > 1 else 0)
    path -= path.mean(0)


def _dance(pose: Pose, path: Path, time: Time, rng: np.random.Generator) -> None:
    amplitude = {
        "spine1": (0.12, 0.2, 0.12), "spine2": (0.1, 0.2, 0.1), "spine3": (0.08, 0.15, 0.08), "neck": (0.15, 0.25, 0.1),
        "shoulder": (0.3, 0.6, 0.7), "elbow": (0.3, 0.7, 0.0), "wrist": (0.2, 0.2, 0.3), "hip": (0.35, 0.15, 0.12),
        "knee": (0.4, 0.0, 0.0), "ankle": (0.15, 0.0, 0.05), "collar": (0.05, 0.08, 0.1),
    }  # fmt: skip
    for name, size in amplitude.items():
        sides = ("",) if name.startswith(("spine", "neck")) else ("left_", "right_")
        for side in sides:
            wave = _waves(time, rng, 3) * np.array(size)
            pose[:, joint(side + name)] += wave
    for side, sign in (("left", 1), ("right", -1)):
        pose[:, joint(f"{side}_knee"), 0] = 0.35 + np.abs(pose[:, joint(f"{side}_knee"), 0])
        pose[:, joint(f"{side}_hip"), 0] -= 0.3
        pose[:, joint(f"{side}_hip"), 2] = sign * (0.1 + np.abs(pose[:, joint(f"{side}_hip"), 2]))
        pose[:, joint(f"{side}_elbow"), 1] = -sign * (0.7 + 0.6 * np.abs(pose[:, joint(f"{side}_elbow"), 1]))
        pose[:, joint(f"{side}_shoulder"), 2] += sign * 0.45
    pose[:, 0, 1] = rng.uniform(-0.8, 0.8) + 0.6 * _waves(time, rng, 1)[:, 0]
    path[:, [0, 2]] = 0.15 * _waves(time, rng, 2)


def _turn(pose: Pose, path: Path, time: Time, rng: np.random.Generator) -> None:
    step = 2 * np.pi * 1.2 * time
    duration = time[-1] if time[-1] > 0 else 1.0
    pose[:, 0, 1] = rng.uniform(-0.5, 0.5) + rng.choice([-1, 1]) * 2 * np.pi * time / duration
    for sign, side in ((1, "left"), (-1, "right")):
        lift = np.clip(np.sin(step) * sign, 0, 1)
        pose[:, joint(f"{side}_hip"), 0] = -0.35 * lift
        pose[:, joint(f"{side}_knee"), 0] = 0.6 * lift + 0.05
        pose[:, joint(f"{side}_shoulder"), 2] += sign * rng.uniform(0.0, 0.5)
        pose[:, joint(f"{side}_elbow"), 1] = -sign * rng.uniform(0.1, 0.7)


def _sit(pose: Pose, path: Path, time: Time, rng: np.random.Generator) -> None:
    duration = time[-1] if time[-1] > 0 else 1.0
    depth = 0.5 - 0.5 * np.cos(2 * np.pi * np.clip(time / duration, 0, 1))  # down and up again
    for sign, side in ((1, "left"), (-1, "right")):
        pose[:, joint(f"{side}_hip"), 0] = -1.25 * depth
        pose[:, joint(f"{side}_hip"), 2] = sign * 0.1
        pose[:, joint(f"{side}_knee"), 0] = 1.45 * depth
        pose[:, joint(f"{side}_ankle"), 0] = -0.35 * depth
        pose[:, joint(f"{side}_shoulder"), 1] -= sign * 0.9 * depth
        pose[:, joint(f"{side}_elbow"), 1] -= sign * 0.5 * depth
    pose[:, joint("spine1"), 0] = 0.3 * depth
    pose[:, joint("spine2"), 0] = 0.15 * depth
    pose[:, joint("neck"), 0] = -0.2 * depth
    pose[:, 0, 0] = 0.15 * depth
    pose[:, 0, 1] = rng.uniform(-0.9, 0.9)


def _cross_arms(pose: Pose, path: Path, time: Time, rng: np.random.Generator) -> None:
    duration = time[-1] if time[-1] > 0 else 1.0
    closed = np.clip(1.6 * np.sin(np.pi * np.clip(time / duration, 0, 1)), 0, 1)
    closed = closed * closed * (3 - 2 * closed)
    for sign, side, reach in ((1, "left", 0.0), (-1, "right", 0.12)):
        shoulder, elbow = joint(f"{side}_shoulder"), joint(f"{side}_elbow")
        pose[:, shoulder, 2] = -sign * (1.15 - (0.1 + reach) * closed)
        pose[:, shoulder, 1] -= sign * (0.65 + reach) * closed
        pose[:, shoulder, 0] += 0.25 * closed
        pose[:, elbow, 1] = -sign * (0.15 + 1.65 * closed)
    pose[:, 0, 1] = rng.uniform(-0.7, 0.7)
    pose[:, joint("neck"), 1] = 0.3 * _waves(time, rng, 1)[:, 0]


MotionMaker = Callable[[Pose, Path, Time, np.random.Generator], None]
MOTIONS: dict[str, MotionMaker] = {
    "walk": _walk,
    "dance": _dance,
    "turn": _turn,
    "sit": _sit,
    "cross_arms": _cross_arms,
}


def _waves(time: Time, rng: np.random.Generator, count: int) -> Float64[np.ndarray, "N C"]:
    """Smooth random signals within about -1..1."""
    frequency, phase = rng.uniform(0.3, 0.9, (3, count)), rng.uniform(0, 2 * np.pi, (3, count))
    share = rng.dirichlet([1, 1, 1], count).T
    angle = 2 * np.pi * frequency * time[:, None, None] + phase
    result: np.ndarray = (share * np.sin(angle)).sum(1)
    return result


def _arms_down(pose: Pose) -> None:
    pose[:, joint("left_shoulder"), 2], pose[:, joint("right_shoulder"), 2] = -1.15, 1.15
    pose[:, joint("left_elbow"), 1], pose[:, joint("right_elbow"), 1] = -0.15, 0.15


def _hands(pose: Pose, time: Time, rng: np.random.Generator) -> None:
    relaxed = left_hand_space().mean.reshape(15, 3)
    curls = rng.uniform(-0.15, 0.35, (2, 4))
    for side, name in enumerate(("left_index1", "right_index1")):
        extra = hand_pose(
            (float(curls[side, 0]), float(curls[side, 1]), float(curls[side, 2]), float(curls[side, 3])), 0.2
        )
        sway = 1 + 0.15 * _waves(time, rng, 1)[:, :, None]
        signs = np.array([1.0, 1.0, 1.0]) if side == 0 else np.array([1.0, -1.0, -1.0])
        start = joint(name)
        pose[:, start : start + 15] = (relaxed + extra) * signs * sway


def _sway(pose: Pose, time: Time, rng: np.random.Generator) -> None:
    for name in ("spine1", "spine2", "neck", "head"):
        pose[:, joint(name)] += 0.04 * _waves(time, rng, 3)
    gaze = 0.12 * _waves(time, rng, 2)
    for name in ("left_eye", "right_eye"):
        pose[:, joint(name), :2] += gaze
    pose[:, joint("jaw"), 0] = 0.04 * np.clip(_waves(time, rng, 1)[:, 0], 0, 1)


def _expression(time: Time, rng: np.random.Generator) -> Float64[np.ndarray, "N E"]:
    result: np.ndarray = 0.5 * _waves(time, rng, 10)
    return result
