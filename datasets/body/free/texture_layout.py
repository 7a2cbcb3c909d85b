"""Carries the base mesh's texture coordinates over to the reduced mesh."""

from __future__ import annotations

import itertools

import numpy as np
from jaxtyping import Float64, Int64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def carry_uv(
    faces: Int64[np.ndarray, "F 3"], quads: Int64[np.ndarray, "Q 4 2"], uv: Float64[np.ndarray, "T 2"]
) -> Int64[np.ndarray, "F 3"]:
    """UV index of every face corner; `quads` hold (vertex, UV) per corner of the base mesh.

    A vertex on a seam has several UVs; the corners of a face take those of one chart, and among them the tightest.
    """
    edges = np.concatenate([np.stack([quads[:, k, 1], quads[:, (k + 1) % 4, 1]], 1) for k in range(4)])
    graph = coo_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(len(uv), len(uv)))
    chart = connected_components(graph, directed=False)[1]
    choices: dict[int, set[int]] = {}
    for vertex, texel in quads.reshape(-1, 2).tolist():
        choices.setdefault(vertex, set()).add(texel)
    return np.array([_corner_uvs([sorted(choices[v]) for v in face], chart, uv) for face in faces.tolist()], np.int64)


def _corner_uvs(options: list[list[int]], chart: np.ndarray, uv: np.ndarray) -> tuple[int, ...]:
    if all(len(o) == 1 for o in options):
        return tuple(o[0] for o in options)
    shared = set.intersection(*({int(chart[t]) for t in o} for o in options))
    if shared:
        first = min(shared)
        options = [[t for t in o if chart[t] == first] for o in options]
    spread = lambda c: sum(float(np.abs(uv[c[k]] - uv[c[k - 1]]).sum()) for k in range(3))  # noqa: E731
    return min(itertools.product(*options), key=spread)
