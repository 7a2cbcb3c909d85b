"""Unit vertex normals of a triangle mesh."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int32


def unit_normals(vertices: Float32[np.ndarray, "V 3"], faces: Int32[np.ndarray, "F 3"]) -> Float32[np.ndarray, "V 3"]:
    """Area-weighted normals of length one; vertices at one place share theirs; zero where a vertex has no face."""
    corner = vertices[faces]
    face_normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    place = np.unique(np.round(vertices, 5), axis=0, return_inverse=True)[1].reshape(-1)
    total = np.zeros_like(vertices)
    for k in range(3):
        np.add.at(total, place[faces[:, k]], face_normal)
    result: np.ndarray = (total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12))[place]
    return result
