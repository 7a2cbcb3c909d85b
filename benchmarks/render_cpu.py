"""Times the CPU rasteriser on a body-like cloud of Gaussians: forward + L1 loss + backward.

Run: python benchmarks/render_cpu.py [--threads 2] [--repeats 10]
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor

from lhmforge.lhm_model.gaussians import PosedGaussians
from lhmforge.lhm_model.render import render_gaussians

# Centre and half-axes in metres of head, trunk, two legs, two arms; y points down. About 15 % of a square frame.
_ELLIPSOIDS = torch.tensor([
    [0.00, -0.70, 0.0, 0.10, 0.13, 0.11], [0.00, -0.20, 0.0, 0.17, 0.36, 0.12],
    [-0.11, 0.50, 0.0, 0.08, 0.44, 0.09], [0.11, 0.50, 0.0, 0.08, 0.44, 0.09],
    [-0.30, -0.15, 0.0, 0.06, 0.36, 0.06], [0.30, -0.15, 0.0, 0.06, 0.36, 0.06],
])  # fmt: skip


def body_cloud(points: int, *, views: int = 1, seed: int = 0) -> PosedGaussians:
    """`points` Gaussians on the surface of six ellipsoids, of the size that an avatar's have."""
    generator = torch.Generator().manual_seed(seed)
    parts = _ELLIPSOIDS[torch.randint(len(_ELLIPSOIDS), (points,), generator=generator)]
    on_sphere = torch.nn.functional.normalize(torch.randn(points, 3, generator=generator), dim=-1)
    spread = (0.9 / points**0.5) * torch.exp(0.3 * torch.randn(1, points, 3, generator=generator))
    return PosedGaussians(
        means=(parts[:, :3] + parts[:, 3:] * on_sphere).expand(1, views, points, 3).clone(),
        rotations=torch.nn.functional.normalize(torch.randn(1, views, points, 4, generator=generator), dim=-1),
        scales=spread,
        opacities=torch.sigmoid(1.5 + torch.randn(1, points, generator=generator)),
        colours=torch.rand(1, points, 3, generator=generator),
    )


def camera(size: int, views: int) -> tuple[Tensor, Tensor]:
    """Intrinsics and world-to-camera matrices that show the cloud 2 m high in a square frame."""
    focal = 1.4 * size
    intrinsics = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])
    world_to_camera = torch.eye(4)
    world_to_camera[2, 3] = 3.0
    return intrinsics.expand(1, views, 3, 3), world_to_camera.expand(1, views, 4, 4)


def milliseconds(points: int, size: int, views: int, backend: str, repeats: int) -> tuple[float, float, float]:
    """Medians of the forward and backward time, and the share of the frame that is covered."""
    posed = body_cloud(points, views=views)
    leaves = [getattr(posed, name).requires_grad_() for name in PosedGaussians.__slots__]
    intrinsics, world_to_camera = camera(size, views)
    target = torch.rand(1, views, 3, size, size)
    forward, backward, covered = [], [], 0.0
    for _ in range(repeats + 1):
        for leaf in leaves:
            leaf.grad = None
        start = time.perf_counter()
        result = render_gaussians(
            posed, intrinsics=intrinsics, world_to_camera=world_to_camera, width=size, height=size,
            background=torch.ones(1, views, 3), backend=backend,
        )  # fmt: skip
        loss = (result.colour - target).abs().mean() + result.alpha.mean()
        middle = time.perf_counter()
        loss.backward()
        forward.append(middle - start)
        backward.append(time.perf_counter() - middle)
        covered = (result.alpha > 0.5).float().mean().item()
    return 1e3 * statistics.median(forward[1:]), 1e3 * statistics.median(backward[1:]), covered


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--reference", action="store_true", help="time the torch reference too (slow)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{arguments.threads} threads, median of {arguments.repeats}")
    print("backend  points  size  views  covered  forward ms  backward ms  sum ms")
    cases = [(20_000, 256, 1), (20_000, 512, 1), (40_000, 256, 1), (40_000, 512, 1), (4_000, 128, 4)]
    for backend in ("numba", "torch") if arguments.reference else ("numba",):
        for points, size, views in cases[:1] if backend == "torch" else cases:
            forward, backward, covered = milliseconds(points, size, views, backend, arguments.repeats)
            print(
                f"{backend:7}  {points:6}  {size:4}  {views:5}  {covered:7.1%}  {forward:10.1f}  {backward:11.1f}"
                f"  {forward + backward:6.1f}"
            )


if __name__ == "__main__":
    main()
