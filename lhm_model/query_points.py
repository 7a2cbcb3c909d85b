"""The fixed points of the body surface that the transformer asks about, bound to a mesh by barycentrics.

The set is part of the trained model: another draw changes what every token means. It is drawn once from a seed, stored
in the checkpoint and compared on load.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from lhmforge.datasets.body.joints import joint
from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.errors import BodyError, CheckpointError
from lhmforge.lhm_model.config import ModelConfig

HEAD_JOINTS = tuple(joint(name) for name in ("neck", "head", "jaw", "left_eye", "right_eye"))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QueryPoints:
    """`N` surface points, the body's first, then the head's; each is a weighted mean of three vertices."""

    vertex_ids: Int64[Tensor, "N 3"]
    barycentric: Float32[Tensor, "N 3"]
    num_body: int
    topology_digest: str  # of the body whose vertices are meant

    def __post_init__(self) -> None:
        if not 0 < self.num_body < self.num_points:
            raise CheckpointError(f"query points: {self.num_body} body points of {self.num_points} in all")
        sums = self.barycentric.sum(1)
        if not bool(((sums - 1.0).abs() < 1e-4).all()) or bool((self.barycentric < -1e-6).any()):
            raise CheckpointError("query points: barycentrics must be non-negative and sum to 1")

    @property
    def num_points(self) -> int:
        return len(self.vertex_ids)

    @property
    def digest(self) -> str:
        """sha256 of the whole set."""
        hasher = hashlib.sha256(f"{self.num_body} {self.topology_digest}".encode())
        hasher.update(self.vertex_ids.cpu().numpy().tobytes())
        hasher.update(self.barycentric.cpu().numpy().tobytes())
        return hasher.hexdigest()

    def check_body(self, body: BodyModel) -> None:
        """Raises `CheckpointError` unless the points are bound to this body's mesh."""
        if self.topology_digest != body.topology_digest:
            raise CheckpointError(
                f"the query points are bound to a mesh with topology digest {self.topology_digest[:16]}, the body "
                f"{body.source} has {body.topology_digest[:16]} ({body.num_vertices} vertices): use the body file "
                "that the checkpoint was trained with"
            )

    def interpolate(self, values: Float[Tensor, V * _]) -> Float[Tensor, N * _]:
        """Per-vertex values at the points, by barycentrics."""
        weights = self.barycentric.to(values.device).reshape(*self.barycentric.shape, *[1] * (values.dim() - 1))
        return (values[self.vertex_ids.to(values.device)] * weights).sum(1)

    def nearest(self, values: Float[Tensor, V * _]) -> Float[Tensor, N * _]:
        """Per-vertex values of the corner that is closest to each point."""
        corner = self.barycentric.argmax(1, keepdim=True)
        return values[self.vertex_ids.gather(1, corner)[:, 0].to(values.device)]


def sample_query_points(body: BodyModel, config: ModelConfig) -> QueryPoints:
    """The points that `config` asks for on `body`: spread evenly by area, deterministic in `config.point_seed`.

    Head faces have all three corners skinned mostly to neck, head, jaw or eyes; body faces have none; faces across the
    border are left out. Raises `BodyError` when a region has no face.
    """
    in_head = torch.isin(body.dominant_joint, torch.tensor(HEAD_JOINTS))[body.faces].sum(1).numpy()
    rng = np.random.default_rng(config.point_seed)
    body_ids, body_bary = _draw(body, np.flatnonzero(in_head == 0), config.num_body_points, rng, "body")
    head_ids, head_bary = _draw(body, np.flatnonzero(in_head == 3), config.num_head_points, rng, "head")
    return QueryPoints(
        vertex_ids=torch.from_numpy(np.concatenate([body_ids, head_ids])),
        barycentric=torch.from_numpy(np.concatenate([body_bary, head_bary])),
        num_body=config.num_body_points,
        topology_digest=body.topology_digest,
    )


def _draw(
    body: BodyModel, face_ids: Int64[np.ndarray, " F"], count: int, rng: np.random.Generator, region: str
) -> tuple[Int64[np.ndarray, "N 3"], Float32[np.ndarray, "N 3"]]:
    if not len(face_ids):
        raise BodyError(f"{body.source}: no face belongs to the {region} region, so no query points can be drawn")
    faces = body.faces.numpy()[face_ids]
    a, b, c = (body.v_template.numpy().astype(np.float64)[faces[:, k]] for k in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    cumulative = np.cumsum(area) / area.sum()
    # One stratum of equal area per point: no face gets more than its share, unlike with independent draws.
    position = (np.arange(count) + rng.random(count)) / count
    chosen = np.minimum(np.searchsorted(cumulative, position, side="right"), len(faces) - 1)
    root, along = np.sqrt(rng.random(count)), rng.random(count)
    barycentric = np.stack([1.0 - root, root * (1.0 - along), root * along], axis=1).astype(np.float32)
    return faces[chosen].astype(np.int64), barycentric
