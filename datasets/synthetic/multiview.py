"""Multi-view training samples: one posed person seen from azimuths all around."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64

from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.body.params import BodyParams
from lhmforge.datasets.cameras import project
from lhmforge.datasets.codecs import encode_json
from lhmforge.datasets.config_json import to_json
from lhmforge.datasets.errors import ConfigError
from lhmforge.datasets.records import PackedSample, SourceVideo, TrackScores
from lhmforge.datasets.sample import SampleContent, StoredFrame, build_sample
from lhmforge.datasets.synthetic.corpus import CHANNEL, LICENCE, RENDERER_VERSION
from lhmforge.datasets.synthetic.keypoints import visible_points, wholebody_points
from lhmforge.datasets.synthetic.motion import MOTIONS, make_motion
from lhmforge.datasets.synthetic.person import make_person
from lhmforge.datasets.synthetic.raster import Surface
from lhmforge.datasets.synthetic.render import Figure, RenderedFrame, render_frame
from lhmforge.datasets.synthetic.scans import ScanFile, load_scan
from lhmforge.datasets.synthetic.scene import Camera, grounded, in_camera, looking_at, random_background, random_light


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiviewConfig:
    """What to render; two equal configs give equal bytes. Views are spread evenly over the full circle."""

    seed: int
    num_views: int = 30
    width: int = 480
    height: int = 640
    motion: str = ""  # "": the motions in turn; a moment of it is the pose

    def __post_init__(self) -> None:
        if not 1 <= self.num_views <= 360:
            raise ConfigError(f"{self.num_views} views: a sample has 1 to 360")
        if min(self.width, self.height) < 64:
            raise ConfigError(f"size {self.width}x{self.height}: both sides must be at least 64")
        if self.motion and self.motion not in MOTIONS:
            raise ConfigError(f"motion {self.motion!r} is unknown; choose one of {', '.join(MOTIONS)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subject:
    """Whom to render: a coloured surface, its vertices as a camera sees them, and the body that it belongs to."""

    key: str
    of_scan: bool
    surface: Surface
    world: BodyParams  # one frame
    seen_by: Callable[[Camera], Float32[np.ndarray, "V 3"]]
    digest: str  # of all that decides the pixels


def multiview_sample(config: MultiviewConfig, index: int, body: BodyModel) -> PackedSample:
    """One person in one pose, seen from all around; the world of the sample has y up and the floor at 0."""
    rng = np.random.default_rng([config.seed, index, 1])
    person = make_person(body, rng)
    names = list(MOTIONS)
    motion = make_motion(config.motion or names[index % len(names)], 16, 8.0, rng)
    world = grounded(body, person.betas, motion, np.zeros(3)).select(np.array([int(rng.integers(16))]))
    subject = _Subject(
        key=f"synthetic_{config.seed:04d}_{index:05d}_views",
        of_scan=False,
        surface=person.surface,
        world=world,
        seen_by=lambda camera: person.pose(in_camera(body, world, camera))[0],
        digest=_digest(config, index, body.digest),
    )
    return _sample(config, subject, body, rng)


def scan_sample(config: MultiviewConfig, index: int, scan_file: ScanFile, body: BodyModel) -> PackedSample:
    """A user's scan as it stands, seen from all around, put on the floor; raises `ScanError`, `BodyError`."""
    scan = load_scan(scan_file, body)
    rng = np.random.default_rng([config.seed, index, 4])

    def seen_by(camera: Camera) -> Float32[np.ndarray, "V 3"]:
        return (scan.vertices @ camera.rotation.T + camera.translation).astype(np.float32)

    subject = _Subject(
        key=f"scan_{scan_file.name}_views", of_scan=True, surface=scan.surface, world=scan.body, seen_by=seen_by,
        digest=_digest(config, index, body.digest, scan_file.digest()),
    )  # fmt: skip
    return _sample(config, subject, body, rng)


def view_source(key: str, *, of_scan: bool) -> SourceVideo:
    """Where a sample comes from; the licence of a user's scans is the user's to know."""
    channel, licence = ("scans", "") if of_scan else (CHANNEL, LICENCE)
    return SourceVideo(uri="", source_id=key, channel=channel, licence=licence, identity=key)


def _sample(config: MultiviewConfig, subject: _Subject, body: BodyModel, rng: np.random.Generator) -> PackedSample:
    cameras = _ring(config, body, subject.world, rng)
    frames = [_view(config, subject, camera, rng) for camera in cameras]
    repeated = subject.world.select(np.zeros(config.num_views, np.int64))
    points_px, visible = _keypoints(body, subject.world, cameras, frames)
    content = SampleContent(
        frames=[StoredFrame.encode(frame.image, frame.alphas[0]) for frame in frames],
        body=repeated,
        points_px=points_px,
        point_scores=visible,
        intrinsics=np.stack([camera.intrinsics for camera in cameras]),
        world_to_camera=np.stack([camera.world_to_camera for camera in cameras]),
        frame_indices=np.arange(config.num_views),
        fps=1.0,
    )
    return build_sample(
        content,
        key=subject.key,
        source=view_source(subject.key, of_scan=subject.of_scan),
        scores=_exact_scores(config, points_px, visible),
        video_digest=subject.digest,
        first_frame=0,
        end_frame=config.num_views,
        person=0,
        body_digest=body.digest,
    )


def _ring(config: MultiviewConfig, body: BodyModel, world: BodyParams, rng: np.random.Generator) -> list[Camera]:
    points = body.pose(world).vertices[0, ::20].numpy().astype(np.float64)
    centre = (points.min(0) + points.max(0)) / 2
    radius = np.linalg.norm((points - centre)[:, [0, 2]], axis=1).max()
    focal = max(config.width, config.height) * rng.uniform(1.1, 1.6)
    intrinsics = np.array([[focal, 0, config.width / 2], [0, focal, config.height / 2], [0, 0, 1]], np.float32)
    half = (points[:, 1].max() - centre[1], radius)
    distance = radius + max(focal * 2 * half[0] / (0.84 * config.height), focal * 2 * half[1] / (0.94 * config.width))
    start, height = rng.uniform(0, 2 * np.pi), rng.uniform(-0.3, 0.6)
    cameras = []
    for azimuth in start + 2 * np.pi * np.arange(config.num_views) / config.num_views:
        eye = centre + distance * np.array([np.sin(azimuth), 0, np.cos(azimuth)]) + np.array([0, height, 0])
        cameras.append(looking_at(eye, centre, intrinsics))
    return cameras


def _view(config: MultiviewConfig, subject: _Subject, camera: Camera, rng: np.random.Generator) -> RenderedFrame:
    light = random_light(rng, camera)
    background = random_background(rng, camera, width=config.width, height=config.height)
    figure = Figure(surface=subject.surface, vertices=subject.seen_by(camera))
    return render_frame((figure,), camera.intrinsics, background, light)


def _keypoints(
    body: BodyModel, world: BodyParams, cameras: list[Camera], frames: list[RenderedFrame]
) -> tuple[Float32[np.ndarray, "N 133 2"], Float32[np.ndarray, "N 133"]]:
    whole = wholebody_points(body, body.pose(world))
    points_px = np.zeros((len(cameras), 133, 2), np.float32)
    scores = np.zeros((len(cameras), 133), np.float32)
    for n, (camera, frame) in enumerate(zip(cameras, frames, strict=True)):
        seen: Float64[np.ndarray, "133 3"] = whole.points_m[0] @ camera.rotation.T + camera.translation
        points_px[n] = project(seen, camera.intrinsics.astype(np.float64))
        visible = visible_points(seen.astype(np.float32), points_px[n], frame.depth, frame.alphas[0])
        scores[n] = visible & whole.known
    points_px[:, ~whole.known] = 0
    return points_px, scores


def _exact_scores(config: MultiviewConfig, points_px: np.ndarray, visible: np.ndarray) -> TrackScores:
    """Scores that truth defines; what only a detector or a fit can give is not measurable."""
    unknown = float("nan")
    body = points_px[:, :23]
    return TrackScores(
        num_frames=float(config.num_views), duration_s=unknown, detection=unknown, reprojection=0.0,
        matte_iou=unknown, jitter=0.0, coverage=float(visible[:, 5:17].mean()),
        height_px=float(np.median(np.ptp(body[..., 1], axis=1))), face_px=unknown, hand_px=unknown,
        sharpness=unknown, motion=0.0, view_rad=unknown, shape_norm=unknown,
    )  # fmt: skip


def _digest(config: MultiviewConfig, index: int, body_digest: str, scan_digest: str = "") -> str:
    content = {
        "config": to_json(config), "index": index, "body": body_digest, "version": RENDERER_VERSION, "scan": scan_digest
    }  # fmt: skip
    return hashlib.sha256(encode_json(content)).hexdigest()
