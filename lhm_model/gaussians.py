"""Gaussian avatars: canonical, posed and rendered. Quaternions are (w, x, y, z); scales are metres."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class CanonicalGaussians:
    """What the Gaussian head predicts for `N` query points of `B` persons, attached to the canonical body."""

    offsets: Float[Tensor, "B N 3"]  # metres, from the canonical query point
    scales: Float[Tensor, "B N 3"]
    rotations: Float[Tensor, "B N 4"]  # unit
    opacities: Float[Tensor, "B N"]  # 0..1
    colours: Float[Tensor, "B N 3"]  # sRGB, 0..1


@dataclass(frozen=True, slots=True, kw_only=True)
class PosedGaussians:
    """Gaussians in world coordinates for `B` persons in `V` poses; attributes without a pose have V = 1."""

    means: Float[Tensor, "B V N 3"]
    rotations: Float[Tensor, "B V N 4"]
    scales: Float[Tensor, "B N 3"]
    opacities: Float[Tensor, "B N"]
    colours: Float[Tensor, "B N 3"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedViews:
    """Images composited on the background; depth is the alpha-weighted mean depth in metres (0 where empty)."""

    colour: Float[Tensor, "B V 3 H W"]
    alpha: Float[Tensor, "B V 1 H W"]
    depth: Float[Tensor, "B V 1 H W"]
