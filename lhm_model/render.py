"""Rendering of posed Gaussians: one function, three rasterisers with the same values and gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from lhmforge.datasets.errors import ConfigError
from lhmforge.lhm_model.gaussians import PosedGaussians, RenderedViews
from lhmforge.lhm_model.render_projection import RasterSettings, project_gaussians
from lhmforge.lhm_model.render_reference import Composite, composite_reference

RENDER_BACKENDS = ("auto", "numba", "torch", "gsplat")


def render_gaussians(
    posed: PosedGaussians,
    *,
    intrinsics: Float[Tensor, "B V 3 3"],
    world_to_camera: Float[Tensor, "B V 4 4"],
    width: int,
    height: int,
    background: Float[Tensor, "B V 3"],
    backend: str = "auto",
    settings: RasterSettings | None = None,
) -> RenderedViews:
    """Images, alpha and depth of `V` views of `B` persons; gradients reach every attribute of `posed`.

    Cameras follow `datasets.cameras`; the principal point may lie anywhere. `auto` is gsplat on CUDA and the numba
    kernels on the CPU; `torch` is the slow reference. All of them compute in float32 (`torch`: in the dtype of the
    means). Raises `ConfigError` for an unknown backend and `BackendError` where the chosen one cannot run.
    """
    if backend not in RENDER_BACKENDS:
        raise ConfigError(f"render backend {backend!r} is unknown; choose one of {', '.join(RENDER_BACKENDS)}")
    if backend == "auto":
        backend = "gsplat" if posed.means.is_cuda else "numba"
    cameras = {"intrinsics": intrinsics, "world_to_camera": world_to_camera}
    if backend == "gsplat":
        from lhmforge.lhm_model.render_gsplat import render_gsplat

        return render_gsplat(posed, **cameras, width=width, height=height, background=background)
    with torch.autocast(posed.means.device.type, enabled=False):
        return _render_composited(
            posed, _compositor(backend, posed.means.device), **cameras, width=width, height=height,
            background=background, settings=settings or RasterSettings(),
        )  # fmt: skip


def _compositor(backend: str, device: torch.device) -> Callable[..., Composite]:
    if backend == "torch":
        return composite_reference
    if device.type != "cpu":
        raise ConfigError(f"render backend 'numba' runs on the CPU only, the Gaussians are on {device}; use 'gsplat'")
    from lhmforge.lhm_model.render_numba import composite_numba

    return composite_numba


def _render_composited(
    posed: PosedGaussians,
    composite: Callable[..., Composite],
    *,
    intrinsics: Float[Tensor, "B V 3 3"],
    world_to_camera: Float[Tensor, "B V 4 4"],
    width: int,
    height: int,
    background: Float[Tensor, "B V 3"],
    settings: RasterSettings,
) -> RenderedViews:
    batch, views = posed.means.shape[:2]
    dtype = torch.float64 if posed.means.dtype == torch.float64 else torch.float32

    def per_view(shared: Tensor) -> Tensor:
        return shared[:, None].expand(batch, views, *shared.shape[1:]).flatten(0, 1).to(dtype)

    splats = project_gaussians(
        means=posed.means.flatten(0, 1).to(dtype),
        rotations=posed.rotations.flatten(0, 1).to(dtype),
        scales=per_view(posed.scales),
        opacities=per_view(posed.opacities),
        intrinsics=intrinsics.flatten(0, 1).to(dtype),
        world_to_camera=world_to_camera.flatten(0, 1).to(dtype),
        width=width,
        height=height,
        settings=settings,
    )
    features = torch.cat((per_view(posed.colours), splats.depths_m[..., None]), dim=-1)
    result = composite(splats, features, width=width, height=height, settings=settings)
    light = result.transmittance[:, None]
    colour = result.features[:, :3] + light * background.flatten(0, 1).to(dtype)[:, :, None, None]
    depth = result.features[:, 3:] / (1 - light).clamp(min=1e-10)
    return RenderedViews(
        colour=colour.unflatten(0, (batch, views)),
        alpha=(1 - light).unflatten(0, (batch, views)),
        depth=depth.unflatten(0, (batch, views)),
    )
