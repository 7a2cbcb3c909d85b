"""Operations per sample: against counts made by hand."""

from __future__ import annotations

from dataclasses import replace

import torch

from lhmforge.lhm_model.config import preset
from lhmforge.lhm_model.summary import transformer_flops, vit_flops
from lhmforge.lhm_model.throughput import training_flops, utilisation


def test_frozen_encoders_run_forward_only() -> None:
    config = preset("0.5b")
    trained = 3 * vit_flops(config.head_encoder.num_tokens + 5, 1024, 24)
    frozen = vit_flops(config.body_encoder.num_tokens, 1536, 40)
    perceptron = 2 * 40_000 * (1024 * 512 + 512 * 512 + 512 * 1024)
    transformer = transformer_flops(config, skip_unused_queries=True).total
    assert training_flops(config) == 3 * (transformer + perceptron) + trained + frozen


def test_operations_grow_with_depth() -> None:
    config = preset("tiny")
    assert training_flops(replace(config, num_blocks=4)) > 1.3 * training_flops(config)


def test_a_cpu_has_no_known_peak() -> None:
    assert utilisation(preset("tiny"), 1.0, torch.device("cpu")) is None
