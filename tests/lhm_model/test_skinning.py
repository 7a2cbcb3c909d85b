"""Skinning invariants, against the body model and against rigid motion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from lhmforge.datasets.batch import BodyBatch
from lhmforge.datasets.body.lbs import axis_angle_to_matrix
from lhmforge.datasets.body.model import BodyModel, full_pose
from lhmforge.datasets.errors import BodyError
from lhmforge.lhm_model.config import ModelConfig
from lhmforge.lhm_model.gaussians import CanonicalGaussians
from lhmforge.lhm_model.query_points import QueryPoints, sample_query_points
from lhmforge.lhm_model.rotations import matrix_to_quaternion, quaternion_multiply
from lhmforge.lhm_model.skinning import Skinner, SkinningConfig

Poses = Callable[..., BodyBatch]


def _at_vertices(body: BodyModel, config: ModelConfig, *, compat: bool = False) -> tuple[Skinner, QueryPoints]:
    points = sample_query_points(body, config)
    corner = torch.zeros_like(points.barycentric)
    corner[:, 0] = 1.0
    points = replace(points, barycentric=corner)
    return Skinner(body, points, _config(compat)), points


def _config(compat: bool) -> SkinningConfig:
    return SkinningConfig(kind="nearest" if compat else "barycentric", compat=compat)


def _gaussians(batch: int, num_points: int, *, seed: int | None = None) -> CanonicalGaussians:
    generator = torch.Generator().manual_seed(seed or 0)
    offsets = torch.zeros(batch, num_points, 3)
    if seed is not None:
        offsets = 0.02 * torch.randn(offsets.shape, generator=generator)
    rotations = torch.nn.functional.normalize(torch.randn(batch, num_points, 4, generator=generator), dim=-1)
    flat = torch.full((batch, num_points), 0.5)
    rgb = torch.full((batch, num_points, 3), 0.5)
    return CanonicalGaussians(offsets=offsets, scales=0.01 * rgb, rotations=rotations, opacities=flat, colours=rgb)


def test_zero_offsets_land_on_the_posed_body(
    toy_body: BodyModel, toy_config: ModelConfig, random_body_batch: Poses
) -> None:
    skinner, points = _at_vertices(toy_body, toy_config)
    batch = random_body_batch(2, 3, seed=3)
    means = skinner(_gaussians(2, points.num_points), batch).means
    pose = full_pose(batch)
    for view in range(3):
        posed = toy_body.forward(
            betas=batch.betas,
            full_pose=pose[:, view],
            transl=batch.transl[:, view],
            expression=batch.expression[:, view],
            pose_correctives=False,
        )
        torch.testing.assert_close(means[:, view], posed.vertices[:, points.vertex_ids[:, 0]], atol=2e-5, rtol=0.0)


def test_rest_pose_undoes_the_canonical_pose(
    toy_body: BodyModel, toy_config: ModelConfig, random_body_batch: Poses
) -> None:
    skinner, points = _at_vertices(toy_body, toy_config)
    gaussians = _gaussians(1, points.num_points, seed=5)
    posed = skinner(gaussians, random_body_batch(1, 1))
    rest = points.interpolate(toy_body.v_template)
    away_from_legs = (skinner.canonical - rest).norm(dim=1) < 1e-6
    assert away_from_legs.any() and not away_from_legs.all()
    moved = posed.means[0, 0] - rest
    torch.testing.assert_close(moved[away_from_legs], gaussians.offsets[0, away_from_legs], atol=1e-5, rtol=0.0)
    same = (posed.rotations[0, 0] * gaussians.rotations[0]).sum(-1).abs()
    torch.testing.assert_close(same[away_from_legs], torch.ones(int(away_from_legs.sum())), atol=1e-4, rtol=0.0)


def test_a_global_rotation_turns_means_and_quaternions_alike(
    toy_body: BodyModel, toy_config: ModelConfig, random_body_batch: Poses
) -> None:
    skinner, points = _at_vertices(toy_body, toy_config)
    batch = random_body_batch(1, 1, seed=7)
    batch = replace(batch, global_orient=torch.zeros(1, 1, 3), transl=torch.zeros(1, 1, 3))
    turn = torch.tensor([[[0.3, -1.1, 0.6]]])
    gaussians = _gaussians(1, points.num_points, seed=8)
    before, after = skinner(gaussians, batch), skinner(gaussians, replace(batch, global_orient=turn))
    rotation = axis_angle_to_matrix(turn)[0, 0]
    pelvis = toy_body.joints_rest(batch.betas, batch.expression[:, 0])[0, 0]
    torch.testing.assert_close(
        after.means[0, 0], (before.means[0, 0] - pelvis) @ rotation.T + pelvis, atol=1e-5, rtol=0
    )
    turned = quaternion_multiply(matrix_to_quaternion(rotation), before.rotations[0, 0])
    agreement = (turned * after.rotations[0, 0]).sum(-1).abs()
    torch.testing.assert_close(agreement, torch.ones_like(agreement), atol=1e-4, rtol=0.0)
    torch.testing.assert_close(after.rotations.norm(dim=-1), torch.ones(1, 1, points.num_points))


def test_compat_takes_the_nearest_vertex_and_clean_the_mean(
    toy_body: BodyModel, toy_config: ModelConfig, random_body_batch: Poses
) -> None:
    points = sample_query_points(toy_body, toy_config)
    clean = Skinner(toy_body, points, _config(False))
    compat = Skinner(toy_body, points, _config(True))
    torch.testing.assert_close(compat.weights, points.nearest(toy_body.weights))
    torch.testing.assert_close(clean.weights, points.interpolate(toy_body.weights))
    assert not torch.allclose(clean.weights, compat.weights)


def test_shape_moves_points_in_both_modes(
    toy_body: BodyModel, toy_config: ModelConfig, random_body_batch: Poses
) -> None:
    for compat in (False, True):
        skinner, points = _at_vertices(toy_body, toy_config, compat=compat)
        thin, thick = random_body_batch(1, 1), replace(random_body_batch(1, 1), betas=torch.eye(10)[:1] * 3.0)
        gaussians = _gaussians(1, points.num_points)
        assert (skinner(gaussians, thick).means - skinner(gaussians, thin).means).norm(dim=-1).max() > 0.05


def test_offsets_receive_gradients_and_tables_do_not(
    toy_body: BodyModel, toy_config: ModelConfig, random_body_batch: Poses
) -> None:
    skinner, points = _at_vertices(toy_body, toy_config)
    gaussians = _gaussians(1, points.num_points)
    offsets = gaussians.offsets.clone().requires_grad_()
    batch = random_body_batch(1, 2, seed=1)
    skinner(replace(gaussians, offsets=offsets), batch).means.sum().backward()
    assert offsets.grad is not None and bool((offsets.grad.abs().sum(-1) > 0).all())
    assert not list(skinner.parameters()) and not skinner.state_dict()


def test_wrong_number_of_coefficients_is_refused(
    toy_body: BodyModel, toy_config: ModelConfig, random_body_batch: Poses
) -> None:
    skinner, points = _at_vertices(toy_body, toy_config)
    with pytest.raises(BodyError, match="betas"):
        skinner(_gaussians(1, points.num_points), replace(random_body_batch(1, 1), betas=torch.zeros(1, 4)))
