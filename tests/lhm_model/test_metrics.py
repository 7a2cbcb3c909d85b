"""Metrics: known values, an independent SSIM, and the convention (cut by the true matte, on white)."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from lhmforge.datasets.batch import Batch, BodyBatch
from lhmforge.lhm_model.gaussians import RenderedViews
from lhmforge.lhm_model.metrics import face_consistency, matte_iou, psnr, score_views, ssim
from lhmforge.lhm_model.perceptual import load_perceptual


def images(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(2, 3, 48, 40, generator=generator)
    return (target + 0.1 * torch.randn(target.shape, generator=generator)).clamp(0, 1), target


def some_batch(size: int, views: int, *, height: int, width: int) -> Batch:
    generator = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.rand(shape, generator=generator)  # noqa: E731
    shapes = {"expression": 10, "global_orient": 3, "jaw_pose": 3, "leye_pose": 3, "reye_pose": 3, "transl": 3}
    body = BodyBatch(
        betas=draw(size, 10),
        body_pose=draw(size, views, 21, 3),
        left_hand_pose=draw(size, views, 15, 3),
        right_hand_pose=draw(size, views, 15, 3),
        **{name: draw(size, views, last) for name, last in shapes.items()},
    )
    return Batch(
        sample_ids=tuple(f"s{i}" for i in range(size)),
        source_image=draw(size, 3, 16, 16),
        source_alpha=draw(size, 1, 16, 16),
        head_image=draw(size, 3, 8, 8),
        head_valid=torch.ones(size, dtype=torch.bool),
        target_image=draw(size, views, 3, height, width),
        target_alpha=draw(size, views, 1, height, width),
        target_head_box=torch.zeros(size, views, 4),
        background=torch.ones(size, views, 3),
        intrinsics=torch.eye(3).repeat(size, views, 1, 1),
        world_to_camera=torch.eye(4).repeat(size, views, 1, 1),
        body=body,
    )


def test_psnr_of_a_constant_error() -> None:
    target = torch.full((1, 3, 8, 8), 0.5)
    assert psnr(target + 0.1, target).item() == pytest.approx(20.0, abs=1e-4)
    half = torch.zeros(1, 1, 8, 8)
    half[..., :4] = 1.0
    error = torch.where(half.bool(), 0.1, 0.0).expand(1, 3, 8, 8)
    assert psnr(target + error, target, half).item() == pytest.approx(20.0, abs=1e-4)
    assert psnr(target + error, target).item() == pytest.approx(20.0 + 10 * math.log10(2), abs=1e-4)
    assert psnr(target, target).item() == 100.0


def test_ssim_is_that_of_wang_et_al() -> None:
    image, target = images()
    a, b = image.double().numpy(), target.double().numpy()
    blur = lambda x: gaussian_filter(x, (0, 0, 1.5, 1.5), truncate=5 / 1.5)[:, :, 5:-5, 5:-5]  # noqa: E731
    mean_a, mean_b = blur(a), blur(b)
    covariance = blur(a * b) - mean_a * mean_b
    variances = blur(a * a) - mean_a**2 + blur(b * b) - mean_b**2
    expected = (2 * mean_a * mean_b + 1e-4) * (2 * covariance + 9e-4)
    expected /= (mean_a**2 + mean_b**2 + 1e-4) * (variances + 9e-4)
    np.testing.assert_allclose(ssim(image, target).numpy(), expected.mean((1, 2, 3)), atol=1e-5)
    torch.testing.assert_close(ssim(image, image), torch.ones(2))


def test_matte_iou() -> None:
    a, b = torch.zeros(1, 1, 10, 10), torch.zeros(1, 1, 10, 10)
    a[..., :6], b[..., 4:] = 0.9, 0.6
    assert matte_iou(a, b).item() == pytest.approx(0.2)
    assert matte_iou(a * 0, b * 0).item() == 1.0


def test_scores_ignore_what_lies_outside_the_true_matte() -> None:
    batch = some_batch(2, 3, height=48, width=40)
    alpha = torch.zeros(2, 3, 1, 48, 40)
    alpha[..., 8:40, 10:30] = 1.0
    target = batch.target_image
    batch = replace(batch, target_alpha=alpha)
    views = RenderedViews(colour=target + 0.3 * (1 - alpha), alpha=alpha, depth=alpha)
    perceptual = load_perceptual("alex")
    scores = score_views(views, batch, perceptual)
    assert scores.psnr.shape == (2, 3)
    assert scores.psnr.min() == 100 and scores.ssim.min() > 0.9999 and scores.lpips.max() < 1e-6
    assert scores.matte_iou.min() == 1
    worse = score_views(replace(views, colour=(target - 0.1 * alpha)), batch, perceptual)
    assert worse.psnr_foreground.max() < worse.psnr.max() < 40
    assert worse.lpips.min() > 0


def test_face_consistency_skips_views_without_a_face() -> None:
    rendered = torch.tensor([[1.0, 0.0], [0.0, 1.0], [float("nan")] * 2])
    true = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    distance, count = face_consistency(rendered, true)
    assert count == 2
    assert distance.item() == pytest.approx(math.sqrt(2) / 2)
