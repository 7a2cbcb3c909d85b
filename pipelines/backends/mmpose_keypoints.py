"""Keypoints: top-down models of mmpose, by config and checkpoint.

`spec.config` is the model's config file, `spec.weights` its checkpoint. Input: a BGR frame and boxes [B, 4] (x0, y0,
x1, y1, px); mmpose crops, normalises and decodes by itself. Output per box: `pred_instances.keypoints` [1, K, 2] in
px of the frame and `keypoint_scores` [1, K], K = 17, 133 or 308.

mmpose 1.3.2 needs mmengine, mmdet and mmcv, whose compiled operators top-down models do not call: with mmcv-lite, which
has none, a stand-in module lets mmpose be imported and raises where such an operator is really needed.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float32, UInt8

from lhmforge.datasets.errors import BackendError
from lhmforge.datasets.records import Keypoints, Track
from lhmforge.pipelines.backends.keypoint_sets import fill_hand_wrists, wholebody_target
from lhmforge.pipelines.backends.roles import BackendSpec
from lhmforge.pipelines.backends.topdown_keypoints import without_landmarks
from lhmforge.pipelines.backends.weights import digest, user_config, user_file
from lhmforge.pipelines.wholebody import from_subset

_COMPILED = "mmcv._ext"
_PACKAGES = ("mmpose", "mmcv", "mmengine")

# A BGR frame and boxes -> per box K rows x, y (px of the frame), score.
Infer = Callable[[UInt8[np.ndarray, "H W 3"], Float32[np.ndarray, "B 4"]], list[Float32[np.ndarray, "K 3"]]]


class MMPoseKeypoints:
    """`KeypointEstimator`; the model is built at the first track. One frame holds one box of a track: no batches."""

    def __init__(self, spec: BackendSpec) -> None:
        self._spec = spec
        self._checkpoint = user_file(spec, "keypoints")
        self._config = user_config(spec, "keypoints")
        self._infer: Infer | None = None

    def estimate(self, frames: Iterable[UInt8[np.ndarray, "H W 3"]], track: Track) -> Keypoints:
        if self._infer is None:
            self._infer = _open(self._config, self._checkpoint, self._spec)
        rows: list[np.ndarray] = []
        for frame, box in zip(frames, track.boxes_px, strict=True):
            (found,) = self._infer(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), box[None])
            inside = ((found[:, :2] >= 0) & (found[:, :2] < [frame.shape[1], frame.shape[0]])).all(axis=1)
            rows.append(np.concatenate([found[:, :2], np.where(inside, found[:, 2], 0)[:, None]], axis=1))
        stacked = np.stack(rows).astype(np.float32)
        target = wholebody_target(stacked.shape[1], what=f"the mmpose model {self._config}")
        points, scores = from_subset(stacked[..., :2], stacked[..., 2], target)
        fill_hand_wrists(points, scores)
        return without_landmarks(points, scores)

    def weight_digests(self) -> Sequence[str]:
        return (digest(self._checkpoint), digest(self._config))


def mmpose_keypoints(spec: BackendSpec) -> MMPoseKeypoints:
    """Factory; raises `BackendError` that says which file is missing, or which package is not installed."""
    backend = MMPoseKeypoints(spec)
    missing = [package for package in _PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise BackendError(
            f"the keypoints backend 'mmpose' needs {', '.join(missing)}: pip install 'lhmforge[mmpose]', "
            "better in an environment of its own (mmpose 1.3 wants setuptools < 81 and mmcv 2.1)"
        )
    return backend


def _open(config: Path, checkpoint: Path, spec: BackendSpec) -> Infer:
    """The model behind one function."""
    if spec.device.startswith("cuda") and not torch.cuda.is_available():
        raise BackendError(f"backend {spec.name!r}: device {spec.device!r} is asked for, but torch sees no GPU")
    added = False
    try:
        added = _stand_in_for_compiled_operators()
        from mmpose.apis import inference_topdown, init_model
    except ImportError as error:
        raise BackendError(f"the keypoints backend 'mmpose' cannot be imported: {error}") from error
    finally:
        if added:  # others must not take it for the real one
            sys.modules.pop(_COMPILED, None)
    try:
        model = init_model(str(config), str(checkpoint), device=spec.device)
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, SyntaxError) as error:
        raise BackendError(
            f"mmpose cannot build a model from config {config} and checkpoint {checkpoint}: {error}"
        ) from error

    def infer(frame: UInt8[np.ndarray, "H W 3"], boxes: Float32[np.ndarray, "B 4"]) -> list[Float32[np.ndarray, "K 3"]]:
        return [_rows(sample, config) for sample in inference_topdown(model, frame, boxes, bbox_format="xyxy")]

    return infer


def _rows(sample: Any, config: Path) -> Float32[np.ndarray, "K 3"]:
    instances = sample.pred_instances
    points, scores = np.asarray(instances.keypoints, np.float32), np.asarray(instances.keypoint_scores, np.float32)
    if points.ndim != 3 or points.shape[0] != 1 or points.shape[2] < 2 or scores.shape != points.shape[:2]:
        raise BackendError(
            f"the mmpose model {config} gives keypoints {points.shape} and scores {scores.shape}; a top-down model "
            "gives [1, K, 2] and [1, K]"
        )
    rows = np.concatenate([points[0, :, :2], np.clip(scores[0], 0, 1)[:, None]], axis=1)
    return rows.astype(np.float32)


class _NoOperators(types.ModuleType):
    """Takes the place of mmcv's compiled operators; each one raises when it is called."""

    def __getattr__(self, name: str) -> Callable[..., object]:
        if name.startswith("__"):
            raise AttributeError(name)

        def absent(*_: object) -> object:
            raise BackendError(f"this mmpose model needs the compiled operator {name} of mmcv: install mmcv, not -lite")

        return absent


def _stand_in_for_compiled_operators() -> bool:
    """Whether a stand-in was needed and put in place."""
    if _COMPILED in sys.modules or importlib.util.find_spec(_COMPILED) is not None:
        return False
    sys.modules[_COMPILED] = _NoOperators(_COMPILED)
    return True
