"""Presets and the checks of a model configuration."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lhmforge.datasets.config_json import from_json, to_json
from lhmforge.datasets.errors import ConfigError
from lhmforge.lhm_model.config import PRESET_NAMES, ModelConfig, preset, with_encoder_weights
from lhmforge.lhm_model.token_layout import token_layout


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_presets_survive_json(name: str) -> None:
    assert from_json(ModelConfig, to_json(preset(name))) == preset(name)


def test_the_paper_presets_have_its_token_counts() -> None:
    layout = token_layout(preset("0.5b"))
    assert (layout.body_points, layout.head_points, layout.body_tokens, layout.head_tokens) == (
        30000,
        10000,
        4096,
        1024,
    )
    assert (layout.body_attention, layout.head_attention) == (44096, 11024)
    assert token_layout(preset("mini")).points == 20000


def test_layout_follows_the_configuration_not_constants() -> None:
    config = preset("0.5b")
    config = replace(config, num_points=1001, head_point_fraction=0.4,
                     body_encoder=replace(config.body_encoder, image_size=512))  # fmt: skip
    layout = token_layout(config)
    assert (layout.body_points, layout.head_points, layout.body_tokens) == (600, 401, 1024)


def test_unknown_preset_lists_the_valid_ones() -> None:
    with pytest.raises(ConfigError, match=r"0\.5b"):
        preset("500m")


@pytest.mark.parametrize("change", [{"num_heads": 3}, {"head_point_fraction": 1.0}, {"head_token_shrinkage": 1.0}])
def test_conflicts_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        replace(preset("tiny"), **change)


def test_encoder_weights_are_set_by_role() -> None:
    config = with_encoder_weights(preset("0.5b"), body="s.pt2")
    assert (config.body_encoder.weights, config.head_encoder.weights) == ("s.pt2", "")
