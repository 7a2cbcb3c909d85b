"""Bounds, start values and schedule of the Gaussian head."""

from __future__ import annotations

import pytest
import torch

from lhmforge.lhm_model.config import GaussianHeadConfig
from lhmforge.lhm_model.gaussian_head import GaussianHead, scale_limit_at, truncated_exp


def test_a_new_head_starts_on_the_surface() -> None:
    gaussians = GaussianHead(8, GaussianHeadConfig())(torch.randn(2, 5, 8))
    assert bool((gaussians.offsets == 0).all())
    torch.testing.assert_close(gaussians.scales, torch.full((2, 5, 3), 0.0067379), rtol=1e-4, atol=0.0)
    torch.testing.assert_close(gaussians.rotations, torch.tensor([1.0, 0, 0, 0]).expand(2, 5, 4))
    torch.testing.assert_close(gaussians.opacities, torch.full((2, 5), 0.1))


@pytest.mark.parametrize(("step", "limit"), [(0, 0.01), (100, 0.01), (1550, 0.03), (3000, 0.05), (10**6, 0.05)])
def test_scale_limit_schedule(step: int, limit: float) -> None:
    config = GaussianHeadConfig()
    assert scale_limit_at(config, step) == pytest.approx(limit)
    head = GaussianHead(8, config)
    torch.nn.init.normal_(head.scale.weight, std=10.0)
    head.set_step(step)
    assert head(torch.randn(1, 50, 8)).scales.max().item() == pytest.approx(limit)


def test_attributes_stay_in_their_bounds() -> None:
    head = GaussianHead(8, GaussianHeadConfig())
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=50.0)
    gaussians = head(torch.randn(2, 40, 8))
    assert gaussians.offsets.abs().max() <= 0.5
    assert gaussians.scales.min() >= 0.0 and gaussians.scales.max() <= 0.05
    torch.testing.assert_close(gaussians.rotations.norm(dim=-1), torch.ones(2, 40))
    for value in (gaussians.opacities, gaussians.colours):
        assert value.min() >= 0.0 and value.max() <= 1.0


def test_marked_points_are_clamped_tighter() -> None:
    head = GaussianHead(8, GaussianHeadConfig(initial_scale_log=0.0))
    tight = torch.tensor([True, False])
    scales = head(torch.randn(1, 2, 8), tight).scales
    torch.testing.assert_close(scales[0], torch.tensor([[0.02] * 3, [0.05] * 3]))


def test_truncated_exp_has_a_bounded_gradient() -> None:
    x = torch.tensor([0.5, 15.0, 40.0], requires_grad=True)
    y = truncated_exp(x)
    torch.testing.assert_close(y, x.detach().exp())
    y.sum().backward()
    torch.testing.assert_close(x.grad, x.detach().clamp(max=15.0).exp())
    assert torch.autograd.gradcheck(truncated_exp, torch.randn(6, dtype=torch.float64, requires_grad=True))
