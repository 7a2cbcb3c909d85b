"""Keypoints: Sapiens v1 pose estimators as TorchScript files of the user's.

Input [B, 3, 1024, 768] RGB, mean (123.5, 116.5, 103.5), std (58.5, 57, 57.5); output heatmaps [B, K, 256, 192] with
K = 17, 133 or 308, decoded by UDP; box padding 1.25. bfloat16 on a GPU, float32 on the CPU. The input size is fixed by
the files. Khirodkar et al., "Sapiens: Foundation for Human Vision Models" (2024).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from lhmforge.datasets.errors import BackendError
from lhmforge.datasets.records import Keypoints, Track
from lhmforge.pipelines.backends.roles import BackendSpec
from lhmforge.pipelines.backends.topdown_keypoints import estimate_topdown
from lhmforge.pipelines.backends.torchscript_model import load_torchscript, run_dtype
from lhmforge.pipelines.backends.weights import digest, user_file
from lhmforge.pipelines.topdown import Crop, decode_heatmaps, normalise

_HEIGHT, _WIDTH = 1024, 768
_MEAN, _STD = (123.5, 116.5, 103.5), (58.5, 57.0, 57.5)


class SapiensKeypoints:
    """`KeypointEstimator`; the file is loaded at the first track."""

    def __init__(self, spec: BackendSpec) -> None:
        self._spec = spec
        self._path = user_file(spec, "keypoints")
        self._model: torch.jit.ScriptModule | None = None

    def estimate(self, frames: Iterable[UInt8[np.ndarray, "H W 3"]], track: Track) -> Keypoints:
        return estimate_topdown(
            frames, track, self._infer,
            width=_WIDTH, height=_HEIGHT, batch_size=self._spec.batch_size, what=f"the Sapiens file {self._path}",
        )  # fmt: skip

    def weight_digests(self) -> Sequence[str]:
        return (digest(self._path),)

    def _infer(self, crops: Sequence[Crop]) -> Sequence[Float32[np.ndarray, "K 3"]]:
        if self._model is None:
            self._model = load_torchscript(self._path, self._spec)
        pictures = np.stack([normalise(crop.picture, _MEAN, _STD) for crop in crops])
        batch = torch.from_numpy(pictures).to(self._spec.device, run_dtype(self._spec))
        with torch.inference_mode():
            heatmaps = self._model(batch)
        if not (isinstance(heatmaps, torch.Tensor) and heatmaps.ndim == 4 and len(heatmaps) == len(crops)):
            raise BackendError(f"{self._path} gives no heatmaps [B, K, h, w]; is it a Sapiens pose estimator?")
        arrays = heatmaps.float().cpu().numpy()
        return [decode_heatmaps(maps, width=_WIDTH, height=_HEIGHT) for maps in arrays]


def sapiens_keypoints(spec: BackendSpec) -> SapiensKeypoints:
    """Factory; raises `BackendError` that says where the weights come from when none are named."""
    return SapiensKeypoints(spec)
