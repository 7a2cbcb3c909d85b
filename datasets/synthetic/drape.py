"""Keeps clothes outside of the posed body: garment vertices are pushed out to their clearance, neighbours along.

Skinning alone lets thighs come through a skirt when a hip is bent far. This is one projection per frame, no simulation
of cloth: it knows nothing of the frames before, so equal poses give equal folds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32, Int64
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

_NEIGHBOURS = 12  # rest neighbours on the body that a close-fitting vertex may touch
_SPREAD_ROUNDS = 6
_SPREAD = 0.85  # of the neighbours' mean push that a vertex takes over
_DEEPEST_M = 0.12  # what lies deeper is no collision of this garment but a body that bends into itself


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DrapedPiece:
    """One garment: `first`..`first + N` of the dressed mesh, and what of the body it must stay outside of.

    `near` lists body vertices per garment vertex ([N, K], close-fitting), or with `pool` the body vertices among which
    the nearest is sought in every pose ([P], hanging cloth).
    """

    first: int
    near: Int64[np.ndarray, "N K"] | None
    pool: Int64[np.ndarray, " P"] | None
    clearance_m: Float32[np.ndarray, " N"]
    mixing: csr_matrix  # mean over the neighbours along edges, [N, N]

    def settle(self, vertices: Float32[np.ndarray, "V 3"], normals: Float32[np.ndarray, "B 3"]) -> None:
        """Pushes this garment's rows of `vertices` out, in place; `normals` are the posed body's, unit length."""
        points = vertices[self.first : self.first + len(self.clearance_m)]
        if self.near is not None:
            apart = points[:, None] - vertices[self.near]
            choice = (apart * apart).sum(-1).argmin(1)
            touched = self.near[np.arange(len(points)), choice]
        else:
            assert self.pool is not None
            touched = self.pool[cKDTree(vertices[self.pool]).query(points)[1]]
        outwards = normals[touched]
        depth = self.clearance_m - ((points - vertices[touched]) * outwards).sum(1)
        needed = np.where(depth < _DEEPEST_M, np.maximum(depth, 0), 0)[:, None] * outwards
        push = needed
        for _ in range(_SPREAD_ROUNDS):
            shared = _SPREAD * (self.mixing @ push)
            push = np.where(
                (needed * needed).sum(1, keepdims=True) > (shared * needed).sum(1, keepdims=True), needed, shared
            )
        points += push.astype(np.float32)


def close_fitting(
    first: int, rest: Float32[np.ndarray, "N 3"], faces: Int32[np.ndarray, "F 3"], body: Float32[np.ndarray, "B 3"],
    *, clearance_m: Float32[np.ndarray, " N"],
) -> DrapedPiece:  # fmt: skip
    """A garment that follows the body below it: sleeves, tops, trousers; `rest` and `body` in the rest pose."""
    near = cKDTree(body).query(rest, k=_NEIGHBOURS)[1].astype(np.int64)
    return DrapedPiece(
        first=first, near=near, pool=None, clearance_m=clearance_m, mixing=_mean_of_neighbours(faces, len(rest))
    )


def hanging(
    first: int, count: int, faces: Int32[np.ndarray, "F 3"], pool: Int64[np.ndarray, " P"], *, clearance_m: float
) -> DrapedPiece:
    """A garment that may meet any of the `pool`'s body vertices: skirts."""
    clearance = np.full(count, clearance_m, np.float32)
    return DrapedPiece(
        first=first, near=None, pool=pool, clearance_m=clearance, mixing=_mean_of_neighbours(faces, count)
    )


def settled(
    pieces: tuple[DrapedPiece, ...],
    vertices: Float32[np.ndarray, "V 3"],
    body_faces: Int32[np.ndarray, "F 3"],
    num_body: int,
) -> Float32[np.ndarray, "V 3"]:
    """The dressed mesh of one frame with its garments pushed out of the body, which are its first `num_body` rows."""
    from lhmforge.datasets.synthetic.raster_kernels import vertex_normals

    result = vertices.copy()
    normals = vertex_normals(np.ascontiguousarray(vertices[:num_body]), body_faces)
    normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    for piece in pieces:
        piece.settle(result, normals)
    return result


def _mean_of_neighbours(faces: Int32[np.ndarray, "F 3"], count: int) -> csr_matrix:
    pairs = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    both = np.concatenate([pairs, pairs[:, ::-1]])
    matrix = csr_matrix((np.ones(len(both), np.float32), (both[:, 0], both[:, 1])), shape=(count, count))
    matrix.data[:] = 1
    degree = np.maximum(np.asarray(matrix.sum(1)).ravel(), 1)
    return csr_matrix(matrix.multiply(1 / degree[:, None]).astype(np.float32))
