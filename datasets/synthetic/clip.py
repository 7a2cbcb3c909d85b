"""One synthetic video clip: people, motion, camera, light and background from a seed, rendered with its truth."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt8

from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.body.params import BodyParams
from lhmforge.datasets.cameras import project
from lhmforge.datasets.errors import ConfigError
from lhmforge.datasets.synthetic.keypoints import visible_points, wholebody_points
from lhmforge.datasets.synthetic.motion import MOTIONS, Motion, make_motion, performed
from lhmforge.datasets.synthetic.person import Person, make_person
from lhmforge.datasets.synthetic.photograph import photographed, random_photo_camera
from lhmforge.datasets.synthetic.raster import Light, rasterise
from lhmforge.datasets.synthetic.render import Figure, RenderedFrame, render_frame
from lhmforge.datasets.synthetic.scene import Camera, grounded, in_camera, looking_at, random_background, random_light
from lhmforge.datasets.synthetic.truth import ClipTruth, PersonTruth, encode_alphas

_SHADOW_STRENGTH = 0.5
STAGINGS = ("", "crossing")
VIEWS = ("front", "around", "behind")
_CROSSING_M = 2.6  # how far a crossing person walks
_LANE_M = 0.7  # from one crossing person's line to the next, in depth


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipConfig:
    """What to render; two equal configs give equal clips.

    `staging` "": persons stay side by side; "crossing": they walk past one another, alternately from left and right,
    each on a line of their own depth, so that the nearer ones hide the others for a while. `view`: where the camera
    stands relative to the stage's front ("front": within 46 degrees, "around": anywhere, "behind").
    """

    seed: int
    index: int
    num_frames: int = 32
    fps: float = 15.0
    width: int = 480
    height: int = 640
    motion: str = ""  # "": the motions in turn
    motion_file: str = ""  # AMASS or body npz, or MANIFEST.parquet#KEY, instead of a procedural motion
    num_persons: int = 1
    staging: str = ""
    view: str = "front"

    def __post_init__(self) -> None:
        if self.num_frames < 1 or self.fps <= 0 or not 1 <= self.num_persons <= 4:
            raise ConfigError("a clip needs at least one frame, a positive frame rate and one to four persons")
        if min(self.width, self.height) < 64 or self.width % 2 or self.height % 2:
            raise ConfigError(f"size {self.width}x{self.height}: both sides must be even and at least 64")
        if self.motion and self.motion not in MOTIONS:
            raise ConfigError(f"motion {self.motion!r} is unknown; choose one of {', '.join(MOTIONS)}")
        if self.staging not in STAGINGS or self.view not in VIEWS:
            raise ConfigError(
                f"staging {self.staging!r}, view {self.view!r}: stagings are {', '.join(map(repr, STAGINGS))}, views "
                f"{', '.join(VIEWS)}"
            )
        if self.staging == "crossing" and (self.num_persons < 2 or self.motion_file):
            raise ConfigError("people who cross are at least two, and walk by themselves: give no motion file")

    @property
    def motion_name(self) -> str:
        names = list(MOTIONS)
        if self.staging == "crossing":
            return "walk"
        return self.motion or names[self.index % len(names)]

    @property
    def identities(self) -> tuple[str, ...]:
        """Names of the persons; every clip has persons of its own."""
        return tuple(f"synthetic_{self.seed}_{self.index:05d}_{p}" for p in range(self.num_persons))


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticClip:
    """The frames and everything known about them."""

    frames: UInt8[np.ndarray, "N H W 3"]
    truth: ClipTruth


@dataclass(frozen=True, slots=True, kw_only=True)
class _Actor:
    person: Person
    world: BodyParams


def render_clip(config: ClipConfig, body: BodyModel) -> SyntheticClip:
    """Renders the clip of a config; the same config and body give the same pixels."""
    rng = np.random.default_rng([config.seed, config.index])
    actors = tuple(_actor(config, body, rng, number) for number in range(config.num_persons))
    camera = _camera(config, body, actors, rng)
    light = random_light(rng, camera)
    background = random_background(rng, camera, width=config.width, height=config.height)
    bodies = [in_camera(body, actor.world, camera) for actor in actors]
    vertices = [actor.person.pose(b) for actor, b in zip(actors, bodies, strict=True)]
    rendered = []
    for n in range(config.num_frames):
        figures = tuple(Figure(surface=a.person.surface, vertices=v[n]) for a, v in zip(actors, vertices, strict=True))
        floor = _with_shadows(background, figures, camera, light)
        rendered.append(render_frame(figures, camera.intrinsics, floor, light))
    persons = tuple(_truth(body, b, rendered, camera, index) for index, b in enumerate(bodies))
    truth = ClipTruth(fps=config.fps, intrinsics=camera.intrinsics, body_digest=body.digest, persons=persons)
    lens = random_photo_camera(rng)
    frames = np.stack([photographed(frame.image, lens, rng) for frame in rendered])
    return SyntheticClip(frames=frames, truth=truth)


def _actor(config: ClipConfig, body: BodyModel, rng: np.random.Generator, number: int) -> _Actor:
    person = make_person(body, rng)
    motion = _motion(config, rng)
    if config.staging == "crossing":
        motion, origin = _crossing(config, motion, rng, number)
        return _Actor(person=person, world=grounded(body, person.betas, motion, origin))
    side = (number - (config.num_persons - 1) / 2) * 1.1
    origin = np.array([side, 0, 0.4 * rng.uniform(-1, 1) * (config.num_persons > 1)])
    return _Actor(person=person, world=grounded(body, person.betas, motion, origin))


def _motion(config: ClipConfig, rng: np.random.Generator) -> Motion:
    if config.motion_file:
        start = float(rng.uniform(0, 2))
        return performed(config.motion_file, num_frames=config.num_frames, fps=config.fps, start_s=start)
    return make_motion(config.motion_name, config.num_frames, config.fps, rng)


def _crossing(
    config: ClipConfig, motion: Motion, rng: np.random.Generator, number: int
) -> tuple[Motion, Float64[np.ndarray, " 3"]]:
    """The walk turned into a straight one across the stage, and the place where it begins."""
    sign = 1 if number % 2 == 0 else -1
    yaw = sign * np.pi / 2 + rng.uniform(-0.2, 0.2)
    share = np.linspace(0, 1, config.num_frames)[:, None]
    length = _CROSSING_M * rng.uniform(0.85, 1.1)
    path = share * length * np.array([np.sin(yaw), 0, np.cos(yaw)])
    pose = motion.full_pose.copy()
    pose[:, 0] = (0, yaw, 0)
    lane = (number - (config.num_persons - 1) / 2) * _LANE_M
    origin = np.array([-sign * length / 2 + rng.uniform(-0.3, 0.3), 0, lane])
    return replace(motion, full_pose=pose, path=path.astype(np.float32)), origin


def _camera(config: ClipConfig, body: BodyModel, actors: tuple[_Actor, ...], rng: np.random.Generator) -> Camera:
    """A camera whose distance makes the persons fill 70 to 85 % of the height over the clip, or 94 % of the width."""
    focal = max(config.width, config.height) * rng.uniform(1.1, 1.6)
    intrinsics = np.array([[focal, 0, config.width / 2], [0, focal, config.height / 2], [0, 0, 1]], np.float32)
    sampled = [body.pose(actor.world).vertices[:, ::40].reshape(-1, 3).numpy() for actor in actors]
    points = np.concatenate(sampled).astype(np.float64)
    centre = (points.min(0) + points.max(0)) / 2
    azimuth, height = rng.uniform(-0.8, 0.8), rng.uniform(-0.35, 0.5)
    if config.staging == "crossing":  # seen from the side that people cross in
        azimuth /= 2
    azimuth = {"front": azimuth, "around": azimuth * np.pi / 0.8, "behind": np.pi + azimuth}[config.view]
    share = rng.uniform(0.72, 0.85)
    distance = 4.0
    for _ in range(6):
        eye = centre + distance * np.array([np.sin(azimuth), 0, np.cos(azimuth)]) + np.array([0, height, 0])
        camera = looking_at(eye, centre, intrinsics)
        pixels = project(points @ camera.rotation.T + camera.translation, intrinsics.astype(np.float64))
        extent = 2 * np.abs(pixels - intrinsics[:2, 2]).max(0) / (config.width, config.height)
        distance *= max(extent[1] / share, extent[0] / 0.94)
    return camera


def _with_shadows(
    background: Float32[np.ndarray, "H W 3"], figures: tuple[Figure, ...], camera: Camera, light: Light
) -> Float32[np.ndarray, "H W 3"]:
    """The background with the figures' shadows on the floor (the plane y = 0 of the world)."""
    height, width = background.shape[:2]
    shadow = np.zeros((height, width), np.float32)
    towards = camera.rotation.T @ light.towards.astype(np.float64)
    for figure in figures:
        world = (figure.vertices - camera.translation) @ camera.rotation
        flat = world - towards * (world[:, 1:2] / towards[1])
        seen = (flat @ camera.rotation.T + camera.translation).astype(np.float32)
        coverage = rasterise(seen, figure.surface.faces, camera.intrinsics, width=width, height=height)
        shadow = np.maximum(shadow, (coverage.face_id >= 0).astype(np.float32))
    soft = cv2.GaussianBlur(shadow, (0, 0), 0.006 * height)
    darkened: np.ndarray = background * (1 - _SHADOW_STRENGTH * soft)[..., None]
    return darkened


def _truth(
    body: BodyModel, params: BodyParams, rendered: list[RenderedFrame], camera: Camera, index: int
) -> PersonTruth:
    whole = wholebody_points(body, body.pose(params))
    intrinsics: Float64[np.ndarray, "3 3"] = camera.intrinsics.astype(np.float64)
    points_px = project(whole.points_m.astype(np.float64), intrinsics).astype(np.float32)
    visible = np.stack(
        [
            whole.known & visible_points(whole.points_m[n], points_px[n], frame.depth, frame.alphas[index])
            for n, frame in enumerate(rendered)
        ]
    )
    points_px[:, ~whole.known] = 0
    alphas = encode_alphas(np.stack([frame.alphas[index] for frame in rendered]))
    return PersonTruth(
        body=params,
        points_px=points_px,
        visible=visible,
        alpha_pngs=alphas,
        boxes_px=np.stack([frame.boxes_px[index] for frame in rendered]),
        visible_share=np.stack([frame.visible[index] for frame in rendered]),
    )
