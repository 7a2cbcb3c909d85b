"""What the GPU benchmarks train on and draw: a batch of people, the losses of `lhmforge train`, an avatar."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from gpu_rows import DEVICE
from torch import Tensor

from lhmforge.datasets.batch import Batch, BodyBatch
from lhmforge.datasets.body.builtin_motion import walk_and_wave
from lhmforge.datasets.body.model import BodyModel
from lhmforge.lhm_model.avatar import Avatar
from lhmforge.lhm_model.config import preset
from lhmforge.lhm_model.gaussians import CanonicalGaussians, PosedGaussians
from lhmforge.lhm_model.losses import LossConfig, PointParts, compute_losses
from lhmforge.lhm_model.model import LHM, LHMOutput
from lhmforge.lhm_model.perceptual import Perceptual
from lhmforge.lhm_model.render import render_gaussians
from lhmforge.lhm_model.train_loop import ObjectiveValue


class Objective:
    """The loss of `lhmforge train`, callable in parts."""

    def __init__(self, model: LHM, perceptual: Perceptual) -> None:
        self._parts, self._perceptual = PointParts.from_skinning(model.skinner.weights), perceptual
        self._config = LossConfig()

    def __call__(self, model: torch.nn.Module, batch: Batch, step: int) -> ObjectiveValue:
        return self.losses(model(batch), batch, step)

    def losses(self, output: object, batch: Batch, step: int) -> ObjectiveValue:
        losses = compute_losses(
            output, batch, config=self._config, step=step, parts=self._parts, perceptual=self._perceptual  # type: ignore[arg-type]
        )  # fmt: skip
        return ObjectiveValue(total=losses.total, parts=losses.parts)

    def render(self, posed: PosedGaussians, canonical: CanonicalGaussians, batch: Batch) -> LHMOutput:
        height, width = batch.target_image.shape[-2:]
        views = render_gaussians(
            posed, intrinsics=batch.intrinsics, world_to_camera=batch.world_to_camera, width=width, height=height,
            background=batch.background,
        )  # fmt: skip
        return LHMOutput(canonical=canonical, posed=posed, views=views)


def make_objective(model: LHM) -> Objective:
    """Losses with an LPIPS-VGG of random weights, compiled on CUDA as `lhmforge train` does."""
    perceptual = random_perceptual()
    if DEVICE.type == "cuda":
        perceptual.compile(dynamic=False)
    return Objective(model, perceptual)


def random_perceptual() -> Perceptual:
    """LPIPS-VGG with random weights: it costs what the real one costs."""
    torch.manual_seed(1)
    perceptual = Perceptual("vgg")
    for head in perceptual.heads:
        head.data.uniform_(0, 0.1)
    return perceptual.to(DEVICE)


def make_batch(body: BodyModel, batch_size: int, views: int, size: int, *, head: int) -> Batch:
    """People in poses of the built-in walk, filling square pictures of random smooth content."""
    generator = torch.Generator().manual_seed(2)
    motion = walk_and_wave(fps=12.0).body
    rng = np.random.default_rng(0)
    people = [motion.select(np.sort(rng.integers(0, motion.num_frames, views))) for _ in range(batch_size)]
    arrays = [person.to_arrays() for person in people]
    stacked = {name: torch.from_numpy(np.stack([array[name] for array in arrays])) for name in arrays[0]}
    stacked["betas"] = torch.nn.functional.pad(stacked["betas"], (0, body.num_betas))[:, : body.num_betas]
    expressions = torch.nn.functional.pad(stacked["expression"], (0, body.num_expression))
    stacked["expression"] = expressions[..., : body.num_expression]
    camera = torch.eye(4).expand(batch_size, views, 4, 4).clone()
    camera[..., :3, 3] = torch.tensor([0.0, 0.0, 4.2]) - stacked["transl"].mean(1, keepdim=True)
    focal = 2.0 * size
    intrinsics = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])

    def smooth(*shape: int) -> Tensor:
        coarse = torch.rand(*shape[:-2], 8, 8, generator=generator).flatten(0, -4)
        large = torch.nn.functional.interpolate(coarse, shape[-2:], mode="bilinear")
        return large.reshape(shape)

    return Batch(
        sample_ids=tuple(str(index) for index in range(batch_size)),
        source_image=smooth(batch_size, 3, size, size),
        source_alpha=torch.ones(batch_size, 1, size, size),
        head_image=smooth(batch_size, 3, head, head),
        head_valid=torch.ones(batch_size, dtype=torch.bool),
        target_image=smooth(batch_size, views, 3, size, size),
        target_alpha=smooth(batch_size, views, 1, size, size),
        target_head_box=torch.zeros(batch_size, views, 4),
        background=torch.ones(batch_size, views, 3),
        intrinsics=intrinsics.expand(batch_size, views, 3, 3).clone(),
        world_to_camera=camera,
        body=BodyBatch(**stacked),
    )


def random_avatar(body: BodyModel, points: int) -> Avatar:
    """An avatar of plausible splats; the network that would have predicted it is a tiny one."""
    generator = torch.Generator().manual_seed(3)
    model = LHM(replace(preset("tiny"), num_points=points), body).to(DEVICE).eval()

    def draw(*shape: int) -> Tensor:
        return torch.rand(1, points, *shape, generator=generator).to(DEVICE)

    canonical = CanonicalGaussians(
        offsets=0.02 * (draw(3) - 0.5),
        scales=0.003 + 0.006 * draw(3),
        rotations=torch.nn.functional.normalize(draw(4) - 0.5, dim=-1),
        opacities=0.2 + 0.8 * draw(),
        colours=draw(3),
    )
    return Avatar(model=model, canonical=canonical, betas=np.zeros(10, np.float32))
