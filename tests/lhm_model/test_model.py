"""The whole model: training signal, checkpoints, modes and precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from lhmforge.datasets.batch import Batch, BodyBatch
from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.errors import CheckpointError
from lhmforge.lhm_model.config import ModelConfig
from lhmforge.lhm_model.model import LHM
from lhmforge.lhm_model.query_points import sample_query_points


def _model(body: BodyModel, config: ModelConfig) -> LHM:
    torch.manual_seed(0)
    return LHM(config, body)


def _awake(body: BodyModel, config: ModelConfig) -> LHM:
    """A model whose Gaussian head has left its zero start, so that features matter to every attribute."""
    model = _model(body, config)
    for layer in (model.gaussian_head.offset, model.gaussian_head.scale, model.gaussian_head.opacity):
        torch.nn.init.normal_(layer.weight, std=0.02)
    return model


@pytest.mark.parametrize("architecture", ["body_head", "plain"])
def test_a_rendered_loss_reaches_every_parameter(
    toy_body: BodyModel, toy_config: ModelConfig, toy_batch: Batch, architecture: str
) -> None:
    model = _awake(toy_body, replace(toy_config, architecture=architecture)).train()
    torch.nn.init.normal_(model.gaussian_head.rotation.weight, std=0.02)
    output = model(toy_batch, backend="torch")
    assert output.views.colour.shape == toy_batch.target_image.shape
    (output.views.colour - toy_batch.target_image).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()) and bool(parameter.grad.abs().sum() > 0), name


def test_a_state_restores_weights_and_points(toy_body: BodyModel, toy_config: ModelConfig, toy_batch: Batch) -> None:
    model = _awake(toy_body, toy_config).eval()
    copy = LHM.from_state(toy_config, toy_body, model.state_dict()).eval()
    for ours, theirs in zip(_encode(model, toy_batch), _encode(copy, toy_batch), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.0, atol=0.0)
    assert "query_vertex_ids" in model.state_dict()


def test_points_of_another_seed_come_with_the_state_or_are_refused(
    toy_body: BodyModel, toy_config: ModelConfig
) -> None:
    other = replace(toy_config, point_seed=5)
    state = LHM(toy_config, toy_body, sample_query_points(toy_body, other)).state_dict()
    restored = LHM.from_state(toy_config, toy_body, state)
    torch.testing.assert_close(restored.query_barycentric, state["query_barycentric"], rtol=0.0, atol=0.0)
    with pytest.raises(CheckpointError, match="query points"):
        LHM(toy_config, toy_body).load_state_dict(state)


def test_another_body_or_preset_is_refused(toy_body: BodyModel, toy_config: ModelConfig) -> None:
    state = LHM(toy_config, toy_body).state_dict()
    other_body = replace(toy_body, topology_digest="ab" * 32)
    with pytest.raises(CheckpointError, match="topology digest"):
        LHM(toy_config, other_body).load_state_dict(state)
    with pytest.raises(CheckpointError, match="topology digest"):
        LHM.from_state(toy_config, other_body, state)
    with pytest.raises(CheckpointError, match="missing"):
        LHM.from_state(replace(toy_config, num_blocks=3), toy_body, state)
    with pytest.raises(CheckpointError, match="96"):
        LHM.from_state(replace(toy_config, num_points=120), toy_body, state)
    with pytest.raises(CheckpointError, match="no query points"):
        LHM.from_state(toy_config, toy_body, {k: v for k, v in state.items() if not k.startswith("query")})


def test_head_shrinkage_acts_in_training_only(toy_body: BodyModel, toy_config: ModelConfig, toy_batch: Batch) -> None:
    model = _awake(toy_body, toy_config)
    torch.nn.init.normal_(model.head_mask_token)
    first, second = _encode(model.train(), toy_batch), _encode(model, toy_batch)
    assert not torch.allclose(first[0], second[0])
    first, second = _encode(model.eval(), toy_batch), _encode(model, toy_batch)
    torch.testing.assert_close(first, second, rtol=0.0, atol=0.0)
    plain = _awake(toy_body, replace(toy_config, head_token_shrinkage=0.0)).train()
    assert plain.head_mask_token is None
    torch.testing.assert_close(_encode(plain, toy_batch), _encode(plain, toy_batch), rtol=0.0, atol=0.0)


def test_an_unseen_face_leaves_no_trace_of_the_crop(
    toy_body: BodyModel, toy_config: ModelConfig, toy_batch: Batch
) -> None:
    model = _awake(toy_body, toy_config).eval()
    other = replace(toy_batch, head_image=1.0 - toy_batch.head_image)
    colours, others = _encode(model, toy_batch)[2], _encode(model, other)[2]
    assert not torch.allclose(colours[0], others[0])
    torch.testing.assert_close(colours[1], others[1], rtol=0.0, atol=0.0)


def test_compat_clamps_the_upper_body(toy_body: BodyModel, toy_config: ModelConfig, toy_batch: Batch) -> None:
    model = _model(toy_body, replace(toy_config, compat=True)).eval()
    torch.nn.init.zeros_(model.gaussian_head.scale.bias)
    scales = _encode(model, toy_batch)[1]
    upper = model.skinner.upper_body
    assert upper.any() and not upper.all()
    torch.testing.assert_close(scales[:, upper], torch.full_like(scales[:, upper], 0.02))
    torch.testing.assert_close(scales[:, ~upper], torch.full_like(scales[:, ~upper], 0.05))


def test_geometry_stays_in_float32_under_autocast(
    toy_body: BodyModel, toy_config: ModelConfig, toy_batch: Batch
) -> None:
    model = _awake(toy_body, toy_config).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        canonical = model.encode(
            source_image=toy_batch.source_image, head_image=toy_batch.head_image, head_valid=toy_batch.head_valid
        )
        posed = model.pose(canonical, toy_batch.body)
    for tensor in (canonical.offsets, canonical.scales, canonical.colours, posed.means, posed.rotations):
        assert tensor.dtype == torch.float32
    exact = model.pose(replace(canonical), toy_batch.body)
    torch.testing.assert_close(posed.means, exact.means, rtol=0.0, atol=0.0)


def test_poses_are_independent_of_each_other(
    toy_body: BodyModel, toy_config: ModelConfig, toy_batch: Batch, random_body_batch: Callable[..., BodyBatch]
) -> None:
    model = _awake(toy_body, toy_config).eval()
    canonical = model.encode(
        source_image=toy_batch.source_image, head_image=toy_batch.head_image, head_valid=toy_batch.head_valid
    )
    body = random_body_batch(2, 3, seed=4)
    one = BodyBatch(betas=body.betas, **{
        name: getattr(body, name)[:, 1:2] for name in BodyBatch.__slots__ if name != "betas"
    })  # fmt: skip
    torch.testing.assert_close(model.pose(canonical, body).means[:, 1:2], model.pose(canonical, one).means)


def _encode(model: LHM, batch: Batch) -> list[torch.Tensor]:
    with torch.no_grad():
        found = model.encode(source_image=batch.source_image, head_image=batch.head_image, head_valid=batch.head_valid)
    return [found.offsets, found.scales, found.colours]
