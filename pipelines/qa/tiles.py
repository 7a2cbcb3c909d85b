"""Frames of a sample on tiles of one size, with what was annotated on them: matte, keypoints, body."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, Int64, UInt8

from lhmforge.datasets.sample import StoredSample
from lhmforge.pipelines.qa.mesh_overlay import BodyPainter
from lhmforge.pipelines.wholebody import BODY, FACE, FEET, LEFT_HAND, LIMBS, RIGHT_HAND

MIN_SCORE = 0.3
TILE = (240, 320)  # width, height of a tile in a strip
_EMPTY = 24  # grey beside a frame that does not fill its tile
_LEFT, _RIGHT, _MIDDLE = (88, 166, 255), (255, 138, 76), (235, 235, 235)  # RGB, the subject's sides


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One frame fitted into a tile: picture, matte, keypoints in tile pixels, and the painted body, if any."""

    frame: int  # index into the sample
    image: UInt8[np.ndarray, "H W 3"]
    alpha: UInt8[np.ndarray, "H W"]
    points_px: Float32[np.ndarray, "133 2"]
    point_scores: Float32[np.ndarray, " 133"]
    body: UInt8[np.ndarray, "H W 4"] | None


def spread_frames(num_frames: int, count: int) -> Int64[np.ndarray, " M"]:
    """At most `count` frames, evenly spread, first and last included."""
    if num_frames <= count:
        return np.arange(num_frames, dtype=np.int64)
    return np.unique(np.linspace(0, num_frames - 1, count).round().astype(np.int64))


def cut_tiles(
    sample: StoredSample, frames: Int64[np.ndarray, " M"], *, size: tuple[int, int], painter: BodyPainter | None
) -> list[Tile]:
    """Tiles of `size` (width, height) for the given frames; the body is painted when `painter` knows it."""
    images = [sample.image(int(frame)) for frame in frames]
    fits = [_fit(image.shape[1], image.shape[0], size) for image in images]
    bodies: Sequence[UInt8[np.ndarray, "H W 4"] | None] = [None] * len(frames)
    if painter is not None:
        cameras = np.stack([fit @ sample.intrinsics[frame] for fit, frame in zip(fits, frames, strict=True)])
        bodies = painter.paint(
            sample.body.select(frames),
            intrinsics=cameras.astype(np.float32),
            world_to_camera=sample.world_to_camera[frames],
            size=size,
        )
    return [
        Tile(
            frame=int(frame),
            image=_warp(image, fit, size, fill=_EMPTY),
            alpha=_warp(sample.alpha(int(frame)), fit, size, fill=0),
            points_px=sample.points_px[frame] * fit[[0, 1], [0, 1]] + fit[:2, 2],
            point_scores=sample.point_scores[frame],
            body=body,
        )
        for frame, image, fit, body in zip(frames, images, fits, bodies, strict=True)
    ]


def with_matte(tile: Tile) -> UInt8[np.ndarray, "H W 3"]:
    """The person on light grey, as the matte cuts it out."""
    alpha = tile.alpha[..., None].astype(np.float32) / 255
    return (tile.image * alpha + 225 * (1 - alpha)).astype(np.uint8)


def with_body(tile: Tile) -> UInt8[np.ndarray, "H W 3"]:
    """The frame with the body painted over it; the frame alone where there is none."""
    if tile.body is None:
        return tile.image
    alpha = 0.75 * tile.body[..., 3:].astype(np.float32) / 255
    return (tile.image * (1 - alpha) + tile.body[..., :3] * alpha).astype(np.uint8)


def with_keypoints(tile: Tile) -> UInt8[np.ndarray, "H W 3"]:
    """The frame with limbs and points of the keypoints that were seen."""
    picture = np.ascontiguousarray(tile.image)
    places = np.nan_to_num(tile.points_px).round().astype(int)
    seen = (tile.point_scores >= MIN_SCORE) & np.isfinite(tile.points_px).all(axis=1)
    for start, end in LIMBS:
        if seen[start] and seen[end]:
            cv2.line(picture, places[start].tolist(), places[end].tolist(), _side_colour(end), 2, cv2.LINE_AA)
    for part, radius in ((BODY, 2), (FEET, 2), (FACE, 1), (LEFT_HAND, 1), (RIGHT_HAND, 1)):
        for index in range(part.start, part.stop):
            if seen[index]:
                cv2.circle(picture, places[index].tolist(), radius, _side_colour(index), -1, cv2.LINE_AA)
    return picture


def _side_colour(index: int) -> tuple[int, int, int]:
    if index == 0 or FACE.start <= index < FACE.stop:
        return _MIDDLE
    if index < FEET.start:
        return _LEFT if index % 2 else _RIGHT
    left = index < FEET.start + 3 or LEFT_HAND.start <= index < LEFT_HAND.stop
    return _LEFT if left else _RIGHT


def _fit(width: int, height: int, size: tuple[int, int]) -> Float32[np.ndarray, "3 3"]:
    """The pixel transform that puts a frame into the middle of a tile, aspect kept."""
    scale = min(size[0] / width, size[1] / height)
    shift = ((size[0] - width * scale) / 2, (size[1] - height * scale) / 2)
    return np.array([[scale, 0, shift[0]], [0, scale, shift[1]], [0, 0, 1]], np.float32)


def _warp(pixels: np.ndarray, fit: Float32[np.ndarray, "3 3"], size: tuple[int, int], *, fill: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    inner = (max(1, round(width * fit[0, 0])), max(1, round(height * fit[1, 1])))
    resized = cv2.resize(pixels, inner, interpolation=cv2.INTER_AREA if fit[0, 0] < 1 else cv2.INTER_LINEAR)
    tile = np.full((size[1], size[0], *pixels.shape[2:]), fill, np.uint8)
    left, top = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    tile[top : top + inner[1], left : left + inner[0]] = resized
    return tile
