"""CPU rasteriser: the kernels of `render_kernels` as one differentiable torch operation, spread over threads.

Threads are plain Python threads around GIL-free kernels, as many as torch may use, rather than numba's own
threading layers: those crash when two threads of one process call them, or after a fork.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, Int64
from torch import Tensor

from lhmforge.lhm_model import render_kernels as kernels
from lhmforge.lhm_model.render_projection import RasterSettings, Splats
from lhmforge.lhm_model.render_reference import Composite

T = TypeVar("T")


def composite_numba(
    splats: Splats, features: Float[Tensor, "M N 4"], *, width: int, height: int, settings: RasterSettings
) -> Composite:
    """Same contract as `composite_reference`, for four features, in float32 on the CPU."""
    rows = torch.cat((splats.means_px, splats.conics, splats.opacities[..., None], features), dim=-1)
    image, transmittance = _Composite.apply(rows.float().contiguous(), width, height, settings)  # type: ignore[no-untyped-call]
    return Composite(features=image, transmittance=transmittance)


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """One view's splats and their tile lists."""

    splats: Float32[np.ndarray, "N 10"]
    offsets: Int64[np.ndarray, " tiles_and_one"]
    ids: Int32[np.ndarray, " pairs"]

    def spans(self, count: int) -> list[tuple[int, int]]:
        """At most `count` spans of tiles with about equal numbers of splats; empty tiles weigh as two splats."""
        num_tiles = len(self.offsets) - 1
        work = self.offsets + 2 * np.arange(num_tiles + 1)
        edges = np.searchsorted(work, np.linspace(0, work[-1], count + 1)[1:-1])
        edges = np.unique(np.concatenate(([0], edges, [num_tiles])))
        return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, rows: Tensor, width: int, height: int, settings: RasterSettings
    ) -> tuple[Tensor, Tensor]:
        splats = rows.detach().numpy()
        num_views = len(splats)
        image = np.empty((num_views, 4, height, width), np.float32)
        light = np.empty((num_views, height, width), np.float32)
        last = np.empty((num_views, height, width), np.int32)
        views = _run([functools.partial(_bin_view, view, width, height, settings) for view in splats])
        limits = (np.float32(settings.alpha_cutoff), np.float32(settings.max_alpha))
        minimum = np.float32(settings.min_transmittance)
        jobs = []
        for index, view in enumerate(views):
            outputs = (image[index], light[index], last[index])
            for span in view.spans(_spans_per_view(num_views)):
                data = (*span, view.offsets, view.ids, view.splats, *limits, minimum, *outputs)
                jobs.append(functools.partial(kernels.composite_tiles, *data))
        _run(jobs)
        ctx.views, ctx.limits, ctx.light, ctx.last = views, limits, light, last  # type: ignore[attr-defined]
        return torch.from_numpy(image), torch.from_numpy(light.copy())

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, grad_image: Tensor, grad_light: Tensor
    ) -> tuple[Tensor, None, None, None]:
        views: list[_View] = ctx.views  # type: ignore[attr-defined]
        grads = (grad_image.contiguous().numpy(), grad_light.contiguous().numpy())
        pairs = [np.empty((len(view.ids), kernels.SPLAT_SIZE), np.float32) for view in views]
        jobs = []
        for index, view in enumerate(views):
            saved = (ctx.light[index], ctx.last[index])  # type: ignore[attr-defined]
            for span in view.spans(_spans_per_view(len(views))):
                lists = (*span, view.offsets, view.ids, view.splats, *ctx.limits)  # type: ignore[attr-defined]
                data = (*lists, *saved, grads[0][index], grads[1][index], pairs[index])
                jobs.append(functools.partial(kernels.composite_tiles_backward, *data))
        _run(jobs)
        grad_rows = np.zeros((len(views), *views[0].splats.shape), np.float32)
        _run([
            functools.partial(kernels.sum_pairs, view.ids, pair, grad)
            for view, pair, grad in zip(views, pairs, grad_rows, strict=True)
        ])  # fmt: skip
        return torch.from_numpy(grad_rows), None, None, None


def _bin_view(splats: Float32[np.ndarray, "N 10"], width: int, height: int, settings: RasterSettings) -> _View:
    tiles_x, tiles_y = -(-width // kernels.TILE), -(-height // kernels.TILE)
    order = np.argsort(splats[:, 9], kind="stable")
    ranges = kernels.tile_ranges(splats, width, height, np.float32(settings.alpha_cutoff))
    offsets, ids = kernels.bin_splats(ranges, order, tiles_x, tiles_y)
    return _View(splats=splats, offsets=offsets, ids=ids)


def _spans_per_view(num_views: int) -> int:
    threads = torch.get_num_threads()
    return 1 if threads == 1 or num_views >= 4 * threads else -(-4 * threads // num_views)


@functools.cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """A pool per process (a forked child inherits none of its parent's threads) and thread count."""
    return ThreadPoolExecutor(threads, thread_name_prefix="splat")


def _run(jobs: Sequence[Callable[[], T]]) -> list[T]:
    threads = torch.get_num_threads()
    if threads == 1 or len(jobs) == 1:
        return [job() for job in jobs]
    return list(_pool(os.getpid(), threads).map(lambda job: job(), jobs))
