"""Exported avatars: posing the files gives what the model gives, and odd files are named."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.body.params import BodyParams
from lhmforge.datasets.errors import BodyError, ShardError
from lhmforge.lhm_model.avatar import Avatar, write_avatar
from lhmforge.lhm_model.config import ModelConfig
from lhmforge.lhm_model.gaussians import CanonicalGaussians
from lhmforge.lhm_model.model import LHM
from lhmforge.lhm_model.ply import GaussianCloud
from lhmforge.lhm_model.render_projection import rotation_matrices
from lhmforge.lhm_model.rig import Rig, RiggedAvatar, read_rig


@pytest.fixture(scope="module")
def avatar(toy_body: BodyModel, toy_config: ModelConfig) -> Avatar:
    count = 300
    generator = torch.Generator().manual_seed(1)
    canonical = CanonicalGaussians(
        offsets=0.02 * torch.randn(1, count, 3, generator=generator),
        scales=0.01 + 0.03 * torch.rand(1, count, 3, generator=generator),
        rotations=torch.nn.functional.normalize(torch.randn(1, count, 4, generator=generator), dim=-1),
        opacities=torch.rand(1, count, generator=generator),
        colours=torch.rand(1, count, 3, generator=generator),
    )
    model = LHM(replace(toy_config, num_points=count), toy_body).eval()
    return Avatar(model=model, canonical=canonical, betas=np.linspace(-1, 1, 10).astype(np.float32))


def _random_body(scale: float) -> BodyParams:
    rng = np.random.default_rng(2)
    rest = BodyParams.rest(1)
    names = [f.name for f in fields(BodyParams) if f.name != "betas"]
    drawn = {name: rng.normal(0, scale, getattr(rest, name).shape).astype(np.float32) for name in names}
    return replace(rest, **drawn)


def test_the_files_pose_like_the_model(avatar: Avatar, tmp_path: Path) -> None:
    write_avatar(tmp_path, avatar)
    rigged = RiggedAvatar.load(tmp_path)
    body = _random_body(0.4)
    expected = GaussianCloud.of(avatar.pose(body))
    posed = rigged.pose(body)
    np.testing.assert_allclose(posed.means, expected.means, atol=3e-4)
    axes = rotation_matrices(torch.from_numpy(expected.rotations)).numpy() * expected.scales[:, None, :]
    covariances = axes @ axes.transpose(0, 2, 1)
    errors = np.linalg.norm(posed.covariances - covariances, axis=(1, 2)) / np.linalg.norm(covariances, axis=(1, 2))
    # The model and the files take the nearest rotation at different places of the chain; joints far bent differ most.
    assert np.median(errors) < 0.01 and errors.max() < 0.2
    plain = replace(body, expression=np.zeros_like(body.expression))
    assert np.abs(rigged.pose(plain).means - posed.means).max() > 1e-3, "the expression must matter"


def test_odd_files_are_named(avatar: Avatar, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"avatar\.ply"):
        RiggedAvatar.load(tmp_path)
    write_avatar(tmp_path, avatar)
    whole = (tmp_path / "rig.npz").read_bytes()
    arrays = dict(np.load(tmp_path / "rig.npz"))
    (tmp_path / "rig.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BodyError, match=r"rig\.npz: not a readable npz"):
        RiggedAvatar.load(tmp_path)
    (tmp_path / "rig.npz").unlink()
    with pytest.raises(BodyError, match="no such rig"):
        RiggedAvatar.load(tmp_path)
    for change, words in (
        ({"version": np.array([1])}, "run `lhmforge animate` again"),
        ({"weights": arrays["weights"] * 2}, "sum to 1"),
        ({"betas": np.full(10, np.nan, np.float32)}, "betas holds a value that is not finite"),
        ({"surplus": np.zeros(1)}, "expected the arrays"),
    ):
        np.savez(tmp_path / "rig.npz", **(arrays | change))
        with pytest.raises(BodyError, match=words):
            read_rig(tmp_path / "rig.npz")


def test_a_cloud_of_another_avatar_is_refused(avatar: Avatar, tmp_path: Path) -> None:
    write_avatar(tmp_path, avatar)
    rigged = RiggedAvatar.load(tmp_path)
    fewer: Rig = replace(
        rigged.rig,
        weights=rigged.rig.weights[:-1],
        expression_directions_m=rigged.rig.expression_directions_m[:-1],
    )
    with pytest.raises(BodyError, match="not of one avatar"):
        RiggedAvatar(rigged.cloud, fewer)
