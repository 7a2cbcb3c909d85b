"""The matte's outline as evidence: points on the rim of the body should lie a clothes' thickness inside it.

A frame's matte becomes a field of signed distances to its edge (negative inside, pixels). Rim points deep inside, as
those of an arm before the trunk, and far outside, where something hides the person, are outliers of the robust loss.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Bool, Float64, Int64

from lhmforge.datasets.body.joints import BODY_JOINTS, joint
from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.records import AlphaCrop, MattedTrack
from lhmforge.pipelines.fitting.keypoint_body import KeypointBody, PosedPoints, SurfacePoint, build_keypoint_body
from lhmforge.pipelines.fitting.landmarks import point_index

_GRID = 128
_MARGIN = 1.3  # side of the field's square window, relative to the longer side of the box
# Hair, hands and shoes are not the body's outline.
_LEFT_OUT = tuple(joint(f"{side}_{part}") for side in ("left", "right") for part in ("ankle", "foot", "wrist"))
_SEEN_WEIGHT = 0.5
_HEAD = tuple(joint(name) for name in ("head", "neck"))


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlineConfig:
    """How much the outline counts; `weight` 0 leaves it out."""

    weight: float = 0.5  # of one rim point in one frame
    sigma_m: float = 0.02
    clothes_m: float = 0.02
    stride: int = 3
    rim: float = 0.3  # largest cosine between a rim point's normal and the line of sight


@dataclass(frozen=True, slots=True, kw_only=True)
class SurfaceSample:
    """Points spread over the body's surface, their normals in the rest pose, and the two keypoints beside each."""

    body: KeypointBody
    normals: Float64[np.ndarray, "K 3"]
    beside: Int64[np.ndarray, "K 2"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mattes:
    """The mattes of a track, and the body's surface that is to fill them."""

    sample: SurfaceSample
    alphas: tuple[AlphaCrop, ...]
    boxes_px: Float64[np.ndarray, "N 4"]
    size_px: tuple[int, int]  # of the image: width, height

    @classmethod
    def of_track(cls, matted: MattedTrack, sample: SurfaceSample) -> Mattes:
        """All frames of a matted track."""
        video = matted.track.clip.video
        boxes = matted.track.boxes_px.astype(np.float64)
        return cls(sample=sample, alphas=matted.alphas, boxes_px=boxes, size_px=(video.width_px, video.height_px))

    def select(self, frames: Int64[np.ndarray, " M"]) -> Mattes:
        """The frames `frames`."""
        return replace(self, alphas=tuple(self.alphas[n] for n in frames), boxes_px=self.boxes_px[frames])

    def with_shape(self, betas: Float64[np.ndarray, " B"]) -> Mattes:
        """The same mattes for the body of one shape."""
        return replace(self, sample=replace(self.sample, body=self.sample.body.with_shape(betas)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """Distance fields of `F` frames; `goal_px` is where rim points should lie, `sigma_px` how exactly."""

    sample: SurfaceSample
    frames: Int64[np.ndarray, " F"]
    fields: Float64[np.ndarray, "F G G"]
    origin_px: Float64[np.ndarray, "F 2"]  # centre of the first cell
    cell_px: Float64[np.ndarray, " F"]
    goal_px: Float64[np.ndarray, " F"]
    sigma_px: Float64[np.ndarray, " F"]
    weights: Float64[np.ndarray, "F K"]

    def distances(
        self, points_px: Float64[np.ndarray, "F K 2"]
    ) -> tuple[Float64[np.ndarray, "F K"], Float64[np.ndarray, "F K 2"]]:
        """Signed distance and its slope at image points, bilinear; points outside a field take its border's value."""
        place = (points_px - self.origin_px[:, None]) / self.cell_px[:, None, None]
        place = np.clip(place, 0, _GRID - 1.001)
        corner = np.floor(place).astype(np.int64)
        x, y = np.moveaxis(place - corner, -1, 0)
        frame = np.arange(len(self.fields))[:, None]
        column, row = np.moveaxis(corner, -1, 0)
        a, b = self.fields[frame, row, column], self.fields[frame, row, column + 1]
        c, d = self.fields[frame, row + 1, column], self.fields[frame, row + 1, column + 1]
        value = (a * (1 - x) + b * x) * (1 - y) + (c * (1 - x) + d * x) * y
        slope = np.stack([(b - a) * (1 - y) + (d - c) * y, (c - a) * (1 - x) + (d - b) * x], -1)
        return value, slope / self.cell_px[:, None, None]


def sample_surface(model: BodyModel, count: int) -> SurfaceSample:
    """About `count` vertices spread over trunk, arms and legs (farthest points first), with normals."""
    rest = model.v_template.double().numpy()
    owner = model.weights.numpy().argmax(1)
    body_part = (owner < len(BODY_JOINTS)) & ~np.isin(owner, (*_LEFT_OUT, *_HEAD))
    candidates = np.flatnonzero(body_part)
    chosen = [int(candidates[0])]
    distance = np.full(len(candidates), np.inf)
    for _ in range(min(count, len(candidates)) - 1):
        distance = np.minimum(distance, np.linalg.norm(rest[candidates] - rest[chosen[-1]], axis=1))
        chosen.append(int(candidates[distance.argmax()]))
    corners = rest[model.faces.numpy()]
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.zeros_like(rest)
    for corner in range(3):
        np.add.at(normals, model.faces.numpy()[:, corner], across)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    points = [SurfacePoint(vertex_ids=(vertex,), vertex_weights=(1.0,)) for vertex in chosen]
    beside = np.array([_beside(int(owner[vertex]), bool(rest[vertex, 0] > 0)) for vertex in chosen])
    return SurfaceSample(body=build_keypoint_body(model, points), normals=normals[chosen], beside=beside)


def _beside(owner: int, on_left: bool) -> tuple[int, int]:
    """The keypoints at the ends of the limb that carries a point; shoulder and hip of its side for the trunk."""
    for first, second in (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle")):
        for side in ("left", "right"):
            if owner == joint(f"{side}_{first}"):
                return point_index(f"{side}_{first}"), point_index(f"{side}_{second}")
    side = "left" if on_left else "right"
    return point_index(f"{side}_shoulder"), point_index(f"{side}_hip")


def build_outline(
    mattes: Mattes,
    point_weights: Float64[np.ndarray, "N P"],
    intrinsics: Float64[np.ndarray, "3 3"],
    rotations: Float64[np.ndarray, "N J 3 3"],
    transl: Float64[np.ndarray, "N 3"],
    betas: Float64[np.ndarray, " B"],
    config: OutlineConfig,
) -> Outline:
    """Fields of every `stride`-th frame; the body as given decides which points are on the rim there.

    A part counts only where the keypoints (`point_weights`, of the solver's points) beside it are seen: a limb that
    something hides is missing from the matte too.
    """
    frames = np.arange(config.stride // 2, len(transl), config.stride)
    sample = mattes.sample
    posed = sample.body.forward(rotations[frames], transl[frames], betas)
    boxes = mattes.boxes_px[frames]
    side = _MARGIN * np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    low = (boxes[:, :2] + boxes[:, 2:] - side[:, None]) / 2
    cell = side / _GRID
    fields = [_field(mattes.alphas[f], low[i], float(cell[i])) for i, f in enumerate(frames)]
    focal, depth = intrinsics[0, 0], np.maximum(posed.joints[:, 0, 2], 0.5)
    rim = _on_rim(sample, posed, config.rim)
    pixels = posed.points[..., :2] / np.maximum(posed.points[..., 2:], 0.2) * intrinsics[[0, 1], [0, 1]]
    pixels += intrinsics[:2, 2]
    seen = (point_weights[frames][:, sample.beside] >= _SEEN_WEIGHT).all(-1)
    border = 0.01 * max(mattes.size_px)
    inside = ((pixels > border) & (pixels < np.array(mattes.size_px) - border)).all(-1)
    return Outline(
        sample=sample,
        frames=frames,
        fields=np.stack(fields) if fields else np.zeros((0, _GRID, _GRID)),
        origin_px=low + cell[:, None] / 2,
        cell_px=cell,
        goal_px=-config.clothes_m * focal / depth,
        sigma_px=config.sigma_m * focal / depth,
        weights=config.weight * (rim & inside & seen),
    )


def _on_rim(sample: SurfaceSample, posed: PosedPoints, largest_cosine: float) -> Bool[np.ndarray, "F K"]:
    turned = np.einsum("kj,njab,kb->nka", sample.body.point_weights, posed.world, sample.normals, optimize=True)
    sight = posed.points / np.linalg.norm(posed.points, axis=-1, keepdims=True)
    rim: np.ndarray = np.abs((turned * sight).sum(-1)) < largest_cosine
    return rim


def _field(alpha: AlphaCrop, low: Float64[np.ndarray, " 2"], cell: float) -> Float64[np.ndarray, "G G"]:
    crop = cv2.imdecode(np.frombuffer(alpha.png, np.uint8), cv2.IMREAD_GRAYSCALE)
    window = alpha.window_px
    to_cells = np.array(
        [[1 / cell, 0, (window[0] + 0.5 - low[0]) / cell - 0.5], [0, 1 / cell, (window[1] + 0.5 - low[1]) / cell - 0.5]]
    )
    mask = (cv2.warpAffine(crop, to_cells, (_GRID, _GRID), flags=cv2.INTER_AREA) >= 128).astype(np.uint8)
    outside, inside = (cv2.distanceTransform(m, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for m in (1 - mask, mask))
    signed: np.ndarray = (np.maximum(outside - 0.5, 0) - np.maximum(inside - 0.5, 0)).astype(np.float64)
    return cell * signed
