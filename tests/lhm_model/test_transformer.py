"""The transformer: sizes, what sees what, and the release's quirk."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lhmforge.lhm_model.config import preset
from lhmforge.lhm_model.network import transformer_config
from lhmforge.lhm_model.token_layout import TokenLayout
from lhmforge.lhm_model.transformer import BodyHeadTransformer, TransformerConfig

LAYOUT = TokenLayout(body_points=9, head_points=3, body_tokens=7, head_tokens=4)
SMALL = TransformerConfig(width=16, num_heads=2, num_blocks=2, context_channels=12, feed_forward=32)


@pytest.mark.parametrize(
    ("name", "count"),
    [("mini", 125_411_328), ("0.5b", 352_089_600), ("0.7b", 729_886_720), ("1b", 1_107_683_840)],
)
def test_parameter_counts_are_the_releases(name: str, count: int) -> None:
    with torch.device("meta"):
        transformer = BodyHeadTransformer(transformer_config(preset(name)))
    assert sum(parameter.numel() for parameter in transformer.parameters()) == count


def _inputs(config: TransformerConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    vector = config.width * (2 if config.architecture == "body_head" else 1)
    return {
        "points": torch.randn(2, LAYOUT.points, config.width, generator=generator),
        "body_tokens": torch.randn(2, LAYOUT.body_tokens, config.context_channels, generator=generator),
        "head_tokens": torch.randn(2, LAYOUT.head_tokens, config.context_channels - 4, generator=generator),
        "modulation": torch.randn(2, vector, generator=generator),
    }


def _seeded(config: TransformerConfig) -> BodyHeadTransformer:
    torch.manual_seed(1)
    return BodyHeadTransformer(config)


def test_head_tokens_reach_body_points_only_through_head_points() -> None:
    one_block = _seeded(replace(SMALL, num_blocks=1))
    inputs = _inputs(SMALL)
    before = one_block(**inputs, layout=LAYOUT)
    one_block.blocks[0].head.feed_forward.down.weight.data.zero_()
    one_block.blocks[0].head.feed_forward.down.bias.data.zero_()
    one_block.blocks[0].head.out.weight.data.zero_()
    one_block.blocks[0].head.out.bias.data.zero_()
    silenced = one_block(**inputs, layout=LAYOUT)
    changed = one_block(**{**inputs, "head_tokens": inputs["head_tokens"] + 1.0}, layout=LAYOUT)
    torch.testing.assert_close(silenced, changed)
    assert not torch.allclose(before, silenced)


def test_plain_architecture_mixes_all_tokens_and_has_half_the_sub_blocks() -> None:
    plain = _seeded(replace(SMALL, architecture="plain"))
    out = plain(**_inputs(plain.config), layout=LAYOUT)
    assert out.shape == (2, LAYOUT.points, SMALL.width)
    sizes = [sum(p.numel() for p in model.blocks.parameters()) for model in (plain, _seeded(SMALL))]
    assert 2 * sizes[0] == sizes[1]


def test_narrow_tokens_count_as_zero_padded() -> None:
    model, inputs = _seeded(SMALL), _inputs(SMALL)
    padded = torch.nn.functional.pad(inputs["head_tokens"], (0, 4))
    torch.testing.assert_close(
        model(**inputs, layout=LAYOUT), model(**{**inputs, "head_tokens": padded}, layout=LAYOUT)
    )


def test_compat_differs_by_the_ungated_context_update_only() -> None:
    clean, compat = _seeded(SMALL), _seeded(replace(SMALL, double_context=True))
    inputs = _inputs(SMALL)
    assert not torch.allclose(clean(**inputs, layout=LAYOUT), compat(**inputs, layout=LAYOUT))
    for model in (clean, compat):
        for block in model.blocks[:-1]:
            for part in (block.head, block.body):
                part.context_feed_forward.down.weight.data.zero_()
                part.context_feed_forward.down.bias.data.zero_()
    torch.testing.assert_close(clean(**inputs, layout=LAYOUT), compat(**inputs, layout=LAYOUT))


def test_recomputing_blocks_changes_neither_value_nor_gradient() -> None:
    results = []
    for recompute in (False, True):
        model = _seeded(replace(SMALL, checkpoint_blocks=recompute))
        out = model(**_inputs(SMALL), layout=LAYOUT)
        out.square().sum().backward()
        results.append([out.detach(), *(p.grad for p in model.parameters())])
    for plain, recomputed in zip(*results, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_every_parameter_gets_a_gradient_and_unused_queries_get_zero() -> None:
    model = _seeded(SMALL)
    model(**_inputs(SMALL), layout=LAYOUT).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.abs().sum() > 0), name
    last = model.blocks[-1].body.context_qkv.weight.grad
    assert last is not None
    assert bool((last[: SMALL.width] == 0).all()) and bool((last[SMALL.width :] != 0).any())


def test_tokens_that_disagree_with_the_layout_are_our_bug() -> None:
    with pytest.raises(AssertionError):
        _seeded(SMALL)(**_inputs(SMALL), layout=replace(LAYOUT, body_tokens=6))
