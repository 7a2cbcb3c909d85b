"""Colours of a lit surface: linear light, skin and hair of their own, folds of cloth, darker creases.

Everything works on the pixels of one figure. Creases follow Luft, Colditz, Deussen, "Image Enhancement by Unsharp
Masking the Depth Buffer" (2006): what lies deeper than its surroundings gets less of the ambient light.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Bool, Float32

from lhmforge.datasets.synthetic.fabric import TEXTURE_SIZE, tiling_noise
from lhmforge.datasets.synthetic.raster import Coverage, Light, LitSurface, Surface, gather

_GAMMA = 2.2
_WRAP = np.array([0.28, 0.16, 0.12], np.float32)  # light that skin carries past the terminator, red most
_SHINE = {"skin": (0.045, 14.0), "hair": (0.03, 24.0), "cloth": (0.0, 1.0), "": (0.0, 1.0)}  # strength, exponent
_FOLD_M = 0.005  # height of cloth folds
_CREASE_M, _CREASE = 0.05, 0.55  # depth below the surroundings that counts fully, and what it takes away


def shade(
    coverage: Coverage, vertices: Float32[np.ndarray, "V 3"], surface: Surface, light: Light
) -> Float32[np.ndarray, "H W 3"]:
    """sRGB colours (0..1) of the covered pixels, zero elsewhere."""
    seen = gather(coverage, vertices, surface, light)
    colour = np.zeros((*coverage.face_id.shape, 3), np.float32)
    mask = coverage.face_id >= 0
    if not mask.any():
        return colour
    materials = np.array(surface.materials or ("",) * len(surface.textures))
    material = materials[surface.face_texture[coverage.face_id[mask]]]
    normal = _folded(seen, coverage, mask, material) if (material == "cloth").any() else seen.normal[mask]
    cosine = normal @ light.towards
    wrap = np.where((material == "skin")[:, None], _WRAP, 0).astype(np.float32)
    direct = np.clip((cosine[:, None] + wrap) / (1 + wrap), 0, None) * seen.lit[mask][:, None]
    ambient = light.ambient**_GAMMA
    diffuse = (light.ambient + light.diffuse) ** _GAMMA - ambient
    hemisphere = 0.55 + 0.45 * (0.5 + 0.5 * normal @ light.up)
    open_sky = hemisphere * _openness(coverage, mask) if surface.materials else hemisphere
    albedo = (seen.albedo[mask] / 255) ** _GAMMA
    radiance = albedo * (ambient * open_sky[:, None] + diffuse * direct)
    radiance += (_shine(normal, light, material) * seen.lit[mask])[:, None] * diffuse
    colour[mask] = np.clip(radiance, 0, 1) ** (1 / _GAMMA)
    return colour


def _shine(normal: Float32[np.ndarray, "N 3"], light: Light, material: np.ndarray) -> Float32[np.ndarray, " N"]:
    """Blinn and Phong's highlight; people fill a narrow view, so one direction to the viewer serves all pixels."""
    half = light.towards + np.array([0, 0, -1], np.float32)
    cosine = np.clip(normal @ (half / max(float(np.linalg.norm(half)), 1e-6)), 0, 1)
    total = np.zeros(len(normal), np.float32)
    for name, (strength, exponent) in _SHINE.items():
        if strength > 0:
            total += np.where(material == name, strength * cosine**exponent, 0)
    return total.astype(np.float32)


def _folded(
    seen: LitSurface, coverage: Coverage, mask: Bool[np.ndarray, "H W"], material: np.ndarray
) -> Float32[np.ndarray, "N 3"]:
    """Normals bent by folds: a height over the texture plane, differentiated in the picture."""
    size = TEXTURE_SIZE
    texel = np.clip(seen.texture_at * size, 0, size - 1)
    height = cv2.remap(_folds(), texel[..., 0], texel[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    spacing = _pixel_size(coverage)
    slopes = []
    for axis in (1, 0):
        step = (np.roll(height, -1, axis) - np.roll(height, 1, axis)) * _FOLD_M / (2 * spacing)
        step[np.abs(step) > 1.2] = 0  # across an edge of the garment or of the texture
        slopes.append(step[mask])
    normal = seen.normal[mask].copy()
    cloth = material == "cloth"
    normal[cloth, 0] -= np.clip(slopes[0][cloth], -0.6, 0.6)
    normal[cloth, 1] -= np.clip(slopes[1][cloth], -0.6, 0.6)
    bent: np.ndarray = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    return bent.astype(np.float32)


def _pixel_size(coverage: Coverage) -> float:
    """Metres per pixel, as if the figure were 1.7 m tall in the picture; folds need no more exactness."""
    rows = np.flatnonzero((coverage.face_id >= 0).any(1))
    return 1.7 / max(len(rows), 1)


def _openness(coverage: Coverage, mask: Bool[np.ndarray, "H W"]) -> Float32[np.ndarray, " N"]:
    depth = np.where(mask, 1 / np.maximum(coverage.inverse_depth, 1e-9), 0).astype(np.float32)
    sigma = max(1.0, 0.02 * np.count_nonzero(mask.any(1)))
    weight = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), sigma)
    around = cv2.GaussianBlur(depth, (0, 0), sigma) / np.maximum(weight, 1e-6)
    below = np.clip((depth - around)[mask] / _CREASE_M, 0, 1)
    return (1 - _CREASE * below).astype(np.float32)


@lru_cache(maxsize=1)
def _folds() -> Float32[np.ndarray, "T T"]:
    """One sheet of folds for all cloth, stretched along the vertical as hanging cloth is."""
    noise = tiling_noise(np.random.default_rng(7), 9, octaves=3)
    tall = np.concatenate([noise, noise], 0)[::2][: TEXTURE_SIZE // 2]
    sheet = np.concatenate([tall, tall[::-1]], 0)
    stretched = cv2.resize(sheet, (TEXTURE_SIZE, TEXTURE_SIZE))
    return np.asarray(0.6 * noise + 0.4 * stretched, np.float32)
