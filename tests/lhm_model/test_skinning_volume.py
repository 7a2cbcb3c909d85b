"""Skinning weights in space: sums, rigid parts, smoothness between limbs, the cache, and points that never turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from lhmforge.datasets.assets import CACHE_VARIABLE, cache_root
from lhmforge.datasets.batch import BodyBatch
from lhmforge.datasets.body.joints import joint
from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.errors import BodyError, ConfigError
from lhmforge.lhm_model.config import ModelConfig
from lhmforge.lhm_model.gaussians import CanonicalGaussians
from lhmforge.lhm_model.model import LHM
from lhmforge.lhm_model.query_points import QueryPoints, sample_query_points
from lhmforge.lhm_model.skinning import Skinner, SkinningConfig

Poses = Callable[..., BodyBatch]
DIFFUSED = SkinningConfig(kind="diffused", volume_spacing_m=0.05)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(cache))


@pytest.fixture
def points(toy_body: BodyModel, toy_config: ModelConfig) -> QueryPoints:
    return sample_query_points(toy_body, replace(toy_config, num_points=2000))


@pytest.fixture
def diffused(toy_body: BodyModel, points: QueryPoints, cache: Path) -> Skinner:
    return Skinner(toy_body, points, DIFFUSED)


def _gaussians(offsets: torch.Tensor) -> CanonicalGaussians:
    count = offsets.shape[1]
    return CanonicalGaussians(
        offsets=offsets,
        scales=torch.full((1, count, 3), 0.01),
        rotations=torch.nn.functional.normalize(torch.arange(1.0, 5.0), dim=0).repeat(1, count, 1),
        opacities=torch.ones(1, count),
        colours=torch.ones(1, count, 3),
    )


def _outward(skinner: Skinner, distance_m: float) -> torch.Tensor:
    """Offsets away from the nearest bone, as loose cloth has them."""
    joints = (
        skinner.canonical_transforms @ torch.nn.functional.pad(skinner.joints_template, (0, 1), value=1.0)[..., None]
    )[:, :3, 0]
    start, end = joints[[max(parent, 0) for parent in skinner.parents]], joints
    along = end - start
    to_point = skinner.canonical[:, None] - start
    share = ((to_point * along).sum(-1) / along.square().sum(-1).clamp(min=1e-9)).clamp(0, 1)
    from_bone = to_point - share[..., None] * along
    nearest = from_bone.norm(dim=-1).argmin(1)
    away = from_bone[torch.arange(len(from_bone)), nearest]
    return (torch.nn.functional.normalize(away, dim=-1) * distance_m)[None]


def test_weights_are_a_partition_everywhere(diffused: Skinner) -> None:
    far = torch.randn(2, diffused.canonical.shape[0], 3, generator=torch.Generator().manual_seed(0)) * 0.3
    weights = diffused.weights_at(far)
    assert weights.shape == (2, diffused.canonical.shape[0], 55) and bool((weights >= -1e-6).all())
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:2]), atol=1e-5, rtol=0.0)


def test_rigid_parts_keep_the_surface_weights_and_hands_and_face_do_everywhere(diffused: Skinner) -> None:
    near = diffused.weights_at(_outward(diffused, 0.01))[0]
    surface = diffused.canonical.numpy()
    around = cKDTree(surface).query_ball_point(surface, 0.06)
    rigid = [
        i for i, ids in enumerate(around) if bool((diffused.weights[ids] - diffused.weights[i]).abs().max() < 0.01)
    ]
    assert len(rigid) > 30 and len(set(diffused.weights[rigid].argmax(1).tolist())) > 2
    # The test's voxels are coarse (5 cm); at the default 2 cm the free body's rigid points differ by 0.003 on average.
    assert (near[rigid] - diffused.weights[rigid]).abs().sum(1).mean() < 0.1
    assert torch.equal(near[rigid].argmax(1), diffused.weights[rigid].argmax(1))
    held = diffused.held > 0.999
    assert held.any() and not held.all()
    loose = diffused.weights_at(_outward(diffused, 0.1))[0]
    torch.testing.assert_close(loose[held], diffused.weights[held], atol=2e-3, rtol=0.0)


def test_cloth_between_limbs_is_not_torn(
    diffused: Skinner, toy_body: BodyModel, points: QueryPoints, random_body_batch: Poses
) -> None:
    """Points 6 cm off the body near armpits and crotch: neighbours in space have like weights, and stay neighbours."""
    surface = Skinner(toy_body, points, SkinningConfig())
    offsets = _outward(surface, 0.06)
    region = [joint(name) for name in ("pelvis", "left_hip", "right_hip", "spine3", "left_shoulder", "right_shoulder")]
    chosen = torch.isin(surface.weights.argmax(1), torch.tensor(region))
    placed = (surface.canonical + offsets[0])[chosen].numpy()
    distances, indices = cKDTree(placed).query(placed, k=6)
    neighbours, apart = torch.from_numpy(indices[:, 1:]), torch.from_numpy(distances[:, 1:]).float()
    batch = random_body_batch(1, 1)
    pose = batch.body_pose.clone()
    pose[0, 0, joint("left_hip") - 1] = torch.tensor([-1.0, 0.0, 0.0])
    pose[0, 0, joint("left_shoulder") - 1, 2] = -1.1
    jumps, stretches = {}, {}
    for name, skinner in (("surface", surface), ("diffused", diffused)):
        weights = skinner.weights_at(offsets).reshape(-1, 55)[chosen]
        jumps[name] = float((weights[:, None] - weights[neighbours]).abs().sum(-1).quantile(0.99))
        posed = skinner(_gaussians(offsets), replace(batch, body_pose=pose)).means[0, 0][chosen]
        stretches[name] = float(((posed[:, None] - posed[neighbours]).norm(dim=-1) - apart).quantile(0.99))
    assert jumps["diffused"] < 0.6 * jumps["surface"]
    assert stretches["diffused"] < 0.8 * stretches["surface"]


def test_the_canonical_pose_is_reproduced_exactly(diffused: Skinner, random_body_batch: Poses) -> None:
    offsets = _outward(diffused, 0.05)
    batch = random_body_batch(1, 1)
    pose = batch.body_pose.clone()
    for name, sign in (("left_hip", 1.0), ("right_hip", -1.0)):
        pose[0, 0, joint(name) - 1, 2] = sign * np.deg2rad(20.0)
    posed = diffused(_gaussians(offsets), replace(batch, body_pose=pose))
    torch.testing.assert_close(posed.means[0, 0], diffused.canonical + offsets[0], atol=2e-5, rtol=0.0)


def test_gradients_flow_through_the_volume(diffused: Skinner, random_body_batch: Poses) -> None:
    offsets = _outward(diffused, 0.02).requires_grad_()
    diffused(_gaussians(offsets), random_body_batch(1, 2, seed=1)).means.square().sum().backward()
    assert offsets.grad is not None and bool(torch.isfinite(offsets.grad).all())
    assert bool((offsets.grad.abs().sum(-1) > 0).all()) and not diffused.state_dict()


def test_the_cache_gives_the_same_volume_and_a_torn_file_is_made_anew(
    toy_body: BodyModel, points: QueryPoints, diffused: Skinner
) -> None:
    (file,) = (cache_root() / "skinning").glob("*50mm.npz")
    assert toy_body.digest[:16] in file.name
    again = Skinner(toy_body, points, DIFFUSED)
    assert again.volume is not None and diffused.volume is not None
    assert torch.equal(again.volume.values, diffused.volume.values)
    whole = file.read_bytes()
    file.write_bytes(whole[:1000])
    anew = Skinner(toy_body, points, DIFFUSED)
    assert anew.volume is not None and torch.equal(anew.volume.values, diffused.volume.values)
    assert file.read_bytes() == whole


def test_the_model_takes_the_rule_from_its_configuration(toy_body: BodyModel, toy_config: ModelConfig) -> None:
    kinds = {"barycentric": replace(toy_config), "nearest": replace(toy_config, compat=True)}
    kinds["diffused"] = replace(toy_config, skinning="diffused", volume_spacing_m=0.05)
    for kind, config in kinds.items():
        assert config.skinning_kind == kind
        assert (LHM(config, toy_body).skinner.volume is not None) == (kind == "diffused")
    both = LHM(replace(kinds["diffused"], compat=True), toy_body).skinner
    assert both.compat and both.volume is not None
    with pytest.raises(ConfigError, match="volume_spacing_m"):
        replace(toy_config, volume_spacing_m=0.5)


def test_marked_points_never_turn(
    toy_body: BodyModel, points: QueryPoints, random_body_batch: Poses, tmp_path: Path
) -> None:
    marks = np.zeros(toy_body.num_vertices, np.int64)
    marks[: toy_body.num_vertices // 2] = 1
    np.savez(tmp_path / "marks.npz", masks=marks)
    config = SkinningConfig(kind="nearest", compat=True, unturned_file=str(tmp_path / "marks.npz"))
    skinner = Skinner(toy_body, points, config)
    marked = points.nearest(torch.from_numpy(marks).float()) > 0.5
    gaussians = _gaussians(torch.zeros(1, points.num_points, 3))
    batch = random_body_batch(1, 2, seed=4)
    posed = skinner(gaussians, batch)
    assert marked.any() and not marked.all()
    torch.testing.assert_close(posed.rotations[0, :, marked], gaussians.rotations[:, marked].expand(2, -1, -1))
    free = Skinner(toy_body, points, SkinningConfig(kind="nearest", compat=True))(gaussians, batch)
    torch.testing.assert_close(posed.rotations[:, :, ~marked], free.rotations[:, :, ~marked])
    torch.testing.assert_close(posed.means, free.means)


def test_files_of_marks_that_do_not_fit_are_named(toy_body: BodyModel, points: QueryPoints, tmp_path: Path) -> None:
    np.savez(tmp_path / "short.npz", masks=np.ones(7))
    np.savez(tmp_path / "other.npz", marks=np.ones(7))
    (tmp_path / "torn.npz").write_bytes((tmp_path / "short.npz").read_bytes()[:60])
    for name, words in (
        ("absent", "does not exist"),
        ("short", "7 marks for the"),
        ("other", "array `masks`"),
        ("torn", "array `masks`"),
    ):
        with pytest.raises(BodyError, match=words):
            Skinner(toy_body, points, SkinningConfig(unturned_file=str(tmp_path / f"{name}.npz")))
