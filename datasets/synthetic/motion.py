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
from scipy.spatial.transform import Rotation

from lhmforge.datasets.body.free.hands import hand_pose, left_hand_space
from lhmforge.datasets.body.joints import joint
from lhmforge.datasets.body.model import full_pose
from lhmforge.datasets.body.motion_file import load_motion, with_expression_size
from lhmforge.datasets.body.params import NUM_EXPRESSION


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


def performed(source: str, *, num_frames: int, fps: float, start_s: float = 0.0) -> Motion:
    """A user's motion (see `motion_file.load_motion`) from `start_s` on, y up; the last frame is held when it ends.

    Raises `BodyError` naming what is missing, has the wrong shape, or is not finite.
    """
    loaded = load_motion(source)
    body = with_expression_size(loaded.body, NUM_EXPRESSION)
    frames = np.round((start_s + np.arange(num_frames) / fps) * loaded.fps).astype(np.int64)
    body = body.select(np.minimum(frames, body.num_frames - 1))
    upright = Rotation.from_euler("x", 180, degrees=True)  # OpenCV's y points down
    pose = full_pose(body).astype(np.float64)
    pose[:, 0] = (upright * Rotation.from_rotvec(pose[:, 0])).as_rotvec()
    path = upright.apply(body.transl.astype(np.float64))
    return Motion(
        name=loaded.name,
        fps=fps,
        full_pose=pose.astype(np.float32),
        path=(path - path.mean(0)).astype(np.float32),
        expression=body.expression,
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
    """Each hand goes smoothly between two gestures, drawn from a child of `rng`, so that nothing else moves."""
    rng.uniform(-0.15, 0.35, (2, 4))  # once the fingers' curls: kept, so that seeds give the motions they always gave
    relaxed = left_hand_space().mean.reshape(15, 3)
    own = rng.spawn(1)[0]
    for side, name in enumerate(("left_index1", "right_index1")):
        sway = 1 + 0.15 * _waves(time, rng, 1)[:, :, None]
        share = (0.5 + 0.5 * _waves(time, own, 1))[:, :, None]
        between = (1 - share) * _gesture(own, relaxed) + share * _gesture(own, relaxed)
        signs = np.array([1.0, 1.0, 1.0]) if side == 0 else np.array([1.0, -1.0, -1.0])
        start = joint(name)
        pose[:, start : start + 15] = between * signs * sway


# Curl of index, middle, pinky, ring, and of the thumb, radians per knuckle.
_GESTURES = {
    "relaxed": ((0.0, 0.0, 0.0, 0.0), 0.0), "open": ((-0.25, -0.28, -0.3, -0.3), -0.3),
    "fist": ((1.2, 1.2, 1.2, 1.2), 0.7), "pointing": ((-0.25, 1.1, 1.2, 1.2), 0.6),
    "victory": ((-0.25, -0.28, 1.2, 1.2), 0.7), "thumb up": ((1.2, 1.2, 1.2, 1.2), -0.4),
    "holding": ((0.55, 0.55, 0.55, 0.55), 0.35), "pinch": ((0.75, 0.1, 0.0, 0.05), 0.5),
}  # fmt: skip


def _gesture(rng: np.random.Generator, relaxed: Float64[np.ndarray, "15 3"]) -> Float64[np.ndarray, "15 3"]:
    names = list(_GESTURES)
    curl, thumb = _GESTURES[names[int(rng.integers(len(names)))]]
    loose = rng.uniform(-0.12, 0.12, 4)
    curls = (curl[0] + loose[0], curl[1] + loose[1], curl[2] + loose[2], curl[3] + loose[3])
    pose: np.ndarray = relaxed + hand_pose((curls[0], curls[1], curls[2], curls[3]), thumb)
    spread = rng.uniform(-0.08, 0.2)
    pose[[0, 3, 6, 9], 1] += spread * np.array([-1.0, -0.2, 1.0, 0.4])
    return pose


def _sway(pose: Pose, time: Time, rng: np.random.Generator) -> None:
    for name in ("spine1", "spine2", "neck", "head"):
        pose[:, joint(name)] += 0.04 * _waves(time, rng, 3)
    gaze = 0.12 * _waves(time, rng, 2)
    for name in ("left_eye", "right_eye"):
        pose[:, joint(name), :2] += gaze
    mouth = np.clip(_waves(time, rng, 1)[:, 0], 0, 1)
    pose[:, joint("jaw"), 0] = rng.spawn(1)[0].choice([0.04, 0.1, 0.3, 0.45]) * mouth  # closed, talking, wide open


def _expression(time: Time, rng: np.random.Generator) -> Float64[np.ndarray, "N E"]:
    moving = _waves(time, rng, 10)
    own = rng.spawn(1)[0]
    held = np.where(own.random(10) < 0.35, own.normal(0, 1.1, 10), 0)
    result: np.ndarray = np.clip(held + own.uniform(0.3, 1.1) * moving, -2.5, 2.5)
    return result
