"""Cuts garments and hair out of the shells that come with the free body."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float32, Int32

from lhmforge.datasets.body.free_body import free_wardrobe_path
from lhmforge.datasets.synthetic.normals import unit_normals


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shells:
    """Closed-fitting surfaces around the rest body: tights (neck to toes and wrists), skirt, hair cap."""

    vertices: Float32[np.ndarray, "V 3"]
    shapedirs: Float32[np.ndarray, "V 3 S"]
    weights: Float32[np.ndarray, "V 55"]
    tights: Int32[np.ndarray, "A 4"]
    skirt: Int32[np.ndarray, "B 4"]
    hair: Int32[np.ndarray, "C 4"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A part of the rest body by height and distance from the middle (|x|), metres; `neckline` lowers the middle."""

    low: float = -2.0
    high: float = 2.0
    reach: float = 2.0
    neckline: float = 0.0

    def contains(self, points: Float32[np.ndarray, "*n 3"], *, margin: float = 0.0) -> Bool[np.ndarray, "*n"]:
        """Whether points lie inside the region shrunk by `margin`."""
        side, y = np.abs(points[..., 0]), points[..., 1]
        inside: np.ndarray = (y > self.low + margin) & (y < self._top(points) - margin) & (side < self.reach - margin)
        return inside

    def clamp(self, points: Float32[np.ndarray, "N 3"]) -> Float32[np.ndarray, "N 3"]:
        """Points outside moved onto the border, which gives straight hems and cuffs."""
        x, y, z = points.T
        height = np.clip(y, self.low, np.maximum(self._top(points), self.low))
        return np.stack([np.clip(x, -self.reach, self.reach), height, z], axis=1).astype(np.float32)

    def _top(self, points: np.ndarray) -> np.ndarray:
        side = np.abs(points[..., 0])
        dip = self.neckline * np.clip(1 - side / 0.08, 0, 1) * (points[..., 2] > 0.05)
        limit: np.ndarray = np.where(side < 0.12, self.high - dip, max(self.high, 0.5) if self.high > 0 else self.high)
        return limit


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Piece:
    """One garment or hair cut: its own vertices (indices into the shells), triangles and texture coordinates."""

    shell_vertex: Int32[np.ndarray, " N"]
    offset: Float32[np.ndarray, "N 3"]  # from the shell, rest pose
    faces: Int32[np.ndarray, "F 3"]
    uv: Float32[np.ndarray, "N 2"]


@lru_cache(maxsize=1)
def load_shells() -> Shells:
    """The shells of the free body (built with it on first use)."""
    with np.load(free_wardrobe_path()) as arrays:
        shells = Shells(
            vertices=arrays["v_template"],
            shapedirs=arrays["shapedirs"],
            weights=arrays["weights"],
            tights=arrays["tights"],
            skirt=arrays["skirt"],
            hair=arrays["hair"],
        )
    return _finer_skirt(shells)


def _finer_skirt(shells: Shells) -> Shells:
    """Every quad of the skirt in four: cells of 5 cm cannot follow the thighs that press into them."""
    quads = shells.skirt
    edges = np.sort(np.stack([quads, np.roll(quads, -1, axis=1)], axis=-1).reshape(-1, 2), axis=1)
    pairs, of_edge = np.unique(edges, axis=0, return_inverse=True)
    start = len(shells.vertices)
    middle = start + of_edge.reshape(-1, 4)  # between corner k and the next
    centre = start + len(pairs) + np.arange(len(quads))

    def grown(values: np.ndarray) -> np.ndarray:
        return np.concatenate([values, values[pairs].mean(1), values[quads].mean(1)]).astype(values.dtype)

    finer = [np.stack([quads[:, k], middle[:, k], centre, middle[:, k - 1]], axis=1) for k in range(4)]
    return replace(
        shells,
        vertices=grown(shells.vertices),
        shapedirs=grown(shells.shapedirs),
        weights=grown(shells.weights),
        skirt=np.concatenate(finer).astype(np.int32),
    )


def cut(
    shells: Shells,
    quads: Int32[np.ndarray, "Q 4"],
    region: Region,
    *,
    push_m: float | Float32[np.ndarray, " V"],
    texture_scale: float = 1.1,
) -> Piece:
    """The part of a shell inside `region`, moved outwards by `push_m` (one number, or one per shell vertex)."""
    keep = region.contains(shells.vertices)[quads].any(1)
    normals = unit_normals(shells.vertices, _triangles(quads))
    used, inverse = np.unique(quads[keep], return_inverse=True)
    local = inverse.reshape(-1, 4)
    push = np.broadcast_to(np.asarray(push_m, np.float32), (len(shells.vertices),))[used]
    points = region.clamp(shells.vertices[used])
    # Metric, seamless coordinates: a slanted projection, so that patterns keep their scale from one piece to the next.
    uv = np.stack([points[:, 0] + 0.5 * points[:, 2], points[:, 1]], axis=1) * texture_scale + 0.5
    return Piece(
        shell_vertex=used.astype(np.int32),
        offset=(points - shells.vertices[used] + normals[used] * push[:, None]).astype(np.float32),
        faces=_triangles(local.astype(np.int32)),
        uv=uv.astype(np.float32),
    )


def quad_centres(shells: Shells, quads: Int32[np.ndarray, "Q 4"]) -> Float32[np.ndarray, "Q 3"]:
    """Middle of every quad on the rest body."""
    centres: np.ndarray = shells.vertices[quads].mean(1)
    return centres


def _triangles(quads: Int32[np.ndarray, "Q 4"]) -> Int32[np.ndarray, "F 3"]:
    return np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
