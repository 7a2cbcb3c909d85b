"""Shards of made-up people for tests: a body with painted clothes, rendered as splats from several sides."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import torch

from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.body.params import BodyParams
from lhmforge.datasets.manifest import Manifest, accepted_row, write_manifest
from lhmforge.datasets.records import PackedSample, SourceVideo, TrackScores
from lhmforge.datasets.sample import SampleContent, StoredFrame, build_sample
from lhmforge.datasets.shards import write_shard
from lhmforge.lhm_model.gaussians import PosedGaussians
from lhmforge.lhm_model.render import render_gaussians

DISTANCE_M = 3.2
_LEGS, _FEET, _HEAD = (1, 2, 4, 5), (7, 8, 10, 11), (12, 15, 22, 23, 24)
_ARMS = (18, 19, 20, 21)


def write_people(
    folder: Path,
    body: BodyModel,
    *,
    count: int,
    num_views: int,
    size: tuple[int, int],
    fingerprint: str = "f",
    first: int = 0,
) -> Manifest:
    """People `first` and on, each one sample of `num_views` frames of `size` (width, height), in one shard."""
    samples = [_person(body, first + number, num_views, size) for number in range(count)]
    info = write_shard(folder / "shards/0000.tar", samples)
    rows = [
        accepted_row(samples[index], shard="shards/0000.tar", entry=entry, fingerprint=fingerprint, cost_s={})
        for index, entry in enumerate(info.entries)
    ]
    return write_manifest(folder / "manifest.parquet", rows)


def _person(body: BodyModel, number: int, num_views: int, size: tuple[int, int]) -> PackedSample:
    rng = np.random.default_rng([17, number])
    params = _poses(rng, num_views)
    vertices = _vertices(body, params)
    width, height = size
    focal = 1.15 * height * DISTANCE_M / 2.4
    intrinsics = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], np.float32)
    frames = [_frame(vertices[view], _paint(body, rng, number), intrinsics, size) for view in range(num_views)]
    key = f"person{number:03d}"
    points = np.zeros((num_views, 133, 2), np.float32)
    content = SampleContent(
        frames=frames,
        body=params,
        points_px=points,
        point_scores=np.zeros((num_views, 133), np.float32),
        intrinsics=np.repeat(intrinsics[None], num_views, 0),
        world_to_camera=np.repeat(np.eye(4, dtype=np.float32)[None], num_views, 0),
        frame_indices=np.arange(num_views, dtype=np.int64),
        fps=25.0,
    )
    return build_sample(
        content,
        key=key,
        source=SourceVideo(uri=key, source_id=key, identity=key),
        scores=TrackScores(**{score.name: 1.0 for score in fields(TrackScores)}),
        video_digest=f"digest{number}",
        first_frame=0,
        end_frame=num_views,
        person=0,
        body_digest=body.digest,
    )


def _poses(rng: np.random.Generator, num_views: int) -> BodyParams:
    """Standing people that turn round, arms at various heights; upright in OpenCV axes."""
    params = BodyParams.rest(num_views)
    params.betas[:] = rng.normal(0, 0.6, len(params.betas))
    yaw = np.linspace(0, 2 * np.pi, num_views, endpoint=False) + rng.uniform(-0.2, 0.2)
    for view in range(num_views):
        # Half a turn about x stands the y-up body upright; the yaw comes before it.
        flip = torch.tensor([[1.0, 0, 0], [0, -1, 0], [0, 0, -1]], dtype=torch.float64).numpy()
        c, s = np.cos(yaw[view]), np.sin(yaw[view])
        params.global_orient[view] = _axis_angle(flip @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]))
    lift = rng.uniform(-1.1, 0.1, (num_views, 2))
    params.body_pose[:, 15, 2], params.body_pose[:, 16, 2] = lift[:, 0], -lift[:, 1]
    params.transl[:, 1] = 0.35
    params.transl[:, 2] = DISTANCE_M
    return params


def _axis_angle(rotation: np.ndarray) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    result: np.ndarray = Rotation.from_matrix(rotation).as_rotvec().astype(np.float32)
    return result


def _vertices(body: BodyModel, params: BodyParams) -> torch.Tensor:
    return body.pose(params).vertices


def _paint(body: BodyModel, rng: np.random.Generator, number: int) -> torch.Tensor:
    """A colour per vertex: skin, hair, shirt, trousers, shoes, by the strongest joint."""
    rng = np.random.default_rng([5, number])
    skin = np.array([0.9, 0.7, 0.58]) * rng.uniform(0.45, 1.0)
    shirt, trousers, shoes, hair = rng.uniform(0.05, 0.95, (4, 3))
    joint = body.weights.argmax(1).numpy()
    colours = np.broadcast_to(shirt, (len(joint), 3)).copy()
    colours[np.isin(joint, (0, *_LEGS))] = trousers
    colours[np.isin(joint, _FEET)] = shoes
    colours[np.isin(joint, _ARMS) | (joint >= 25)] = skin
    head = np.isin(joint, _HEAD)
    colours[head] = skin
    template = body.v_template.numpy()
    middle = template[head].mean(0) if head.any() else template.mean(0)
    colours[head & ((template[:, 1] > middle[1] + 0.07) | (template[:, 2] < middle[2] - 0.03))] = hair * 0.5
    return torch.from_numpy(colours).float()


def _frame(vertices: torch.Tensor, colours: torch.Tensor, intrinsics: np.ndarray, size: tuple[int, int]) -> StoredFrame:
    count = len(vertices)
    posed = PosedGaussians(
        means=vertices[None, None],
        rotations=torch.tensor([1.0, 0, 0, 0]).expand(1, 1, count, 4).contiguous(),
        scales=torch.full((1, count, 3), 0.008 if count > 5000 else 0.03),
        opacities=torch.full((1, count), 0.97),
        colours=colours[None],
    )
    with torch.no_grad():
        views = render_gaussians(
            posed,
            intrinsics=torch.from_numpy(intrinsics)[None, None],
            world_to_camera=torch.eye(4)[None, None],
            width=size[0],
            height=size[1],
            background=torch.full((1, 1, 3), 0.4),
        )
    image = (views.colour[0, 0].permute(1, 2, 0).clamp(0, 1) * 255).round().byte().numpy()
    alpha = (views.alpha[0, 0, 0].clamp(0, 1) * 255).round().byte().numpy()
    return StoredFrame.encode(image, alpha)
