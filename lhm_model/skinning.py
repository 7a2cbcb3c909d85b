"""Carries Gaussians from the canonical body (legs spread) through the zero pose into the poses of the views.

Linear blend skinning with one set of weights per query point. In the clean mode a point's weights, shape and
expression directions are the barycentric mean of its triangle's, and the way back to the zero pose inverts the blended
transform exactly; in compat mode they are the nearest vertex's, and inverse transforms are blended, as in the release.
"""

from __future__ import annotations

import math

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


class Skinner(nn.Module):
    """Per-point tables of one body; all float32, none of them trained or stored (they follow from body and points)."""

    canonical: Tensor  # [N,3] points of the canonical body, what the point embedding sees
    rest: Tensor  # [N,3] the same points in the zero pose
    to_rest: Tensor  # [N,3,3] linear part of canonical -> zero pose
    weights: Tensor  # [N,55]
    shapedirs: Tensor  # [N,3,S]
    exprdirs: Tensor  # [N,3,E]
    upper_body: Tensor  # [N] bool
    joints_template: Tensor
    joints_shapedirs: Tensor
    joints_exprdirs: Tensor

    def __init__(self, body: BodyModel, points: QueryPoints, *, leg_spread_deg: float, compat: bool) -> None:
        super().__init__()
        points.check_body(body)
        self.compat, self.parents, self.body_source = compat, body.parents, body.source
        attribute = points.nearest if compat else points.interpolate
        rest, weights = points.interpolate(body.v_template), attribute(body.weights)
        transforms = _canonical_transforms(body, leg_spread_deg)
        forward = _blend(weights, transforms)
        canonical = _move(forward, rest)
        if compat:
            back = _blend(weights, torch.linalg.inv(transforms))
            rest, to_rest = _move(back, canonical), back[..., :3]
        else:
            to_rest = invert_3x3(forward[..., :3])
        tables = {
            "canonical": canonical,
            "rest": rest,
            "to_rest": to_rest,
            "weights": weights,
            "shapedirs": attribute(body.shapedirs),
            "exprdirs": attribute(body.exprdirs),
            "upper_body": _upper_body(weights),
            "joints_template": body.joints_template,
            "joints_shapedirs": body.joints_shapedirs,
            "joints_exprdirs": body.joints_exprdirs,
        }
        for name, table in tables.items():
            self.register_buffer(name, table.clone(), persistent=False)

    def forward(self, gaussians: CanonicalGaussians, body: BodyBatch) -> PosedGaussians:
        """World-space Gaussians in every pose of `body`; computed in float32 whatever autocast says."""
        self._check(body)
        with torch.autocast(self.rest.device.type, enabled=False):
            transforms = self.transforms(body)
            shaped = self.rest + torch.einsum("bs,ncs->bnc", body.betas.float(), self.shapedirs)
            moved = shaped + torch.einsum("nij,bnj->bni", self.to_rest, gaussians.offsets.float())
            expressed = moved[:, None] + torch.einsum("bve,nce->bvnc", body.expression.float(), self.exprdirs)
            blended = _blend(self.weights, transforms)
            rotation = blended[..., :3] @ self.to_rest
            if not self.compat:
                rotation = nearest_rotation(rotation)
            turned = quaternion_multiply(matrix_to_quaternion(rotation), gaussians.rotations.float()[:, None])
            return PosedGaussians(
                means=_move(blended, expressed),
                rotations=turned,
                scales=gaussians.scales,
                opacities=gaussians.opacities,
                colours=gaussians.colours,
            )

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


def _blend(weights: Float[Tensor, "N J"], transforms: Float[Tensor, "*s J 4 4"]) -> Float[Tensor, "*s N 3 4"]:
    flat = torch.matmul(weights, transforms[..., :3, :].flatten(-2))
    return flat.reshape(*flat.shape[:-1], 3, 4)


def _move(transforms: Float[Tensor, "*s 3 4"], points: Float[Tensor, "*s 3"]) -> Float[Tensor, "*s 3"]:
    return (transforms[..., :3] @ points[..., None]).squeeze(-1) + transforms[..., 3]


def _upper_body(weights: Float[Tensor, "N 55"]) -> Bool[Tensor, " N"]:
    upper = torch.tensor([any(part in name for part in _UPPER_BODY_PARTS) for name in JOINT_NAMES])
    return upper[weights.argmax(1)]
