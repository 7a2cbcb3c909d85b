"""Slow plain-torch rasteriser: the reference that the fast kernels are compared with, in values and gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from lhmforge.lhm_model.render_projection import RasterSettings, Splats

_PAIRS_AT_ONCE = 8_000_000  # splats x pixels held in memory together


@dataclass(frozen=True, slots=True, kw_only=True)
class Composite:
    """Splat features summed front to back over a black background, and the light that passes all splats."""

    features: Float[Tensor, "M C H W"]
    transmittance: Float[Tensor, "M H W"]


def composite_reference(
    splats: Splats, features: Float[Tensor, "M N C"], *, width: int, height: int, settings: RasterSettings
) -> Composite:
    """Alpha compositing in order of depth, every splat at every pixel (Kerbl et al. 2023, equations 2 and 3)."""
    images, lights = [], []
    for view in range(len(features)):
        order = splats.depths_m[view].detach().argsort(stable=True)
        rows_at_once = max(1, _PAIRS_AT_ONCE // max(1, width * len(order)))
        bands = [
            _composite_rows(splats, features, view, order, rows, width, settings)
            for rows in torch.arange(height).split(rows_at_once)
        ]
        images.append(torch.cat([image for image, _ in bands], dim=1))
        lights.append(torch.cat([light for _, light in bands], dim=0))
    return Composite(features=torch.stack(images), transmittance=torch.stack(lights))


def _composite_rows(
    splats: Splats,
    features: Float[Tensor, "M N C"],
    view: int,
    order: Int64[Tensor, " N"],
    rows: Int64[Tensor, " h"],
    width: int,
    settings: RasterSettings,
) -> tuple[Float[Tensor, "C h W"], Float[Tensor, "h W"]]:
    means, conics = splats.means_px[view, order], splats.conics[view, order]
    y, x = torch.meshgrid(rows.to(means) + 0.5, torch.arange(width).to(means) + 0.5, indexing="ij")
    dx, dy = means[:, 0, None, None] - x, means[:, 1, None, None] - y
    xx, xy, yy = (conic[:, None, None] for conic in conics.unbind(-1))
    exponent = 0.5 * (xx * dx * dx + yy * dy * dy) + xy * dx * dy
    alpha = (splats.opacities[view, order, None, None] * torch.exp(-exponent)).clamp(max=settings.max_alpha)
    alpha = torch.where((alpha >= settings.alpha_cutoff) & (exponent >= 0), alpha, 0.0)

    passed = (1 - alpha).cumprod(0)
    drawn = passed > settings.min_transmittance
    alpha = torch.where(drawn, alpha, 0.0)
    passed = (1 - alpha).cumprod(0)
    before = torch.cat((torch.ones_like(passed[:1]), passed[:-1]))
    image = torch.einsum("nhw,nc->chw", alpha * before, features[view, order])
    return image, passed[-1]
