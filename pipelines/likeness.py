"""What a packed sample looks like, and who it shows: hashes of its key frames, vectors of its face and clothes.

All of it is taken from the frames that packing has in hand anyway. Faces are looked at in the frames where both eyes
are seen best, spread over the sample, and their median is kept: one bad look does not move it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from lhmforge.datasets.records import FittedTrack, Likeness, Signature
from lhmforge.pipelines.appearance import describe_persons
from lhmforge.pipelines.backends.roles import FaceEmbedder
from lhmforge.pipelines.boxes import window_around
from lhmforge.pipelines.frame_hash import frame_hash

KEY_PERIOD_S = 0.25
_MAX_KEYS = 64
_NUM_LOOKS = 8  # at the face, and at the clothes
_EYES = (1, 2)  # COCO-WholeBody
_HEAD_POINTS = slice(0, 5)  # nose, eyes, ears
_HEAD_SIDE = 4.0  # of the window, in distances between the outermost of these points
_MIN_POINT_SCORE = 0.3


class LikenessBuilder:
    """Is shown the frames of one sample in order, and sums them up."""

    def __init__(self, fitted: FittedTrack, places: Int64[np.ndarray, " M"], embedder: FaceEmbedder | None) -> None:
        self._fitted, self._embedder = fitted, embedder
        self._times_s = fitted.track.frame_indices[places] / fitted.track.clip.video.fps
        self._keys = frozenset(key_frames(self._times_s).tolist())
        self._looks = frozenset(_best_looks(fitted, places).tolist()) if embedder is not None else frozenset[int]()
        self._signature: list[tuple[float, int, int]] = []
        self._heads: list[UInt8[np.ndarray, "H W 3"]] = []
        self._bodies: list[Float32[np.ndarray, " B"]] = []

    def show(self, number: int, place: int, frame: UInt8[np.ndarray, "H W 3"]) -> None:
        """Frame `number` of the sample, which is frame `place` of the track."""
        track = self._fitted.track
        box = track.boxes_px[place]
        if number in self._keys:
            x0, y0, x1, y1 = window_around(box, padding=1.0, width=frame.shape[1], height=frame.shape[0])
            hashes = frame_hash(frame), frame_hash(frame[y0:y1, x0:x1])
            self._signature.append((float(self._times_s[number]), *hashes))
        if number in self._looks:
            boxes = np.concatenate([box[None], track.other_boxes_px[place]]).astype(np.float32)
            self._bodies.append(describe_persons(frame, boxes)[0])
            x0, y0, x1, y1 = _head_window(self._fitted, place, frame)
            self._heads.append(np.ascontiguousarray(frame[y0:y1, x0:x1]))

    def signature(self) -> Signature:
        """The hashes of the key frames."""
        times, frames, persons = zip(*self._signature, strict=True)
        return Signature(
            times_s=np.array(times, np.float32),
            frame_hashes=np.array(frames, np.uint64),
            person_hashes=np.array(persons, np.uint64),
        )

    def likeness(self) -> Likeness | None:
        """None when no embedder was given."""
        if self._embedder is None:
            return None
        sizes = [np.array([[0, 0, head.shape[1], head.shape[0]]], np.float32) for head in self._heads]
        found = [self._embedder.embed([head], size) for head, size in zip(self._heads, sizes, strict=True)]
        faces = np.concatenate(found)
        seen = faces[np.isfinite(faces).all(axis=1)]
        face = _unit(np.median(seen, axis=0)) if len(seen) else np.full(faces.shape[1], np.nan, np.float32)
        return Likeness(face=face, num_faces=len(seen), body=_unit(np.mean(self._bodies, axis=0)))


def key_frames(times_s: np.ndarray) -> Int64[np.ndarray, " K"]:
    """Indices of the first frame of every quarter of a second; longer samples are thinned out evenly."""
    slots = np.floor(times_s / KEY_PERIOD_S + 1e-6).astype(np.int64)
    first = np.unique(slots, return_index=True)[1]
    if len(first) > _MAX_KEYS:
        first = first[np.linspace(0, len(first) - 1, _MAX_KEYS).round().astype(int)]
    return np.asarray(first, np.int64)


def _best_looks(fitted: FittedTrack, places: Int64[np.ndarray, " M"]) -> Int64[np.ndarray, " L"]:
    """In each of a few spans of the sample, the frame in which the eyes are surest and farthest apart."""
    keypoints = fitted.keypointed.keypoints
    eyes, scores = keypoints.points_px[places][:, _EYES], keypoints.scores[places][:, _EYES]
    value = np.linalg.norm(eyes[:, 0] - eyes[:, 1], axis=1) * scores.min(axis=1)
    value = np.where(np.isfinite(value), value, -1.0)
    spans: Sequence[np.ndarray] = np.array_split(np.arange(len(places)), min(_NUM_LOOKS, len(places)))
    return np.array([span[value[span].argmax()] for span in spans], np.int64)


def _head_window(fitted: FittedTrack, place: int, frame: UInt8[np.ndarray, "H W 3"]) -> tuple[int, int, int, int]:
    """A square around the head's keypoints; the upper part of the box where they were not seen."""
    keypoints = fitted.keypointed.keypoints
    points = keypoints.points_px[place, _HEAD_POINTS][keypoints.scores[place, _HEAD_POINTS] >= _MIN_POINT_SCORE]
    x0, y0, x1, y1 = fitted.track.boxes_px[place]
    middle, half = np.array([(x0 + x1) / 2, y0 + (y1 - y0) * 0.15]), (y1 - y0) * 0.15
    if len(points) >= 2 and np.isfinite(points).all():
        low, high = points.min(axis=0), points.max(axis=0)
        middle, half = (low + high) / 2, max(float((high - low).max()) * _HEAD_SIDE / 2, 8.0)
    square = np.concatenate([middle - half, middle + half]).astype(np.float32)
    return window_around(square, padding=1.0, width=frame.shape[1], height=frame.shape[0])


def _unit(vector: np.ndarray) -> Float32[np.ndarray, " D"]:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-6), np.float32)
