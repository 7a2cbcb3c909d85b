"""The map between the release's tensors and ours."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lhmforge.lhm_model.config import ModelConfig, preset, with_random_body_encoder
from lhmforge.lhm_model.network import LHMNetwork
from lhmforge.lhm_model.weights import import_release, release_names, to_release_names


def _meta(config: ModelConfig) -> LHMNetwork:
    with torch.device("meta"):
        return LHMNetwork(with_random_body_encoder(config))


def test_every_tensor_of_the_half_billion_release_has_its_place(golden_reference: Path) -> None:
    listed = json.loads(golden_reference.with_name("keys_500m.json").read_text())
    ours = to_release_names(_meta(preset("0.5b")).named_parameters())
    shapes = {name: list(tensor.shape) for name, tensor in ours.items()}
    for name, shape in listed.items():
        if name != "pcl_embed.basis":  # a constant
            assert shapes[name] == shape, name


def test_every_trained_parameter_has_a_name_in_the_release() -> None:
    config = replace(preset("mini"), head_token_shrinkage=0.0)
    assert [name for name, _ in _meta(config).named_parameters() if not release_names(name)] == []


def test_export_and_import_give_the_same_network(toy_config: ModelConfig) -> None:
    config = replace(toy_config, head_token_shrinkage=0.0)
    source, target = LHMNetwork(config), LHMNetwork(config)
    own_encoders = [n for n, _ in source.named_parameters() if n.startswith(("body_encoder", "head_encoder"))]
    released = to_release_names((n, p) for n, p in source.named_parameters() if n not in own_encoders)
    report = import_release(target, released)
    assert list(report.missing) == own_encoders and not report.unexpected and not report.wrong_shape
    for name, parameter in source.named_parameters():
        if name not in own_encoders:
            torch.testing.assert_close(target.get_parameter(name), parameter, rtol=0.0, atol=0.0)


def test_everything_that_does_not_fit_is_listed(toy_config: ModelConfig) -> None:
    network = LHMNetwork(replace(toy_config, head_token_shrinkage=0.0))
    released = to_release_names((n, p) for n, p in network.named_parameters() if "encoder" not in n)
    released["renderer.smplx_model.body_pose"] = torch.zeros(3)
    released["transformer.norm.bias"] = torch.zeros(5)
    del released["transformer.layers.0.head_dit.attn.to_k.weight"]
    released["pcl_embed.basis"] = torch.ones(3, 24)
    report = import_release(network, released)
    assert report.unexpected == ("renderer.smplx_model.body_pose",)
    assert "transformer.blocks.0.head.qkv.weight" in report.missing
    assert len(report.wrong_shape) == 2 and report.constants == ("pcl_embed.basis",)
    assert not report.complete


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_wrapper_prefix_is_understood(toy_config: ModelConfig, prefix: str) -> None:
    network = LHMNetwork(toy_config)
    report = import_release(network, {prefix + "transformer.norm.bias": torch.full((32,), 3.0)})
    assert report.loaded == ("transformer.norm.bias",)
    assert float(network.transformer.norm.bias.detach()[0]) == 3.0
