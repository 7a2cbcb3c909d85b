"""Person detector: SSD MobileNetV2 (COCO) through OpenCV's dnn, at two scales so that far people are found too.

Input: RGB uint8 frames of any size. A pass over the whole frame at the trained size of 300x300 finds people who fill
the frame; where one surely does, that is all, and costs a third. Elsewhere a finer pass finds small people, but away
from the trained size boxes and scores are less exact, so a fine box that the first pass lacks is only a proposal: the
network looks again, at the trained size, at a square around it.
Liu et al., "SSD: Single Shot MultiBox Detector" (2016); Sandler et al., "MobileNetV2" (2018).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from lhmforge.datasets.assets import asset_path
from lhmforge.datasets.errors import BackendError
from lhmforge.pipelines.backends.roles import BackendSpec, Detections
from lhmforge.pipelines.backends.weights import embedded_or_user, embedded_or_user_digest, user_config
from lhmforge.pipelines.boxes import box_area, clip_boxes, intersection, iou, suppress, window_around

_TRAINED_SIZE = (300, 300)
_FINE_AREA = 620 * 364
_PERSON = 1
_MIN_SCORE = 0.2  # low: the tracker's second association decides about weak boxes
_MAX_IOU = 0.55
_MAX_FINE_HEIGHT = 0.8  # of the frame; taller fine boxes are cut-off people
_MAX_INSIDE = 0.6  # share of the smaller box inside the larger one at which a fine box repeats a coarse one
_MIN_FINE_SCORE = 0.3
_CLOSE_UP_SCORE = 0.7
_CLOSE_UP_HEIGHT = 0.6  # of the frame: who is found with such a box makes the fine pass needless
_MAX_PROPOSALS = 6  # second looks per frame: bounds the time in a crowd
_LOOK_PADDING = 1.7  # side of the second look's square over the longer side of the proposal
_MIN_LOOK_IOU = 0.25


class SsdMobileNetDetector:
    """`Detector`; the network is read at the first frame."""

    def __init__(self, spec: BackendSpec) -> None:
        self._spec = spec
        self._networks: dict[tuple[int, int], cv2.dnn.Net] = {}

    def detect(self, frames: Iterable[UInt8[np.ndarray, "H W 3"]]) -> Iterator[Detections]:
        for frame in frames:
            yield self._detect_one(frame)

    def weight_digests(self) -> Sequence[str]:
        return (embedded_or_user_digest(self._spec, "ssd_mobilenet_pb"),)

    def _detect_one(self, frame: UInt8[np.ndarray, "H W 3"]) -> Detections:
        height, width = frame.shape[:2]
        found = self._pass(frame, _TRAINED_SIZE)
        close = (found[:, 4] >= _CLOSE_UP_SCORE) & (found[:, 3] - found[:, 1] >= _CLOSE_UP_HEIGHT * height)
        if not close.any():
            found = np.concatenate([found, *self._second_looks(frame, self._proposals(frame, found))])
        found = found[suppress(found[:, :4], found[:, 4], max_iou=_MAX_IOU)]
        boxes = clip_boxes(found[:, :4], width=width, height=height)
        return Detections(boxes_px=boxes, scores=found[:, 4].copy(), appearance=np.zeros((len(boxes), 0), np.float32))

    def _proposals(
        self, frame: UInt8[np.ndarray, "H W 3"], coarse: Float32[np.ndarray, "N 5"]
    ) -> Float32[np.ndarray, "M 4"]:
        """Boxes of the fine pass that no confident coarse box explains."""
        height, width = frame.shape[:2]
        fine = self._pass(frame, _fine_size(width, height))
        fine = fine[(fine[:, 4] >= _MIN_FINE_SCORE) & ((fine[:, 3] - fine[:, 1]) <= _MAX_FINE_HEIGHT * height)]
        fine = fine[suppress(fine[:, :4], fine[:, 4], max_iou=_MAX_IOU)]
        fresh = _not_repeated(fine[:, :4], coarse[coarse[:, 4] >= _MIN_FINE_SCORE, :4])
        return np.asarray(fine[fresh][:_MAX_PROPOSALS, :4])

    def _second_looks(
        self, frame: UInt8[np.ndarray, "H W 3"], proposals: Float32[np.ndarray, "M 4"]
    ) -> Iterator[Float32[np.ndarray, "K 5"]]:
        """For each proposal the box that the network gives at its trained size, if it still sees a person there."""
        height, width = frame.shape[:2]
        for proposal in proposals:
            x0, y0, x1, y1 = window_around(_square(proposal), padding=_LOOK_PADDING, width=width, height=height)
            seen = self._pass(np.ascontiguousarray(frame[y0:y1, x0:x1]), _TRAINED_SIZE)
            seen[:, :4] += np.array([x0, y0, x0, y0], np.float32)
            seen = seen[seen[:, 4] >= _MIN_FINE_SCORE]
            overlap = iou(seen[:, :4], proposal[None])[:, 0]
            if len(seen) and overlap.max() >= _MIN_LOOK_IOU:
                yield seen[overlap.argmax()][None]

    def _pass(self, frame: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]) -> Float32[np.ndarray, "N 5"]:
        """Rows of box in px and score at one input size."""
        network = self._network(size)
        height, width = frame.shape[:2]
        network.setInput(cv2.dnn.blobFromImage(frame, 1.0, size))
        rows = network.forward()[0, 0]
        rows = rows[(rows[:, 1] == _PERSON) & (rows[:, 2] >= _MIN_SCORE)]
        scale = np.array([width, height, width, height], np.float32)
        return np.concatenate([rows[:, 3:7] * scale, rows[:, 2:3]], axis=1).astype(np.float32)

    def _network(self, size: tuple[int, int]) -> cv2.dnn.Net:
        """One network per input size: OpenCV keeps the anchors of the first size that a network sees.

        Besides the trained size only the latest fine size is kept, which bounds the memory.
        """
        if size not in self._networks:
            self._networks = {key: net for key, net in self._networks.items() if key == _TRAINED_SIZE}
            graph = embedded_or_user(self._spec, "ssd_mobilenet_pb")
            text = user_config(self._spec, "detector") if self._spec.config else asset_path("ssd_mobilenet_pbtxt")
            try:
                self._networks[size] = cv2.dnn.readNetFromTensorflow(str(graph), str(text))
            except cv2.error as error:
                raise BackendError(f"OpenCV cannot read {graph} with {text} as a TensorFlow SSD: {error}") from error
        return self._networks[size]


def ssd_mobilenet_detector(spec: BackendSpec) -> SsdMobileNetDetector:
    """Factory of the embedded default detector."""
    return SsdMobileNetDetector(spec)


def _fine_size(width: int, height: int) -> tuple[int, int]:
    """About `_FINE_AREA` pixels in the frame's aspect (limited to 1:3), sides 300 + 32 k.

    Such sides give the inner maps the same pattern of odd and even sizes as 300, and so the smallest shift.
    """
    aspect = min(max(width / height, 1 / 3), 3.0)
    sides = (_FINE_AREA * aspect) ** 0.5, (_FINE_AREA / aspect) ** 0.5
    return _aligned(sides[0]), _aligned(sides[1])


def _aligned(side: float) -> int:
    return 300 + 32 * max(round((side - 300) / 32), -5)


def _square(box: Float32[np.ndarray, 4]) -> Float32[np.ndarray, 4]:
    middle, half = (box[:2] + box[2:]) / 2, float((box[2:] - box[:2]).max()) / 2
    return np.concatenate([middle - half, middle + half]).astype(np.float32)


def _not_repeated(fine: Float32[np.ndarray, "N 4"], coarse: Float32[np.ndarray, "M 4"]) -> np.ndarray:
    """Mask of the fine boxes that are not mostly the same pixels as a coarse box."""
    if len(coarse) == 0 or len(fine) == 0:
        return np.ones(len(fine), bool)
    smaller = np.minimum(box_area(fine)[:, None], box_area(coarse)[None])
    inside = intersection(fine, coarse) / np.maximum(smaller, 1e-6)
    return np.asarray(inside.max(axis=1) <= _MAX_INSIDE)
