"""A very small LHM on the toy body, and batches for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from lhmforge.datasets.batch import Batch, BodyBatch
from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.body.toy import write_toy_body
from lhmforge.lhm_model.config import EncoderConfig, GaussianHeadConfig, ModelConfig, preset


@pytest.fixture(scope="session")
def toy_body(tmp_path_factory: pytest.TempPathFactory) -> BodyModel:
    return BodyModel.load(write_toy_body(tmp_path_factory.mktemp("body") / "toy.npz"))


@pytest.fixture(scope="session")
def toy_config() -> ModelConfig:
    return replace(
        preset("tiny"),
        width=32,
        num_heads=2,
        num_points=96,
        body_encoder=EncoderConfig(kind="small", image_size=64, patch_size=16, channels=32, depth=1, num_heads=2),
        head_encoder=EncoderConfig(kind="small", image_size=32, patch_size=8, channels=24, depth=1, num_heads=2),
        gaussian_head=GaussianHeadConfig(hidden=(32,)),
    )


@pytest.fixture(scope="session")
def random_body_batch() -> Callable[..., BodyBatch]:
    """(batch, views, seed, scale) -> random poses; without a seed the rest pose."""
    return _body_batch


@pytest.fixture(scope="session")
def toy_batch() -> Batch:
    """Two samples with two views of 48 pixels; the second has no visible face."""
    generator = torch.Generator().manual_seed(0)
    rand = lambda *shape: torch.rand(shape, generator=generator)  # noqa: E731
    intrinsics = torch.tensor([[60.0, 0.0, 24.0], [0.0, 60.0, 24.0], [0.0, 0.0, 1.0]])
    camera = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    camera[2, 3] = 3.0
    return Batch(
        sample_ids=("first", "second"),
        source_image=rand(2, 3, 80, 48),
        source_alpha=rand(2, 1, 80, 48),
        head_image=rand(2, 3, 32, 32),
        head_valid=torch.tensor([True, False]),
        target_image=rand(2, 2, 3, 48, 48),
        target_alpha=rand(2, 2, 1, 48, 48),
        target_head_box=torch.zeros(2, 2, 4),
        background=torch.ones(2, 2, 3),
        intrinsics=intrinsics.expand(2, 2, 3, 3).contiguous(),
        world_to_camera=camera.expand(2, 2, 4, 4).contiguous(),
        body=_body_batch(2, 2, seed=0, scale=0.1),
    )


def _body_batch(batch: int, views: int, *, seed: int | None = None, scale: float = 0.4) -> BodyBatch:
    generator = torch.Generator().manual_seed(seed or 0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.zeros(shape) if seed is None else scale * torch.randn(shape, generator=generator)

    return BodyBatch(
        betas=draw(batch, 10),
        expression=draw(batch, views, 10),
        global_orient=draw(batch, views, 3),
        body_pose=draw(batch, views, 21, 3),
        jaw_pose=draw(batch, views, 3),
        leye_pose=draw(batch, views, 3),
        reye_pose=draw(batch, views, 3),
        left_hand_pose=draw(batch, views, 15, 3),
        right_hand_pose=draw(batch, views, 15, 3),
        transl=draw(batch, views, 3),
    )
