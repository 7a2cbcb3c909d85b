"""Learns the pose correctives of the free body by imitating a better skinner.

The teacher is MakeHuman's own rig of 163 bones, skinned straight from its A-pose by a mix of linear and
dual-quaternion blending (Kavan et al. 2007), with forearm and upper-arm twist spread along the limb. Per joint, the
nine entries of `R - 1` are regressed linearly on the teacher's displacement in rest space, as SMPL-X needs it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64
from scipy.spatial.transform import Rotation

from lhmforge.datasets.body.free.rest_pose import RestPoseMap, chain_heads
from lhmforge.datasets.body.free.skeleton import SIDES, bone_owner, joint_of_head
from lhmforge.datasets.body.joints import JOINT_NAMES, NUM_JOINTS, PARENTS

_SAMPLES, _RIDGE, _LIMIT_M, _SMALLEST_M = 48, 2e-3, 0.04, 2e-5
# Degrees about x, y, z for left joints: where each joint is exercised.
_RANGES: dict[str, tuple[tuple[float, float], ...]] = {
    "hip": ((-110, 40), (-35, 35), (-25, 50)),
    "knee": ((0, 140), (-5, 5), (-5, 5)),
    "ankle": ((-40, 40), (-20, 20), (-15, 15)),
    "foot": ((-40, 20), (-3, 3), (-3, 3)),
    "spine": ((-20, 40), (-25, 25), (-25, 25)),
    "neck": ((-35, 40), (-40, 40), (-25, 25)),
    "head": ((-30, 30), (-40, 40), (-25, 25)),
    "collar": ((-10, 10), (-20, 20), (-15, 25)),
    "shoulder": ((-80, 80), (-90, 40), (-95, 60)),
    "elbow": ((-40, 40), (-145, 0), (-5, 5)),
    "wrist": ((-70, 70), (-25, 25), (-70, 70)),
    "jaw": ((0, 30), (-5, 5), (-3, 3)),
    "thumb": ((-25, 25), (-60, 20), (-40, 30)),
    "finger": ((-5, 5), (-20, 20), (-95, 15)),
}
_DUAL_SHARE = {"hip": 0.15, "spine": 0.3, "neck": 0.3}
_X = np.array([1.0, 0.0, 0.0])


@dataclass(frozen=True, slots=True, kw_only=True)
class SkinnedRest:
    """The mean body in both rest poses: MakeHuman's (`a_pose`) and SMPL-X's (`rest`)."""

    rest_map: RestPoseMap
    a_pose: Float64[np.ndarray, "V 3"]
    bone_weights: Float64[np.ndarray, "V B"]
    joint_weights: Float64[np.ndarray, "V 55"]
    heads: Float64[np.ndarray, "B 3"]  # in the A-pose


def fit_pose_correctives(body: SkinnedRest, rng: np.random.Generator) -> Float32[np.ndarray, "V 3 486"]:
    """Displacement per entry of `R - 1` of every joint but the root."""
    teacher = _Teacher(body)
    result = np.zeros((NUM_JOINTS - 1, 9, len(body.a_pose), 3), np.float32)
    for j in range(1, NUM_JOINTS):
        if "eye" in JOINT_NAMES[j]:
            continue
        rotations = _sample_rotations(j, rng)
        affected = teacher.affected(j)
        wanted = np.stack([teacher.residual(j, rotation, affected) for rotation in rotations])
        size = np.linalg.norm(wanted, axis=-1, keepdims=True)
        wanted *= np.minimum(1, _LIMIT_M / np.maximum(size, 1e-9))  # where the blend is near singular
        feature = (rotations - np.eye(3)).reshape(len(rotations), 9)
        normal = feature.T @ feature + _RIDGE * len(rotations) * np.eye(9)
        fitted = np.linalg.solve(normal, feature.T @ wanted.reshape(len(rotations), -1))
        fitted[np.abs(fitted) < _SMALLEST_M] = 0
        result[j - 1][:, affected] = fitted.reshape(9, len(affected), 3)
    return np.ascontiguousarray(result.reshape(-1, len(body.a_pose), 3).transpose(1, 2, 0))


class _Teacher:
    """MakeHuman's rig posed about one SMPL-X joint, compared with plain SMPL-X skinning."""

    def __init__(self, body: SkinnedRest) -> None:
        self.body, rig = body, body.rest_map.rig
        self.owner = bone_owner(rig)
        self.turned = body.rest_map.rotations
        self.rest_heads = chain_heads(body.heads[None], self.turned, rig.parents)[0]
        self.joints = joint_of_head(rig) @ self.rest_heads
        self.pivot = body.bone_weights.argmax(1)
        self.rest = _linear(body.bone_weights, _affine(self.turned, body.heads, self.rest_heads), body.a_pose)
        self.twists: dict[str, tuple[tuple[int, float], ...]] = {}
        for side, letter, _ in SIDES:
            fore = (rig.index(f"lowerarm02.{letter}"), 0.75), (rig.index(f"lowerarm01.{letter}"), 0.3)
            self.twists |= {f"{side}_wrist": fore, f"{side}_shoulder": ((rig.index(f"upperarm01.{letter}"), -0.5),)}

    def affected(self, j: int) -> Int64[np.ndarray, " A"]:
        """Vertices that joint j bends: partly in its subtree, on its own bones, or on bones that take its twist."""
        share = self.body.joint_weights[:, _subtree(j)].sum(1)
        own = self.body.bone_weights[:, self.owner == j].sum(1)
        twisted = self.body.bone_weights[:, [b for b, _ in self.twists.get(JOINT_NAMES[j], ())]].sum(1)
        return np.flatnonzero(((share > 1e-4) & (share < 1 - 1e-4)) | (own > 1e-3) | (twisted > 1e-3))

    def residual(
        self, j: int, rotation: Float64[np.ndarray, "3 3"], affected: Int64[np.ndarray, " A"]
    ) -> Float64[np.ndarray, "A 3"]:
        """Rest-space displacement that makes SMPL-X skinning land on the teacher's vertices."""
        subtree = _subtree(j)
        moving = np.isin(self.owner, subtree)
        turns = np.where(moving[:, None, None], rotation, np.eye(3))
        for bone, share in self.twists.get(JOINT_NAMES[j], ()):
            part = Rotation.from_rotvec(share * _twist_angle(rotation) * _X).as_matrix()
            turns[bone] = part if share > 0 else rotation @ part
        heads = np.where(
            moving[:, None], (self.rest_heads - self.joints[j]) @ rotation.T + self.joints[j], self.rest_heads
        )
        bones = _affine(turns @ self.turned, self.body.heads, heads)
        weights, points = self.body.bone_weights[affected], self.body.a_pose[affected]
        key = next((k for k in _DUAL_SHARE if k in JOINT_NAMES[j]), "")
        dual = _DUAL_SHARE.get(key, 0.5)
        target = (1 - dual) * _linear(weights, bones, points)
        target += dual * _dual_quaternion(weights, bones, points, self.pivot[affected])
        inside = self.body.joint_weights[affected][:, subtree].sum(1)[:, None, None]
        blend = inside * rotation + (1 - inside) * np.eye(3)
        shift = inside[..., 0] * (self.joints[j] - rotation @ self.joints[j])
        unposed = np.linalg.solve(blend, (target - shift)[..., None])[..., 0]
        result: np.ndarray = unposed - self.rest[affected]
        return result


def _sample_rotations(j: int, rng: np.random.Generator) -> Float64[np.ndarray, "N 3 3"]:
    name = JOINT_NAMES[j]
    low, high = np.array(next((r for key, r in _RANGES.items() if key in name), _RANGES["finger"]), np.float64).T
    angles = rng.uniform(low, high, (_SAMPLES, 3))
    for i in range(_SAMPLES // 2):  # half of the samples lie on single axes, extremes included
        axis = i % 3
        angles[i] = np.eye(3)[axis] * rng.choice([low[axis], high[axis], rng.uniform(low[axis], high[axis])])
    if name.startswith("right"):
        angles[:, 1:] *= -1
    matrices: np.ndarray = Rotation.from_rotvec(np.deg2rad(angles)).as_matrix()
    return matrices


def _subtree(j: int) -> list[int]:
    members = [j]
    members += [c for c in range(j + 1, NUM_JOINTS) if _is_below(c, j)]
    return members


def _is_below(child: int, ancestor: int) -> bool:
    while child > ancestor:
        child = PARENTS[child]
    return child == ancestor


def _twist_angle(rotation: Float64[np.ndarray, "3 3"]) -> float:
    x, _, _, w = Rotation.from_matrix(rotation).as_quat()
    return float(2 * np.arctan2(x, w))


def _affine(
    rotations: Float64[np.ndarray, "B 3 3"], start: Float64[np.ndarray, "B 3"], end: Float64[np.ndarray, "B 3"]
) -> Float64[np.ndarray, "B 3 4"]:
    shift = end - np.einsum("bij,bj->bi", rotations, start)
    return np.concatenate([rotations, shift[..., None]], axis=-1)


def _linear(weights: np.ndarray, bones: Float64[np.ndarray, "B 3 4"], points: np.ndarray) -> np.ndarray:
    blended = (weights @ bones.reshape(len(bones), 12)).reshape(-1, 3, 4)
    result: np.ndarray = np.einsum("vij,vj->vi", blended[..., :3], points) + blended[..., 3]
    return result


def _dual_quaternion(
    weights: np.ndarray, bones: Float64[np.ndarray, "B 3 4"], points: np.ndarray, pivot: np.ndarray
) -> np.ndarray:
    real = Rotation.from_matrix(bones[:, :, :3]).as_quat()[:, [3, 0, 1, 2]]  # w, x, y, z
    shift = np.concatenate([np.zeros((len(bones), 1)), bones[:, :, 3]], axis=1)
    dual = 0.5 * _multiply(shift, real)
    signed = weights * np.where(real[pivot] @ real.T < 0, -1.0, 1.0)
    blend_real, blend_dual = signed @ real, signed @ dual
    length = np.linalg.norm(blend_real, axis=1, keepdims=True)
    blend_real, blend_dual = blend_real / length, blend_dual / length
    w, axis = blend_real[:, :1], blend_real[:, 1:]
    dual_w, dual_axis = blend_dual[:, :1], blend_dual[:, 1:]
    turned = points + 2 * np.cross(axis, np.cross(axis, points) + w * points)
    result: np.ndarray = turned + 2 * (w * dual_axis - dual_w * axis + np.cross(axis, dual_axis))
    return result


def _multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    w = a[:, 0] * b[:, 0] - (a[:, 1:] * b[:, 1:]).sum(1)
    xyz = a[:, :1] * b[:, 1:] + b[:, :1] * a[:, 1:] + np.cross(a[:, 1:], b[:, 1:])
    return np.concatenate([w[:, None], xyz], axis=1)
