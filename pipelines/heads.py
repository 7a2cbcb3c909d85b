"""Small pictures of the heads of detected people, kept while a clip is read so that faces can be looked at later."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from lhmforge.pipelines.backends.roles import Detections, FaceEmbedder
from lhmforge.pipelines.boxes import window_around

Sighting = tuple[int, int]  # position in the sequence of detections, index of the box there

_HEAD_SHARE = 0.45  # of the box from its top: the head of a person cut off at the waist is inside too
_INNER_WIDTH = 0.9
_MAX_SIDE = 256
_JPEG_QUALITY = 95
_MIN_SCORE = 0.4
_MAX_PER_FRAME = 8  # bounds the memory in a crowd: about 15 kB each


class HeadPictures:
    """The heads of a clip's confident detections as JPEG files in memory, and the identity vectors of their faces."""

    def __init__(self, embedder: FaceEmbedder) -> None:
        self._embedder = embedder
        self._pictures: dict[Sighting, UInt8[np.ndarray, " bytes"]] = {}

    def keep(self, position: int, frame: UInt8[np.ndarray, "H W 3"], found: Detections) -> None:
        """Cuts the heads of one frame's people out."""
        for index in np.flatnonzero(found.scores >= _MIN_SCORE)[:_MAX_PER_FRAME].tolist():
            head = window_around(_head(found.boxes_px[index]), padding=1.0, width=frame.shape[1], height=frame.shape[0])
            picture = frame[head[1] : head[3], head[0] : head[2], ::-1]
            scale = min(1.0, _MAX_SIDE / max(picture.shape[:2]))
            size = max(2, round(picture.shape[1] * scale)), max(2, round(picture.shape[0] * scale))
            small = cv2.resize(np.ascontiguousarray(picture), size, interpolation=cv2.INTER_AREA)
            done, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
            assert done
            self._pictures[position, index] = data

    def vectors(self, sightings: Sequence[Sighting]) -> Float32[np.ndarray, "N D"]:
        """Unit identity vectors; a row of NaN where no face was seen or no picture was kept."""
        kept = [row for row, sighting in enumerate(sightings) if sighting in self._pictures]
        frames = np.zeros((len(kept), _MAX_SIDE, _MAX_SIDE, 3), np.uint8)  # backends take frames of one size
        boxes = np.zeros((len(kept), 4), np.float32)
        for frame, box, row in zip(frames, boxes, kept, strict=True):
            picture = cv2.imdecode(self._pictures[sightings[row]], cv2.IMREAD_COLOR_RGB)
            frame[: picture.shape[0], : picture.shape[1]] = picture
            box[2:] = picture.shape[1::-1]
        found = self._embedder.embed(list(frames), boxes)
        vectors = np.full((len(sightings), found.shape[1]), np.nan, np.float32)
        vectors[kept] = found
        return vectors


def _head(box: Float32[np.ndarray, 4]) -> Float32[np.ndarray, 4]:
    shrink = (box[2] - box[0]) * (1 - _INNER_WIDTH) / 2
    bottom = box[1] + (box[3] - box[1]) * _HEAD_SHARE
    return np.array([box[0] + shrink, box[1], box[2] - shrink, bottom], np.float32)
