"""Checks and times training on one CUDA device: rasteriser, precision, LPIPS, the full step.

Run: python benchmarks/gpu_training.py [--only raster precision perceptual step] [--kernels cudnn bounded flash4]
         [--preset 0.5b] [--batch 4] [--size 512] [--views 4] [--output rows.json]
Encoders have their real size and random weights, pictures are random: times and memory do not depend on them. The
step is the one of `lhmforge train`: losses with LPIPS-VGG, gradient clipping, fused AdamW, everything compiled that
it compiles.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path

import torch
from gpu_inputs import Objective, make_batch, make_objective, random_perceptual
from gpu_rows import DEVICE, Lap, Row, judged, median_ms, relative, run_parts
from torch import Tensor

from lhmforge.datasets.batch import Batch
from lhmforge.datasets.body.free_body import free_body_path
from lhmforge.datasets.body.model import BodyModel
from lhmforge.lhm_model.attention import KERNELS, kernel_available
from lhmforge.lhm_model.config import EncoderConfig, ModelConfig, preset, with_random_body_encoder
from lhmforge.lhm_model.gaussians import PosedGaussians
from lhmforge.lhm_model.model import LHM
from lhmforge.lhm_model.network import compile_blocks
from lhmforge.lhm_model.optim import OptimConfig, build_optimizer
from lhmforge.lhm_model.parallel import SingleProcess
from lhmforge.lhm_model.render import render_gaussians
from lhmforge.lhm_model.throughput import training_flops, utilisation
from lhmforge.lhm_model.train_loop import LoopConfig, TrainState, train_loop

PARTS = ("raster", "precision", "perceptual", "step")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--preset", default="0.5b")
    parser.add_argument("--kernels", nargs="+", default=["cudnn"], choices=KERNELS)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    body = BodyModel.load(free_body_path())
    kernels = [kernel for kernel in args.kernels if kernel_available(kernel)]
    config = with_random_body_encoder(preset(args.preset)) if args.preset != "tiny" else preset("tiny")
    parts: dict[str, Callable[[], Iterator[Row]]] = {
        "raster": check_rasteriser,
        "precision": lambda: check_precision(body),
        "perceptual": lambda: time_perceptual(args.batch, args.views, args.size),
        "step": lambda: time_steps(config, body, kernels, args.batch, args.views, args.size, args.steps),
    }
    run_parts(parts, args.only, args.output)


def check_rasteriser() -> Iterator[Row]:
    """gsplat against the plain-torch reference: images and gradients on random Gaussians, off-centre cameras."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator).to(DEVICE)

    leaves = {
        "means": draw(2, 2, 1500, 3) * 2 - 1,
        "rotations": torch.nn.functional.normalize(draw(2, 2, 1500, 4) - 0.5, dim=-1),
        "scales": 0.01 + 0.05 * draw(2, 1500, 3),
        "opacities": 0.05 + 0.9 * draw(2, 1500),
        "colours": draw(2, 1500, 3),
    }
    intrinsics = torch.tensor([[150.0, 0, 50], [0, 140, 70], [0, 0, 1]], device=DEVICE).expand(2, 2, 3, 3)
    camera = torch.eye(4, device=DEVICE).expand(2, 2, 4, 4).clone()
    camera[..., 2, 3] = 3.0
    weights = {"colour": draw(2, 2, 3, 128, 96), "alpha": draw(2, 2, 1, 128, 96), "depth": draw(2, 2, 1, 128, 96)}
    results = {}
    for backend in ("gsplat" if DEVICE.type == "cuda" else "numba", "torch"):
        inputs = {name: value.clone().requires_grad_() for name, value in leaves.items()}
        views = render_gaussians(
            PosedGaussians(**inputs), intrinsics=intrinsics, world_to_camera=camera, width=96, height=128,
            background=torch.full((2, 2, 3), 0.5, device=DEVICE), backend=backend,
        )  # fmt: skip
        images = {name: getattr(views, name) for name in weights}
        torch.stack([(images[name] * weights[name]).mean() for name in weights]).sum().backward()
        results[backend] = {**images, **{f"gradient of {name}": value.grad for name, value in inputs.items()}}
    fast, exact = results.values()
    for name, value in fast.items():
        assert value is not None and exact[name] is not None
        goal = 1e-2 if name.startswith("gradient") else 2e-3
        yield judged(f"rasteriser: relative error, {name}", relative(value, exact[name]), goal)


def check_precision(body: BodyModel) -> Iterator[Row]:
    """The loss and its gradient in bfloat16 autocast against float32, same weights and batch."""
    config = replace(
        preset("mini"),
        num_points=4000,
        body_encoder=EncoderConfig(kind="small", image_size=256, patch_size=16, channels=512, depth=4, num_heads=8),
        head_encoder=EncoderConfig(kind="small", image_size=128, patch_size=16, channels=384, depth=2, num_heads=6),
        head_token_shrinkage=0.0,
    )
    torch.manual_seed(0)
    model = LHM(config, body).to(DEVICE).train()
    with torch.no_grad():  # the head starts with zero weights: without noise every Gaussian would be the same
        for layer in (model.gaussian_head.offset, model.gaussian_head.scale, model.gaussian_head.rotation):
            layer.weight.normal_(std=2e-3)
    objective = make_objective(model)
    batch = make_batch(body, 2, 2, 192, head=128).to(DEVICE)
    losses, gradients = [], []
    for half in (False, True):
        model.zero_grad()
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16, enabled=half):
            loss = objective(model, batch, 500).total
        loss.backward()
        losses.append(float(loss.detach()))
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    cosine = float(torch.nn.functional.cosine_similarity(gradients[0], gradients[1], dim=0))
    yield judged("bfloat16: relative difference of the loss", abs(losses[1] - losses[0]) / abs(losses[0]), 1e-2)
    yield Row(what="bfloat16: cosine of its gradient to float32's", value=cosine, unit="", goal=">= 0.99")
    assert cosine > 0.9, "the gradient in half precision points elsewhere"


def time_perceptual(batch_size: int, views: int, size: int) -> Iterator[Row]:
    """LPIPS as written and compiled."""
    torch.manual_seed(0)
    image, target = (torch.rand(batch_size * views, 3, size, size, device=DEVICE) for _ in range(2))
    image.requires_grad_()
    for compiled in (False, True):
        perceptual = random_perceptual()
        if compiled:
            perceptual.compile(dynamic=False)

        def descend(loss: torch.nn.Module = perceptual) -> None:
            with torch.autocast(DEVICE.type, dtype=torch.bfloat16, enabled=DEVICE.type == "cuda"):
                value = loss(image, target).mean()
            torch.autograd.grad(value, image)

        milliseconds = median_ms(descend, 5)
        name = "compiled" if compiled else "as written"
        yield Row(what=f"LPIPS-VGG forward and backward, {name}", value=milliseconds, unit="ms")


def time_steps(
    config: ModelConfig, body: BodyModel, kernels: list[str], batch_size: int, views: int, size: int, steps: int
) -> Iterator[Row]:
    """Optimiser steps through `train_loop`, then one step taken apart."""
    torch.manual_seed(0)
    model = LHM(config, body).to(DEVICE).train()
    compile_blocks(model)
    objective = make_objective(model)
    batch = make_batch(body, batch_size, views, size, head=config.head_encoder.image_size)
    optim = OptimConfig()
    for kernel in kernels:
        model.set_attention_kernel(kernel)
        state = TrainState(model=model, optimizer=build_optimizer(model, optim), batches=_SameBatch(batch))
        clock = _Clock()
        if DEVICE.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        loop = LoopConfig(
            num_steps=steps, global_batch_size=batch_size, log_every=1, evaluate_every=0, checkpoint_every=0,
            precision="bfloat16" if DEVICE.type == "cuda" else "float32",
        )  # fmt: skip
        train_loop(
            state, objective, config=loop, optim=optim, seed=0, batch_size=batch_size, group=SingleProcess(),
            device=DEVICE, reporter=clock,
        )  # fmt: skip
        seconds = statistics.median(clock.seconds[len(clock.seconds) // 2 :])
        rate = batch_size / seconds
        label = f"step {config.name} {kernel}, {batch_size} x (1 + {views} of {size} px)"
        yield Row(what=f"{label}: time", value=1e3 * seconds, unit="ms")
        yield Row(what=f"{label}: throughput", value=rate, unit="samples/s", goal="report")
        used = utilisation(config, rate, DEVICE)
        flops = training_flops(config) / 1e12
        yield Row(
            what=f"{label}: MFU", value=100 * (used or 0.0), unit="%", goal=">= 45", note=f"{flops:.0f} TFLOP/sample"
        )
        if DEVICE.type == "cuda":
            yield Row(what=f"{label}: memory", value=torch.cuda.max_memory_allocated() / 1e9, unit="GB")
        for name, milliseconds in take_apart(model, objective, batch.to(DEVICE), state.optimizer, loop.precision):
            yield Row(what=f"  of it: {name}", value=milliseconds, unit="ms")


def take_apart(
    model: LHM, objective: Objective, batch: Batch, optimizer: torch.optim.Optimizer, precision: str
) -> Iterator[tuple[str, float]]:
    """Milliseconds of the parts of one step, the device waited for after each; medians of three."""
    torch.compiler.reset()  # compiled anew so that a graph can be walked back twice
    torch._functorch.config.donated_buffer = False
    times: dict[str, list[float]] = {}
    clock = Lap(times)
    for _ in range(3):
        clock.start()
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            body_tokens = model.body_encoder(batch.source_image)
            clock.lap("body encoder forward")
            model.head_encoder(batch.head_image)
            clock.lap("head encoder forward")
            del body_tokens
            canonical = model.encode(
                source_image=batch.source_image, head_image=batch.head_image, head_valid=batch.head_valid
            )
            clock.lap("encoders + transformer + Gaussian head forward")
            posed = model.pose(canonical, batch.body)
            clock.lap("posing forward")
            output = objective.render(posed, canonical, batch)
            clock.lap("rendering forward")
            value = objective.losses(output, batch, 10)
            clock.lap("losses forward")
        grads = torch.autograd.grad(
            value.total, [canonical.offsets, canonical.scales, canonical.colours], retain_graph=True
        )
        clock.lap("backward of losses + rendering + posing")
        del grads
        value.total.backward()
        clock.lap("backward of everything")
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        clock.lap("clipping + AdamW")
    for name, values in times.items():
        yield name, 1e3 * statistics.median(values)


class _SameBatch:
    """A stream of one batch, pinned as the loader's batches are."""

    def __init__(self, batch: Batch) -> None:
        tensors = {f.name: getattr(batch, f.name) for f in fields(batch) if f.name not in ("sample_ids", "body")}
        pinned = {name: value.pin_memory() if DEVICE.type == "cuda" else value for name, value in tensors.items()}
        self._batch = replace(batch, **pinned)

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield self._batch

    def state_dict(self) -> dict[str, int | str]:
        return {}

    def load_state_dict(self, state: dict[str, int | str]) -> None:
        return None


class _Clock:
    """Keeps the seconds of each step; evaluates and saves nothing."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        if "step_s" in values:
            self.seconds.append(values["step_s"])

    def evaluate(self, state: TrainState) -> dict[str, float]:
        return {}

    def checkpoint(self, state: TrainState, scores: Mapping[str, float]) -> None:
        return None


if __name__ == "__main__":
    main()
