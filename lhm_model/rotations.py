"""Quaternions (w, x, y, z) and the rotation nearest to a blended matrix."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def quaternion_multiply(a: Float[Tensor, "*#s 4"], b: Float[Tensor, "*#s 4"]) -> Float[Tensor, "*_ 4"]:
    """The rotation `b` followed by `a`; leading dimensions broadcast."""
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    return torch.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        dim=-1,
    )


def matrix_to_quaternion(matrix: Float[Tensor, "*s 3 3"]) -> Float[Tensor, "*s 4"]:
    """Unit quaternion of a rotation matrix, from the largest of the four possible pivots (Shepperd 1978)."""
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = matrix.flatten(-2).unbind(-1)
    rows = torch.stack(
        [
            torch.stack([1 + m00 + m11 + m22, m21 - m12, m02 - m20, m10 - m01], -1),
            torch.stack([m21 - m12, 1 + m00 - m11 - m22, m10 + m01, m02 + m20], -1),
            torch.stack([m02 - m20, m10 + m01, 1 - m00 + m11 - m22, m12 + m21], -1),
            torch.stack([m10 - m01, m02 + m20, m12 + m21, 1 - m00 - m11 + m22], -1),
        ],
        dim=-2,
    )
    pivot = rows.diagonal(dim1=-2, dim2=-1).argmax(-1)
    chosen = rows.gather(-2, pivot[..., None, None].expand(*pivot.shape, 1, 4)).squeeze(-2)
    return F.normalize(chosen, dim=-1)


def nearest_rotation(matrix: Float[Tensor, "*s 3 3"], iterations: int = 4) -> Float[Tensor, "*s 3 3"]:
    """Polar factor of a matrix with positive determinant, by Newton's iteration X <- (X + X^-T) / 2 (Higham 1986).

    A blend of joint rotations is close to orthonormal, so a few steps reach float32 accuracy; the determinant is kept
    away from zero for folded blends.
    """
    for _ in range(iterations):
        a, b, c = matrix.unbind(-2)
        cofactor = torch.stack([torch.cross(b, c, dim=-1), torch.cross(c, a, dim=-1), torch.cross(a, b, dim=-1)], -2)
        determinant = (a * cofactor[..., 0, :]).sum(-1).clamp(min=1e-2)
        matrix = 0.5 * (matrix + cofactor / determinant[..., None, None])
    return matrix


def invert_3x3(matrix: Float[Tensor, "*s 3 3"]) -> Float[Tensor, "*s 3 3"]:
    """Inverse by cofactors; the matrix must be well conditioned."""
    a, b, c = matrix.unbind(-2)
    columns = [torch.cross(b, c, dim=-1), torch.cross(c, a, dim=-1), torch.cross(a, b, dim=-1)]
    determinant = (a * columns[0]).sum(-1)
    return torch.stack(columns, dim=-1) / determinant[..., None, None]
