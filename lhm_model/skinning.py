"""Carries Gaussians from the canonical body (legs spread) through the zero pose into the poses of the views.

Linear blend skinning. A point's weights are those of its surface point (`barycentric`: the mean of its triangle's,
`nearest`: the nearest vertex's) or, where the Gaussian stands off the surface, those of the space around the body
(`diffused`, see `skinning_volume`; hands and face keep the surface's). In the clean mode the way back to the zero pose
inverts the blended transform exactly; in compat mode inverse transforms are blended, as in the release.
"""

from __future__ import annotations

import io
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lhmforge.datasets.batch import BodyBatch
from lhmforge.datasets.body.joints import JOINT_NAMES, NUM_JOINTS, joint
from lhmforge.datasets.body.lbs import axis_angle_to_matrix, joint_chain, skinning_transforms
from lhmforge.datasets.body.model import BodyModel, full_pose
from lhmforge.datasets.errors import BodyError
from lhmforge.lhm_model.gaussians import CanonicalGaussians, PosedGaussians
from lhmforge.lhm_model.query_points import QueryPoints
from lhmforge.lhm_model.rotations import invert_3x3, matrix_to_quaternion, nearest_rotation, quaternion_multiply
from lhmforge.lhm_model.skinning_volume import held_share, skinning_volume

_UPPER_BODY_PARTS = (
    "pelvis",
    "spine",
    "collar",
    "shoulder",
    "elbow",
    "wrist",
    "thumb",
    "index",
    "middle",
    "ring",
    "pinky",
)


_NO_TURN = torch.tensor([1.0, 0.0, 0.0, 0.0])


@dataclass(frozen=True, slots=True, kw_only=True)
class SkinningConfig:
    """How Gaussians follow the body; `ModelConfig.skinning_config` makes one."""

    kind: Literal["nearest", "barycentric", "diffused"] = "barycentric"
    compat: bool = False
    leg_spread_deg: float = 20.0
    volume_spacing_m: float = 0.02
    unturned_file: str = ""  # npz with `masks`, positive for vertices whose Gaussians never turn


class Skinner(nn.Module):
    """Per-point tables of one body; all float32, none of them trained or stored (they follow from body and points)."""

    canonical: Tensor  # [N,3] points of the canonical body, what the point embedding sees
    rest: Tensor  # [N,3] the same points in the zero pose
    to_rest: Tensor  # [N,3,3] linear part of canonical -> zero pose
    weights: Tensor  # [N,55] of the surface points
    canonical_transforms: Tensor  # [55,4,4] zero pose -> canonical
    held: Tensor  # [N] share of the surface's weights where the volume has the rest (diffused)
    unturned: Tensor  # [N] bool: Gaussians that keep their canonical rotation in every pose
    shapedirs: Tensor  # [N,3,S]
    exprdirs: Tensor  # [N,3,E]
    upper_body: Tensor  # [N] bool
    joints_template: Tensor
    joints_shapedirs: Tensor
    joints_exprdirs: Tensor

    def __init__(self, body: BodyModel, points: QueryPoints, config: SkinningConfig) -> None:
        super().__init__()
        points.check_body(body)
        self.compat, self.parents, self.body_source = config.compat, body.parents, body.source
        attribute = points.nearest if config.kind == "nearest" else points.interpolate
        rest, weights = points.interpolate(body.v_template), attribute(body.weights)
        transforms = _canonical_transforms(body, config.leg_spread_deg)
        forward = _blend(weights, transforms)
        canonical = _move(forward, rest)
        if config.compat:
            back = _blend(weights, torch.linalg.inv(transforms))
            rest, to_rest = _move(back, canonical), back[..., :3]
        else:
            to_rest = invert_3x3(forward[..., :3])
        tables = {
            "canonical": canonical,
            "rest": rest,
            "to_rest": to_rest,
            "weights": weights,
            "canonical_transforms": transforms,
            "held": held_share(weights),
            "unturned": _unturned(config.unturned_file, body, points),
            "shapedirs": attribute(body.shapedirs),
            "exprdirs": attribute(body.exprdirs),
            "upper_body": _upper_body(weights),
            "joints_template": body.joints_template,
            "joints_shapedirs": body.joints_shapedirs,
            "joints_exprdirs": body.joints_exprdirs,
        }
        for name, table in tables.items():
            self.register_buffer(name, table.clone(), persistent=False)
        self.volume = None
        if config.kind == "diffused":
            surface = _move(_blend(body.weights, transforms), body.v_template)
            self.volume = skinning_volume(body, surface, spacing_m=config.volume_spacing_m)

    def forward(self, gaussians: CanonicalGaussians, body: BodyBatch) -> PosedGaussians:
        """World-space Gaussians in every pose of `body`; computed in float32 whatever autocast says."""
        self._check(body)
        with torch.autocast(self.rest.device.type, enabled=False):
            transforms = self.transforms(body)
            offsets = gaussians.offsets.float()
            weights = self.weights_at(offsets)
            at_rest, to_rest = self._to_rest(offsets, weights)
            shaped = at_rest + torch.einsum("bs,ncs->bnc", body.betas.float(), self.shapedirs)
            expressed = shaped[:, None] + torch.einsum("bve,nce->bvnc", body.expression.float(), self.exprdirs)
            blended = _blend(weights[:, None] if weights.dim() == 3 else weights, transforms)
            rotation = blended[..., :3] @ (to_rest[:, None] if to_rest.dim() == 4 else to_rest)
            if not self.compat:
                rotation = nearest_rotation(rotation)
            turns = torch.where(self.unturned[:, None], _NO_TURN.to(rotation), matrix_to_quaternion(rotation))
            return PosedGaussians(
                means=_move(blended, expressed),
                rotations=quaternion_multiply(turns, gaussians.rotations.float()[:, None]),
                scales=gaussians.scales,
                opacities=gaussians.opacities,
                colours=gaussians.colours,
            )

    def weights_at(self, offsets: Float[Tensor, "B N 3"]) -> Float[Tensor, "*b N 55"]:
        """Skinning weights of the Gaussians at `offsets` from their canonical points: [N,55], diffused [B,N,55]."""
        if self.volume is None:
            return self.weights
        around = self.volume(self.canonical + offsets)
        return torch.lerp(around, self.weights, self.held[:, None])

    def _to_rest(
        self, offsets: Float[Tensor, "B N 3"], weights: Float[Tensor, "*b N 55"]
    ) -> tuple[Float[Tensor, "B N 3"], Float[Tensor, "*b N 3 3"]]:
        """Where the canonical Gaussians are in the zero pose, and the linear part of the way there."""
        if self.volume is None:
            return self.rest + torch.einsum("nij,bnj->bni", self.to_rest, offsets), self.to_rest
        placed = self.canonical + offsets
        if self.compat:
            back = _blend(weights, torch.linalg.inv(self.canonical_transforms))
            return _move(back, placed), back[..., :3]
        forward = _blend(weights, self.canonical_transforms)
        inverse = invert_3x3(forward[..., :3])
        return (inverse @ (placed - forward[..., 3])[..., None]).squeeze(-1), inverse

    def transforms(self, body: BodyBatch) -> Float[Tensor, "B V 55 4 4"]:
        """Per view and joint, the transform from the shaped zero pose to the posed body, translation included."""
        joints = self.joints_template + torch.einsum("bs,jcs->bjc", body.betas.float(), self.joints_shapedirs)
        joints = joints[:, None].expand(-1, body.transl.shape[1], -1, -1)
        if not self.compat:  # the SMPL-X file format lets joints follow the expression; the release ignores it
            joints = joints + torch.einsum("bve,jce->bvjc", body.expression.float(), self.joints_exprdirs)
        posed = joint_chain(axis_angle_to_matrix(full_pose(body).float()), joints, self.parents)
        shift = torch.zeros_like(posed)
        shift[..., :3, 3] = body.transl.float()[..., None, :]
        return skinning_transforms(posed + shift, joints)

    def _check(self, body: BodyBatch) -> None:
        for name, given, available in (
            ("betas", body.betas.shape[-1], self.shapedirs.shape[-1]),
            ("expression", body.expression.shape[-1], self.exprdirs.shape[-1]),
        ):
            if given != available:
                raise BodyError(
                    f"the batch has {given} {name} coefficients, {self.body_source} was loaded with {available}"
                )


def canonical_pose(leg_spread_deg: float) -> Float[Tensor, "55 3"]:
    """Axis-angle of the canonical body: T-pose arms, each hip turned outward about z."""
    pose = torch.zeros(NUM_JOINTS, 3)
    pose[joint("left_hip"), 2] = math.radians(leg_spread_deg)
    pose[joint("right_hip"), 2] = -math.radians(leg_spread_deg)
    return pose


def _canonical_transforms(body: BodyModel, leg_spread_deg: float) -> Float[Tensor, "55 4 4"]:
    zeros = torch.zeros(1, body.num_betas), torch.zeros(1, 3)
    return body.joint_transforms(betas=zeros[0], full_pose=canonical_pose(leg_spread_deg)[None], transl=zeros[1])[0]


def _blend(weights: Float[Tensor, "*a N J"], transforms: Float[Tensor, "*b J 4 4"]) -> Float[Tensor, "*c N 3 4"]:
    flat = torch.matmul(weights, transforms[..., :3, :].flatten(-2))
    return flat.reshape(*flat.shape[:-1], 3, 4)


def _move(transforms: Float[Tensor, "*s 3 4"], points: Float[Tensor, "*s 3"]) -> Float[Tensor, "*s 3"]:
    return (transforms[..., :3] @ points[..., None]).squeeze(-1) + transforms[..., 3]


def _unturned(file: str, body: BodyModel, points: QueryPoints) -> Bool[Tensor, " N"]:
    """Points whose nearest vertex the user's file marks; none without a file."""
    if not file:
        return torch.zeros(points.num_points, dtype=torch.bool)
    path = Path(file)
    if not path.is_file():
        raise BodyError(f"unturned_points: {path} does not exist; leave it empty to let every Gaussian turn")
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            marks = np.asarray(archive["masks"]).reshape(-1)
    except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise BodyError(f"{path}: expected an npz with the array `masks`, one number per vertex ({error})") from error
    if len(marks) != body.num_vertices:
        raise BodyError(f"{path}: {len(marks)} marks for the {body.num_vertices} vertices of {body.source}")
    return points.nearest(torch.from_numpy(marks > 0).float()) > 0.5


def _upper_body(weights: Float[Tensor, "N 55"]) -> Bool[Tensor, " N"]:
    upper = torch.tensor([any(part in name for part in _UPPER_BODY_PARTS) for name in JOINT_NAMES])
    return upper[weights.argmax(1)]
