"""Linear blend skinning in torch: rotations, the joint chain, and the weighted blend of joint transforms.

Maths: Loper et al., "SMPL: A Skinned Multi-Person Linear Model" (2015), equations 2 to 4. Everything is
differentiable and batched; lengths in metres, angles in radians.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def axis_angle_to_matrix(axis_angle: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rodrigues' formula; value and gradient are finite at zero rotation (Taylor series below 1e-3 rad)."""
    squared = (axis_angle * axis_angle).sum(-1)
    small = squared < 1e-6
    safe = torch.where(small, torch.ones_like(squared), squared)
    angle = safe.sqrt()
    sin_term = torch.where(small, 1 - squared / 6, angle.sin() / angle)
    cos_term = torch.where(small, 0.5 - squared / 24, (1 - angle.cos()) / safe)
    x, y, z = axis_angle.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).reshape(*axis_angle.shape[:-1], 3, 3)
    identity = torch.eye(3, dtype=axis_angle.dtype, device=axis_angle.device)
    return identity + sin_term[..., None, None] * cross + cos_term[..., None, None] * (cross @ cross)


def joint_chain(
    rotations: Float[Tensor, "*batch J 3 3"], joints_rest: Float[Tensor, "*batch J 3"], parents: Sequence[int]
) -> Float[Tensor, "*batch J 4 4"]:
    """Posed frame of every joint (rotation and position), the root at its rest position.

    `parents[j] < j` for all joints but the root, which has -1.
    """
    assert parents[0] == -1 and all(0 <= p < j for j, p in enumerate(parents) if j > 0)
    parent_index = torch.tensor([max(p, 0) for p in parents], device=joints_rest.device)
    offsets = joints_rest - joints_rest.index_select(-2, parent_index)
    world_rotation, world_position = [rotations[..., 0, :, :]], [joints_rest[..., 0, :]]
    for j, parent in enumerate(parents[1:], start=1):
        world_rotation.append(world_rotation[parent] @ rotations[..., j, :, :])
        moved = (world_rotation[parent] @ offsets[..., j, :, None])[..., 0]
        world_position.append(world_position[parent] + moved)
    return assemble(torch.stack(world_rotation, -3), torch.stack(world_position, -2))


def assemble(
    rotation: Float[Tensor, "*batch 3 3"], translation: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch 4 4"]:
    """The 4x4 transform with this rotation and translation."""
    top = torch.cat([rotation, translation[..., None]], dim=-1)
    bottom = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=top.dtype, device=top.device).expand(*top.shape[:-2], 1, 4)
    return torch.cat([top, bottom], dim=-2)


def skinning_transforms(
    posed: Float[Tensor, "*batch J 4 4"], joints_rest: Float[Tensor, "*batch J 3"]
) -> Float[Tensor, "*batch J 4 4"]:
    """Per joint, the transform that takes a point of the rest body to where the posed joint carries it."""
    rotation, position = posed[..., :3, :3], posed[..., :3, 3]
    return assemble(rotation, position - (rotation @ joints_rest[..., None])[..., 0])


def skin_points(
    points: Float[Tensor, "B V 3"], weights: Float[Tensor, "V J"], transforms: Float[Tensor, "B J 4 4"]
) -> Float[Tensor, "B V 3"]:
    """Rest points moved by the blend of `transforms` under `weights` (rows sum to 1)."""
    batch, joints = transforms.shape[:2]
    flat = transforms[:, :, :3, :].reshape(batch, joints, 12)
    blended = torch.matmul(weights, flat).reshape(batch, -1, 3, 4)
    return (blended[..., :3] @ points[..., None])[..., 0] + blended[..., 3]
