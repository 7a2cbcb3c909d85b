"""Which token is what: the one record that says how point and context tokens are ordered."""

from __future__ import annotations

from dataclasses import dataclass

from lhmforge.lhm_model.config import ModelConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLayout:
    """Counts of tokens; points are body points then head points, the context is body tokens then head tokens."""

    body_points: int
    head_points: int
    body_tokens: int
    head_tokens: int

    @property
    def points(self) -> int:
        return self.body_points + self.head_points

    @property
    def context(self) -> int:
        return self.body_tokens + self.head_tokens

    @property
    def body_attention(self) -> int:
        """Tokens of the body sub-block: ALL points and the body tokens."""
        return self.points + self.body_tokens

    @property
    def head_attention(self) -> int:
        """Tokens of the head sub-block: the head points and the head tokens."""
        return self.head_points + self.head_tokens


def token_layout(config: ModelConfig) -> TokenLayout:
    """The layout that `config` implies."""
    return TokenLayout(
        body_points=config.num_body_points,
        head_points=config.num_head_points,
        body_tokens=config.body_encoder.num_tokens,
        head_tokens=config.head_encoder.num_tokens,
    )
