"""Quaternions and the nearest rotation."""

from __future__ import annotations

import torch

from lhmforge.datasets.body.lbs import axis_angle_to_matrix
from lhmforge.lhm_model.rotations import invert_3x3, matrix_to_quaternion, nearest_rotation, quaternion_multiply


def _rotations(count: int, seed: int) -> torch.Tensor:
    axes = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
    return axis_angle_to_matrix(axes / axes.norm(dim=1, keepdim=True) * torch.linspace(0, 3.1415, count)[:, None])


def test_quaternion_product_is_matrix_product() -> None:
    a, b = _rotations(50, 0), _rotations(50, 1).flip(0)
    product = quaternion_multiply(matrix_to_quaternion(a), matrix_to_quaternion(b))
    agreement = (product * matrix_to_quaternion(a @ b)).sum(-1).abs()
    torch.testing.assert_close(agreement, torch.ones(50), atol=1e-5, rtol=0.0)


def test_nearest_rotation_is_the_polar_factor() -> None:
    blend = 0.6 * _rotations(40, 2) + 0.4 * torch.eye(3)
    u, _, vh = torch.linalg.svd(blend)
    keep = torch.linalg.det(blend) > 0.1
    torch.testing.assert_close(nearest_rotation(blend)[keep], (u @ vh)[keep], atol=1e-3, rtol=0.0)


def test_inverse() -> None:
    blend = 0.7 * _rotations(20, 3) + 0.3 * torch.eye(3)
    keep = torch.linalg.det(blend) > 0.1
    identity = torch.eye(3).expand(int(keep.sum()), 3, 3)
    torch.testing.assert_close((blend @ invert_3x3(blend))[keep], identity, atol=1e-4, rtol=0.0)
