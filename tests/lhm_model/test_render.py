"""The fast rasteriser against the reference, the reference against finite differences, projection against gsplat."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lhmforge.datasets.errors import BackendError, ConfigError
from lhmforge.lhm_model import render_kernels
from lhmforge.lhm_model.gaussians import PosedGaussians, RenderedViews
from lhmforge.lhm_model.render import RENDER_BACKENDS, render_gaussians
from lhmforge.lhm_model.render_projection import RasterSettings, project_gaussians

ATTRIBUTES = tuple(field.name for field in fields(PosedGaussians))
SMOOTH = RasterSettings(alpha_cutoff=1e-9, min_transmittance=1e-12)  # no visible edge, so the loss is differentiable


def cloud(points: int = 300, *, batch: int = 1, views: int = 1, size: float = 0.03, seed: int = 0) -> PosedGaussians:
    generator = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    return PosedGaussians(
        means=0.35 * normal(batch, views, points, 3),
        rotations=torch.nn.functional.normalize(normal(batch, views, points, 4), dim=-1),
        scales=size * torch.exp(0.5 * normal(batch, points, 3)),
        opacities=torch.sigmoid(1.5 * normal(batch, points)),
        colours=torch.rand(batch, points, 3, generator=generator),
    )


def cameras(batch: int, views: int, *, width: int, height: int) -> dict[str, Tensor]:
    """Off-centre principal points, unequal focal lengths, and a turned camera per view."""
    intrinsics = torch.zeros(batch, views, 3, 3)
    intrinsics[..., 0, 0], intrinsics[..., 1, 1] = 1.3 * width, 1.1 * width
    intrinsics[..., 0, 2], intrinsics[..., 1, 2], intrinsics[..., 2, 2] = 0.4 * width, 0.57 * height, 1.0
    world_to_camera = torch.eye(4).repeat(batch, views, 1, 1)
    for view in range(views):
        angle = torch.tensor(0.3 + view)
        world_to_camera[:, view, 0, 0] = world_to_camera[:, view, 2, 2] = angle.cos()
        world_to_camera[:, view, 0, 2], world_to_camera[:, view, 2, 0] = angle.sin(), -angle.sin()
    world_to_camera[..., 2, 3] = 2.0
    return {"intrinsics": intrinsics, "world_to_camera": world_to_camera}


def render(posed: PosedGaussians, *, width: int = 75, height: int = 53, backend: str = "numba",
           settings: RasterSettings | None = None) -> RenderedViews:  # fmt: skip
    batch, views = posed.means.shape[:2]
    view = {
        name: value.to(posed.means.dtype) for name, value in cameras(batch, views, width=width, height=height).items()
    }
    background = torch.tensor((0.2, 0.5, 0.9), dtype=posed.means.dtype).expand(batch, views, 3)
    return render_gaussians(
        posed, **view, width=width, height=height, background=background, backend=backend, settings=settings
    )


def gradients(posed: PosedGaussians, backend: str) -> dict[str, Tensor]:
    leaves = {name: getattr(posed, name).clone().requires_grad_() for name in ATTRIBUTES}
    result = render(PosedGaussians(**leaves), backend=backend)
    weight = torch.rand(result.colour.shape, generator=torch.Generator().manual_seed(5)) - 0.3
    (result.colour * weight).sum().add(result.alpha.square().sum()).add(result.depth.mean()).backward()
    return {name: leaf.grad for name, leaf in leaves.items()}


@pytest.mark.parametrize("size", [0.004, 0.03, 0.2])
def test_numba_values_are_those_of_the_reference(size: float) -> None:
    posed = cloud(batch=2, views=2, size=size)
    fast, slow = render(posed), render(posed, backend="torch")
    for field in fields(RenderedViews):
        difference = (getattr(fast, field.name) - getattr(slow, field.name)).abs()
        # An alpha within rounding of the cut-off may fall on either side: one splat of 1/255 in single pixels.
        assert difference.quantile(0.999) < 2e-5
        assert difference.max() < (2 / 255 if field.name != "depth" else 2.0)
    assert slow.alpha.mean() > 0.01


@pytest.mark.parametrize("size", [0.004, 0.03, 0.2])
def test_numba_gradients_are_those_of_the_reference(size: float) -> None:
    posed = cloud(batch=2, views=2, size=size)
    fast, slow = gradients(posed, "numba"), gradients(posed, "torch")
    for name in ATTRIBUTES:
        error = (fast[name] - slow[name]).norm() / slow[name].norm()
        assert error < 2e-3, f"{name}: relative error {error:.1e}"
        assert slow[name].norm() > 0


def test_reference_gradients_are_those_of_finite_differences() -> None:
    posed = cloud(6, size=0.1)
    posed = PosedGaussians(**{name: getattr(posed, name).double() for name in ATTRIBUTES})

    def image(*leaves: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        result = render(
            PosedGaussians(**dict(zip(ATTRIBUTES, leaves, strict=True))),
            width=7, height=6, backend="torch", settings=SMOOTH,
        )  # fmt: skip
        return result.colour, result.alpha, result.depth

    leaves = tuple(getattr(posed, name).requires_grad_() for name in ATTRIBUTES)
    assert torch.autograd.gradcheck(image, leaves, eps=1e-6, atol=1e-5, rtol=1e-4)


def test_projection_matches_gsplat() -> None:
    twin = pytest.importorskip("gsplat.cuda._torch_impl")
    posed = cloud(200, batch=1, views=2, size=0.2, seed=3)
    view = {name: value[0] for name, value in cameras(1, 2, width=75, height=53).items()}
    splats = project_gaussians(
        means=posed.means[0], rotations=posed.rotations[0], scales=posed.scales.expand(2, -1, -1),
        opacities=posed.opacities.expand(2, -1), width=75, height=53, settings=RasterSettings(), **view,
    )  # fmt: skip
    for index in range(2):
        covariance, _ = twin._quat_scale_to_covar_preci(
            posed.rotations[0, index], posed.scales[0], compute_preci=False, triu=False
        )
        _, means, depths, conics, _ = twin._fully_fused_projection(
            posed.means[0, index],
            covariance,
            view["world_to_camera"][index, None],
            view["intrinsics"][index, None],
            75,
            53,
        )
        torch.testing.assert_close(splats.means_px[index], means[0], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(splats.conics[index], conics[0], rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(splats.depths_m[index], depths[0])


def test_nothing_in_view_gives_the_background_and_zero_gradients() -> None:
    posed = cloud(50)
    behind = replace(posed, means=posed.means - torch.tensor((0.0, 0.0, 50.0)))
    result = render(behind)
    assert result.alpha.max() == 0 and result.depth.max() == 0
    torch.testing.assert_close(result.colour[0, 0, :, 3, 4], torch.tensor((0.2, 0.5, 0.9)))
    for gradient in gradients(behind, "numba").values():
        assert torch.equal(gradient, torch.zeros_like(gradient))


def test_one_opaque_gaussian_lies_where_the_camera_says() -> None:
    one = PosedGaussians(
        means=torch.tensor([[[[0.1, -0.05, 0.0]]]]), rotations=torch.tensor([[[[1.0, 0, 0, 0]]]]),
        scales=torch.full((1, 1, 3), 0.02), opacities=torch.ones(1, 1), colours=torch.tensor([[[1.0, 0.0, 0.0]]]),
    )  # fmt: skip
    view = cameras(1, 1, width=75, height=53)
    in_camera = view["world_to_camera"][0, 0, :3] @ torch.tensor([0.1, -0.05, 0.0, 1.0])
    pixel = view["intrinsics"][0, 0] @ in_camera / in_camera[2]
    result = render(one)
    mass = result.alpha[0, 0, 0]
    y, x = torch.meshgrid(torch.arange(53) + 0.5, torch.arange(75) + 0.5, indexing="ij")
    centroid = torch.stack(((mass * x).sum(), (mass * y).sum())) / mass.sum()
    torch.testing.assert_close(centroid, pixel[:2], atol=0.02, rtol=0)
    inside = mass > 0.2
    torch.testing.assert_close(result.depth[0, 0, 0][inside], in_camera[2].expand(int(inside.sum())))


def test_nearer_gaussians_hide_farther_ones() -> None:
    points = torch.tensor([[[[0.0, 0.0, 0.0], [0.0, 0.0, 0.5]]]])
    pair = PosedGaussians(
        means=points, rotations=torch.tensor([1.0, 0, 0, 0]).expand(1, 1, 2, 4), scales=torch.full((1, 2, 3), 0.5),
        opacities=torch.ones(1, 2), colours=torch.tensor([[[1.0, 0, 0], [0, 1.0, 0]]]),
    )  # fmt: skip
    view = cameras(1, 1, width=32, height=32)
    view["world_to_camera"] = torch.eye(4).expand(1, 1, 4, 4).clone()
    view["world_to_camera"][..., 2, 3] = 2.0
    for means, winner in ((points, 0), (points.flip(2), 1)):
        result = render_gaussians(
            replace(pair, means=means), **view, width=32, height=32, background=torch.zeros(1, 1, 3), backend="numba"
        )
        assert result.colour[0, 0, :, 18, 13].argmax() == winner


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    posed = cloud(2000, views=3)
    before = torch.get_num_threads()
    images, grads = [], []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            images.append(render(posed, width=130, height=97).colour)
            grads.append(gradients(posed, "numba")["colours"])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*images)
    assert torch.equal(*grads)


def test_exponential_is_accurate() -> None:
    for x in torch.linspace(0, -80, 400).tolist():
        expected = float(torch.tensor(x, dtype=torch.float64).exp())
        assert abs(render_kernels.exp_negative(torch.tensor(x).numpy()[()]) / expected - 1) < 1e-6
    assert render_kernels.exp_negative(torch.tensor(-1e9).numpy()[()]) < 1e-37


def test_kernels_run_from_a_read_only_package_without_a_home(tmp_path: Path) -> None:
    """A wheel in a system folder and a service account: nowhere to cache compiled code, and it still works."""
    source = tmp_path / "kernels_copy.py"
    source.write_text(Path(render_kernels.__file__).read_text())
    script = (
        "import numpy, pathlib, numba.core.caching as caching\n"
        "def refuse(self):\n    raise OSError('read-only')\n"
        "caching._CacheLocator.ensure_cache_path = refuse\n"
        "import kernels_copy\n"
        "assert abs(kernels_copy.exp_negative(numpy.float32(-1)) - 0.3678794) < 1e-6\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_backend_that_cannot_run_says_so() -> None:
    assert set(RENDER_BACKENDS) == {"auto", "numba", "torch", "gsplat"}
    with pytest.raises(ConfigError, match="choose one of"):
        render(cloud(3), backend="opengl")
    with pytest.raises(BackendError, match="CUDA"):
        render(cloud(3), backend="gsplat")


@pytest.mark.gpu
def test_gsplat_matches_numba() -> None:
    posed = cloud(500, batch=2, views=2)
    on_device = PosedGaussians(**{name: getattr(posed, name).cuda() for name in ATTRIBUTES})
    view = {name: value.cuda() for name, value in cameras(2, 2, width=75, height=53).items()}
    background = torch.tensor((0.2, 0.5, 0.9)).expand(2, 2, 3)
    gpu = render_gaussians(on_device, **view, width=75, height=53, background=background.cuda())
    cpu = render(posed)
    for field in fields(RenderedViews):
        difference = (getattr(gpu, field.name).cpu() - getattr(cpu, field.name)).abs()
        assert difference.quantile(0.99) < 1e-3
