"""Detector: COCO person detectors as ONNX files of the user's; the output style is recognised by names and shapes.

RTMDet: input [1,3,H,W] BGR, ImageNet mean and std, letterbox on grey 114; outputs dets [1,N,5] (box px, score) and
labels [1,N].
YOLOX: input [1,3,H,W] BGR 0..255, letterbox on grey 114; output [1,N,85]: centre, size (in cells, or px where the file
decodes), objectness, 80 classes.
RT-DETR, D-FINE: input [1,3,H,W] RGB 0..1, stretched; outputs [1,N,80] class logits or scores and [1,N,4] cx,cy,w,h in
0..1; or, with a second input orig_target_sizes (W, H), labels [1,N], boxes [1,N,4] px, scores [1,N].

`spec.config` may name the style ("rtmdet", "yolox", "rtdetr") where the shapes do not tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from lhmforge.datasets.errors import BackendError
from lhmforge.pipelines.backends.onnx_session import OnnxModel
from lhmforge.pipelines.backends.roles import BackendSpec, Detections
from lhmforge.pipelines.backends.weights import digest, user_file
from lhmforge.pipelines.boxes import clip_boxes, suppress

_DEFAULT_SIZE = 640
_GREY = 114
_PERSON = 0
_MIN_SCORE = 0.2
_MAX_IOU = 0.65
_STYLES = ("rtmdet", "yolox", "rtdetr")
_MEAN_BGR, _STD_BGR = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)


class OnnxDetector:
    """`Detector`; one frame at a time, as these exports have a batch of one."""

    def __init__(self, spec: BackendSpec) -> None:
        if spec.config and spec.config not in _STYLES:
            raise BackendError(f"detector 'onnx': config must be one of {', '.join(_STYLES)}, got {spec.config!r}")
        self._spec = spec
        self._path = user_file(spec, "detector")
        self._model: OnnxModel | None = None

    def detect(self, frames: Iterable[UInt8[np.ndarray, "H W 3"]]) -> Iterator[Detections]:
        for frame in frames:
            yield self._detect_one(frame)

    def weight_digests(self) -> Sequence[str]:
        return (digest(self._path),)

    def _detect_one(self, frame: UInt8[np.ndarray, "H W 3"]) -> Detections:
        if self._model is None:
            self._model = OnnxModel(self._path, self._spec)
        style = self._spec.config or _recognise(self._model)
        rows = {"rtmdet": _rtmdet, "yolox": _yolox, "rtdetr": _rtdetr}[style](self._model, frame)
        rows = rows[rows[:, 4] >= _MIN_SCORE].astype(np.float32)
        rows = rows[suppress(rows[:, :4], rows[:, 4], max_iou=_MAX_IOU)]
        boxes = clip_boxes(rows[:, :4], width=frame.shape[1], height=frame.shape[0])
        return Detections(boxes_px=boxes, scores=rows[:, 4].copy(), appearance=np.zeros((len(rows), 0), np.float32))


def onnx_detector(spec: BackendSpec) -> OnnxDetector:
    """Factory; raises `BackendError` that says where the weights come from when none are named."""
    return OnnxDetector(spec)


def _recognise(model: OnnxModel) -> str:
    names = set(model.output_names)
    if {"dets", "labels"} <= names:
        return "rtmdet"
    if len(model.input_names) == 2 or {"logits", "pred_boxes"} <= names or {"labels", "boxes", "scores"} <= names:
        return "rtdetr"
    if len(names) == 1:
        return "yolox"
    raise BackendError(
        f"{model.path} has inputs {model.input_names} and outputs {model.output_names}, no known style "
        f"({', '.join(_STYLES)}); set config in the BackendSpec"
    )


def _size(model: OnnxModel) -> tuple[int, int]:
    """Height and width of the input."""
    height, width = model.input_shapes[0][2:]
    return height or _DEFAULT_SIZE, width or _DEFAULT_SIZE


def _letterbox(
    frame: UInt8[np.ndarray, "H W 3"], height: int, width: int
) -> tuple[Float32[np.ndarray, "h w 3"], float]:
    """The frame as BGR in the upper left corner of a grey picture, and its scale."""
    scale = min(height / frame.shape[0], width / frame.shape[1])
    size = max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale))
    canvas = np.full((height, width, 3), _GREY, np.float32)
    canvas[: size[1], : size[0]] = cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR)[..., ::-1]
    return canvas, scale


def _rtmdet(model: OnnxModel, frame: UInt8[np.ndarray, "H W 3"]) -> np.ndarray:
    canvas, scale = _letterbox(frame, *_size(model))
    picture = (canvas - np.array(_MEAN_BGR, np.float32)) / np.array(_STD_BGR, np.float32)
    named = dict(zip(model.output_names, model.run({model.input_names[0]: _planes(picture)}), strict=True))
    dets = named["dets"][0][named["labels"][0] == _PERSON]
    return np.concatenate([dets[:, :4] / scale, dets[:, 4:5]], axis=1)


def _yolox(model: OnnxModel, frame: UInt8[np.ndarray, "H W 3"]) -> np.ndarray:
    height, width = _size(model)
    canvas, scale = _letterbox(frame, height, width)
    rows = model.run({model.input_names[0]: _planes(canvas)})[0][0].astype(np.float64)
    cells = _grid(height, width)
    if rows.shape[1] < 6 or len(rows) != len(cells):
        raise BackendError(
            f"{model.path} gives {rows.shape} rows; a YOLOX of {height}x{width} gives ({len(cells)}, 85)"
        )
    if rows[:, :4].max() < 64:  # raw outputs count in cells; exports with decoding count in px
        rows[:, :2] = (rows[:, :2] + cells[:, :2]) * cells[:, 2:]
        rows[:, 2:4] = np.exp(rows[:, 2:4]) * cells[:, 2:]
    scores = rows[:, 4] * rows[:, 5 + _PERSON]
    return np.concatenate([_corners(rows[:, :4]) / scale, scores[:, None]], axis=1)


def _grid(height: int, width: int) -> np.ndarray:
    """Rows of cell x, cell y, stride over the three levels."""
    levels = []
    for stride in (8, 16, 32):
        y, x = np.mgrid[: height // stride, : width // stride]
        levels.append(np.stack([x.ravel(), y.ravel(), np.full(x.size, stride)], axis=1))
    return np.concatenate(levels).astype(np.float64)


def _rtdetr(model: OnnxModel, frame: UInt8[np.ndarray, "H W 3"]) -> np.ndarray:
    height, width = _size(model)
    picture = cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32) / 255
    feed = {model.input_names[0]: _planes(picture)}
    frame_size = np.array([frame.shape[1], frame.shape[0]])
    if len(model.input_names) == 2:
        feed[model.input_names[1]] = frame_size[None].astype(np.int64)
    named = dict(zip(model.output_names, model.run(feed), strict=True))
    if {"labels", "boxes", "scores"} <= set(named):
        person = named["labels"][0] == _PERSON
        return np.concatenate([named["boxes"][0][person], named["scores"][0][person][:, None]], axis=1)
    by_width = sorted(named.values(), key=lambda value: value.shape[-1])
    boxes, classes = by_width[0][0], by_width[-1][0]
    if boxes.shape[-1] != 4 or len(by_width) != 2:
        raise BackendError(
            f"{model.path} gives {[v.shape for v in named.values()]}; RT-DETR gives boxes and class scores"
        )
    person = classes[:, _PERSON].astype(np.float64)
    scores = person if classes.min() >= 0 and classes.max() <= 1 else 1 / (1 + np.exp(-person))
    return np.concatenate([_corners(boxes) * np.tile(frame_size, 2), scores[:, None]], axis=1)


def _corners(boxes: np.ndarray) -> np.ndarray:
    """Centre and size to corners."""
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def _planes(picture: Float32[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "1 3 h w"]:
    return np.ascontiguousarray(picture.transpose(2, 0, 1)[None])
