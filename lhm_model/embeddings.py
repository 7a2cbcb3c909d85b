"""What conditions the transformer besides image tokens: the point embedding and the global modulation vector."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class PointEmbed(nn.Module):
    """Sine and cosine of each coordinate at frequencies 2^k pi, the raw coordinate, a linear map and a LayerNorm."""

    basis: Tensor

    def __init__(self, width: int, num_frequencies: int = 8) -> None:
        super().__init__()
        self.register_buffer("basis", frequency_basis(num_frequencies), persistent=False)
        self.linear = nn.Linear(6 * num_frequencies + 3, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N W"]:
        """Tokens of canonical positions in metres; the angles are computed in float32 whatever autocast says."""
        with torch.autocast(points.device.type, enabled=False):
            angles = points.float() @ self.basis.float()
            features = torch.cat([angles.sin(), angles.cos(), points.float()], dim=-1)
        return self.norm(self.linear(features))


def frequency_basis(num_frequencies: int) -> Float[Tensor, "3 F3"]:
    """Row a holds 2^k pi in the columns of axis a and zeros elsewhere."""
    frequencies = math.pi * 2.0 ** torch.arange(num_frequencies, dtype=torch.float32)
    basis: Tensor = torch.block_diag(*[frequencies[None]] * 3)
    return basis


class GlobalModulation(nn.Module):
    """Mean of the raw body tokens through a two-layer perceptron; one part of the output per sub-block."""

    def __init__(self, channels: int, hidden: int, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(channels, hidden)
        self.out = nn.Linear(hidden, width)

    def forward(self, body_tokens: Float[Tensor, "B T C"]) -> Float[Tensor, "B M"]:
        pooled = body_tokens.float().mean(dim=1)
        return self.out(nn.functional.silu(self.hidden(pooled)))
