"""What stands behind synthetic people: rooms and outdoor places of muted colour with things in them."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float32

from lhmforge.datasets.synthetic.fabric import random_colour, tiling_noise

_SIZE = 512
WALLS = ("plaster", "bricks", "panels", "shelves", "window", "outdoors")
FLOORS = ("plain", "planks", "tiles", "speckled")


def wall(rng: np.random.Generator) -> Float32[np.ndarray, "T T 3"]:
    """A wall or an outdoor view, upright, top row first, colours in 0..1."""
    kind = WALLS[int(rng.integers(len(WALLS)))]
    if kind == "outdoors":
        return _outdoors(rng)
    colour = _muted(rng)
    picture = colour * (0.92 + 0.16 * tiling_noise(rng, 4))[..., None]
    if kind == "bricks":
        picture = picture * _grid(rng, rows=int(rng.integers(18, 40)), aspect=2.2, shifted=True)[..., None]
    elif kind == "panels":
        picture = picture * _grid(rng, rows=1, aspect=rng.uniform(0.06, 0.2), shifted=False)[..., None]
    elif kind == "shelves":
        _shelves(picture, rng)
    elif kind == "window":
        x0, y0 = (int(value) for value in rng.integers(20, 260, 2))
        bright = np.full((190, 150, 3), rng.uniform(0.85, 1.0)) * (0.9 + 0.1 * tiling_noise(rng, 3)[:190, :150, None])
        picture[y0 : y0 + 190, x0 : x0 + 150] = bright
        picture[y0 + 92 : y0 + 98, x0 : x0 + 150] = picture[y0 : y0 + 190, x0 + 72 : x0 + 78] = 0.6 * colour
    for _ in range(int(rng.integers(0, 7))):
        _thing(picture, rng)
    left, right = rng.uniform(0.75, 1.15, 2).tolist()
    light = np.linspace(left, right, _SIZE)[None, :] * np.linspace(1.08, 0.86, _SIZE)[:, None]
    lit: np.ndarray = np.clip(picture * light[..., None], 0, 1)
    return lit.astype(np.float32)


def floor(rng: np.random.Generator) -> Float32[np.ndarray, "T T 3"]:
    """A floor seen from above, which tiles."""
    kind = FLOORS[int(rng.integers(len(FLOORS)))]
    picture = _muted(rng) * (0.88 + 0.24 * tiling_noise(rng, 8))[..., None]
    if kind == "planks":
        picture = picture * _grid(rng, rows=8, aspect=4.0, shifted=True)[..., None]
    elif kind == "tiles":
        picture = picture * _grid(rng, rows=int(rng.integers(4, 10)), aspect=1.0, shifted=False)[..., None]
    elif kind == "speckled":  # gravel, carpet, grass
        picture = picture * (0.7 + 0.6 * tiling_noise(rng, 128, octaves=2))[..., None]
    return np.clip(picture, 0, 1).astype(np.float32)


def _muted(rng: np.random.Generator) -> Float32[np.ndarray, " 3"]:
    colour = random_colour(rng, bright=(0.35, 0.95))
    mixed: np.ndarray = 0.35 * colour + 0.65 * colour.mean()
    return mixed


def _grid(rng: np.random.Generator, *, rows: int, aspect: float, shifted: bool) -> Float32[np.ndarray, "T T"]:
    """Joints between bricks, planks or tiles, each of a slightly different tone."""
    y, x = np.mgrid[0:_SIZE, 0:_SIZE] / _SIZE
    row = np.floor(y * rows)
    columns = max(1, round(rows / aspect))
    along = x * columns + (0.5 * (row % 2) if shifted else 0)
    tone = rng.uniform(0.86, 1.1, (rows, columns + 2))[row.astype(int), np.floor(along).astype(int)]
    joint = 0.06
    inside = ((along % 1) > joint / max(aspect, 0.3)) & ((y * rows % 1) > joint)
    result: np.ndarray = np.where(inside, tone, rng.uniform(0.6, 0.95)).astype(np.float32)
    return result


def _shelves(picture: Float32[np.ndarray, "T T 3"], rng: np.random.Generator) -> None:
    for top in range(0, _SIZE, 84):
        x = 0
        while x < _SIZE:
            width, height = int(rng.integers(6, 30)), int(rng.integers(36, 72))
            picture[top + 78 - height : top + 78, x : x + width] = random_colour(rng) * rng.uniform(0.5, 1.0)
            x += width + int(rng.integers(0, 3)) + (int(rng.integers(10, 80)) if rng.random() < 0.08 else 0)
        picture[top + 78 : top + 84] = 0.35


def _thing(picture: Float32[np.ndarray, "T T 3"], rng: np.random.Generator) -> None:
    """A picture on the wall, a cupboard, a ball: a textured box or ellipse with a darker rim."""
    x0, y0 = (int(value) for value in rng.integers(0, _SIZE, 2))
    wide, tall = (int(value) for value in rng.integers(20, 150, 2))
    mask = np.zeros((_SIZE, _SIZE), np.float32)
    if rng.random() < 0.7:
        cv2.rectangle(mask, (x0, y0), (x0 + wide, y0 + tall), 1.0, -1)
    else:
        cv2.ellipse(mask, (x0, y0), (wide // 2, tall // 2), 0, 0, 360, 1.0, -1)
    inner = cv2.erode(mask, np.ones((7, 7), np.uint8))
    noise = tiling_noise(rng, int(rng.integers(2, 12)))[..., None]
    content = random_colour(rng) * (1 - noise) + random_colour(rng) * noise
    picture[:] = np.where(mask[..., None] > 0, content * (0.55 + 0.45 * inner[..., None]), picture)


def _outdoors(rng: np.random.Generator) -> Float32[np.ndarray, "T T 3"]:
    """Sky over a ragged line of trees or houses."""
    sky = np.array([0.62, 0.74, 0.9]) * rng.uniform(0.8, 1.05) + rng.uniform(0, 0.12)
    clouds = np.clip(tiling_noise(rng, 3) - 0.45, 0, 1)[..., None]
    picture = sky * np.linspace(0.85, 1.1, _SIZE)[:, None, None] * (1 - clouds) + clouds
    y = np.arange(_SIZE)[:, None]
    for layer in range(3):
        ragged = tiling_noise(rng, 6 + 8 * layer, octaves=4 if rng.random() < 0.7 else 1)[0]
        line = _SIZE * (0.25 + 0.2 * layer - 0.3 * ragged)
        green = rng.random() < 0.7
        colour = np.array([0.22, 0.33, 0.14]) if green else _muted(rng) * 0.7
        leaves = (0.5 + 0.9 * tiling_noise(rng, 40, octaves=3))[..., None] * colour * (1.3 - 0.2 * layer)
        picture = np.where((y > line)[..., None], leaves, picture)
    return np.clip(picture, 0, 1).astype(np.float32)
