"""Head encoder: DINOv2 with registers, and the fusion of four of its levels (HFPE of the LHM paper).

DINOv2: arXiv 2304.07193; registers: arXiv 2309.16588. Our own implementation; released weight files load by name.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lhmforge.datasets.errors import CheckpointError
from lhmforge.lhm_model.config import EncoderConfig
from lhmforge.lhm_model.dinov2_layouts import author_layout
from lhmforge.lhm_model.vision_transformer import PatchEmbed, VitBlock, normalise, square_on_white
from lhmforge.lhm_model.weight_files import read_weight_file

# Released files hold position embeddings of a 518-pixel image: 37 x 37 patches.
_PRETRAINED_GRID = 37
_HELP = (
    "get DINOv2 ViT-L/14 with registers (dinov2_vitl14_reg4_pretrain.pth, Apache-2.0) from "
    "github.com/facebookresearch/dinov2, or leave the weights empty to start from random ones"
)
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class DinoV2(nn.Module):
    """The vision transformer; `forward` returns the normalised patch tokens after each of the blocks `taps`."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.taps = config.taps
        self.patch_embed = PatchEmbed(config.channels, config.patch_size)
        self.cls_token = nn.Parameter(torch.randn(1, 1, config.channels) * 1e-6)
        self.register_tokens = nn.Parameter(torch.randn(1, config.num_registers, config.channels) * 1e-6)
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + _PRETRAINED_GRID**2, config.channels) * 0.02)
        self.blocks = nn.ModuleList(
            VitBlock(config.channels, config.num_heads, layer_scale=True) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.channels, eps=1e-6)

    def forward(self, image: Float[Tensor, "B 3 S S"]) -> tuple[Float[Tensor, "B T C"], ...]:
        patches = self.patch_embed(image)
        batch, num_patches = patches.shape[:2]
        grid = image.shape[-1] // self.patch_embed.proj.stride[0]
        patches = patches + self._grid_positions(grid)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(batch, -1, -1)
        x = torch.cat([first, self.register_tokens.expand(batch, -1, -1), patches], dim=1)
        tapped = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.taps:
                tapped.append(self.norm(x)[:, -num_patches:])
        return tuple(tapped)

    def _grid_positions(self, grid: int) -> Float[Tensor, "1 T C"]:
        positions = self.pos_embed[:, 1:]
        if grid == _PRETRAINED_GRID:
            return positions
        square = positions.unflatten(1, (_PRETRAINED_GRID, _PRETRAINED_GRID)).permute(0, 3, 1, 2).float()
        resized = F.interpolate(square, size=(grid, grid), mode="bicubic", antialias=True, align_corners=False)
        return resized.flatten(2).transpose(1, 2).to(positions.dtype)


class FusionHead(nn.Module):
    """A linear map per tap, concatenation along channels, one linear map (1x1 convolutions on the token grid)."""

    def __init__(self, channels: int, num_taps: int) -> None:
        super().__init__()
        self.projects = nn.ModuleList(nn.Linear(channels, channels) for _ in range(num_taps))
        self.output = nn.Linear(num_taps * channels, channels)

    def forward(self, taps: tuple[Float[Tensor, "B T C"], ...]) -> Float[Tensor, "B T C"]:
        projected = [project(tap) for project, tap in zip(self.projects, taps, strict=True)]
        return self.output(torch.cat(projected, dim=-1))


class DinoHeadEncoder(nn.Module):
    """Head crop in 0..1 -> fused tokens. The release feeds it without ImageNet normalisation (`normalised=False`)."""

    def __init__(self, config: EncoderConfig, *, normalised: bool) -> None:
        super().__init__()
        self.config, self.normalised = config, normalised
        self.backbone = DinoV2(config)
        self.fusion = FusionHead(config.channels, len(config.taps))
        if config.weights:
            load_dinov2_weights(self.backbone, Path(config.weights))

    def forward(self, image: Float[Tensor, "B 3 K K"]) -> Float[Tensor, "B T C"]:
        image = square_on_white(image, self.config.image_size)
        if self.normalised:
            image = normalise(image, _IMAGENET_MEAN, _IMAGENET_STD)
        return self.fusion(self.backbone(image))


def load_dinov2_weights(backbone: DinoV2, path: Path) -> None:
    """Loads the user's DINOv2 file (.pth or .safetensors; layouts: see `dinov2_layouts`).

    Raises `CheckpointError` naming every odd tensor and where the right file is to be had.
    """
    try:
        state = author_layout(read_weight_file(path))
    except CheckpointError as error:
        raise CheckpointError(f"head_encoder.weights: {error}; {_HELP}") from error
    own = {name: tensor.shape for name, tensor in backbone.state_dict().items()}
    wrong = [
        f"{name} {tuple(state[name].shape)} for {tuple(own[name])}"
        for name in sorted(own.keys() & state.keys())
        if own[name] != state[name].shape
    ]
    if own.keys() != state.keys() or wrong:
        raise CheckpointError(
            f"head_encoder.weights: {path} is not the DINOv2 that this preset needs; missing "
            f"{sorted(own.keys() - state.keys())[:5]}, unexpected {sorted(state.keys() - own.keys())[:5]}, wrong shape "
            f"{wrong[:5]}; {_HELP}"
        )
    backbone.load_state_dict(state)
