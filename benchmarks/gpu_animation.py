"""Times posing, rendering and image to avatar on one CUDA device.

Run: python benchmarks/gpu_animation.py [--only animation avatar] [--kernels cudnn flash4] [--output rows.json]
Encoders have their real size and random weights: times and memory do not depend on them.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from gpu_inputs import random_avatar
from gpu_rows import DEVICE, Row, median_ms, run_parts

from lhmforge.datasets.body.builtin_motion import walk_and_wave
from lhmforge.datasets.body.free_body import free_body_path
from lhmforge.datasets.body.model import BodyModel
from lhmforge.lhm_model.animate import camera_for, render_motion
from lhmforge.lhm_model.attention import KERNELS, kernel_available
from lhmforge.lhm_model.avatar import write_avatar
from lhmforge.lhm_model.config import preset, with_random_body_encoder
from lhmforge.lhm_model.gaussians import CanonicalGaussians
from lhmforge.lhm_model.network import LHMNetwork, compile_blocks, halve_weights
from lhmforge.lhm_model.render import render_gaussians


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=["animation", "avatar"], choices=["animation", "avatar"])
    parser.add_argument("--presets", nargs="+", default=["0.5b", "0.7b", "1b"])
    parser.add_argument("--kernels", nargs="+", default=["cudnn"], choices=KERNELS)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    body = BodyModel.load(free_body_path())
    kernels = [kernel for kernel in args.kernels if kernel_available(kernel)]
    parts = {"animation": lambda: time_animation(body), "avatar": lambda: time_avatars(args.presets, body, kernels)}
    run_parts(parts, args.only, args.output)


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


if __name__ == "__main__":
    main()
