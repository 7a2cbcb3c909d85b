"""A quick shaded picture of the fitted body: a coarse mesh of it, painted from back to front."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8

from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.body.params import BodyParams

_CELL_M = 0.03  # vertices this close become one
_FINE_CELL_M = 0.013  # on head and hands
_FINE_JOINTS = (15, 20, 21, 22, 23, 24, *range(25, 55))  # head, wrists, jaw, eyes, fingers
_SHIFT_BITS = 3
_COLOUR = np.array([104.0, 178.0, 255.0])  # RGB of a face that looks at the camera
_NEAR_M = 0.05


class BodyPainter:
    """Paints posed bodies as RGBA pictures; a few thousand faces, chosen once per body model."""

    def __init__(self, body: BodyModel) -> None:
        self._body = body
        self._faces = coarse_faces(
            body.v_template.numpy(), body.faces.numpy(), np.isin(body.dominant_joint.numpy(), _FINE_JOINTS)
        )

    @property
    def body_digest(self) -> str:
        """sha256 of the body file whose parameters can be painted."""
        return self._body.digest

    def paint(
        self,
        params: BodyParams,
        *,
        intrinsics: Float32[np.ndarray, "N 3 3"],
        world_to_camera: Float32[np.ndarray, "N 4 4"],
        size: tuple[int, int],
    ) -> list[UInt8[np.ndarray, "H W 4"]]:
        """One picture of `size` (width, height) per frame; alpha is 0 beside the body."""
        vertices = self._body.pose(params).vertices.numpy().astype(np.float64)
        rotation, shift = world_to_camera[:, :3, :3].astype(np.float64), world_to_camera[:, :3, 3].astype(np.float64)
        in_camera = np.einsum("nij,nvj->nvi", rotation, vertices) + shift[:, None]
        return [
            _paint_faces(points, self._faces, camera.astype(np.float64), size)
            for points, camera in zip(in_camera, intrinsics, strict=True)
        ]


def coarse_faces(
    vertices: Float32[np.ndarray, "V 3"], faces: Int64[np.ndarray, "F 3"], fine: np.ndarray
) -> Int64[np.ndarray, "G 3"]:
    """Faces after merging each cell's vertices into one of them; `fine` (bool [V]) marks those in smaller cells."""
    cell = np.where(fine, _FINE_CELL_M, _CELL_M)
    cells = np.floor(vertices / cell[:, None]).astype(np.int64)
    labels = np.concatenate([cells, fine[:, None].astype(np.int64)], axis=1)
    _, first, inverse = np.unique(labels, axis=0, return_index=True, return_inverse=True)
    merged = first[inverse.reshape(-1)][faces]
    distinct = (merged[:, 0] != merged[:, 1]) & (merged[:, 1] != merged[:, 2]) & (merged[:, 0] != merged[:, 2])
    kept: np.ndarray = merged[distinct]
    _, unique = np.unique(np.sort(kept, axis=1), axis=0, return_index=True)
    return kept[np.sort(unique)]


def _paint_faces(
    points_m: Float64[np.ndarray, "V 3"],
    faces: Int64[np.ndarray, "F 3"],
    intrinsics: Float64[np.ndarray, "3 3"],
    size: tuple[int, int],
) -> UInt8[np.ndarray, "H W 4"]:
    corners = points_m[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    centres = corners.mean(axis=1)
    facing = -(normals * centres).sum(axis=1) / np.maximum(np.linalg.norm(centres, axis=1), 1e-12)
    shown = np.flatnonzero((facing > 0) & (corners[..., 2].min(axis=1) > _NEAR_M))
    shown = shown[np.argsort(-centres[shown, 2], kind="stable")]
    depth = np.maximum(points_m[:, 2:], _NEAR_M)
    pixels = points_m[:, :2] / depth * intrinsics[[0, 1], [0, 1]] + intrinsics[:2, 2] - 0.5
    fixed = np.clip(np.rint(pixels * (1 << _SHIFT_BITS)), -1e6, 1e6).astype(np.int32)[faces[shown]]
    shade = 0.35 + 0.65 * facing[shown]
    colours = np.concatenate([shade[:, None] * _COLOUR, np.full((len(shown), 1), 255.0)], axis=1)
    canvas = np.zeros((size[1], size[0], 4), np.uint8)
    for triangle, colour in zip(fixed, colours.tolist(), strict=True):
        cv2.fillConvexPoly(canvas, triangle, colour, lineType=cv2.LINE_8, shift=_SHIFT_BITS)
    return canvas
