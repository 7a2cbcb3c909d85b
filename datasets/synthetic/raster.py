"""A CPU triangle rasteriser: what is visible where, and what it looks like. Camera axes as in `cameras`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32, Int64, UInt8

SHADOW_SIZE = 512
_NEAR_M = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """Triangles with texture coordinates; a texture is square, [T, T, 3], and repeats outside 0..1."""

    faces: Int32[np.ndarray, "F 3"]
    face_uv: Float32[np.ndarray, "F 3 2"]
    face_texture: Int32[np.ndarray, " F"]
    textures: tuple[UInt8[np.ndarray, "_ _ 3"], ...]
    materials: tuple[str, ...] = ()  # per texture "skin", "cloth", "hair" or ""; none: all are plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Light:
    """One directional light and a hemisphere ambient term; directions in camera axes, unit length."""

    towards: Float32[np.ndarray, " 3"]
    up: Float32[np.ndarray, " 3"]
    ambient: Float32[np.ndarray, " 3"]
    diffuse: Float32[np.ndarray, " 3"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """Per pixel: the nearest face (-1: none), 1 / depth (0: none), barycentrics of the face's first two corners."""

    face_id: Int32[np.ndarray, "H W"]
    inverse_depth: Float32[np.ndarray, "H W"]
    bary: Float32[np.ndarray, "H W 2"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LitSurface:
    """Per pixel: sRGB colour 0..255, unit normal towards the viewer, place in the texture 0..1, share of light 0..1."""

    albedo: Float32[np.ndarray, "H W 3"]
    normal: Float32[np.ndarray, "H W 3"]
    texture_at: Float32[np.ndarray, "H W 2"]
    lit: Float32[np.ndarray, "H W"]


def rasterise(
    vertices: Float32[np.ndarray, "V 3"],
    faces: Int32[np.ndarray, "F 3"],
    intrinsics: Float32[np.ndarray, "3 3"],
    *,
    width: int,
    height: int,
) -> Coverage:
    """Visibility of camera-frame triangles at pixel centres (+0.5); faces that cross the near plane are left out."""
    from lhmforge.datasets.synthetic.raster_kernels import cover

    depth = np.maximum(vertices[:, 2], 1e-6)
    focal, centre = intrinsics[[0, 1], [0, 1]], intrinsics[:2, 2]
    points = (vertices[:, :2] / depth[:, None] * focal + centre).astype(np.float32)
    face_id = np.full((height, width), -1, np.int32)
    inverse_depth = np.zeros((height, width), np.float32)
    bary = np.zeros((height, width, 2), np.float32)
    cover(points, depth.astype(np.float32), faces, np.float32(_NEAR_M), face_id, inverse_depth, bary)
    return Coverage(face_id=face_id, inverse_depth=inverse_depth, bary=bary)


def gather(coverage: Coverage, vertices: Float32[np.ndarray, "V 3"], surface: Surface, light: Light) -> LitSurface:
    """What a light meets in the covered pixels; `shading.shade` makes colours of it."""
    from lhmforge.datasets.synthetic import raster_kernels

    shape = coverage.face_id.shape
    albedo, normal = np.zeros((*shape, 3), np.float32), np.zeros((*shape, 3), np.float32)
    texture_at, lit = np.zeros((*shape, 2), np.float32), np.zeros(shape, np.float32)
    shadow = _shadow_camera(vertices, light)
    intrinsics = np.array(
        [[shadow.scale, 0, SHADOW_SIZE / 2], [0, shadow.scale, SHADOW_SIZE / 2], [0, 0, 1]], np.float32
    )
    seen = vertices @ shadow.rotation.T + shadow.shift
    shadow_map = rasterise(seen, surface.faces, intrinsics, width=SHADOW_SIZE, height=SHADOW_SIZE).inverse_depth
    sizes = np.array([len(texture) for texture in surface.textures], np.int64)
    texels = np.concatenate([texture.reshape(-1) for texture in surface.textures])
    raster_kernels.surface_at(
        coverage.face_id, coverage.bary, surface.faces, vertices,
        raster_kernels.vertex_normals(vertices, surface.faces), surface.face_uv, surface.face_texture,
        texels, _starts(sizes), sizes, light.towards,
        shadow_map, shadow.rotation, shadow.shift, shadow.scale, albedo, normal, texture_at, lit,
    )  # fmt: skip
    return LitSurface(albedo=albedo, normal=normal, texture_at=texture_at, lit=lit)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ShadowCamera:
    rotation: Float32[np.ndarray, "3 3"]
    shift: Float32[np.ndarray, " 3"]
    scale: float


def _shadow_camera(vertices: Float32[np.ndarray, "V 3"], light: Light) -> _ShadowCamera:
    """A distant camera at the light that just holds the object."""
    low, high = vertices.min(0), vertices.max(0)
    centre, radius = (low + high) / 2, float(np.linalg.norm(high - low)) / 2
    distance = 6 * radius
    forward = -light.towards
    right = np.cross(forward, (0.1, 1.0, 0.05))
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward]).astype(np.float32)
    shift = (-rotation @ (centre + light.towards * distance)).astype(np.float32)
    return _ShadowCamera(rotation=rotation, shift=shift, scale=SHADOW_SIZE / 2 * distance / radius * 0.97)


def _starts(sizes: Int64[np.ndarray, " M"]) -> Int64[np.ndarray, " M"]:
    ends: np.ndarray = np.cumsum(3 * sizes * sizes)
    return np.concatenate([np.zeros(1, np.int64), ends[:-1]])
