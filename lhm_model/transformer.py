"""The body-head transformer (MBHT): joint attention between query points and image tokens.

Each block holds two joint sub-blocks in the manner of Stable Diffusion 3 (arXiv 2403.03206): first the head points
with the head tokens, then all points with the body tokens (LHM, arXiv 2503.10625, section 3.3).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lhmforge.lhm_model.attention import HeadNorm, Kernel, attend, score_bound, takes_bound
from lhmforge.lhm_model.attention_bounded import QUERY_FACTOR
from lhmforge.lhm_model.config import Architecture
from lhmforge.lhm_model.token_layout import TokenLayout

MODULATION_EPS = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerConfig:
    """Sizes of the stack; `double_context` is the release's quirk (see `ModelConfig.compat`)."""

    width: int
    num_heads: int
    num_blocks: int
    context_channels: int
    feed_forward: int
    architecture: Architecture = "body_head"
    double_context: bool = False
    checkpoint_blocks: bool = False


class BodyHeadTransformer(nn.Module):
    """Turns point tokens into features by looking at the image tokens; `kernel` names the attention kernel."""

    def __init__(self, config: TransformerConfig, kernel: Kernel = "auto") -> None:
        super().__init__()
        self.config = config
        self.kernel = kernel
        self.context_proj = nn.Linear(config.context_channels, config.width)
        block = BodyHeadBlock if config.architecture == "body_head" else PlainBlock
        last = config.num_blocks - 1
        self.blocks = nn.ModuleList(block(config, is_last=index == last) for index in range(config.num_blocks))
        self.norm = nn.LayerNorm(config.width)

    @property
    def modulation_width(self) -> int:
        """Width of the global vector: one part per sub-block."""
        return self.config.width * (2 if self.config.architecture == "body_head" else 1)

    def forward(
        self,
        *,
        points: Float[Tensor, "B P W"],
        body_tokens: Float[Tensor, "B T Cb"],
        head_tokens: Float[Tensor, "B U Ch"],
        modulation: Float[Tensor, "B M"],
        layout: TokenLayout,
    ) -> Float[Tensor, "B P W"]:
        """Point features; tokens narrower than `context_channels` count as zero-padded."""
        assert points.shape[1] == layout.points, "point tokens disagree with the layout"
        assert body_tokens.shape[1] == layout.body_tokens and head_tokens.shape[1] == layout.head_tokens
        body, head = self._project(body_tokens), self._project(head_tokens)
        for block in self.blocks:
            if self.config.checkpoint_blocks and torch.is_grad_enabled():
                args = (points, body, head, modulation, layout, self.kernel)
                points, body, head = checkpoint(block, *args, use_reentrant=False)
            else:
                points, body, head = block(points, body, head, modulation, layout, self.kernel)
        return self.norm(points)

    def _project(self, tokens: Tensor) -> Tensor:
        """The shared context projection; multiplying by the used columns only equals padding with zeros."""
        channels = tokens.shape[-1]
        if channels == self.config.context_channels:
            return self.context_proj(tokens)
        return F.linear(tokens, self.context_proj.weight[:, :channels], self.context_proj.bias)


class BodyHeadBlock(nn.Module):
    """Head sub-block on the head points, then body sub-block on all points."""

    def __init__(self, config: TransformerConfig, *, is_last: bool) -> None:
        super().__init__()
        self.head = JointBlock(config, context_only=is_last)
        self.body = JointBlock(config, context_only=is_last)

    def forward(
        self, points: Tensor, body: Tensor, head: Tensor, modulation: Tensor, layout: TokenLayout, kernel: Kernel
    ) -> tuple[Tensor, Tensor, Tensor]:
        body_modulation, head_modulation = modulation.chunk(2, dim=-1)
        body_points, head_points = points.split([layout.body_points, layout.head_points], dim=1)
        head_points, head = self.head(head_points, head, head_modulation, kernel)
        points, body = self.body(torch.cat([body_points, head_points], dim=1), body, body_modulation, kernel)
        return points, body, head


class PlainBlock(nn.Module):
    """The paper's ablation: one joint sub-block over all points and all image tokens."""

    def __init__(self, config: TransformerConfig, *, is_last: bool) -> None:
        super().__init__()
        self.joint = JointBlock(config, context_only=is_last)

    def forward(
        self, points: Tensor, body: Tensor, head: Tensor, modulation: Tensor, layout: TokenLayout, kernel: Kernel
    ) -> tuple[Tensor, Tensor, Tensor]:
        points, context = self.joint(points, torch.cat([body, head], dim=1), modulation, kernel)
        body, head = context.split([layout.body_tokens, layout.head_tokens], dim=1)
        return points, body, head


class JointBlock(nn.Module):
    """Joint attention of two streams with adaLN modulation and a feed-forward each.

    In the last block (`context_only`) the context serves as keys and values only: its queries, output projection and
    feed-forward are skipped. The query rows of `context_qkv` stay in the parameter, as in the release, and get a zero
    gradient.
    """

    def __init__(self, config: TransformerConfig, *, context_only: bool) -> None:
        super().__init__()
        width, self.num_heads = config.width, config.num_heads
        self.context_only, self.double_context = context_only, config.double_context
        self.modulation = nn.Linear(width, 6 * width)
        self.context_modulation = nn.Linear(width, (2 if context_only else 6) * width)
        self.qkv = nn.Linear(width, 3 * width)
        self.context_qkv = nn.Linear(width, 3 * width)
        self.head_norm = HeadNorm(width // self.num_heads)
        self.context_head_norm = HeadNorm(width // self.num_heads)
        self.out = nn.Linear(width, width)
        self.feed_forward = FeedForward(width, config.feed_forward)
        if not context_only:
            self.context_out = nn.Linear(width, width)
            self.context_feed_forward = FeedForward(width, config.feed_forward)

    def forward(
        self,
        points: Float[Tensor, "B P W"],
        context: Float[Tensor, "B T W"],
        vector: Float[Tensor, "B W"],
        kernel: Kernel,
    ) -> tuple[Tensor, Tensor]:
        vector = F.silu(vector)
        point_mod = self.modulation(vector)[:, None].chunk(6, dim=-1)
        context_mod = self.context_modulation(vector)[:, None].chunk(2 if self.context_only else 6, dim=-1)
        # The release's last block uses (scale, shift), all others (shift, scale, gate, ...).
        context_shift, context_scale = context_mod[:2] if not self.context_only else (context_mod[1], context_mod[0])
        from_points, from_context = self._attention(
            _modulate(points, point_mod[0], point_mod[1]), _modulate(context, context_shift, context_scale), kernel
        )
        points = points + point_mod[2] * self.out(from_points)
        points = points + point_mod[5] * self.feed_forward(_modulate(points, point_mod[3], point_mod[4]))
        if self.context_only:
            return points, context
        context = context + context_mod[2] * self.context_out(from_context)
        update = self.context_feed_forward(_modulate(context, context_mod[3], context_mod[4]))
        gate = context_mod[5] + 1.0 if self.double_context else context_mod[5]
        return points, context + gate * update

    def _attention(self, points: Tensor, context: Tensor, kernel: Kernel) -> tuple[Tensor, Tensor]:
        num_points, width = points.shape[1], points.shape[2]
        q, k, v = self._split(self.qkv(points), 3)
        bound = score_bound(self.head_norm, self.context_head_norm) if takes_bound(kernel, q) else None
        factor = 1.0 if bound is None else QUERY_FACTOR
        q, k = self.head_norm.query(q, factor), self.head_norm.key(k)
        if self.context_only:
            weight, bias = self.context_qkv.weight[width:], self.context_qkv.bias[width:]
            context_k, context_v = self._split(F.linear(context, weight, bias), 2)
        else:
            context_q, context_k, context_v = self._split(self.context_qkv(context), 3)
            q = torch.cat([q, self.context_head_norm.query(context_q, factor)], dim=1)
        k = torch.cat([k, self.context_head_norm.key(context_k)], dim=1)
        v = torch.cat([v, context_v], dim=1)
        joint = attend(q, k, v, kernel, bound).flatten(2)
        return joint[:, :num_points], joint[:, num_points:]

    def _split(self, fused: Tensor, parts: int) -> tuple[Tensor, ...]:
        heads: Tensor = fused.unflatten(-1, (parts, self.num_heads, -1))
        return heads.unbind(2)


class FeedForward(nn.Module):
    """Linear, tanh-approximated GELU, linear; without gradients the GELU runs inside the first product on CUDA."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "B N W"]) -> Float[Tensor, "B N W"]:
        if x.is_cuda and not torch.is_grad_enabled():
            weight, bias = self.up.weight.to(x.dtype), self.up.bias.to(x.dtype)
            return self.down(linear_gelu(x, weight, bias))
        return self.down(F.gelu(self.up(x), approximate="tanh"))


def _linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """One matrix product with bias and tanh-approximated GELU in its epilogue (cuBLASLt), hence no extra pass."""
    flat: Tensor = torch._addmm_activation(bias, x.flatten(0, -2), weight.t(), use_gelu=True)
    return flat.unflatten(0, x.shape[:-1])


# A custom operator, because the compiler would take the fused product apart again.
linear_gelu = torch.library.custom_op(
    "lhmforge::linear_gelu", _linear_gelu, mutates_args=(), schema="(Tensor x, Tensor weight, Tensor bias) -> Tensor"
)
linear_gelu.register_fake(lambda x, weight, bias: x.new_empty((*x.shape[:-1], weight.shape[0])))


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LayerNorm without gains, then the affine map that the global vector asks for."""
    normed = F.layer_norm(x, x.shape[-1:], eps=MODULATION_EPS)
    return normed.to(shift.dtype) * (1.0 + scale) + shift
