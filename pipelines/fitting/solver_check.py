"""Keypoint clips with known body parameters, and the errors of a fit against them: how the solver is measured.

The truth uses 30 shape components and the whole mesh with pose correctives; the solver knows 10 components and sparse
points. Motions are a procedural walk and smooth random motion inside the joint ranges.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64

from lhmforge.datasets.body.joints import NUM_JOINTS
from lhmforge.datasets.body.model import BodyModel
from lhmforge.pipelines.fitting.keypoint_body import NUM_BODY_JOINTS, SurfacePoint
from lhmforge.pipelines.fitting.landmarks import POINT_WEIGHTS, solver_points
from lhmforge.pipelines.fitting.objective import Observations
from lhmforge.pipelines.fitting.priors import body_priors
from lhmforge.pipelines.fitting.rotations import exp_rotation, log_rotation

NUM_TRUE_BETAS = 30
_SIZE_PX = (1280, 720)
_FOCAL_PX = 1200.0
_FPS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipNoise:
    """What a detector does wrong: pixel noise, missing points, and noise and a constant bias of 3D landmarks."""

    points_px: float = 3.0
    missing: float = 0.1
    outliers: float = 0.0
    landmarks_m: float = 0.04
    landmark_bias_m: float = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckClip:
    """A clip's observations and the truth behind them (camera frame, metres)."""

    observations: Observations
    rotations: Float64[np.ndarray, "N 22 3 3"]
    transl: Float64[np.ndarray, "N 3"]
    betas: Float64[np.ndarray, " S"]
    joints: Float64[np.ndarray, "N 22 3"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FitErrors:
    """Mean joint errors in millimetres: aligned by similarity per frame, root-aligned, and acceleration per frame^2."""

    pa_mpjpe_mm: float
    mpjpe_mm: float
    acceleration_mm: float


def make_check_clip(
    truth: BodyModel, *, motion: str, num_frames: int, seed: int, noise: ClipNoise | None = None
) -> CheckClip:
    """A clip of 31 solver points at 30 frames/s, 1280 x 720, about 4 m away; `motion` is "walk" or "dance"."""
    noise = noise or ClipNoise()
    rng = np.random.default_rng(seed)
    pose, travel = _walk(num_frames) if motion == "walk" else _dance(num_frames, rng)
    betas = rng.normal(size=NUM_TRUE_BETAS) * np.where(np.arange(NUM_TRUE_BETAS) < 10, 1.0, 0.7)
    camera = exp_rotation(np.array([np.pi + np.deg2rad(rng.uniform(-8, 8)), 0.0, 0.0]))
    rotations = exp_rotation(pose)
    rotations[:, 0] = camera @ rotations[:, 0]
    pelvis = truth.joints_rest(torch.from_numpy(betas[None]).float())[0, 0].double().numpy()
    transl = travel @ camera.T + np.array([0.0, 0.1, 4.0]) - pelvis
    points, joints = _posed(truth, rotations, transl, betas)
    return CheckClip(
        observations=_observe(points, noise, rng), rotations=rotations, transl=transl, betas=betas, joints=joints
    )


def fit_errors(joints: Float64[np.ndarray, "N 22 3"], true_joints: Float64[np.ndarray, "N 22 3"]) -> FitErrors:
    """Errors of fitted joints against the truth."""
    difference = (joints - joints[:, :1]) - (true_joints - true_joints[:, :1])
    aligned = np.stack([similarity_align(a, b) for a, b in zip(joints, true_joints, strict=True)])
    acceleration = np.diff(joints, n=2, axis=0) - np.diff(true_joints, n=2, axis=0)
    return FitErrors(
        pa_mpjpe_mm=_mean_mm(aligned - true_joints),
        mpjpe_mm=_mean_mm(difference),
        acceleration_mm=_mean_mm(acceleration),
    )


def similarity_align(
    points: Float64[np.ndarray, "M 3"], target: Float64[np.ndarray, "M 3"]
) -> Float64[np.ndarray, "M 3"]:
    """`points` after the rotation, scale and shift that bring them nearest to `target` (Umeyama 1991)."""
    centre, target_centre = points.mean(0), target.mean(0)
    a, b = points - centre, target - target_centre
    u, s, vt = np.linalg.svd(a.T @ b)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = (vt.T * sign) @ u.T
    scale = (s * sign).sum() / max((a * a).sum(), 1e-12)
    result: np.ndarray = scale * a @ rotation.T + target_centre
    return result


def fitted_joints(
    model: BodyModel,
    rotations: Float64[np.ndarray, "N 22 3 3"],
    transl: Float64[np.ndarray, "N 3"],
    betas: Float64[np.ndarray, " S"],
) -> Float64[np.ndarray, "N 22 3"]:
    """The 22 body joints of a fit, through the full body model."""
    return _posed(model, rotations, transl, betas)[1]


def _posed(
    model: BodyModel, rotations: np.ndarray, transl: np.ndarray, betas: np.ndarray
) -> tuple[Float64[np.ndarray, "N K 3"], Float64[np.ndarray, "N 22 3"]]:
    pose = np.zeros((len(rotations), NUM_JOINTS, 3))
    pose[:, :NUM_BODY_JOINTS] = log_rotation(rotations)
    with torch.no_grad():
        output = model.forward(
            betas=_tensor(betas)[None].expand(len(pose), -1), full_pose=_tensor(pose), transl=_tensor(transl)
        )
    columns = []
    for point in solver_points(model, "none"):
        if isinstance(point, SurfacePoint):
            columns.append(output.vertices[:, list(point.vertex_ids)].mean(1))
        else:
            offset = torch.tensor(point.offset_m).float()
            rest = model.joints_rest(_tensor(betas)[None])[0, point.joint] + offset
            moved = output.transforms[:, point.frame] @ torch.cat([rest, torch.ones(1)])
            columns.append(moved[:, :3])
    points = torch.stack(columns, 1).double().numpy()
    return points, output.joints[:, :NUM_BODY_JOINTS].double().numpy()


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values).float()


def _mean_mm(errors_m: np.ndarray) -> float:
    return float(np.linalg.norm(errors_m, axis=-1).mean() * 1000) if errors_m.size else float("nan")


def _observe(points: Float64[np.ndarray, "N K 3"], noise: ClipNoise, rng: np.random.Generator) -> Observations:
    n, k, _ = points.shape
    width, height = _SIZE_PX
    intrinsics = np.array([[_FOCAL_PX, 0, width / 2], [0, _FOCAL_PX, height / 2], [0, 0, 1]])
    pixels = points[..., :2] / points[..., 2:] * _FOCAL_PX + intrinsics[:2, 2]
    pixels = pixels + rng.normal(size=pixels.shape) * noise.points_px
    wrong = rng.random((n, k)) < noise.outliers
    pixels[wrong] += rng.normal(size=(int(wrong.sum()), 2)) * 60
    seen = (rng.random((n, k)) >= noise.missing) * POINT_WEIGHTS
    landmarks = points - points.mean(1, keepdims=True) + rng.normal(size=points.shape) * noise.landmarks_m
    landmarks = landmarks + rng.normal(size=(1, k, 3)) * noise.landmark_bias_m
    return Observations(
        times_s=np.arange(n) / _FPS,
        points_px=pixels,
        weights_px=seen,
        sigma_px=np.full(n, max(noise.points_px, 0.5)),
        landmarks_m=landmarks,
        weights_m=seen,
        intrinsics=intrinsics,
    )


def _walk(num_frames: int) -> tuple[Float64[np.ndarray, "N 22 3"], Float64[np.ndarray, "N 3"]]:
    time = np.arange(num_frames) / _FPS
    phase = 2 * np.pi * time / 1.1
    wave, other = np.sin(phase), np.sin(phase + np.pi)
    pose = np.zeros((num_frames, NUM_BODY_JOINTS, 3))
    pose[:, 1, 0], pose[:, 2, 0] = -0.1 - 0.45 * wave, -0.1 - 0.45 * other
    pose[:, 4, 0] = 0.3 + 0.45 * np.clip(np.sin(phase + 1.9), 0, 1)
    pose[:, 5, 0] = 0.3 + 0.45 * np.clip(np.sin(phase + 1.9 + np.pi), 0, 1)
    pose[:, 7, 0], pose[:, 8, 0] = 0.15 * np.sin(phase + 2.6), 0.15 * np.sin(phase + 2.6 + np.pi)
    pose[:, 16, 2], pose[:, 17, 2] = -1.15, 1.15
    pose[:, 16, 1], pose[:, 17, 1] = 0.45 * wave, 0.45 * wave
    pose[:, 18, 1], pose[:, 19, 1] = -0.45 - 0.2 * wave, 0.45 - 0.2 * wave
    pose[:, 3, 1] = pose[:, 6, 1] = 0.06 * wave
    pose[:, 12, 1], pose[:, 15, 0] = 0.2 * np.sin(0.5 * phase), 0.1 * np.sin(0.7 * phase)
    pose[:, 0, 1] = -0.6 + 1.5 * time / max(time[-1], 1e-3) if num_frames > 1 else 0.3
    side = 0.8 * (2 * time / max(time[-1], 1e-3) - 1)
    return pose, np.stack([side, 0.02 * np.sin(2 * phase), -0.4 * side], 1)


def _dance(
    num_frames: int, rng: np.random.Generator
) -> tuple[Float64[np.ndarray, "N 22 3"], Float64[np.ndarray, "N 3"]]:
    """Every angle a mixture of three slow sines inside 60 % of its range."""
    time = np.arange(num_frames) / _FPS
    priors = body_priors()
    low, high = np.maximum(priors.low, -1.9), np.minimum(priors.high, 1.9)
    low[0], high[0] = 0.0, 0.0
    rate = rng.uniform(0.3, 1.0, (3, NUM_BODY_JOINTS, 3))
    mix = rng.dirichlet([1, 1, 1], (NUM_BODY_JOINTS, 3)).transpose(2, 0, 1)
    start = rng.uniform(0, 2 * np.pi, (3, NUM_BODY_JOINTS, 3))
    waves = (mix[:, None] * np.sin(2 * np.pi * rate[:, None] * time[:, None, None] + start[:, None])).sum(0)
    pose = 0.3 * (low + high) + 0.3 * (high - low) * waves
    pose[:, 10:12] *= 0.3
    pose[:, 16:18, 0] *= 0.5
    pose[:, 16, 2] -= 0.5
    pose[:, 17, 2] += 0.5
    pose[:, 1:3, 0] = pose[:, 1:3, 0] * 0.6 - 0.15
    turn = 1.2 * np.sin(1.3 * time + rng.uniform(0, 2 * np.pi))
    pose[:, 0] = np.stack([0.15 * np.sin(2 * time), turn, 0.12 * np.sin(1.7 * time)], 1)
    return pose, np.stack([0.4 * np.sin(1.1 * time), 0.08 * np.sin(3 * time), 0.3 * np.sin(0.9 * time)], 1)
