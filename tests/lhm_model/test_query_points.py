"""Query points: where they lie, that they are reproducible, and what they refuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.errors import CheckpointError
from lhmforge.lhm_model.config import ModelConfig
from lhmforge.lhm_model.point_binding import bind_points, project_to_mesh
from lhmforge.lhm_model.query_points import HEAD_JOINTS, sample_query_points


def test_the_draw_is_reproducible_and_depends_on_the_seed(toy_body: BodyModel, toy_config: ModelConfig) -> None:
    config = toy_config
    first, second = sample_query_points(toy_body, config), sample_query_points(toy_body, config)
    assert first.digest == second.digest
    assert first.digest != sample_query_points(toy_body, replace(config, point_seed=1)).digest


def test_body_points_come_first_and_no_point_straddles_the_border(toy_body: BodyModel, toy_config: ModelConfig) -> None:
    config = replace(toy_config, num_points=400)
    points = sample_query_points(toy_body, config)
    in_head = torch.isin(toy_body.dominant_joint, torch.tensor(HEAD_JOINTS))[points.vertex_ids]
    assert points.num_body == 300 and points.num_points == 400
    assert not in_head[:300].any() and in_head[300:].all()


def test_points_are_spread_by_area(toy_body: BodyModel, toy_config: ModelConfig) -> None:
    points = sample_query_points(toy_body, replace(toy_config, num_points=8000))
    positions = points.interpolate(toy_body.v_template)[: points.num_body]
    corners = toy_body.v_template[toy_body.faces]
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1)
    in_head = torch.isin(toy_body.dominant_joint, torch.tensor(HEAD_JOINTS))[toy_body.faces].any(1)
    centroid = (corners.mean(1) * area[:, None])[~in_head].sum(0) / area[~in_head].sum()
    torch.testing.assert_close(positions.mean(0), centroid, atol=0.01, rtol=0.0)


def test_another_mesh_is_refused(toy_body: BodyModel, toy_config: ModelConfig) -> None:
    points = sample_query_points(toy_body, toy_config)
    with pytest.raises(CheckpointError, match="topology digest"):
        points.check_body(replace(toy_body, topology_digest="0" * 64))


def test_malformed_points_are_refused(toy_body: BodyModel, toy_config: ModelConfig) -> None:
    points = sample_query_points(toy_body, toy_config)
    with pytest.raises(CheckpointError, match="barycentrics"):
        replace(points, barycentric=points.barycentric * 2)
    with pytest.raises(CheckpointError, match="body points"):
        replace(points, num_body=points.num_points)


def test_interpolate_and_nearest_agree_at_a_vertex(toy_body: BodyModel, toy_config: ModelConfig) -> None:
    points = sample_query_points(toy_body, toy_config)
    corner = torch.nn.functional.one_hot(torch.zeros(points.num_points, dtype=torch.long), 3).float()
    points = replace(points, barycentric=corner)
    torch.testing.assert_close(points.interpolate(toy_body.weights), toy_body.weights[points.vertex_ids[:, 0]])
    torch.testing.assert_close(points.nearest(toy_body.weights), points.interpolate(toy_body.weights))


def test_positions_are_bound_back_to_where_they_were(toy_body: BodyModel, toy_config: ModelConfig) -> None:
    points = sample_query_points(toy_body, toy_config)
    positions = points.interpolate(toy_body.v_template).double().numpy()
    bound = bind_points(toy_body, positions, num_body=points.num_body, leg_spread_deg=20.0)
    np.testing.assert_allclose(bound.interpolate(toy_body.v_template).numpy(), positions, atol=1e-5)
    with pytest.raises(CheckpointError, match="another body"):
        bind_points(toy_body, positions + 0.05, num_body=points.num_body, leg_spread_deg=20.0)


def test_projection_of_a_distant_point_is_the_closest(toy_body: BodyModel, toy_config: ModelConfig) -> None:
    triangle = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    found = project_to_mesh(triangle, np.array([[0, 1, 2]]), np.array([[0.2, 0.2, 0.5], [2.0, 0.0, 0.0], [1.0, 1, 0]]))
    np.testing.assert_allclose(found.barycentric @ triangle, [[0.2, 0.2, 0], [1, 0, 0], [0.5, 0.5, 0]], atol=1e-12)
    np.testing.assert_allclose(found.distance, [0.5, 1.0, np.sqrt(0.5)])


def test_a_missing_point_file_is_named(tmp_path: Path) -> None:
    from lhmforge.lhm_model.point_binding import read_point_ply

    with pytest.raises(CheckpointError, match="no such point file"):
        read_point_ply(tmp_path / "1_40000.ply")
