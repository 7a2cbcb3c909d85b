"""Parameter totals and operation counts of the paper's presets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lhmforge.lhm_model.config import ModelConfig, preset
from lhmforge.lhm_model.network import LHMNetwork
from lhmforge.lhm_model.summary import count_parameters, summarise


@pytest.mark.parametrize(
    ("name", "trainable_millions"), [("mini", 442.3), ("0.5b", 669.0), ("0.7b", 1046.8), ("1b", 1424.6)]
)
def test_trainable_totals(name: str, trainable_millions: float) -> None:
    summary = summarise(preset(name))
    assert summary.trainable / 1e6 == pytest.approx(trainable_millions, abs=0.05)
    assert summary.frozen == 1_140_736_512


def test_parts_are_exact() -> None:
    parts = {part.name: part.trainable for part in count_parameters(replace(preset("0.5b"), head_token_shrinkage=0.0))}
    assert parts == {
        "head_encoder": 304_371_712,
        "head_encoder.fusion": 8_393_728,
        "transformer": 352_089_600,
        "point_embed": 55_296,
        "modulation": 2_755_328,
        "gaussian_mlp": 1_312_768,
        "gaussian_head": 14_350,
        "body_encoder": 0,
    }


@pytest.mark.parametrize(
    ("name", "projections", "attention", "feed_forward", "total"),
    [("mini", 0.5, 5.1, 0.9, 6.5), ("0.5b", 2.3, 42.3, 4.5, 49.2), ("1b", 6.9, 126.9, 13.8, 147.6)],
)
def test_operations(name: str, projections: float, attention: float, feed_forward: float, total: float) -> None:
    dense = summarise(preset(name)).dense_flops
    found = [dense.projections, dense.attention, dense.feed_forward, dense.total]
    assert [value / 1e12 for value in found] == pytest.approx([projections, attention, feed_forward, total], abs=0.07)


def test_skipping_unused_queries_saves_operations() -> None:
    summary = summarise(preset("0.5b"))
    assert 0.97 < summary.flops.total / summary.dense_flops.total < 0.99


def test_counts_agree_with_a_real_network(toy_config: ModelConfig) -> None:
    total = sum(parameter.numel() for parameter in LHMNetwork(toy_config).parameters())
    assert summarise(toy_config).trainable == total
