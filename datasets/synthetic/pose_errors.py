"""Errors of an estimated body track against the true one: the measures of the pose-estimation literature.

Everything in camera axes. MPJPE and PVE align the pelvis of each frame; PA-MPJPE aligns each frame by the best
similarity transform (Umeyama 1991). Millimetres, degrees; means over frames unless said otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from scipy.spatial.transform import Rotation

from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.body.params import BodyParams

NUM_BODY_JOINTS = 22
_MM = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PoseErrors:
    """Per frame, but for the shape; acceleration is NaN where three frames in a row are missing."""

    mpjpe_mm: Float64[np.ndarray, " N"]
    pa_mpjpe_mm: Float64[np.ndarray, " N"]
    pve_mm: Float64[np.ndarray, " N"]
    translation_mm: Float64[np.ndarray, " N"]
    orientation_deg: Float64[np.ndarray, " N"]
    acceleration_mm: Float64[np.ndarray, " N"]  # mm per frame squared, at the middle frame
    shape_mm: float  # mean vertex distance of the two bodies in the zero pose, pelvis aligned


def pose_errors(
    body: BodyModel,
    estimate: BodyParams,
    truth: BodyParams,
    frame_indices: Int64[np.ndarray, " N"],
    world_to_camera: Float64[np.ndarray, "N 4 4"],
) -> PoseErrors:
    """Compares `N` frames; `truth` is in the camera frame, `estimate` in the world of `world_to_camera`."""
    turn, shift = world_to_camera[:, :3, :3], world_to_camera[:, None, :3, 3]
    posed, true_posed = body.pose(estimate), body.pose(truth)
    joints = np.einsum("nij,nkj->nki", turn, posed.joints.numpy()[:, :NUM_BODY_JOINTS]) + shift
    vertices = np.einsum("nij,nkj->nki", turn, posed.vertices.numpy()) + shift
    true_joints = true_posed.joints.numpy()[:, :NUM_BODY_JOINTS].astype(np.float64)
    true_vertices = true_posed.vertices.numpy().astype(np.float64)
    centred, true_centred = joints - joints[:, :1], true_joints - true_joints[:, :1]
    surface = (vertices - joints[:, :1]) - (true_vertices - true_joints[:, :1])
    return PoseErrors(
        mpjpe_mm=_MM * _mean_distance(centred - true_centred),
        pa_mpjpe_mm=aligned_errors_mm(joints, true_joints),
        pve_mm=_MM * _mean_distance(surface),
        translation_mm=_MM * np.linalg.norm(joints[:, 0] - true_joints[:, 0], axis=-1),
        orientation_deg=_orientation_error(estimate, truth, turn),
        acceleration_mm=_MM * _acceleration_error(joints, true_joints, frame_indices),
        shape_mm=_MM * _shape_error(body, estimate, truth),
    )


def camera_joints(
    body: BodyModel, params: BodyParams, world_to_camera: Float64[np.ndarray, "N 4 4"]
) -> Float64[np.ndarray, "N 22 3"]:
    """The body joints in camera coordinates, metres."""
    joints = body.pose(params).joints.numpy()[:, :NUM_BODY_JOINTS].astype(np.float64)
    moved: np.ndarray = np.einsum("nij,nkj->nki", world_to_camera[:, :3, :3], joints) + world_to_camera[:, None, :3, 3]
    return moved


def joint_angles_rad(estimate: BodyParams, truth: BodyParams) -> Float64[np.ndarray, "N 22"]:
    """Angle between estimated and true rotation of each body joint to its parent (the root's: to the camera)."""
    found, wanted = (
        np.concatenate([p.global_orient[:, None], p.body_pose], axis=1).reshape(-1, 3).astype(np.float64)
        for p in (estimate, truth)
    )
    between = Rotation.from_rotvec(wanted).inv() * Rotation.from_rotvec(found)
    angles: np.ndarray = between.magnitude().reshape(-1, NUM_BODY_JOINTS)
    return angles


def aligned_errors_mm(
    joints: Float64[np.ndarray, "N K 3"], truth: Float64[np.ndarray, "N K 3"]
) -> Float64[np.ndarray, " N"]:
    """PA-MPJPE per frame of joints in metres."""
    return _MM * np.array([_aligned_error(a, b) for a, b in zip(joints, truth, strict=True)])


def similarity_aligned(
    source: Float64[np.ndarray, "K 3"], target: Float64[np.ndarray, "K 3"]
) -> Float64[np.ndarray, "K 3"]:
    """`source` moved onto `target` by the best rotation, scale and translation (least squares, no reflection)."""
    source_mean, target_mean = source.mean(0), target.mean(0)
    a, b = source - source_mean, target - target_mean
    left, values, right = np.linalg.svd(a.T @ b)
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    rotation = (left * signs) @ right
    scale = (values * signs).sum() / max(float((a * a).sum()), 1e-12)
    aligned: np.ndarray = scale * a @ rotation + target_mean
    return aligned


def _aligned_error(source: np.ndarray, target: np.ndarray) -> float:
    return float(np.linalg.norm(similarity_aligned(source, target) - target, axis=-1).mean())


def _mean_distance(difference: Float64[np.ndarray, "N K 3"]) -> Float64[np.ndarray, " N"]:
    mean: np.ndarray = np.linalg.norm(difference, axis=-1).mean(-1).astype(np.float64)
    return mean


def _orientation_error(
    estimate: BodyParams, truth: BodyParams, turn: Float64[np.ndarray, "N 3 3"]
) -> Float64[np.ndarray, " N"]:
    found = Rotation.from_matrix(turn) * Rotation.from_rotvec(estimate.global_orient.astype(np.float64))
    wanted = Rotation.from_rotvec(truth.global_orient.astype(np.float64))
    degrees: np.ndarray = np.degrees((found * wanted.inv()).magnitude())
    return degrees


def _acceleration_error(
    joints: Float64[np.ndarray, "N K 3"], truth: Float64[np.ndarray, "N K 3"], frames: Int64[np.ndarray, " N"]
) -> Float64[np.ndarray, " N"]:
    error = np.full(len(joints), np.nan)
    if len(joints) < 3:
        return error
    step = np.diff(frames)
    regular = (step[1:] == step[:-1]) & (step[1:] > 0)
    difference = joints - truth
    error[1:-1] = np.where(regular, _mean_distance(difference[2:] - 2 * difference[1:-1] + difference[:-2]), np.nan)
    return error


def _shape_error(body: BodyModel, estimate: BodyParams, truth: BodyParams) -> float:
    zero = [BodyParams.rest(1, num_betas=len(p.betas)).to_arrays() | {"betas": p.betas} for p in (estimate, truth)]
    posed = [body.pose(BodyParams.from_arrays(arrays)) for arrays in zero]
    first, second = ((p.vertices[0] - p.joints[0, :1]).numpy() for p in posed)
    return float(np.linalg.norm(first - second, axis=-1).mean())
