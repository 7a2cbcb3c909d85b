"""The plain vision transformer that all our image encoders are made of, and the way images enter it.

Parameter names are those of the public DINOv2 files, so that such a file loads without a name map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lhmforge.lhm_model.attention import attend

_NORM_EPS = 1e-6


class VitBlock(nn.Module):
    """Pre-norm self-attention and feed-forward, with optional learned scales of both branches (LayerScale)."""

    def __init__(self, channels: int, num_heads: int, *, layer_scale: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=_NORM_EPS)
        self.attn = VitAttention(channels, num_heads)
        self.ls1 = LayerScale(channels) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(channels, eps=_NORM_EPS)
        self.mlp = VitMLP(channels, 4 * channels)
        self.ls2 = LayerScale(channels) if layer_scale else nn.Identity()

    def forward(self, x: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class VitAttention(nn.Module):
    """Multi-head self-attention with one fused projection."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(2)
        return self.proj(attend(q, k, v).flatten(2))


class VitMLP(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
        return self.fc2(F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    """A learned factor per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, x: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
        return x * self.gamma


class PatchEmbed(nn.Module):
    """Non-overlapping patches to tokens, row by row."""

    def __init__(self, channels: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, patch_size, stride=patch_size)

    def forward(self, image: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B T C"]:
        return self.proj(image).flatten(2).transpose(1, 2)


def square_on_white(image: Float[Tensor, "B 3 H W"], size: int) -> Float[Tensor, "B 3 S S"]:
    """The image centred on a white square, resized to `size` pixels (bicubic, antialiased), values 0..1."""
    height, width = image.shape[-2:]
    side = max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    image = F.pad(image, (left, side - width - left, top, side - height - top), value=1.0)
    if side == size:
        return image
    return F.interpolate(image, size=(size, size), mode="bicubic", antialias=True, align_corners=False).clamp(0.0, 1.0)


def normalise(
    image: Float[Tensor, "B 3 S S"], mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Float[Tensor, "B 3 S S"]:
    """(image - mean) / std per channel."""
    shift, scale = image.new_tensor(mean)[:, None, None], image.new_tensor(std)[:, None, None]
    return (image - shift) / scale
