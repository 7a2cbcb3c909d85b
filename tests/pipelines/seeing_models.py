"""Generated models that see: their answer is where and how well one exact colour shows in the picture they are given.

Each undoes the scaling that its kind is documented to be fed with and compares with the colour `TARGET`. A wrong mean or
deviation, swapped channels, a wrong crop, letterbox or stretch then give another place or a lower score. A decoy of the
same colour with red and blue swapped waits in every picture.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

TARGET = (235.0, 120.0, 25.0)
TOLERANCE = 40.0  # summed levels per e-fold of the likeness
IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
HALF = ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5))
LEVELS = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
UNIT = ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0))


def spots(width: int, height: int, at: tuple[float, float], decoy: tuple[float, float]) -> np.ndarray:
    """A grey RGB picture with a soft spot of the colour and one of the swapped colour; places with centres at +0.5."""
    y, x = np.mgrid[:height, :width] + 0.5
    picture = np.full((height, width, 3), 128.0)
    for (u, v), colour in ((at, TARGET), (decoy, TARGET[::-1])):
        share = np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * 7.0**2))[..., None]
        picture = picture * (1 - share) + np.array(colour) * share
    return np.round(picture).astype(np.uint8)


def boxes(width: int, height: int, at: tuple[int, int, int, int], decoy: tuple[int, int, int, int]) -> np.ndarray:
    """The same with solid boxes x0, y0, x1, y1."""
    picture = np.full((height, width, 3), 128, np.uint8)
    for (x0, y0, x1, y1), colour in ((at, TARGET), (decoy, TARGET[::-1])):
        picture[y0:y1, x0:x1] = np.array(colour)
    return picture


class Graph:
    """A few ONNX nodes in order; every method returns the name of what it computes."""

    def __init__(self, shape: tuple[int | str, ...], picture: str = "images") -> None:
        self.inputs = [helper.make_tensor_value_info(picture, TensorProto.FLOAT, shape)]
        self.picture, self._nodes, self._constants, self._count = picture, [], [], 0

    def op(self, kind: str, *sources: str, to: str = "", **attributes: object) -> str:
        self._count += 1
        name = to or f"v{self._count}"
        self._nodes.append(helper.make_node(kind, list(sources), [name], **attributes))
        return name

    def constant(self, value: object, dtype: type = np.float32) -> str:
        self._count += 1
        self._constants.append(numpy_helper.from_array(np.asarray(value, dtype), f"c{self._count}"))
        return f"c{self._count}"

    def likeness(self, scaling: tuple, *, bgr: bool = False) -> str:
        """[1, 1, H, W] in 0..1: 1 where the picture has the colour, once its scaling is undone."""
        mean, std = (np.array(values, np.float32) for values in scaling)
        target = np.array(TARGET, np.float32)
        if bgr:
            mean, std, target = mean[::-1], std[::-1], target[::-1]
        per_channel = [self.constant(v.reshape(1, 3, 1, 1)) for v in (std, mean - target)]
        level = self.op("Add", self.op("Mul", self.picture, per_channel[0]), per_channel[1])
        off = self.op("ReduceSum", self.op("Abs", level), self.constant([1], np.int64), keepdims=1)
        return self.op("Exp", self.op("Div", off, self.constant(-TOLERANCE)))

    def box(self, likeness: str, height: int, width: int) -> list[str]:
        """x0, y0, x1, y1 in px ([1, 1] each) of where the likeness exceeds one half."""
        seen = self.op("Greater", likeness, self.constant(0.5))
        columns = self.constant(np.arange(width).reshape(1, 1, 1, width))
        rows = self.constant(np.arange(height).reshape(1, 1, height, 1))
        far, none, one = self.constant(1e6), self.constant(-1.0), self.constant(1.0)
        shape = self.constant([1, 1], np.int64)
        found = []
        for index in (columns, rows):
            found.append(self.op("ReduceMin", self.op("Where", seen, index, far), keepdims=1))
        for index in (columns, rows):
            found.append(self.op("Add", self.op("ReduceMax", self.op("Where", seen, index, none), keepdims=1), one))
        return [self.op("Reshape", side, shape) for side in found]

    def save(self, path: Path, outputs: dict[str, tuple[str, int, tuple]]) -> Path:
        """`outputs`: name -> (computed name, element type, shape)."""
        infos = []
        for name, (source, kind, shape) in outputs.items():
            self.op("Identity", source, to=name)
            infos.append(helper.make_tensor_value_info(name, kind, shape))
        graph = helper.make_graph(self._nodes, "seeing", self.inputs, infos, self._constants)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
        return path


FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64


def simcc_model(path: Path, *, height: int, width: int, num_points: int) -> Path:
    """RTMPose / RTMW: every point lies where the colour is; two bins a pixel."""
    graph = Graph((1, 3, height, width))
    seen = graph.likeness(IMAGENET)
    outputs = {}
    for name, axis, size in (("simcc_x", 2, width), ("simcc_y", 3, height)):
        line = graph.op("ReduceMax", seen, axes=[axis], keepdims=0)
        line = graph.op("Reshape", line, graph.constant([1, size, 1], np.int64))
        doubled = graph.op("Expand", line, graph.constant([1, size, 2], np.int64))
        flat = graph.op("Reshape", doubled, graph.constant([1, 1, 2 * size], np.int64))
        spread = graph.op("Expand", flat, graph.constant([1, num_points, 2 * size], np.int64))
        outputs[name] = (spread, FLOAT, (1, num_points, 2 * size))
    return graph.save(path, outputs)


def rtmdet_model(path: Path, size: int) -> Path:
    """RTMDet: one box; its score falls when the letterbox is not grey 114."""
    graph = Graph((1, 3, size, size))
    seen = graph.likeness(IMAGENET, bgr=True)
    last = graph.constant(size - 1, np.int64)
    corner = graph.op("Gather", graph.op("Gather", graph.picture, last, axis=3), last, axis=2)  # [1, 3]
    mean, std = (np.array(values, np.float32)[::-1].reshape(1, 3) for values in IMAGENET)
    grey = graph.op("Add", graph.op("Mul", corner, graph.constant(std)), graph.constant(mean - 114))
    off = graph.op("ReduceSum", graph.op("Abs", grey), graph.constant([1], np.int64), keepdims=1)
    padded = graph.op("Exp", graph.op("Div", off, graph.constant(-TOLERANCE)))
    best = graph.op("Reshape", graph.op("ReduceMax", seen, keepdims=1), graph.constant([1, 1], np.int64))
    row = graph.op("Concat", *graph.box(seen, size, size), graph.op("Mul", best, padded), axis=1)
    dets = graph.op("Reshape", row, graph.constant([1, 1, 5], np.int64))
    labels = graph.constant([[0]], np.int64)
    return graph.save(path, {"dets": (dets, FLOAT, (1, 1, 5)), "labels": (labels, INT, (1, 1))})


def yolox_model(path: Path, size: int) -> Path:
    """YOLOX with decoding: one row holds the box in px, all others are empty."""
    graph = Graph((1, 3, size, size))
    seen = graph.likeness(LEVELS, bgr=True)
    x0, y0, x1, y1 = graph.box(seen, size, size)
    half, best = graph.constant(0.5), graph.op("ReduceMax", seen, keepdims=1)
    sides = [graph.op("Mul", graph.op("Add", low, high), half) for low, high in ((x0, x1), (y0, y1))]
    sides += [graph.op("Sub", high, low) for low, high in ((x0, x1), (y0, y1))]
    score = graph.op("Reshape", best, graph.constant([1, 1], np.int64))
    row = graph.op("Concat", *sides, score, graph.constant([[1.0]]), axis=1)
    count = sum((size // stride) ** 2 for stride in (8, 16, 32))
    cell = graph.op("Reshape", row, graph.constant([1, 1, 6], np.int64))
    rows = graph.op("Pad", cell, graph.constant([0, 3, 0, 0, count - 4, 79], np.int64))
    return graph.save(path, {"output": (rows, FLOAT, (1, count, 85))})


def rtdetr_model(path: Path, size: int, *, with_sizes: bool) -> Path:
    """RT-DETR: relative centre boxes and logits, or boxes in px of the frame whose size is a second input."""
    graph = Graph((1, 3, size, size))
    seen = graph.likeness(UNIT)
    whole = graph.constant(float(size))
    x0, y0, x1, y1 = (graph.op("Div", side, whole) for side in graph.box(seen, size, size))
    best = graph.op("Reshape", graph.op("ReduceMax", seen, keepdims=1), graph.constant([1, 1], np.int64))
    if with_sizes:
        graph.inputs.append(helper.make_tensor_value_info("orig_target_sizes", INT, (1, 2)))
        frame = graph.op("CastLike", "orig_target_sizes", graph.constant([0.0]))
        corners = graph.op("Concat", x0, y0, x1, y1, axis=1)
        scaled = graph.op("Mul", corners, graph.op("Concat", frame, frame, axis=1))
        named = {
            "labels": (graph.constant([[0]], np.int64), INT, (1, 1)),
            "boxes": (graph.op("Reshape", scaled, graph.constant([1, 1, 4], np.int64)), FLOAT, (1, 1, 4)),
            "scores": (best, FLOAT, (1, 1)),
        }
        return graph.save(path, named)
    half = graph.constant(0.5)
    sides = [graph.op("Mul", graph.op("Add", low, high), half) for low, high in ((x0, x1), (y0, y1))]
    sides += [graph.op("Sub", high, low) for low, high in ((x0, x1), (y0, y1))]
    relative = graph.op("Reshape", graph.op("Concat", *sides, axis=1), graph.constant([1, 1, 4], np.int64))
    logit = graph.op("Mul", graph.op("Sub", best, half), graph.constant(10.0))  # 5 for a perfect colour
    others = graph.constant(np.full((1, 79), -9.0))
    classes = graph.op("Reshape", graph.op("Concat", logit, others, axis=1), graph.constant([1, 1, 80], np.int64))
    return graph.save(path, {"logits": (classes, FLOAT, (1, 1, 80)), "pred_boxes": (relative, FLOAT, (1, 1, 4))})


def matting_model(path: Path, scaling: tuple) -> Path:
    """MODNet / BiRefNet: alpha is the likeness."""
    graph = Graph((1, 3, "h", "w"), "input")
    return graph.save(path, {"output": (graph.likeness(scaling), FLOAT, (1, 1, "h", "w"))})


def rvm_model(path: Path) -> Path:
    """RVM: alpha is the likeness times the downsampling ratio; the states count frames."""
    graph = Graph((1, 3, "h", "w"), "src")
    for index in range(1, 5):
        graph.inputs.append(helper.make_tensor_value_info(f"r{index}i", FLOAT, ("b", "c", "y", "x")))
    graph.inputs.append(helper.make_tensor_value_info("downsample_ratio", FLOAT, (1,)))
    one = graph.constant(1.0)
    outputs = {"pha": (graph.op("Mul", graph.likeness(UNIT), "downsample_ratio"), FLOAT, (1, 1, "h", "w"))}
    for index in range(1, 5):
        outputs[f"r{index}o"] = (graph.op("Add", f"r{index}i", one), FLOAT, ("b", "c", "y", "x"))
    return graph.save(path, outputs)


class SeeingTorch(torch.nn.Module):
    """Heatmaps at a quarter of the size ([B, K, h, w]), or alpha ([B, 1, H, W]) where `num_points` is 0."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], num_points: int) -> None:
        super().__init__()
        self.num_points = num_points
        self.mean, self.std, self.target = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (mean, std, TARGET))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        off = (pictures * self.std + self.mean - self.target).abs().sum(dim=1, keepdim=True)
        likeness = torch.exp(-off / 40.0)
        if self.num_points == 0:
            return likeness
        return torch.nn.functional.avg_pool2d(likeness, 4).expand(-1, self.num_points, -1, -1)
