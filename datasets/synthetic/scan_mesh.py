"""Reads a coloured triangle mesh with trimesh and brings its colours into textures that the rasteriser samples."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float32, Float64, Int32, UInt8

from lhmforge.datasets.errors import ScanError
from lhmforge.datasets.synthetic.raster import Surface

_MAX_FACES = 2_000_000
_MAX_TEXTURE = 4096
_PLACEHOLDER_PX = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanMesh:
    """All parts of a file in one: vertices in the file's own units and axes, with their coloured faces."""

    vertices: Float64[np.ndarray, "V 3"]
    surface: Surface


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    vertices: Float64[np.ndarray, "v 3"]
    faces: Int32[np.ndarray, "f 3"]
    face_uv: Float32[np.ndarray, "f 3 2"]
    texture: UInt8[np.ndarray, "T T 3"]


def read_mesh(path: Path) -> ScanMesh:
    """The mesh of an OBJ, GLB, glTF or PLY file; raises `ScanError` naming the file and what it lacks."""
    parts = [_part(path, geometry) for geometry in _geometries(path)]
    if not parts:
        raise ScanError(f"{path} has no triangles; a scan needs a surface, not points alone")
    total = sum(len(part.faces) for part in parts)
    if total > _MAX_FACES:
        raise ScanError(f"{path} has {total} triangles; reduce it to at most {_MAX_FACES}")
    starts = np.cumsum([0, *(len(part.vertices) for part in parts)])
    faces = [part.faces + np.int32(start) for part, start in zip(parts, starts[:-1], strict=True)]
    counts = [len(part.faces) for part in parts]
    surface = Surface(
        faces=np.concatenate(faces).astype(np.int32),
        face_uv=np.concatenate([part.face_uv for part in parts]),
        face_texture=np.repeat(np.arange(len(parts)), counts).astype(np.int32),
        textures=tuple(part.texture for part in parts),
    )
    return ScanMesh(vertices=np.concatenate([part.vertices for part in parts]), surface=surface)


def _geometries(path: Path) -> list[Any]:
    """The triangle meshes of a file, moved to where its scene has them."""
    import trimesh

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of readers about what they skip; what matters is checked below
            scene = trimesh.load_scene(path, process=False, maintain_order=True)
            found = scene.dump(concatenate=False)
    except (ValueError, KeyError, IndexError, TypeError, OSError, AttributeError, NotImplementedError) as error:
        raise ScanError(f"{path} cannot be read as a mesh: {type(error).__name__}: {error}") from error
    return [geometry for geometry in found if isinstance(geometry, trimesh.Trimesh) and len(geometry.faces)]


def _part(path: Path, geometry: Any) -> _Part:
    vertices, faces = np.asarray(geometry.vertices, np.float64), np.asarray(geometry.faces, np.int64)
    if not np.isfinite(vertices).all():
        raise ScanError(f"{path} has {int((~np.isfinite(vertices)).any(1).sum())} vertices that are not finite")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise ScanError(f"{path} has triangles that name vertices beyond its {len(vertices)}")
    corner = faces.astype(np.int32)
    image, uv = _texture_of(geometry)
    if image is not None and uv is not None:
        if not np.isfinite(uv).all():
            raise ScanError(f"{path} has texture coordinates that are not finite")
        return _Part(vertices=vertices, faces=corner, face_uv=uv[faces].astype(np.float32), texture=_square(image))
    colours = _vertex_colours(geometry)
    if colours is None:
        raise ScanError(
            f"{path} has no colours: neither a texture picture that could be read (OBJ: do the .mtl file and the "
            "picture it names lie beside it?) nor colours per vertex"
        )
    return _Part(vertices=vertices, faces=corner, **_baked(colours[faces]))


def _texture_of(geometry: Any) -> tuple[Any, np.ndarray | None]:
    visual = geometry.visual
    material, uv = getattr(visual, "material", None), getattr(visual, "uv", None)
    image = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
    if image is not None and max(image.size) <= _PLACEHOLDER_PX:  # trimesh's stand-in for a texture that is missing
        image = None
    return image, None if uv is None else np.asarray(uv, np.float64)


def _vertex_colours(geometry: Any) -> np.ndarray | None:
    visual = geometry.visual
    if getattr(visual, "kind", None) == "vertex":
        return np.asarray(visual.vertex_colors)[:, :3].astype(np.float32)
    attributes = getattr(visual, "vertex_attributes", {})
    return np.asarray(attributes["color"])[:, :3].astype(np.float32) if "color" in attributes else None


def _square(image: Any) -> UInt8[np.ndarray, "T T 3"]:
    """The picture as square RGB; texture coordinates are shares of its sides, so they stay as they are."""
    pixels = np.asarray(image.convert("RGB"), np.uint8)
    side = min(max(pixels.shape[:2]), _MAX_TEXTURE)
    if pixels.shape[:2] == (side, side):
        return pixels
    return np.asarray(cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def _baked(corners: Float32[np.ndarray, "f 3 3"]) -> dict[str, np.ndarray]:
    """Colours per corner as a texture with 2x2 texels per face, between which bilinear sampling is exact."""
    count = len(corners)
    across = int(np.ceil(np.sqrt(count)))
    cell_y, cell_x = np.divmod(np.arange(count), across)
    texture = np.zeros((2 * across, 2 * across, 3), np.float32)
    fourth = corners[:, 1] + corners[:, 2] - corners[:, 0]
    for dy, dx, colour in ((0, 0, corners[:, 0]), (0, 1, corners[:, 1]), (1, 0, corners[:, 2]), (1, 1, fourth)):
        texture[2 * cell_y + dy, 2 * cell_x + dx] = colour
    x = (2 * cell_x[:, None] + np.array([0.5, 1.5, 0.5])) / (2 * across)
    y = (2 * cell_y[:, None] + np.array([0.5, 0.5, 1.5])) / (2 * across)
    face_uv = np.stack([x, 1 - y], axis=-1).astype(np.float32)
    return {"face_uv": face_uv, "texture": np.rint(np.clip(texture, 0, 255)).astype(np.uint8)}
