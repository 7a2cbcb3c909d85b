"""Cameras, light and backgrounds of synthetic clips, and motions turned into exact camera-frame parameters."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, Float64
from scipy.spatial.transform import Rotation

from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.body.params import BodyParams
from lhmforge.datasets.synthetic import backdrop
from lhmforge.datasets.synthetic.motion import Motion
from lhmforge.datasets.synthetic.raster import Light


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """World (y up, metres) to OpenCV camera: `x_camera = rotation @ x_world + translation`."""

    intrinsics: Float32[np.ndarray, "3 3"]
    rotation: Float64[np.ndarray, "3 3"]
    translation: Float64[np.ndarray, " 3"]

    @property
    def world_to_camera(self) -> Float32[np.ndarray, "4 4"]:
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = self.rotation, self.translation
        return matrix.astype(np.float32)


def looking_at(
    eye: Float64[np.ndarray, " 3"], target: Float64[np.ndarray, " 3"], intrinsics: Float32[np.ndarray, "3 3"]
) -> Camera:
    """A camera at `eye` that sees `target` at the principal point, upright."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, (0.0, 1.0, 0.0))
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    return Camera(intrinsics=intrinsics, rotation=rotation, translation=-rotation @ eye)


def grounded(
    body: BodyModel, betas: Float32[np.ndarray, " S"], motion: Motion, origin: Float64[np.ndarray, " 3"]
) -> BodyParams:
    """World-frame parameters (y up) of a motion, started at `origin`, the lowest vertex of each frame at y = 0."""
    count = motion.num_frames
    pelvis = body.pose(_params(betas, motion, np.zeros((1, 3)).repeat(count, 0))).joints[:, 0].numpy()
    transl = motion.path + origin - pelvis * np.array([1, 0, 1])
    vertices = body.pose(_params(betas, motion, transl.astype(np.float32) * np.array([1, 0, 1]))).vertices
    transl[:, 1] = -vertices[..., 1].amin(1).numpy()
    return _params(betas, motion, transl)


def in_camera(body: BodyModel, world: BodyParams, camera: Camera) -> BodyParams:
    """The same body in camera coordinates; `transl` keeps its SMPL-X meaning (rotation about the pelvis)."""
    turn = Rotation.from_matrix(camera.rotation)
    pelvis = body.J_regressor[0].numpy() @ _shaped_template(body, world)
    moved = (pelvis + world.transl) @ camera.rotation.T + camera.translation - pelvis
    arrays = world.to_arrays()
    arrays["global_orient"] = (turn * Rotation.from_rotvec(world.global_orient)).as_rotvec().astype(np.float32)
    arrays["transl"] = moved.astype(np.float32)
    return BodyParams.from_arrays(arrays)


def random_light(rng: np.random.Generator, camera: Camera) -> Light:
    """Daylight or indoor light from above and roughly from the camera's side."""
    azimuth, height = rng.uniform(-1.2, 1.2), rng.uniform(0.35, 1.1)
    towards = np.array([np.sin(azimuth) * np.cos(height), np.sin(height), np.cos(azimuth) * np.cos(height)])
    back = camera.rotation.T @ np.array([0, 0, -1.0])  # from the subject to the camera, in the world
    yaw = np.arctan2(back[0], back[2])
    towards = Rotation.from_euler("y", yaw).apply(towards)
    warmth = rng.uniform(-0.06, 0.06)
    strength = rng.uniform(0.5, 0.75)
    tint = np.array([1 + warmth, 1.0, 1 - warmth])
    return Light(
        towards=(camera.rotation @ towards).astype(np.float32),
        up=(camera.rotation @ np.array([0, 1.0, 0])).astype(np.float32),
        ambient=(rng.uniform(0.5, 0.68) * (2 - tint)).astype(np.float32),
        diffuse=(strength * tint).astype(np.float32),
    )


def random_background(
    rng: np.random.Generator, camera: Camera, *, width: int, height: int
) -> Float32[np.ndarray, "H W 3"]:
    """A wall and a floor that meet at a plausible height behind the subject (see `backdrop`), slightly out of focus."""
    size = 512
    wall, floor = backdrop.wall(rng), backdrop.floor(rng)
    wall = cv2.GaussianBlur(wall, (0, 0), float(rng.uniform(0.6, 3.5)))
    picture = cv2.resize(wall, (width, height), interpolation=cv2.INTER_LINEAR)
    on_floor = _floor_points(camera, width=width, height=height)
    behind = on_floor[..., 2] > rng.uniform(1.5, 4.0)  # the wall stands behind the subject
    visible = np.isfinite(on_floor[..., 0]) & ~behind
    texel = (np.nan_to_num(on_floor[..., :2]) * rng.uniform(60, 200)).astype(np.int64) % size
    picture[visible] = floor[texel[visible, 1], texel[visible, 0]]
    return np.clip(cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 0.8), 0, 1)


def _floor_points(camera: Camera, *, width: int, height: int) -> Float64[np.ndarray, "H W 3"]:
    """Per pixel, world x and z where its ray meets y = 0, and how far that lies behind the origin."""
    y, x = np.mgrid[0:height, 0:width] + 0.5
    rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(camera.intrinsics.astype(np.float64)).T
    rays = rays @ camera.rotation
    eye = -camera.rotation.T @ camera.translation
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.where(rays[..., 1] < -1e-4, -eye[1] / rays[..., 1], np.nan)
    points = eye + rays * distance[..., None]
    away = camera.rotation[2] * np.array([1, 0, 1])
    depth = points @ (away / np.linalg.norm(away))
    return np.stack([points[..., 0], points[..., 2], depth], axis=-1)


def _params(betas: np.ndarray, motion: Motion, transl: np.ndarray) -> BodyParams:
    pose = motion.full_pose
    return BodyParams(
        betas=betas,
        expression=motion.expression,
        global_orient=pose[:, 0],
        body_pose=pose[:, 1:22],
        jaw_pose=pose[:, 22],
        leye_pose=pose[:, 23],
        reye_pose=pose[:, 24],
        left_hand_pose=pose[:, 25:40],
        right_hand_pose=pose[:, 40:],
        transl=transl.astype(np.float32),
    )


def _shaped_template(body: BodyModel, params: BodyParams) -> Float32[np.ndarray, "V 3"]:
    shaped: np.ndarray = body.v_template.numpy() + body.shapedirs[..., : len(params.betas)].numpy() @ params.betas
    return shaped
