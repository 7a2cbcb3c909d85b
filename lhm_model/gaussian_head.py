"""From point features to Gaussians: a perceptron, five linear maps and the bounds of each attribute."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lhmforge.lhm_model.config import GaussianHeadConfig
from lhmforge.lhm_model.gaussians import CanonicalGaussians

_EXP_GRADIENT_LIMIT = 15.0


class GaussianMLP(nn.Module):
    """Linear layers with SiLU between them and nothing after the last."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))

    def forward(self, x: Float[Tensor, "B N C"]) -> Float[Tensor, "B N D"]:
        for index, layer in enumerate(self.layers):
            x = layer(F.silu(x) if index else x)
        return x


class GaussianHead(nn.Module):
    """Decodes features into bounded Gaussian attributes, in float32 whatever autocast says.

    `set_step` moves the upper bound of the scales along its schedule; a new head stands at the schedule's end, which
    is what inference uses.
    """

    scale_limit: Tensor

    def __init__(self, width: int, config: GaussianHeadConfig) -> None:
        super().__init__()
        self.config = config
        self.offset = nn.Linear(width, 3)
        self.scale = nn.Linear(width, 3)
        self.rotation = nn.Linear(width, 4)
        self.opacity = nn.Linear(width, 1)
        self.colour = nn.Linear(width, 3)
        # A tensor, not a number: a compiled graph then need not be rebuilt when the schedule moves.
        self.register_buffer("scale_limit", torch.tensor(config.clip_end_m), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        for layer in (self.offset, self.scale, self.rotation, self.opacity):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.scale.bias, self.config.initial_scale_log)
        p = self.config.initial_opacity
        nn.init.constant_(self.opacity.bias, math.log(p / (1.0 - p)))
        with torch.no_grad():
            self.rotation.bias[0] = 1.0

    def set_step(self, step: int) -> None:
        self.scale_limit.fill_(scale_limit_at(self.config, step))

    def forward(self, features: Float[Tensor, "B N C"], tight: Bool[Tensor, " N"] | None = None) -> CanonicalGaussians:
        """Gaussians of `N` points; those marked `tight` have their scales clamped further (compat mode)."""
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            scales = truncated_exp(self.scale(features)).clamp(min=0.0).minimum(self.scale_limit)
            if tight is not None:
                clamped = scales.clamp(max=self.config.upper_body_clip_m)
                scales = torch.where(tight[None, :, None], clamped, scales)
            return CanonicalGaussians(
                offsets=(self.offset(features).sigmoid() - 0.5) * self.config.offset_range_m,
                scales=scales,
                rotations=F.normalize(self.rotation(features), dim=-1),
                opacities=self.opacity(features).sigmoid().squeeze(-1),
                colours=self.colour(features).sigmoid(),
            )


def scale_limit_at(config: GaussianHeadConfig, step: int) -> float:
    """Upper bound of a scale in metres at training step `step`."""
    progress = (step - config.clip_start_step) / (config.clip_end_step - config.clip_start_step)
    progress = min(max(progress, 0.0), 1.0)
    return config.clip_start_m + progress * (config.clip_end_m - config.clip_start_m)


class _TruncatedExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        x: Tensor = ctx.saved_tensors[0]
        return grads[0] * x.clamp(max=_EXP_GRADIENT_LIMIT).exp()


def truncated_exp(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """exp whose gradient stops growing at exp(15), so that one wild value cannot destroy a step."""
    out: Tensor = _TruncatedExp.apply(x)  # type: ignore[no-untyped-call]
    return out
