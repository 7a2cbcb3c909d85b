"""Frozen body encoders: the user's Sapiens TorchScript file, or a random ViT of the same size for timing.

The network is kept outside the module tree: it has no place in checkpoints, optimisers or gradient buckets, yet moves
with `.to(device)`. Sapiens: arXiv 2408.12569.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lhmforge.datasets.errors import BackendError
from lhmforge.lhm_model.config import EncoderConfig
from lhmforge.lhm_model.vision_transformer import PatchEmbed, VitBlock, normalise, square_on_white

_SAPIENS_MEAN, _SAPIENS_STD = (0.4844, 0.4570, 0.4062), (0.2295, 0.2236, 0.2256)


class FrozenBodyEncoder(nn.Module):
    """Source image in 0..1 on white -> tokens [B, T, C], without gradient; bf16 on CUDA."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        network = _load_sapiens(config) if config.kind == "sapiens" else PlainVit(config)
        for parameter in network.parameters():
            parameter.requires_grad_(False)
        self._network = (network.eval(),)  # a tuple hides it from the module tree

    @property
    def network(self) -> nn.Module:
        """The hidden network."""
        return self._network[0]

    @property
    def num_frozen_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.network.parameters())

    @torch.no_grad()
    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B T C"]:
        image = normalise(square_on_white(image, self.config.image_size), _SAPIENS_MEAN, _SAPIENS_STD)
        with torch.autocast(image.device.type, dtype=torch.bfloat16, enabled=image.is_cuda):
            features = self._network[0](image)
        features = features[0] if isinstance(features, (tuple, list)) else features
        tokens = features.flatten(2).transpose(1, 2) if features.dim() == 4 else features
        expected = (image.shape[0], self.config.num_tokens, self.config.channels)
        if tuple(tokens.shape) != expected:
            raise BackendError(
                f"{self.config.weights}: the encoder returned tokens of shape {tuple(tokens.shape)}, not {expected}"
            )
        return tokens

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenBodyEncoder:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._network[0]._apply(fn)
        return self


class PlainVit(nn.Module):
    """The ViT of the Sapiens family: patches, learned positions, pre-norm blocks, final norm."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(config.channels, config.patch_size)
        self.positions = nn.Parameter(torch.zeros(1, config.num_tokens, config.channels))
        self.blocks = nn.ModuleList(
            VitBlock(config.channels, config.num_heads, layer_scale=False) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.channels, eps=1e-6)

    def forward(self, image: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B T C"]:
        x = self.patch_embed(image) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


_SAPIENS_SOURCE = (
    "wanted is sapiens_1b_epoch_173_torchscript.pt2, which its authors (facebook on huggingface, Sapiens-1B "
    "pretrained) publish under the Sapiens License; read that before commercial use"
)


def _load_sapiens(config: EncoderConfig) -> nn.Module:
    if not config.weights:
        raise BackendError(
            "the body encoder `sapiens` needs its TorchScript file (body_encoder.weights, or --body-encoder), which is "
            f"not redistributable: {_SAPIENS_SOURCE}; the preset `tiny` needs none"
        )
    path = Path(config.weights)
    if not path.is_file():
        raise BackendError(f"body_encoder.weights: {path} does not exist; {_SAPIENS_SOURCE}")
    try:
        return torch.jit.load(str(path), map_location="cpu")
    except (RuntimeError, ValueError) as error:
        raise BackendError(
            f"{path}: torn or not a TorchScript file that this torch can read ({error}); {_SAPIENS_SOURCE}"
        ) from error
