"""Checks and times training on one CUDA device: rasteriser, precision, the full step, animation, image to avatar.

Run: python benchmarks/gpu_training.py [--only raster precision step animation avatar] [--kernels cudnn flash4]
         [--preset 0.5b] [--batch 4] [--size 512] [--views 4] [--output rows.json]
Encoders have their real size and random weights, pictures are random: times and memory do not depend on them. The
step is the one of `lhmforge train`: losses with LPIPS-VGG, gradient clipping, fused AdamW, blocks compiled.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lhmforge.datasets.batch import Batch, BodyBatch
from lhmforge.datasets.body.builtin_motion import walk_and_wave
from lhmforge.datasets.body.free_body import free_body_path
from lhmforge.datasets.body.model import BodyModel
from lhmforge.lhm_model.animate import camera_for, render_motion
from lhmforge.lhm_model.attention import KERNELS, kernel_available
from lhmforge.lhm_model.avatar import Avatar, write_avatar
from lhmforge.lhm_model.config import EncoderConfig, ModelConfig, preset, with_random_body_encoder
from lhmforge.lhm_model.gaussians import CanonicalGaussians, PosedGaussians
from lhmforge.lhm_model.losses import LossConfig, PointParts, compute_losses
from lhmforge.lhm_model.model import LHM
from lhmforge.lhm_model.network import LHMNetwork, compile_blocks, halve_weights
from lhmforge.lhm_model.optim import OptimConfig, build_optimizer
from lhmforge.lhm_model.parallel import SingleProcess
from lhmforge.lhm_model.perceptual import Perceptual
from lhmforge.lhm_model.render import render_gaussians
from lhmforge.lhm_model.throughput import training_flops, utilisation
from lhmforge.lhm_model.train_loop import LoopConfig, ObjectiveValue, TrainState, train_loop

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PARTS = ("raster", "precision", "step", "animation", "avatar")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table; `goal` says what to reach."""

    what: str
    value: float
    unit: str
    goal: str = ""
    note: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--preset", default="0.5b")
    parser.add_argument("--avatar-presets", nargs="+", default=["0.5b", "0.7b", "1b"])
    parser.add_argument("--kernels", nargs="+", default=["cudnn"], choices=KERNELS)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    if DEVICE.type == "cuda":
        print(torch.cuda.get_device_name(), torch.__version__, flush=True)
    body = BodyModel.load(free_body_path())
    kernels = [kernel for kernel in args.kernels if kernel_available(kernel)]
    config = with_random_body_encoder(preset(args.preset)) if args.preset != "tiny" else preset("tiny")
    parts: dict[str, Callable[[], Iterator[Row]]] = {
        "raster": check_rasteriser,
        "precision": lambda: check_precision(body),
        "step": lambda: time_steps(config, body, kernels, args.batch, args.views, args.size, args.steps),
        "animation": lambda: time_animation(body),
        "avatar": lambda: time_avatars(args.avatar_presets, body, kernels),
    }
    rows: list[Row] = []
    for name in args.only:
        started = time.monotonic()
        for row in parts[name]():
            rows.append(row)
            print(f"  {row.what:<58} {row.value:10.4g} {row.unit:<10} {row.goal:<12} {row.note}", flush=True)
            if args.output:
                args.output.write_text(json.dumps([asdict(row) for row in rows], indent=1))
        print(f"[{name}: {time.monotonic() - started:.0f} s]", flush=True)


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
        yield _judged(f"rasteriser: relative error, {name}", _relative(value, exact[name]), goal)


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
    yield _judged("bfloat16: relative difference of the loss", abs(losses[1] - losses[0]) / abs(losses[0]), 1e-2)
    yield Row(what="bfloat16: cosine of its gradient to float32's", value=cosine, unit="", goal=">= 0.99")
    assert cosine > 0.9, "the gradient in half precision points elsewhere"


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
    times: dict[str, list[float]] = {}
    clock = _Lap(times)
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

    def render(self, posed: PosedGaussians, canonical: CanonicalGaussians, batch: Batch) -> object:
        from lhmforge.lhm_model.model import LHMOutput

        height, width = batch.target_image.shape[-2:]
        views = render_gaussians(
            posed, intrinsics=batch.intrinsics, world_to_camera=batch.world_to_camera, width=width, height=height,
            background=batch.background,
        )  # fmt: skip
        return LHMOutput(canonical=canonical, posed=posed, views=views)


def make_objective(model: LHM) -> Objective:
    """Losses with an LPIPS-VGG of random weights: it costs what the real one costs."""
    torch.manual_seed(1)
    perceptual = Perceptual("vgg")
    for head in perceptual.heads:
        head.data.uniform_(0, 0.1)
    return Objective(model, perceptual.to(DEVICE))


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


def time_animation(body: BodyModel, points: int = 40_000, size: int = 1024) -> Iterator[Row]:
    """Posing and rendering of one avatar along a motion, pictures copied back to the CPU or left on the device."""
    avatar = random_avatar(body, points)
    motion = walk_and_wave(seconds=20.0 if DEVICE.type == "cuda" else 0.5)
    camera = camera_for(avatar, motion, width=size, height=size)
    count = sum(1 for _ in render_motion(avatar, motion, camera))  # warm-up
    started = time.perf_counter()
    count = sum(1 for _ in render_motion(avatar, motion, camera))
    seconds = time.perf_counter() - started
    name = f"animation, {points // 1000}K Gaussians at {size} px"
    yield Row(what=f"{name}: with copies to the CPU", value=count / seconds, unit="frames/s", goal=">= 200")
    chunk = motion.body.select(np.arange(8))
    given = camera.intrinsics, camera.world_to_camera
    matrices = [torch.from_numpy(matrix).to(DEVICE).expand(1, 8, *matrix.shape) for matrix in given]
    white = torch.ones(1, 8, 3, device=DEVICE)

    @torch.no_grad()
    def draw() -> None:
        posed = avatar.pose(chunk)
        render_gaussians(
            posed, intrinsics=matrices[0], world_to_camera=matrices[1], width=size, height=size, background=white
        )

    milliseconds = median_ms(draw, 20)
    yield Row(what=f"{name}: on the device", value=8e3 / milliseconds, unit="frames/s", goal=">= 200")
    yield Row(what="  of it: posing of 8 frames", value=median_ms(lambda: avatar.pose(chunk), 20), unit="ms")


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


def time_avatars(presets: list[str], body: BodyModel, kernels: list[str]) -> Iterator[Row]:
    """From a source picture and a head crop to an avatar: Gaussians, and with the .ply and the rig written."""
    goals = {"0.5b": "<= 300", "0.7b": "<= 450", "1b": "<= 600"}
    for name in presets:
        for kernel in kernels:
            yield from _time_avatar(name, body, kernel, goals.get(name, ""))


def _time_avatar(name: str, body: BodyModel, kernel: str, goal: str) -> Iterator[Row]:
    config = with_random_body_encoder(preset(name)) if name != "tiny" else preset(name)
    gc.collect()  # compiled blocks hold their network in cycles; the one before must not count as this one's memory
    holder = random_avatar(body, config.num_points)
    with DEVICE:
        network = LHMNetwork(config).eval()
    network.set_attention_kernel(kernel)
    if DEVICE.type == "cuda":
        halve_weights(network)
        compile_blocks(network)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    source, head = torch.rand(1, 3, 840, 504, device=DEVICE), torch.rand(1, 3, 448, 448, device=DEVICE)
    seen = torch.ones(1, dtype=torch.bool, device=DEVICE)

    @torch.no_grad()
    def reconstruct() -> CanonicalGaussians:
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16, enabled=DEVICE.type == "cuda"):
            return network.decode(
                source_image=source, head_image=head, head_valid=seen, canonical_points=holder.model.skinner.canonical
            )

    milliseconds = median_ms(reconstruct, 8)
    yield Row(what=f"image -> Gaussians, {name} {kernel}", value=milliseconds, unit="ms", goal=goal)
    if DEVICE.type == "cuda":
        yield Row(what="  peak memory", value=torch.cuda.max_memory_allocated() / 1e9, unit="GB", goal="<= 12")
    with tempfile.TemporaryDirectory() as folder:
        avatar = replace(holder, canonical=reconstruct())
        seconds = []
        for _ in range(3):
            started = time.perf_counter()
            write_avatar(Path(folder), avatar)
            seconds.append(time.perf_counter() - started)
    yield Row(what="  avatar.ply and rig.npz written", value=1e3 * statistics.median(seconds), unit="ms")


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
        self.seconds.append(values["step_s"])

    def evaluate(self, state: TrainState) -> dict[str, float]:
        return {}

    def checkpoint(self, state: TrainState, scores: Mapping[str, float]) -> None:
        return None


class _Lap:
    """Seconds between calls, the device waited for."""

    def __init__(self, times: dict[str, list[float]]) -> None:
        self._times = times

    def start(self) -> None:
        _wait()
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        _wait()
        now = time.perf_counter()
        self._times.setdefault(name, []).append(now - self._last)
        self._last = now


def median_ms(run: Callable[[], object], repeats: int) -> float:
    """Median milliseconds of a call, the device waited for, after two warm-up calls."""
    times = []
    for _ in range(repeats + 2):
        _wait()
        started = time.perf_counter()
        run()
        _wait()
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times[2:])


def _wait() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def _judged(what: str, value: float, limit: float) -> Row:
    assert value < 10 * limit, f"{what}: {value:.1e}"
    return Row(what=what, value=value, unit="", goal=f"<= {limit:.0e}", note="" if value <= limit else "ABOVE")


def _relative(ours: Tensor, reference: Tensor) -> float:
    return float((ours.detach() - reference.detach()).norm() / reference.detach().norm())


if __name__ == "__main__":
    main()
