"""Image metrics of held-out views, with one documented convention.

As in the paper's table, the rendered and the true image are both cut by the TRUE matte and laid on white, in sRGB
0..1, at the resolution of the batch. PSNR and SSIM then run over the whole frame, so a larger white border raises them:
`psnr_foreground` counts the matte's pixels alone. SSIM is that of Wang et al. (2004): Gaussian window of 11 px, sigma
1.5, without the border that the window leaves. LPIPS is version 0.1 of the trunk that the caller loads (the paper's
table uses a third trunk, so LPIPS values are not comparable with it).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lhmforge.datasets.batch import Batch
from lhmforge.lhm_model.gaussians import RenderedViews
from lhmforge.lhm_model.losses import on_white
from lhmforge.lhm_model.perceptual import Perceptual

_WINDOW_PX, _WINDOW_SIGMA = 11, 1.5
_MAX_PSNR_DB = 100.0  # equal images; keeps means finite


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewScores:
    """One value per sample and view."""

    psnr: Float[Tensor, "B V"]  # dB
    psnr_foreground: Float[Tensor, "B V"]  # dB, over the matte's pixels
    ssim: Float[Tensor, "B V"]
    lpips: Float[Tensor, "B V"]
    matte_iou: Float[Tensor, "B V"]  # of alpha >= 0.5


@torch.no_grad()
def score_views(views: RenderedViews, batch: Batch, perceptual: Perceptual) -> ViewScores:
    """Scores rendered views against the batch's targets in this module's convention."""
    shape = views.colour.shape[:2]
    alpha = batch.target_alpha.flatten(0, 1)
    image = on_white(views.colour.flatten(0, 1), alpha).clamp(0, 1)
    target = on_white(batch.target_image.flatten(0, 1), alpha)
    return ViewScores(
        psnr=psnr(image, target).unflatten(0, shape),
        psnr_foreground=psnr(image, target, alpha).unflatten(0, shape),
        ssim=ssim(image, target).unflatten(0, shape),
        lpips=perceptual(image, target).unflatten(0, shape),
        matte_iou=matte_iou(views.alpha.flatten(0, 1), alpha).unflatten(0, shape),
    )


def psnr(
    image: Float[Tensor, "N C h w"], target: Float[Tensor, "N C h w"], weight: Float[Tensor, "N 1 h w"] | None = None
) -> Float[Tensor, " N"]:
    """Peak signal-to-noise ratio in dB for peak 1, over all pixels or averaged with `weight`; at most 100."""
    squared = (image - target).square().mean(1)
    if weight is None:
        error = squared.mean((1, 2))
    else:
        error = (squared * weight[:, 0]).sum((1, 2)) / weight.sum((1, 2, 3)).clamp(min=1e-8)
    return (-10.0 * error.clamp(min=1e-30).log10()).clamp(max=_MAX_PSNR_DB)


def ssim(image: Float[Tensor, "N C h w"], target: Float[Tensor, "N C h w"]) -> Float[Tensor, " N"]:
    """Mean structural similarity for values in 0..1; the images must be at least 11 px on each side."""
    assert min(image.shape[-2:]) >= _WINDOW_PX, f"SSIM needs images of {_WINDOW_PX} px or more, got {image.shape}"
    stack = torch.cat((image, target, image * image, target * target, image * target), dim=1)
    mean_a, mean_b, aa, bb, ab = _blur(stack).chunk(5, dim=1)
    variance_a, variance_b, covariance = aa - mean_a * mean_a, bb - mean_b * mean_b, ab - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a * mean_a + mean_b * mean_b + c1)
    structure = (2 * covariance + c2) / (variance_a + variance_b + c2)
    return (luminance * structure).mean((1, 2, 3))


def matte_iou(alpha: Float[Tensor, "N 1 h w"], target: Float[Tensor, "N 1 h w"]) -> Float[Tensor, " N"]:
    """Intersection over union of the two mattes at 0.5; 1 where both are empty."""
    a, b = alpha >= 0.5, target >= 0.5
    union, overlap = (a | b).flatten(1).sum(1), (a & b).flatten(1).sum(1)
    shares: Tensor = overlap / union.clamp(min=1)
    return torch.where(union > 0, shares, torch.ones_like(shares))


def face_consistency(rendered: Float[Tensor, "N D"], true: Float[Tensor, "N D"]) -> tuple[Float[Tensor, ""], int]:
    """Mean Euclidean distance of unit identity vectors, and over how many views: those with a face (others are NaN).

    0 is the same face, sqrt(2) an unrelated one. The face is found in the TRUE image and the same place is cut from the
    rendered one, so a rendering without a face counts as a bad one. Unlike the release's script (least L1 distance over
    the views) this is a mean over views; values are comparable between runs that use one face network only.
    """
    found = ~(rendered.isnan().any(1) | true.isnan().any(1))
    return (rendered[found] - true[found]).norm(dim=1).mean(), int(found.sum())


def _blur(x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N C H W"]:
    offsets = torch.arange(_WINDOW_PX, device=x.device, dtype=x.dtype) - _WINDOW_PX // 2
    window = torch.exp(-0.5 * (offsets / _WINDOW_SIGMA) ** 2)
    window = (window / window.sum()).repeat(x.shape[1], 1)
    x = F.conv2d(x, window[:, None, :, None], groups=x.shape[1])
    return F.conv2d(x, window[:, None, None, :], groups=x.shape[1])
