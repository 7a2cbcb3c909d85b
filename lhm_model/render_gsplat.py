"""CUDA rasteriser: all views of all persons in one call of gsplat, in float32."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from lhmforge.datasets.errors import BackendError
from lhmforge.lhm_model.gaussians import PosedGaussians, RenderedViews


def render_gsplat(
    posed: PosedGaussians,
    *,
    intrinsics: Float[Tensor, "B V 3 3"],
    world_to_camera: Float[Tensor, "B V 4 4"],
    width: int,
    height: int,
    background: Float[Tensor, "B V 3"],
) -> RenderedViews:
    """`B * V` images, each of its own posed Gaussians; raises `BackendError` where gsplat cannot run."""
    if not posed.means.is_cuda:
        raise BackendError("render backend 'gsplat' needs tensors on a CUDA device; use 'numba' on the CPU")
    try:
        from gsplat import rasterization
    except ImportError as error:
        raise BackendError("render backend 'gsplat' needs the package gsplat (pip install gsplat)") from error
    batch, views = posed.means.shape[:2]
    count = batch * views

    def per_view(shared: Tensor) -> Tensor:
        return shared[:, None].expand(batch, views, *shared.shape[1:]).flatten(0, 1).float()

    # Every image has Gaussians of its own, so images form gsplat's batch and each has one camera.
    with torch.autocast("cuda", enabled=False):
        features, alpha, _ = rasterization(
            means=posed.means.flatten(0, 1).float(),
            quats=posed.rotations.flatten(0, 1).float(),
            scales=per_view(posed.scales),
            opacities=per_view(posed.opacities),
            colors=per_view(posed.colours),
            viewmats=world_to_camera.float().reshape(count, 1, 4, 4),
            Ks=intrinsics.float().reshape(count, 1, 3, 3),
            width=width,
            height=height,
            backgrounds=background.float().reshape(count, 1, 3),
            render_mode="RGB+ED",
            packed=False,
        )
    shape = (batch, views, height, width, -1)
    images = features.reshape(shape).movedim(-1, 2)
    return RenderedViews(colour=images[:, :, :3], alpha=alpha.reshape(shape).movedim(-1, 2), depth=images[:, :, 3:])
