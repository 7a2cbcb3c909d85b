"""A start for the solver in closed form: limbs and trunk aligned with 3D landmarks, translation by least squares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from lhmforge.datasets.body.joints import joint
from lhmforge.pipelines.fitting.keypoint_body import KeypointBody
from lhmforge.pipelines.fitting.landmarks import POINT_NAMES, point_index
from lhmforge.pipelines.fitting.objective import FitState, Observations
from lhmforge.pipelines.fitting.rotations import blend_rotations, exp_rotation, frame_from_axes, log_rotation, swing

_LIMBS = (("shoulder", "elbow", "wrist"), ("hip", "knee", "ankle"))
_TORSO = ("left_shoulder", "right_shoulder", "left_hip", "right_hip")
_ARM_DOWN_RAD = 1.2
_LARGEST_HEAD_TURN_RAD = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class _Landmarks:
    """Gap-free landmark positions and which of the points were ever seen."""

    points: Float64[np.ndarray, "N K 3"]
    known: Bool[np.ndarray, " K"]

    def __getitem__(self, name: str) -> Float64[np.ndarray, "N 3"]:
        return self.points[:, point_index(name)]

    def knows(self, *names: str) -> bool:
        return all(self.known[point_index(name)] for name in names)


def has_landmarks(observations: Observations) -> bool:
    """Whether the four torso landmarks were seen at all, the least that `landmark_start` needs."""
    seen = np.any(observations.weights_m > 0, axis=0)
    return all(seen[point_index(name)] for name in _TORSO)


def landmark_start(body: KeypointBody, observations: Observations) -> FitState:
    """Mean shape, rotations from the 3D landmarks (solver points, camera axes), translation from the 2D points."""
    marks = _fill_gaps(observations)
    rest = body.joints0
    n = len(marks.points)
    rotations = rest_rotations(n)
    spine = marks["left_shoulder"] + marks["right_shoulder"] - marks["left_hip"] - marks["right_hip"]
    rest_spine = rest[joint("left_shoulder")] + rest[joint("right_shoulder")]
    rest_spine = rest_spine - rest[joint("left_hip")] - rest[joint("right_hip")]

    def torso(part: str) -> Float64[np.ndarray, "N 3 3"]:
        across = rest[joint(f"left_{part}")] - rest[joint(f"right_{part}")]
        seen = frame_from_axes(marks[f"left_{part}"] - marks[f"right_{part}"], spine)
        return seen @ frame_from_axes(across, rest_spine).T

    pelvis, chest = torso("hip"), torso("shoulder")
    rotations[:, 0] = pelvis
    twist = exp_rotation(log_rotation(pelvis.swapaxes(-1, -2) @ chest) / 3)
    for name in ("spine1", "spine2", "spine3"):
        rotations[:, joint(name)] = twist
    _turn_head(body, marks, chest, rotations)
    for limb, parent in zip(_LIMBS, (chest, pelvis), strict=True):
        for side in ("left", "right"):
            _bend_limb(rest, marks, limb, side, parent, rotations)
    betas = np.zeros(body.num_betas)
    return FitState(rotations=rotations, transl=fit_translation(body, observations, rotations, betas), betas=betas)


def rest_rotations(num_frames: int) -> Float64[np.ndarray, "N 22 3 3"]:
    """Standing with hanging arms, facing along +z of the body."""
    rotations = np.tile(np.eye(3), (num_frames, 22, 1, 1))
    for side, sign in (("left", -1.0), ("right", 1.0)):
        rotations[:, joint(f"{side}_shoulder")] = exp_rotation(np.array([0.0, 0.0, sign * _ARM_DOWN_RAD]))
    return rotations


def fit_translation(
    body: KeypointBody,
    observations: Observations,
    rotations: Float64[np.ndarray, "N 22 3 3"],
    betas: Float64[np.ndarray, " B"],
) -> Float64[np.ndarray, "N 3"]:
    """Per frame, the translation that projects the posed points nearest to the seen ones (linear least squares).

    Frames with fewer than two seen points take their neighbours' translation.
    """
    points = body.forward(rotations, np.zeros((len(rotations), 3)), betas).points
    intrinsics = observations.intrinsics
    rays = (observations.points_px - intrinsics[:2, 2]) / intrinsics[[0, 1], [0, 1]]
    weights = observations.weights_px[..., None]
    rows = np.zeros((*rays.shape[:2], 2, 3))
    rows[..., 0, 0] = rows[..., 1, 1] = 1
    rows[..., 2] = -rays
    target = rays * points[..., 2:] - points[..., :2]
    weighted = rows * weights[..., None]
    normal = np.einsum("nkij,nkil->njl", weighted, rows) + 1e-9 * np.eye(3)
    right = np.einsum("nkij,nki->nj", weighted, target)
    result = np.linalg.solve(normal, right[..., None])[..., 0]
    good = ((observations.weights_px > 0.1).sum(1) >= 2) & (result[:, 2] + points[:, :, 2].min(1) > 0.3)
    return _interpolate(result, good, observations.times_s, fallback=np.array([0.0, 0.0, 4.0]))


def _interpolate(
    values: Float64[np.ndarray, "N 3"],
    good: Bool[np.ndarray, " N"],
    times: Float64[np.ndarray, " N"],
    fallback: np.ndarray,
) -> Float64[np.ndarray, "N 3"]:
    if not good.any():
        return np.tile(fallback, (len(values), 1))
    return np.stack([np.interp(times, times[good], values[good, axis]) for axis in range(values.shape[1])], 1)


def _fill_gaps(observations: Observations) -> _Landmarks:
    points = observations.landmarks_m.copy()
    seen = observations.weights_m > 0
    for k in range(points.shape[1]):
        points[:, k] = _interpolate(points[:, k], seen[:, k], observations.times_s, fallback=np.zeros(3))
    assert points.shape[1] == len(POINT_NAMES)
    return _Landmarks(points=points, known=np.any(seen, axis=0))


def _turn_head(
    body: KeypointBody,
    marks: _Landmarks,
    chest: Float64[np.ndarray, "N 3 3"],
    rotations: Float64[np.ndarray, "N 22 3 3"],
) -> None:
    if not marks.knows("left_ear", "right_ear", "nose"):
        return
    left, right, nose = (body.points0[point_index(name)] for name in ("left_ear", "right_ear", "nose"))
    seen_left, seen_right = marks["left_ear"], marks["right_ear"]
    seen = frame_from_axes(seen_left - seen_right, marks["nose"] - (seen_left + seen_right) / 2)
    rest = frame_from_axes(left - right, nose - (left + right) / 2)
    turn = log_rotation(chest.swapaxes(-1, -2) @ seen @ rest.T)
    size = np.linalg.norm(turn, axis=-1, keepdims=True)
    half = exp_rotation(turn * np.minimum(1, _LARGEST_HEAD_TURN_RAD / np.maximum(size, 1e-9)) / 2)
    rotations[:, joint("neck")] = rotations[:, joint("head")] = half


def _bend_limb(
    rest: Float64[np.ndarray, "22 3"],
    marks: _Landmarks,
    limb: tuple[str, str, str],
    side: str,
    parent: Float64[np.ndarray, "N 3 3"],
    rotations: Float64[np.ndarray, "N 22 3 3"],
) -> None:
    """Sets a limb's ball joint and hinge; the limb's plane fixes the roll unless the limb is nearly straight."""
    top, middle, end = (joint(f"{side}_{name}") for name in limb)
    names = [f"{side}_{name}" for name in limb]
    if not marks.knows(*names[:2]):
        return
    upper_rest, lower_rest = rest[middle] - rest[top], rest[end] - rest[middle]
    upper = marks[names[1]] - marks[names[0]]
    straight = parent @ swing(np.broadcast_to(upper_rest, upper.shape), _apply(parent.swapaxes(-1, -2), upper))
    world = straight
    if marks.knows(names[2]):
        hinge = (
            np.array([0.0, -1.0 if side == "left" else 1.0, 0.0]) if limb[0] == "shoulder" else np.array([1.0, 0, 0])
        )
        lower = marks[names[2]] - marks[names[1]]
        normal = np.cross(upper, lower)
        lengths = np.maximum(np.linalg.norm(upper, axis=-1) * np.linalg.norm(lower, axis=-1), 1e-9)
        sine = np.linalg.norm(normal, axis=-1) / lengths
        angle = np.arctan2(sine, (upper * lower).sum(-1) / lengths)
        rest_angle = np.arctan2(np.linalg.norm(np.cross(upper_rest, lower_rest)), upper_rest @ lower_rest)
        bent = frame_from_axes(upper, normal) @ frame_from_axes(upper_rest, hinge).T
        world = blend_rotations(straight, bent, np.clip((sine - 0.15) / 0.25, 0, 1))
        rotations[:, middle] = exp_rotation(np.maximum(angle - rest_angle, 0)[:, None] * hinge)
    rotations[:, top] = parent.swapaxes(-1, -2) @ world


def _apply(matrices: Float64[np.ndarray, "N 3 3"], vectors: Float64[np.ndarray, "N 3"]) -> Float64[np.ndarray, "N 3"]:
    result: np.ndarray = (matrices @ vectors[..., None])[..., 0]
    return result
