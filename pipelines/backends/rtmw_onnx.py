"""Keypoints: RTMPose, RTMW and DWPose ONNX files of the user's, with SimCC outputs.

Input [B, 3, H, W] with H and W fixed by the file (384x288 or 256x192), RGB, mean (123.675, 116.28, 103.53), std
(58.395, 57.12, 57.375); outputs simcc_x [B, K, 2 W] and simcc_y [B, K, 2 H], K = 17 or 133; box padding 1.25.
Jiang et al., "RTMPose" (2023), "RTMW" (2024).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float32, UInt8

from lhmforge.datasets.errors import BackendError
from lhmforge.datasets.records import Keypoints, Track
from lhmforge.pipelines.backends.onnx_session import OnnxModel
from lhmforge.pipelines.backends.roles import BackendSpec
from lhmforge.pipelines.backends.topdown_keypoints import estimate_topdown
from lhmforge.pipelines.backends.weights import digest, user_file
from lhmforge.pipelines.topdown import Crop, decode_simcc, normalise

_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class RtmwOnnxKeypoints:
    """`KeypointEstimator`; the file is loaded at the first track."""

    def __init__(self, spec: BackendSpec) -> None:
        self._spec = spec
        self._path = user_file(spec, "keypoints")
        self._model: OnnxModel | None = None

    def estimate(self, frames: Iterable[UInt8[np.ndarray, "H W 3"]], track: Track) -> Keypoints:
        if self._model is None:
            self._model = _checked(OnnxModel(self._path, self._spec))
        model = self._model
        height, width = _input_size(model)
        fixed = model.input_shapes[0][0]  # many exports allow one crop at a time

        def infer(crops: Sequence[Crop]) -> list[Float32[np.ndarray, "K 3"]]:
            pictures = np.stack([normalise(crop.picture, _MEAN, _STD) for crop in crops])
            simcc_x, simcc_y = model.run({model.input_names[0]: pictures})
            rows = zip(simcc_x.astype(np.float32), simcc_y.astype(np.float32), strict=True)
            return [decode_simcc(x, y, width=width, height=height) for x, y in rows]

        return estimate_topdown(
            frames, track, infer,
            width=width, height=height, batch_size=fixed or self._spec.batch_size, what=f"the pose model {self._path}",
        )  # fmt: skip

    def weight_digests(self) -> Sequence[str]:
        return (digest(self._path),)


def rtmw_onnx_keypoints(spec: BackendSpec) -> RtmwOnnxKeypoints:
    """Factory; raises `BackendError` that says where the weights come from when none are named."""
    return RtmwOnnxKeypoints(spec)


def _checked(model: OnnxModel) -> OnnxModel:
    if len(model.input_names) != 1 or len(model.output_names) != 2 or len(model.input_shapes[0]) != 4:
        raise BackendError(
            f"{model.path} has inputs {model.input_names} and outputs {model.output_names}; a SimCC pose model has one "
            "picture as input and simcc_x, simcc_y as outputs"
        )
    return model


def _input_size(model: OnnxModel) -> tuple[int, int]:
    height, width = model.input_shapes[0][2:]
    if height is None or width is None:
        raise BackendError(f"{model.path} leaves its input size open; export it with a fixed height and width")
    return height, width
