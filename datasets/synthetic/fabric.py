"""Procedural textures that tile: noise, fabrics with patterns and folds, and hair."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

TEXTURE_SIZE = 512
# Hue in degrees and saturation of common clothes: greys, navy, denim, khaki, brown, olive, burgundy, pale blue.
_COMMON = (
    (0, 0.03),
    (220, 0.06),
    (30, 0.08),
    (225, 0.55),
    (212, 0.42),
    (40, 0.28),
    (24, 0.45),
    (75, 0.3),
    (350, 0.55),
    (205, 0.2),
)


def tiling_noise(
    rng: np.random.Generator, cells: int, *, size: int = TEXTURE_SIZE, octaves: int = 4
) -> Float32[np.ndarray, "T T"]:
    """Fractal noise in 0..1 that repeats without a seam; `cells` bumps across in the coarsest octave."""
    total = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        count = min(cells * 2**octave, size)
        wrapped = np.pad(rng.random((count, count)).astype(np.float32), 2, mode="wrap")
        scale = size / count
        grown = cv2.resize(wrapped, (round((count + 4) * scale),) * 2, interpolation=cv2.INTER_CUBIC)
        start = round(2 * scale)
        total += 0.55**octave * grown[start : start + size, start : start + size]
    total -= total.min()
    result: np.ndarray = total / total.max()
    return result


def random_colour(rng: np.random.Generator, *, bright: tuple[float, float] = (0.12, 0.95)) -> Float32[np.ndarray, " 3"]:
    """A clothing colour: mostly greys, navy, denim, earth; sometimes vivid; `bright` bounds its value."""
    hue, saturation = rng.random() * 360, float(rng.beta(1.4, 1.8))
    if saturation < 0.55:  # what most people wear
        family = _COMMON[int(hue / 360 * len(_COMMON)) % len(_COMMON)]
        hue, saturation = family[0] + 20 * (hue / 30 % 1 - 0.5), family[1] * (0.6 + 0.8 * saturation)
    pixel = np.array([[[hue % 360, min(saturation, 1.0), rng.uniform(*bright)]]], np.float32)
    colour: np.ndarray = cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0]
    return colour


def fabric(rng: np.random.Generator) -> UInt8[np.ndarray, "T T 3"]:
    """A random cloth: plain, stripes, checks, dots, blotches or colour blocks, with weave and soft folds."""
    first, second = random_colour(rng), random_colour(rng)
    kinds = ("plain", "plain", "stripes", "upright stripes", "checks", "dots", "blotches", "blocks")
    pattern = _pattern(str(rng.choice(kinds)), rng)[..., None]
    return to_texture((first * (1 - pattern) + second * pattern) * _relief(rng)[..., None])


def plain_fabric(rng: np.random.Generator, *, bright: tuple[float, float] = (0.05, 0.6)) -> UInt8[np.ndarray, "T T 3"]:
    """A single-coloured cloth, as most trousers and shoes are."""
    return to_texture(random_colour(rng, bright=bright) * _relief(rng)[..., None])


def hair_texture(rng: np.random.Generator, colour: Float32[np.ndarray, " 3"]) -> UInt8[np.ndarray, "T T 3"]:
    """Strands along the vertical texture axis in a hair colour."""
    strands = cv2.GaussianBlur(rng.random((TEXTURE_SIZE, TEXTURE_SIZE)).astype(np.float32), (0, 0), 1.0, sigmaY=24)
    strands = (strands - strands.min()) / np.ptp(strands)
    return to_texture(colour * (0.55 + 0.9 * strands)[..., None])


def to_texture(colour: Float32[np.ndarray, "T T 3"]) -> UInt8[np.ndarray, "T T 3"]:
    """8-bit texture of colours in 0..1, clipped."""
    return np.rint(np.clip(colour, 0, 1) * 255).astype(np.uint8)


def _pattern(kind: str, rng: np.random.Generator) -> Float32[np.ndarray, "T T"]:
    y, x = np.mgrid[0:TEXTURE_SIZE, 0:TEXTURE_SIZE].astype(np.float32) / TEXTURE_SIZE
    count = int(rng.integers(6, 22))
    wave_x, wave_y = np.sin(2 * np.pi * count * x), np.sin(2 * np.pi * count * y)
    share = rng.uniform(-0.4, 0.5)
    if kind == "stripes":
        mask = (wave_y > share) * 1.0
    elif kind == "upright stripes":
        mask = (wave_x > share) * 1.0
    elif kind == "checks":
        mask = (wave_x > share) * 0.5 + (wave_y > share) * 0.5
    elif kind == "dots":
        mask = (((x * count) % 1 - 0.5) ** 2 + ((y * count) % 1 - 0.5) ** 2 < 0.07) * 1.0
    elif kind == "blotches":
        mask = (tiling_noise(rng, 8) > 0.5) * 1.0
    elif kind == "blocks":
        mask = (np.sin(2 * np.pi * y + rng.uniform(0, 6)) > 0) * 1.0
    else:
        mask = np.zeros_like(x)
    return cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 1.0)


def _relief(rng: np.random.Generator) -> Float32[np.ndarray, "T T"]:
    weave = 0.95 + 0.1 * tiling_noise(rng, 64, octaves=2)
    folds = 0.82 + 0.32 * cv2.GaussianBlur(tiling_noise(rng, 10, octaves=2), (0, 0), 6)
    result: np.ndarray = (weave * folds).astype(np.float32)
    return result
