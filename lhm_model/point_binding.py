"""Binds given surface positions to a mesh: how the released point file becomes query points."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.spatial import cKDTree

from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.errors import CheckpointError
from lhmforge.lhm_model.query_points import QueryPoints
from lhmforge.lhm_model.skinning import canonical_pose

_MAX_MEAN_DISTANCE_M = 2e-3
_NEAREST = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """Nearest point of the mesh per position: corners, barycentrics, distance in metres."""

    vertex_ids: Int64[np.ndarray, "N 3"]
    barycentric: Float[np.ndarray, "N 3"]
    distance: Float[np.ndarray, " N"]


def read_point_ply(path: Path) -> Float[np.ndarray, "N 3"]:
    """Vertex positions of a .ply point file; raises `CheckpointError`."""
    import trimesh

    if not path.is_file():
        raise CheckpointError(f"{path}: no such point file")
    try:
        loaded = trimesh.load(path, process=False)
    except (ValueError, IndexError, KeyError) as error:
        raise CheckpointError(f"{path}: not a readable .ply file ({error})") from error
    vertices = np.asarray(getattr(loaded, "vertices", np.empty((0, 3))), np.float64)
    if len(vertices) == 0:
        raise CheckpointError(f"{path}: holds no points")
    return vertices


def bind_points(
    body: BodyModel, positions: Float[np.ndarray, "N 3"], *, num_body: int, leg_spread_deg: float
) -> QueryPoints:
    """Query points at `positions` (body points first), given on the template in the zero or the canonical pose.

    Of the two poses the nearer is taken; raises `CheckpointError` when neither lies within 2 mm on average.
    """
    spread = body.forward(
        betas=torch.zeros(1, body.num_betas),
        full_pose=canonical_pose(leg_spread_deg)[None],
        transl=torch.zeros(1, 3),
        pose_correctives=False,
    )
    poses = body.v_template.numpy(), spread.vertices[0].numpy()
    projections = [project_to_mesh(vertices.astype(np.float64), body.faces.numpy(), positions) for vertices in poses]
    best = min(projections, key=lambda projection: float(projection.distance.mean()))
    if best.distance.mean() > _MAX_MEAN_DISTANCE_M:
        raise CheckpointError(
            f"the given points lie {1e3 * best.distance.mean():.1f} mm from the surface of {body.source} on average; "
            "they belong to another body"
        )
    return QueryPoints(
        vertex_ids=torch.from_numpy(best.vertex_ids),
        barycentric=torch.from_numpy(best.barycentric.astype(np.float32)),
        num_body=num_body,
        topology_digest=body.topology_digest,
    )


def project_to_mesh(
    vertices: Float[np.ndarray, "V 3"], faces: Int64[np.ndarray, "F 3"], positions: Float[np.ndarray, "N 3"]
) -> Projection:
    """The nearest mesh point of each position, among the faces whose corners or centres are near."""
    around: list[list[int]] = [[] for _ in range(len(vertices))]
    for face, corners in enumerate(faces):
        for corner in corners:
            around[corner].append(face)
    _, near = cKDTree(vertices).query(positions, k=min(_NEAREST, len(vertices)))
    # Long faces may have all their corners far from a point above them; their centroids are nearer.
    _, near_faces = cKDTree(vertices[faces].mean(1)).query(positions, k=min(_NEAREST, len(faces)))
    ids, barycentric, distance = np.zeros((len(positions), 3), np.int64), np.zeros((len(positions), 3)), []
    for index, position in enumerate(positions):
        by_corner = [face for vertex in np.atleast_1d(near[index]) for face in around[vertex]]
        candidates = np.unique([*by_corner, *np.atleast_1d(near_faces[index])])
        weights = _closest_barycentric(vertices[faces[candidates]], position)
        gap = np.linalg.norm(np.einsum("fk,fkc->fc", weights, vertices[faces[candidates]]) - position, axis=1)
        best = int(gap.argmin())
        ids[index], barycentric[index] = faces[candidates[best]], weights[best]
        distance.append(gap[best])
    return Projection(vertex_ids=ids, barycentric=barycentric, distance=np.asarray(distance))


def _closest_barycentric(
    triangles: Float[np.ndarray, "F 3 3"], position: Float[np.ndarray, " 3"]
) -> Float[np.ndarray, "F 3"]:
    """Barycentrics of the point of each triangle that is closest to `position`: inside, or on the best edge."""
    a, ab, ac = triangles[:, 0], triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    gram = np.stack([(ab * ab).sum(1), (ab * ac).sum(1), (ac * ac).sum(1)])
    right = np.stack([((position - a) * ab).sum(1), ((position - a) * ac).sum(1)])
    determinant = np.maximum(gram[0] * gram[2] - gram[1] ** 2, 1e-18)
    v = (gram[2] * right[0] - gram[1] * right[1]) / determinant
    w = (gram[0] * right[1] - gram[1] * right[0]) / determinant
    inside = np.stack([1 - v - w, v, w], axis=1)
    options = [inside]
    for start, end in ((0, 1), (1, 2), (2, 0)):
        edge = triangles[:, end] - triangles[:, start]
        along = ((position - triangles[:, start]) * edge).sum(1) / np.maximum((edge * edge).sum(1), 1e-18)
        along = along.clip(0.0, 1.0)
        option = np.zeros_like(inside)
        option[:, start], option[:, end] = 1 - along, along
        options.append(option)
    gaps = np.stack([np.linalg.norm(np.einsum("fk,fkc->fc", o, triangles) - position, axis=1) for o in options], axis=1)
    gaps[(inside < 0).any(1), 0] = np.inf
    chosen: np.ndarray = np.stack(options, axis=1)[np.arange(len(triangles)), gaps.argmin(1)]
    return chosen
