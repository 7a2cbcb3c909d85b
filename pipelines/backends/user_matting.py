"""Matting with networks of the user's: one picture in, one alpha out (ONNX or TorchScript), or recurrent (RVM ONNX).

`onnx`, `torchscript`: input [1, 3, h, w] RGB, output [1, 1, h, w]; the last output counts, and logits (values outside
0..1) go through a sigmoid, as BiRefNet exports give them. The spec's config chooses how pixels are scaled: "imagenet"
(BiRefNet, U^2-Net, ISNet; the default) or "half" (MODNet: -1..1). A fixed input size of the file is obeyed, else the
short side is 512.

`rvm_onnx`: Lin et al., "Robust High-Resolution Video Matting with Temporal Guidance" (2022). Inputs src [1, 3, h, w]
in 0..1, r1i..r4i (recurrent state, [1, 1, 1, 1] zeros at first), downsample_ratio [1]; outputs fgr, pha, r1o..r4o. One
window for the whole track, so that the state fits from frame to frame.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import cv2
import numpy as np
import torch
from jaxtyping import Float32, UInt8

from lhmforge.datasets.asset_table import asset
from lhmforge.datasets.errors import BackendError
from lhmforge.datasets.records import AlphaCrop, Track
from lhmforge.pipelines.backends.onnx_session import OnnxModel
from lhmforge.pipelines.backends.person_matting import matte_person, round_size
from lhmforge.pipelines.backends.roles import BackendSpec
from lhmforge.pipelines.backends.torchscript_model import load_torchscript, run_dtype
from lhmforge.pipelines.backends.weights import digest, user_file

_SCALINGS = {
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "half": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
}
_MAX_RECURRENT_PX = 512  # RVM's own advice: its coarse pass works on 256 to 512 px
_STATES = 4
_open_size = functools.partial(round_size, short_side=512, max_long_side=1536, stride=32)

Network = Callable[[Float32[np.ndarray, "1 3 h w"]], np.ndarray]


class UserMatting:
    """`Matting` by a network from one picture to one alpha."""

    def __init__(self, spec: BackendSpec) -> None:
        if spec.config not in ("", *_SCALINGS):
            raise BackendError(
                f"matting {spec.name!r}: config must be one of {', '.join(_SCALINGS)}, got {spec.config!r}"
            )
        self._spec = spec
        self._path = user_file(spec, "matting")
        self._network: Network | None = None
        self._fixed: tuple[int, int] | None = None  # width, height

    def matte(self, frames: Iterable[UInt8[np.ndarray, "H W 3"]], track: Track) -> Iterator[AlphaCrop]:
        if self._network is None:
            self._network = self._onnx() if self._spec.name == "onnx" else self._torchscript()
        fixed = self._fixed
        return matte_person(
            frames, track, self._foreground, _open_size if fixed is None else lambda width, height: fixed
        )

    def weight_digests(self) -> Sequence[str]:
        return (digest(self._path), asset("pose_landmarker").sha256)

    def _foreground(self, picture: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w"]:
        assert self._network is not None
        mean, std = _SCALINGS[self._spec.config or "imagenet"]
        scaled = (picture.astype(np.float32) - np.array(mean, np.float32)) / np.array(std, np.float32)
        alpha = self._network(np.ascontiguousarray(scaled.transpose(2, 0, 1)[None]))
        if alpha.ndim != 4 or alpha.shape[:2] != (1, 1):
            raise BackendError(f"{self._path} gives {alpha.shape}; a matting network gives alpha [1, 1, h, w]")
        values = alpha[0, 0].astype(np.float32)
        if values.min() < -0.01 or values.max() > 1.01:
            values = (1 / (1 + np.exp(-np.clip(values, -30, 30)))).astype(np.float32)
        return np.asarray(cv2.resize(values, picture.shape[1::-1], interpolation=cv2.INTER_LINEAR), np.float32)

    def _onnx(self) -> Network:
        model = OnnxModel(self._path, self._spec)
        if len(model.input_names) != 1 or len(model.input_shapes[0]) != 4:
            raise BackendError(
                f"{self._path} has inputs {model.input_names}; a matting network has one picture as input"
            )
        height, width = model.input_shapes[0][2:]
        self._fixed = None if height is None or width is None else (width, height)
        return lambda picture: model.run({model.input_names[0]: picture})[-1]

    def _torchscript(self) -> Network:
        module = load_torchscript(self._path, self._spec)

        def run(picture: Float32[np.ndarray, "1 3 h w"]) -> np.ndarray:
            with torch.inference_mode():
                output = module(torch.from_numpy(picture).to(self._spec.device, run_dtype(self._spec)))
            last = output[-1] if isinstance(output, (list, tuple)) else output
            return np.asarray(last.float().cpu().numpy())

        return run


class RecurrentMatting:
    """`Matting` by an RVM export; the state lives for one track."""

    def __init__(self, spec: BackendSpec) -> None:
        self._spec = spec
        self._path = user_file(spec, "matting")
        self._model: OnnxModel | None = None

    def matte(self, frames: Iterable[UInt8[np.ndarray, "H W 3"]], track: Track) -> Iterator[AlphaCrop]:
        if self._model is None:
            self._model = _checked_rvm(OnnxModel(self._path, self._spec))
        model = self._model
        state = {f"r{index}i": np.zeros((1, 1, 1, 1), np.float32) for index in range(1, _STATES + 1)}

        def foreground(picture: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w"]:
            ratio = min(1.0, _MAX_RECURRENT_PX / max(picture.shape[:2]))
            source = np.ascontiguousarray(picture.astype(np.float32).transpose(2, 0, 1)[None] / 255)
            feed: dict[str, np.ndarray] = {"src": source, "downsample_ratio": np.array([ratio], np.float32), **state}
            named = dict(zip(model.output_names, model.run(feed), strict=True))
            state.update({f"r{index}i": named[f"r{index}o"] for index in range(1, _STATES + 1)})
            return np.asarray(named["pha"][0, 0], np.float32)

        return matte_person(frames, track, foreground, _open_size, steady=True)

    def weight_digests(self) -> Sequence[str]:
        return (digest(self._path), asset("pose_landmarker").sha256)


def onnx_matting(spec: BackendSpec) -> UserMatting:
    """Factory; raises `BackendError` that says where the weights come from when none are named."""
    return UserMatting(spec)


def torchscript_matting(spec: BackendSpec) -> UserMatting:
    """Factory; raises `BackendError` that says where the weights come from when none are named."""
    return UserMatting(spec)


def rvm_onnx_matting(spec: BackendSpec) -> RecurrentMatting:
    """Factory; raises `BackendError` that says where the weights come from when none are named."""
    return RecurrentMatting(spec)


def _checked_rvm(model: OnnxModel) -> OnnxModel:
    inputs = {"src", "downsample_ratio", *(f"r{index}i" for index in range(1, _STATES + 1))}
    outputs = {"pha", *(f"r{index}o" for index in range(1, _STATES + 1))}
    if set(model.input_names) != inputs or not outputs <= set(model.output_names):
        raise BackendError(
            f"{model.path} has inputs {model.input_names} and outputs {model.output_names}; an RVM export "
            f"has {sorted(inputs)} and at least {sorted(outputs)}"
        )
    return model
