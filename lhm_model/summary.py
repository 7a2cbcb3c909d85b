"""What a configuration costs: parameters per part, tokens, floating-point operations, memory.

Counted on the meta device, so that the largest preset needs no memory. One multiply-add counts as two operations.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lhmforge.lhm_model.config import ModelConfig, with_random_body_encoder
from lhmforge.lhm_model.encoder_frozen import FrozenBodyEncoder
from lhmforge.lhm_model.network import LHMNetwork
from lhmforge.lhm_model.token_layout import TokenLayout, token_layout

# Bytes that one token of one sub-block keeps for the backward pass, per channel: 42 (0.5b) to 46 (1b) measured in bf16
# autocast, blocks compiled, nothing recomputed (benchmarks/transformer.py).
ACTIVATION_BYTES_PER_CHANNEL = 44
_ADAMW_BYTES = 4 + 4 + 8  # weight, gradient and two moments in float32


@dataclass(frozen=True, slots=True, kw_only=True)
class PartCount:
    """Parameters of one part; frozen ones are not trained and not in checkpoints."""

    name: str
    trainable: int
    frozen: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerFlops:
    """Operations of one forward pass of the transformer for one image."""

    projections: float
    attention: float
    feed_forward: float

    @property
    def total(self) -> float:
        return self.projections + self.attention + self.feed_forward


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSummary:
    """Everything `lhmforge model summary` prints; `dense` counts the last block's discarded context queries too."""

    parts: tuple[PartCount, ...]
    layout: TokenLayout
    flops: TransformerFlops
    dense_flops: TransformerFlops
    body_encoder_flops: float
    head_encoder_flops: float
    training_state_bytes: float
    activation_bytes_per_sample: float
    inference_weight_bytes: float

    @property
    def trainable(self) -> int:
        return sum(part.trainable for part in self.parts)

    @property
    def frozen(self) -> int:
        return sum(part.frozen for part in self.parts)


def summarise(config: ModelConfig) -> ModelSummary:
    """The summary of `config`; encoder weight files are not needed."""
    parts, layout = count_parameters(config), token_layout(config)
    flops = transformer_flops(config, skip_unused_queries=True)
    trainable, frozen = sum(p.trainable for p in parts), sum(p.frozen for p in parts)
    if config.architecture == "body_head":
        tokens = config.num_blocks * (layout.body_attention + layout.head_attention)
    else:
        tokens = config.num_blocks * (layout.points + layout.context)
    return ModelSummary(
        parts=parts,
        layout=layout,
        flops=flops,
        dense_flops=transformer_flops(config, skip_unused_queries=False),
        body_encoder_flops=vit_flops(
            config.body_encoder.num_tokens, config.body_encoder.channels, config.body_encoder.depth
        ),
        head_encoder_flops=vit_flops(
            config.head_encoder.num_tokens + 1 + config.head_encoder.num_registers,
            config.head_encoder.channels,
            config.head_encoder.depth,
        ),
        training_state_bytes=float(_ADAMW_BYTES * trainable + 2 * frozen),
        activation_bytes_per_sample=float(ACTIVATION_BYTES_PER_CHANNEL * tokens * config.width),
        inference_weight_bytes=float(2 * (trainable + frozen)),
    )


def count_parameters(config: ModelConfig) -> tuple[PartCount, ...]:
    """Parameters per part, exact; a Sapiens file is counted as the ViT of its published size."""
    if config.body_encoder.frozen:
        config = with_random_body_encoder(config)
    with torch.device("meta"):
        network = LHMNetwork(config)
    counts: dict[str, int] = {}
    for name, parameter in network.named_parameters():
        part = name.partition(".")[0]
        if name.startswith("head_encoder.fusion"):
            part = "head_encoder.fusion"
        counts[part] = counts.get(part, 0) + parameter.numel()
    parts = [PartCount(name=name, trainable=number) for name, number in counts.items()]
    encoder = network.body_encoder
    if isinstance(encoder, FrozenBodyEncoder):
        parts.append(PartCount(name="body_encoder", trainable=0, frozen=encoder.num_frozen_parameters))
    return tuple(parts)


def transformer_flops(config: ModelConfig, *, skip_unused_queries: bool) -> TransformerFlops:
    """Operations of the transformer for one image; `skip_unused_queries`: as our code runs, else as the release's."""
    layout, width = token_layout(config), config.width
    if config.architecture == "body_head":
        streams = [(layout.points, layout.body_tokens), (layout.head_points, layout.head_tokens)]
    else:
        streams = [(layout.points, layout.context)]
    projections = 2.0 * layout.context * config.context_channels * width
    attention = feed_forward = 0.0
    for block in range(config.num_blocks):
        last = block == config.num_blocks - 1
        for points, context in streams:
            queries = points if last and skip_unused_queries else points + context
            context_maps = (2 if skip_unused_queries else 3) if last else 4
            projections += 2.0 * width * width * (4 * points + context_maps * context)
            attention += 4.0 * width * queries * (points + context)
            feed_forward += 16.0 * width * width * (points + (0 if last else context))
    return TransformerFlops(projections=projections, attention=attention, feed_forward=feed_forward)


def vit_flops(num_tokens: int, channels: int, depth: int) -> float:
    """Operations of one forward pass of a plain vision transformer."""
    return depth * (24.0 * num_tokens * channels**2 + 4.0 * num_tokens**2 * channels)
