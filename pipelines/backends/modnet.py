"""Matting: MODNet on the person's crop, held to the person as `person_matting` says.

Input [1, 3, h, w] RGB scaled to -1..1, sides multiples of 32; output [1, 1, h, w] in 0..1.
Ke et al., "MODNet: Real-Time Trimap-Free Portrait Matting via Objective Decomposition" (2022).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Float32, UInt8

from lhmforge.datasets.asset_table import asset
from lhmforge.datasets.errors import BackendError
from lhmforge.datasets.records import AlphaCrop, Track
from lhmforge.pipelines.backends.onnx_session import OnnxModel
from lhmforge.pipelines.backends.person_matting import matte_person, round_size
from lhmforge.pipelines.backends.roles import BackendSpec
from lhmforge.pipelines.backends.weights import embedded_or_user, embedded_or_user_digest

_network_size = functools.partial(round_size, short_side=288, max_long_side=672, stride=32)


class ModNetMatting:
    """`Matting`; the session is created at the first track."""

    def __init__(self, spec: BackendSpec) -> None:
        self._spec = spec
        self._model: OnnxModel | None = None

    def matte(self, frames: Iterable[UInt8[np.ndarray, "H W 3"]], track: Track) -> Iterator[AlphaCrop]:
        return matte_person(frames, track, self._foreground, _network_size)

    def weight_digests(self) -> Sequence[str]:
        return (embedded_or_user_digest(self._spec, "modnet"), asset("pose_landmarker").sha256)

    def _foreground(self, picture: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w"]:
        if self._model is None:
            self._model = OnnxModel(embedded_or_user(self._spec, "modnet"), self._spec)
        scaled = picture.astype(np.float32) / 127.5 - 1
        outputs = self._model.run({self._model.input_names[0]: scaled.transpose(2, 0, 1)[None].copy()})
        expected = (1, 1, *picture.shape[:2])
        if outputs[0].shape != expected:
            raise BackendError(
                f"{self._model.path} is not a MODNet: its output is {outputs[0].shape}, expected {expected}"
            )
        return np.asarray(outputs[0][0, 0], np.float32)


def modnet_matting(spec: BackendSpec) -> ModNetMatting:
    """Factory of the embedded default matting."""
    return ModNetMatting(spec)
