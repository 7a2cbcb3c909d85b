"""The two image encoder roles of LHM and the small trainable encoder of the `tiny` preset."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lhmforge.datasets.errors import ConfigError
from lhmforge.lhm_model.config import EncoderConfig, ModelConfig
from lhmforge.lhm_model.encoder_dinov2 import DinoHeadEncoder
from lhmforge.lhm_model.encoder_frozen import FrozenBodyEncoder
from lhmforge.lhm_model.vision_transformer import VitBlock, square_on_white


def build_body_encoder(config: ModelConfig) -> nn.Module:
    """Source image [B,3,H,W] in 0..1 on white -> tokens [B,T,C], row by row of the padded square."""
    if config.body_encoder.kind == "small":
        return SmallEncoder(config.body_encoder)
    if config.body_encoder.frozen:
        return FrozenBodyEncoder(config.body_encoder)
    raise ConfigError(f"body_encoder.kind {config.body_encoder.kind!r}: valid are small, sapiens, vit")


def build_head_encoder(config: ModelConfig) -> nn.Module:
    """Head crop [B,3,K,K] in 0..1 -> tokens [B,U,C]; the compat mode feeds DINOv2 unnormalised, as the release does."""
    if config.head_encoder.kind == "small":
        return SmallEncoder(config.head_encoder)
    if config.head_encoder.kind == "dinov2":
        return DinoHeadEncoder(config.head_encoder, normalised=not config.compat)
    raise ConfigError(f"head_encoder.kind {config.head_encoder.kind!r}: valid are small, dinov2")


class SmallEncoder(nn.Module):
    """Two strided convolutions, learned positions and a few transformer blocks: trains from nothing on a CPU."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        if config.patch_size % 4:
            raise ConfigError(f"small encoder: patch_size {config.patch_size} is not a multiple of 4")
        self.config = config
        half, second_stride = config.channels // 2, config.patch_size // 4
        self.stem = nn.Conv2d(3, half, 7, stride=4, padding=3)
        self.patches = nn.Conv2d(half, config.channels, second_stride, stride=second_stride)
        self.positions = nn.Parameter(torch.randn(1, config.num_tokens, config.channels) * 0.02)
        self.blocks = nn.ModuleList(
            VitBlock(config.channels, config.num_heads, layer_scale=False) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.channels)

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B T C"]:
        image = 2.0 * square_on_white(image, self.config.image_size) - 1.0
        x = self.patches(nn.functional.gelu(self.stem(image))).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.norm(x)
