"""The trained part of LHM, free of any body: images and points in, canonical Gaussians out."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lhmforge.lhm_model.attention import resolve_kernel
from lhmforge.lhm_model.config import ModelConfig
from lhmforge.lhm_model.embeddings import GlobalModulation, PointEmbed
from lhmforge.lhm_model.encoder_frozen import FrozenBodyEncoder
from lhmforge.lhm_model.encoders import build_body_encoder, build_head_encoder
from lhmforge.lhm_model.gaussian_head import GaussianHead, GaussianMLP
from lhmforge.lhm_model.gaussians import CanonicalGaussians
from lhmforge.lhm_model.token_layout import token_layout
from lhmforge.lhm_model.transformer import BodyHeadBlock, BodyHeadTransformer, PlainBlock, TransformerConfig
from lhmforge.lhm_model.vision_transformer import VitBlock


class LHMNetwork(nn.Module):
    """Encoders, transformer and Gaussian head; device, precision, compilation and sharding come from outside."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config, self.layout = config, token_layout(config)
        self.body_encoder, self.head_encoder = build_body_encoder(config), build_head_encoder(config)
        self.head_mask_token = _mask_token(config)
        self.transformer = BodyHeadTransformer(transformer_config(config))
        self.point_embed = PointEmbed(config.width, config.num_frequencies)
        channels = config.body_encoder.channels
        self.modulation = GlobalModulation(channels, channels // 2, self.transformer.modulation_width)
        self.gaussian_mlp = GaussianMLP((config.width, *config.gaussian_head.hidden, config.width))
        self.gaussian_head = GaussianHead(config.width, config.gaussian_head)

    def set_step(self, step: int) -> None:
        """Moves the bound of the scales along its schedule; a new model stands at the end of it."""
        self.gaussian_head.set_step(step)

    def set_attention_kernel(self, name: str) -> None:
        """Chooses the attention kernel of the transformer; raises when this machine cannot run it."""
        self.transformer.kernel = resolve_kernel(name)

    def decode(
        self,
        *,
        source_image: Float[Tensor, "B 3 H W"],
        head_image: Float[Tensor, "B 3 K K"],
        head_valid: Bool[Tensor, " B"],
        canonical_points: Float[Tensor, "N 3"],
        tight: Bool[Tensor, " N"] | None = None,
    ) -> CanonicalGaussians:
        """Gaussians at `canonical_points` (metres, body points first). Images are in 0..1, the source on white.

        Where no face was seen (`head_valid` false) the head tokens say so: all are the mask token, or, when shrinkage
        is off, the tokens of a black crop. Points marked `tight` have their scales clamped further (compat mode).
        """
        body_tokens = self.body_encoder(source_image)
        head_tokens = self.head_encoder(head_image * head_valid[:, None, None, None])
        points = self.point_embed(canonical_points[None])
        device = points.device.type
        if torch.is_autocast_enabled(
            device
        ):  # a residual stream in half precision: less memory traffic and activations
            points = points.to(torch.get_autocast_dtype(device))
        points = points.expand(len(source_image), -1, -1)
        features = self.transformer(
            points=points,
            body_tokens=body_tokens,
            head_tokens=self._mask_head(head_tokens, head_valid),
            modulation=self.modulation(body_tokens),
            layout=self.layout,
        )
        gaussians: CanonicalGaussians = self.gaussian_head(self.gaussian_mlp(features), tight)
        return gaussians

    def _mask_head(self, tokens: Float[Tensor, "B U C"], valid: Bool[Tensor, " B"]) -> Float[Tensor, "B U C"]:
        """Head-token shrinkage: in training a share of U(0, limit) of each sample's tokens becomes the mask token."""
        if self.head_mask_token is None:
            return tokens
        masked = ~valid[:, None].expand(-1, tokens.shape[1])
        if self.training:
            share = self.config.head_token_shrinkage * torch.rand(len(tokens), 1, device=tokens.device)
            masked = masked | (torch.rand(tokens.shape[:2], device=tokens.device) < share)
        return torch.where(masked[..., None], self.head_mask_token.to(tokens.dtype), tokens)


def halve_weights(network: LHMNetwork) -> None:
    """Puts encoders and transformer into bfloat16, for inference under autocast; the Gaussian head stays float32."""
    for part in (network.body_encoder, network.head_encoder, network.transformer):
        part.bfloat16()


def compile_blocks(network: LHMNetwork) -> None:
    """Compiles each repeated block by itself: equal blocks share one graph, so depth costs no compile time.

    Renderer and skinning stay as they are: few, large kernels. A TorchScript encoder cannot be compiled.
    """
    torch._dynamo.config.recompile_limit = 64
    # Blocks are the right grain for overlapping DDP's reductions; splitting their graphs again would gain nothing.
    torch._dynamo.config.optimize_ddp = False
    body = network.body_encoder
    hidden = body.network.modules() if isinstance(body, FrozenBodyEncoder) else ()
    for module in (*network.modules(), *hidden):
        if isinstance(module, VitBlock | BodyHeadBlock | PlainBlock):
            module.compile(dynamic=False)


def transformer_config(config: ModelConfig) -> TransformerConfig:
    """Sizes of the transformer that `config` describes."""
    return TransformerConfig(
        width=config.width,
        num_heads=config.num_heads,
        num_blocks=config.num_blocks,
        context_channels=config.context_channels,
        feed_forward=4 * config.width,
        architecture=config.architecture,
        double_context=config.compat,
        checkpoint_blocks=config.checkpoint_blocks,
    )


def _mask_token(config: ModelConfig) -> nn.Parameter | None:
    return nn.Parameter(torch.zeros(config.head_encoder.channels)) if config.head_token_shrinkage else None
