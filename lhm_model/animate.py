"""Renders an avatar in motion: a still camera that holds the whole motion, and the frames of a video."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from lhmforge.datasets.body.motion_file import Motion
from lhmforge.lhm_model.avatar import Avatar
from lhmforge.lhm_model.gaussians import PosedGaussians
from lhmforge.lhm_model.render import render_gaussians

_VIEWS_AT_ONCE = 8
_MARGIN = 1.08
_FOCAL = 2.0  # focal length over picture height: a 28 degree lens, little distortion


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """A still camera and its picture size, in the conventions of `datasets.cameras`."""

    intrinsics: Float32[np.ndarray, "3 3"]
    world_to_camera: Float32[np.ndarray, "4 4"]
    width: int
    height: int


def camera_for(avatar: Avatar, motion: Motion, *, width: int, height: int) -> Camera:
    """A level camera looking along +z from where all of the motion fits into the picture."""
    frames = np.unique(np.linspace(0, motion.body.num_frames - 1, min(96, motion.body.num_frames)).astype(np.int64))
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for chunk in np.array_split(frames, -(-len(frames) // _VIEWS_AT_ONCE)):
        posed = avatar.pose(motion.body.select(chunk))
        # A few stray Gaussians must not decide the frame.
        solid = posed.means[0][:, posed.opacities[0] > 0.3].flatten(0, 1)
        points = (solid if len(solid) > 100 else posed.means[0].flatten(0, 1)).cpu().numpy()
        low = np.minimum(low, np.quantile(points, 0.002, axis=0))
        high = np.maximum(high, np.quantile(points, 0.998, axis=0))
    centre, half = (low + high) / 2, (high - low) / 2 * _MARGIN + 3 * float(avatar.canonical.scales.median())
    focal = _FOCAL * height
    distance = half[2] + max(half[1] * focal / (height / 2), half[0] * focal / (width / 2))
    world_to_camera = np.eye(4, dtype=np.float32)
    world_to_camera[:3, 3] = np.array([0, 0, distance]) - centre
    intrinsics = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], np.float32)
    return Camera(intrinsics=intrinsics, world_to_camera=world_to_camera, width=width, height=height)


def render_motion(
    avatar: Avatar, motion: Motion, camera: Camera, *, background: float = 1.0, backend: str = "auto"
) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """The motion's frames in order, a few posed and rendered at once."""
    for start in range(0, motion.body.num_frames, _VIEWS_AT_ONCE):
        chunk = np.arange(start, min(start + _VIEWS_AT_ONCE, motion.body.num_frames))
        yield from _render(avatar.pose(motion.body.select(chunk)), camera, background, backend)


@torch.no_grad()
def _render(
    posed: PosedGaussians, camera: Camera, background: float, backend: str
) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    views, device = posed.means.shape[1], posed.means.device

    def per_view(matrix: np.ndarray) -> Tensor:
        return torch.from_numpy(matrix).to(device).expand(1, views, *matrix.shape)

    images = render_gaussians(
        posed,
        intrinsics=per_view(camera.intrinsics),
        world_to_camera=per_view(camera.world_to_camera),
        width=camera.width,
        height=camera.height,
        background=torch.full((1, views, 3), background, device=device),
        backend=backend,
    ).colour[0]
    pixels = (images.clamp(0, 1) * 255 + 0.5).to(torch.uint8).permute(0, 2, 3, 1)
    yield from pixels.cpu().numpy()
