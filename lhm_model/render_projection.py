"""Perspective projection of 3D Gaussians to image-plane splats (EWA), in plain torch and differentiable.

The maths is that of Zwicker et al., "EWA Splatting" (2002), with the conventions of gsplat: camera-space x/z and y/z
are clamped to the frame enlarged by 15 % of its size on either side before the Jacobian is taken, and 0.3 px^2 is
added to both image axes of the covariance (no anti-aliasing compensation of the opacity).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class RasterSettings:
    """The cut-offs of rasterisation; the defaults are gsplat's. Tests lower them to make the image smooth."""

    alpha_cutoff: float = 1.0 / 255.0  # a splat adds nothing to a pixel where its alpha is below
    max_alpha: float = 0.999
    min_transmittance: float = 1e-4  # a pixel is finished before the splat that would push it to here
    blur_px2: float = 0.3
    near_m: float = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Splats:
    """Image-plane Gaussians of `M` views. Splats that must not be drawn have opacity 0."""

    means_px: Float[Tensor, "M N 2"]
    conics: Float[Tensor, "M N 3"]  # inverse covariance: xx, xy, yy, in 1/px^2
    depths_m: Float[Tensor, "M N"]
    opacities: Float[Tensor, "M N"]


def rotation_matrices(quaternions: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation matrices of (w, x, y, z) quaternions of any positive length."""
    w, x, y, z = torch.nn.functional.normalize(quaternions, dim=-1).unbind(-1)
    rows = (
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    )  # fmt: skip
    return torch.stack(rows, dim=-1).reshape(*w.shape, 3, 3)


def project_gaussians(
    *,
    means: Float[Tensor, "M N 3"],
    rotations: Float[Tensor, "M N 4"],
    scales: Float[Tensor, "M N 3"],
    opacities: Float[Tensor, "M N"],
    intrinsics: Float[Tensor, "M 3 3"],
    world_to_camera: Float[Tensor, "M 4 4"],
    width: int,
    height: int,
    settings: RasterSettings,
) -> Splats:
    """Splats of world-frame Gaussians (metres), one set per view; those behind the near plane get opacity 0."""
    camera_rotation = world_to_camera[:, :3, :3]
    in_camera = means @ camera_rotation.mT + world_to_camera[:, None, :3, 3]
    depth = in_camera[..., 2]
    visible = depth > settings.near_m
    safe_depth = torch.where(visible, depth, 1.0)
    slope = in_camera[..., :2] / safe_depth[..., None]
    means_px = slope * intrinsics[:, None, [0, 1], [0, 1]] + intrinsics[:, None, :2, 2]

    axes = camera_rotation[:, None] @ (rotation_matrices(rotations) * scales[..., None, :])
    projected = _project_axes(axes, _clamp_slope(slope, intrinsics, width, height), safe_depth, intrinsics)
    xx, xy, yy = _covariance(projected, settings.blur_px2)
    inverse_determinant = 1.0 / (xx * yy - xy * xy)
    conics = torch.stack((yy, -xy, xx), dim=-1) * inverse_determinant[..., None]
    return Splats(
        means_px=means_px,
        conics=conics,
        depths_m=depth,
        opacities=torch.where(visible, opacities, 0.0),
    )


def _clamp_slope(
    slope: Float[Tensor, "M N 2"], intrinsics: Float[Tensor, "M 3 3"], width: int, height: int
) -> Float[Tensor, "M N 2"]:
    """Keeps the linearisation point near the frame: far outside it the Jacobian would blow splats up."""
    size = slope.new_tensor((width, height))
    focal, centre = intrinsics[:, [0, 1], [0, 1]], intrinsics[:, :2, 2]
    margin = 0.15 * size / focal
    low, high = -centre / focal - margin, (size - centre) / focal + margin
    return torch.minimum(torch.maximum(slope, low[:, None]), high[:, None])


def _project_axes(
    axes: Float[Tensor, "M N 3 3"],
    slope: Float[Tensor, "M N 2"],
    depth: Float[Tensor, "M N"],
    intrinsics: Float[Tensor, "M 3 3"],
) -> Float[Tensor, "M N 2 3"]:
    """The three scaled axes of each Gaussian in pixels: the Jacobian of the projection times the axes."""
    focal_over_depth = intrinsics[:, None, [0, 1], [0, 1]] / depth[..., None]
    return focal_over_depth[..., None] * (axes[..., :2, :] - slope[..., None] * axes[..., 2:, :])


def _covariance(projected: Float[Tensor, "M N 2 3"], blur_px2: float) -> tuple[Tensor, Tensor, Tensor]:
    first, second = projected.unbind(-2)
    xx = (first * first).sum(-1) + blur_px2
    yy = (second * second).sum(-1) + blur_px2
    return xx, (first * second).sum(-1), yy
