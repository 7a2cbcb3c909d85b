"""Rotations as matrices: exponential, logarithm and the Jacobians that tie tangent vectors to rotation vectors.

Right perturbations throughout: `R <- R @ exp(delta)`. Formulas: Sola et al., "A micro Lie theory for state
estimation in robotics" (arXiv 1812.01537), eqs. 132-146.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

_SMALL = 1e-4


def hat(vectors: Float64[np.ndarray, "*batch 3"]) -> Float64[np.ndarray, "*batch 3 3"]:
    """The matrix of the cross product: `hat(v) @ w == cross(v, w)`."""
    x, y, z = vectors[..., 0], vectors[..., 1], vectors[..., 2]
    result = np.zeros((*vectors.shape, 3))
    result[..., 0, 1], result[..., 0, 2] = -z, y
    result[..., 1, 0], result[..., 1, 2] = z, -x
    result[..., 2, 0], result[..., 2, 1] = -y, x
    return result


def exp_rotation(vectors: Float64[np.ndarray, "*batch 3"]) -> Float64[np.ndarray, "*batch 3 3"]:
    """Rotation matrices of axis-angle vectors in radians."""
    angle2 = (vectors * vectors).sum(-1)[..., None, None]
    angle = np.sqrt(angle2)
    safe = np.where(angle > _SMALL, angle, 1.0)
    first = np.where(angle > _SMALL, np.sin(safe) / safe, 1 - angle2 / 6)
    second = np.where(angle > _SMALL, (1 - np.cos(safe)) / safe**2, 0.5 - angle2 / 24)
    skew = hat(vectors)
    result: np.ndarray = np.eye(3) + first * skew + second * (skew @ skew)
    return result


def log_rotation(matrices: Float64[np.ndarray, "*batch 3 3"]) -> Float64[np.ndarray, "*batch 3"]:
    """Axis-angle vectors (radians, norm <= pi) of rotation matrices; stable near 0 and near pi."""
    m = matrices.reshape(-1, 3, 3)
    trace = m[:, 0, 0] + m[:, 1, 1] + m[:, 2, 2]
    # The quaternion from the largest of four candidates (Shepperd): row 0 is w, rows 1-3 are x, y, z.
    squares = np.stack([trace, *(2 * m[:, i, i] - trace for i in range(3))], 1)
    outer = np.empty((len(m), 4, 4))
    outer[:, 0, 0] = 1 + trace
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        outer[:, 0, i + 1] = outer[:, i + 1, 0] = m[:, k, j] - m[:, j, k]
        outer[:, i + 1, i + 1] = 1 + squares[:, i + 1]
        outer[:, i + 1, j + 1] = outer[:, j + 1, i + 1] = m[:, i, j] + m[:, j, i]
    quaternion = outer[np.arange(len(m)), squares.argmax(1)]
    quaternion /= np.linalg.norm(quaternion, axis=1, keepdims=True)
    quaternion *= np.where(quaternion[:, :1] < 0, -1.0, 1.0)
    sine = np.linalg.norm(quaternion[:, 1:], axis=1, keepdims=True)
    angle = 2 * np.arctan2(sine, quaternion[:, :1])
    scale = np.where(sine > 1e-9, angle / np.maximum(sine, 1e-12), 2.0)
    result: np.ndarray = (quaternion[:, 1:] * scale).reshape(matrices.shape[:-1])
    return result


def right_jacobian_inverse(vectors: Float64[np.ndarray, "*batch 3"]) -> Float64[np.ndarray, "*batch 3 3"]:
    """`d log(exp(v) exp(delta)) / d delta` at delta = 0; its transpose is the left one."""
    angle2 = (vectors * vectors).sum(-1)[..., None, None]
    angle = np.sqrt(angle2)
    safe = np.where(angle > 1e-2, angle, 1.0)
    half = safe / 2
    exact = (1 - half / np.tan(half)) / safe**2
    coefficient = np.where(angle > 1e-2, exact, 1 / 12 + angle2 / 720)
    skew = hat(vectors)
    result: np.ndarray = np.eye(3) + 0.5 * skew + coefficient * (skew @ skew)
    return result


def blend_rotations(
    first: Float64[np.ndarray, "*batch 3 3"],
    second: Float64[np.ndarray, "*batch 3 3"],
    share: Float64[np.ndarray, ...],
) -> Float64[np.ndarray, "*batch 3 3"]:
    """The geodesic from `first` (share 0) to `second` (share 1); `share` broadcasts against the batch."""
    step = log_rotation(np.swapaxes(first, -1, -2) @ second)
    result: np.ndarray = first @ exp_rotation(share[..., None] * step)
    return result


def frame_from_axes(
    x_axis: Float64[np.ndarray, "*batch 3"], near_y: Float64[np.ndarray, "*batch 3"]
) -> Float64[np.ndarray, "*batch 3 3"]:
    """Rotation whose first column is `x_axis` and whose second lies in the plane of `x_axis` and `near_y`."""
    x = x_axis / np.maximum(np.linalg.norm(x_axis, axis=-1, keepdims=True), 1e-9)
    y = near_y - x * (x * near_y).sum(-1, keepdims=True)
    y = y / np.maximum(np.linalg.norm(y, axis=-1, keepdims=True), 1e-9)
    return np.stack([x, y, np.cross(x, y)], -1)


def swing(
    start: Float64[np.ndarray, "*batch 3"], end: Float64[np.ndarray, "*batch 3"]
) -> Float64[np.ndarray, "*batch 3 3"]:
    """The smallest rotation that turns direction `start` into direction `end`."""
    a = start / np.maximum(np.linalg.norm(start, axis=-1, keepdims=True), 1e-9)
    b = end / np.maximum(np.linalg.norm(end, axis=-1, keepdims=True), 1e-9)
    axis = np.cross(a, b)
    sine = np.linalg.norm(axis, axis=-1, keepdims=True)
    angle = np.arctan2(sine, (a * b).sum(-1, keepdims=True))
    return exp_rotation(axis / np.maximum(sine, 1e-9) * angle)
