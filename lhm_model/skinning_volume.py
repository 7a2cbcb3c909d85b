"""Skinning weights in the space around the canonical body, for Gaussians that stand off its surface.

Near the surface a voxel has the weights of the nearest surface points. Everywhere else the weights w solve the screened
Laplace equation  laplace(w) = (w - nearest) / L^2:  they stay near the nearest surface's, without its jumps where two
limbs are equally near, so cloth between limbs belongs partly to both. (Harmonic weights, L infinite, would let the
whole body pull at a point 5 cm off a thigh.) The idea of diffusing weights into space is FITE's (Lin et al. 2022); the
solver here is plain relaxation, first on a coarse grid.

Hands and face are left to vertex weights: in the volume a hand is one part (its wrist) and a head is one part.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int64
from scipy.spatial import cKDTree
from torch import Tensor, nn

from lhmforge.datasets import storage
from lhmforge.datasets.assets import cache_root
from lhmforge.datasets.body.joints import BODY_JOINTS, JOINT_NAMES, LEFT_HAND_JOINTS, RIGHT_HAND_JOINTS, joint
from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.codecs import decode_npz, encode_npz
from lhmforge.datasets.errors import ForgeError, ShardError

VERSION = 1  # raise it with every change of the values; old cache files are then no longer found
_MARGIN_M = 0.2  # around the body; further out the border's weights hold
_SURFACE_VOXELS = 1.0  # voxels within this many spacings of the surface are held fast
_NEAREST = 3  # surface points that a held voxel blends
_REACH_M = 0.03  # L above
_ROUNDS = ((2, 40), (1, 30))  # (grid coarser by, relaxations); more change the weights by less than 0.01
_HELD = ("wrist", "thumb", "index", "middle", "ring", "pinky", "head", "jaw", "eye")
_log = logging.getLogger(__name__)


class SkinningVolume(nn.Module):
    """Weights of the 22 body joints on a grid; constants, neither trained nor stored in checkpoints."""

    values: Tensor  # [1,22,X,Y,Z]
    low: Tensor  # [3] centre of the first voxel, metres
    span: Tensor  # [3] from the first to the last centre

    def __init__(self, values: Float32[np.ndarray, "J X Y Z"], low: Float32[np.ndarray, 3], spacing_m: float) -> None:
        super().__init__()
        span = (np.array(values.shape[1:]) - 1) * spacing_m
        self.register_buffer("values", torch.from_numpy(values)[None].clone(), persistent=False)
        self.register_buffer("low", torch.from_numpy(low).clone(), persistent=False)
        self.register_buffer("span", torch.from_numpy(span.astype(np.float32)), persistent=False)

    def forward(self, points: Float[Tensor, "*s 3"]) -> Float[Tensor, "*s 55"]:
        """Trilinear weights at canonical points; they sum to 1, and joints of fingers and face have none."""
        position = (points - self.low) / self.span * 2.0 - 1.0
        grid = position.flip(-1).reshape(1, -1, 1, 1, 3)  # grid_sample counts its last axis first
        sampled = F.grid_sample(self.values, grid, mode="bilinear", padding_mode="border", align_corners=True)
        weights = sampled.reshape(self.values.shape[1], -1).T
        weights = weights / weights.sum(-1, keepdim=True)
        return F.pad(weights, (0, len(JOINT_NAMES) - weights.shape[1])).reshape(*points.shape[:-1], -1)


def held_share(weights: Float[Tensor, "N 55"]) -> Float[Tensor, " N"]:
    """How far each point belongs to a hand or the head, where vertex weights stay; between 0 and 1."""
    held = torch.tensor([any(part in name for part in _HELD) for name in JOINT_NAMES], device=weights.device)
    return weights[:, held].sum(1).clamp(0.0, 1.0)


def skinning_volume(body: BodyModel, canonical: Float[Tensor, "V 3"], *, spacing_m: float) -> SkinningVolume:
    """The volume of `body`, whose vertices in the canonical pose are `canonical`; from the cache or made anew.

    Making it takes some seconds for 2 cm. The cache file is named by the body's digest, the pose and the spacing.
    """
    pose = hashlib.sha256(np.ascontiguousarray(canonical.numpy()).tobytes()).hexdigest()[:12]
    path = cache_root() / "skinning" / f"v{VERSION}_{body.digest[:16]}_{pose}_{spacing_m * 1e3:g}mm.npz"
    if path.is_file():
        try:
            arrays = decode_npz(path.read_bytes(), what=str(path))
            return _volume(arrays["values"], arrays["low"], spacing_m)
        except (ShardError, KeyError, OSError) as error:
            _log.warning("%s is torn and made anew (%s)", path, error)
    _log.info("diffusing the skinning weights of %s into space (once)", body.source)
    grid = _grid(canonical.numpy(), spacing_m)
    values = _diffuse(grid, canonical.numpy(), _body_weights(body.weights.numpy())).astype(np.float16)
    try:
        storage.publish(path, (encode_npz({"values": values, "low": grid.low}),))
    except ForgeError as error:
        _log.warning("the skinning volume is not cached: %s", error)
    return _volume(values, grid.low, spacing_m)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grid:
    low: Float32[np.ndarray, 3]
    shape: tuple[int, int, int]
    spacing_m: float

    def coarser(self, by: int) -> _Grid:
        size = tuple(max(2, -(-length // by)) for length in self.shape)
        return _Grid(low=self.low, shape=(size[0], size[1], size[2]), spacing_m=self.spacing_m * by)

    def centres(self) -> Float32[np.ndarray, "M 3"]:
        axes = [self.low[k] + np.arange(self.shape[k], dtype=np.float32) * self.spacing_m for k in range(3)]
        return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3).astype(np.float32)


def _volume(values: np.ndarray, low: np.ndarray, spacing_m: float) -> SkinningVolume:
    # Rounded once, so that a volume from the cache equals one just made.
    return SkinningVolume(values.astype(np.float16).astype(np.float32), low.astype(np.float32), spacing_m)


def _grid(vertices: Float32[np.ndarray, "V 3"], spacing_m: float) -> _Grid:
    low, high = vertices.min(0) - _MARGIN_M, vertices.max(0) + _MARGIN_M
    size = np.ceil((high - low) / spacing_m).astype(int) + 1
    return _Grid(low=low.astype(np.float32), shape=(int(size[0]), int(size[1]), int(size[2])), spacing_m=spacing_m)


def _body_weights(weights: Float32[np.ndarray, "V 55"]) -> Float32[np.ndarray, "V 22"]:
    """Fingers added to their wrist, jaw and eyes to the head."""
    merged = weights[:, : len(BODY_JOINTS)].copy()
    for target, parts in (
        ("left_wrist", LEFT_HAND_JOINTS),
        ("right_wrist", RIGHT_HAND_JOINTS),
        ("head", ("jaw", "left_eye", "right_eye")),
    ):
        merged[:, joint(target)] += weights[:, [joint(part) for part in parts]].sum(1)
    return merged / merged.sum(1, keepdims=True)


def _diffuse(
    grid: _Grid, vertices: Float32[np.ndarray, "V 3"], weights: Float32[np.ndarray, "V J"]
) -> Float32[np.ndarray, "J X Y Z"]:
    """Relaxation on ever finer grids; the coarsest one starts from the nearest surface weights everywhere."""
    tree = cKDTree(vertices)
    field: Tensor | None = None
    for coarser, rounds in _ROUNDS:
        level = grid.coarser(coarser)
        distance, nearest = tree.query(level.centres(), k=_NEAREST)
        seeds = _by_distance(weights, distance, nearest).T.reshape(-1, *level.shape)
        held = torch.from_numpy((distance[:, 0] <= _SURFACE_VOXELS * level.spacing_m).reshape(level.shape))
        seed = torch.from_numpy(np.ascontiguousarray(seeds))
        start = seed if field is None else _resized(field, level.shape)
        pull = (level.spacing_m / _REACH_M) ** 2
        field = _relax(torch.where(held, seed, start), seed, held, rounds=rounds, pull=pull)
    assert field is not None
    return (field / field.sum(0, keepdim=True)).numpy()


def _by_distance(
    weights: Float32[np.ndarray, "V J"], distance: Float[np.ndarray, "M K"], nearest: Int64[np.ndarray, "M K"]
) -> Float32[np.ndarray, "M J"]:
    closeness = 1.0 / np.maximum(distance, 1e-4)
    closeness = (closeness / closeness.sum(1, keepdims=True)).astype(np.float32)
    return np.einsum("mk,mkj->mj", closeness, weights[nearest], dtype=np.float32)


def _resized(field: Float[Tensor, "J a b c"], shape: tuple[int, int, int]) -> Float[Tensor, "J X Y Z"]:
    return F.interpolate(field[None], shape, mode="trilinear", align_corners=True)[0]


def _relax(
    field: Float[Tensor, "J X Y Z"],
    seed: Float[Tensor, "J X Y Z"],
    held: Bool[Tensor, "X Y Z"],
    *,
    rounds: int,
    pull: float,
) -> Float[Tensor, "J X Y Z"]:
    pulled = pull * seed
    for _ in range(rounds):
        padded = F.pad(field[None], (1, 1, 1, 1, 1, 1), mode="replicate")[0]
        total = padded[:, 2:, 1:-1, 1:-1] + padded[:, :-2, 1:-1, 1:-1]
        total += padded[:, 1:-1, 2:, 1:-1]
        total += padded[:, 1:-1, :-2, 1:-1]
        total += padded[:, 1:-1, 1:-1, 2:]
        total += padded[:, 1:-1, 1:-1, :-2]
        total += pulled
        field = torch.where(held, seed, total / (6.0 + pull))
    return field
