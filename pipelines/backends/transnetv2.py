"""Shot boundaries by TransNetV2: a network that looks at 100 frames of 48x27 px at once.

Soucek and Lokoc, "TransNet V2: An Effective Deep Network Architecture for Fast Shot Transition Detection" (2020).
Windows overlap: of each 100 frames the middle 50 count, so every frame has at least 25 neighbours on both sides; the
first and last frame are repeated beyond the video's ends. A frame whose probability exceeds `_THRESHOLD` is the last
one before a cut; a run of such frames is a gradual transition, and a long one becomes a span of its own, so that
neither shot contains the mixture.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import cv2
import numpy as np
import torch
from jaxtyping import Float32, UInt8

from lhmforge.datasets.errors import BackendError
from lhmforge.pipelines.backends.roles import BackendSpec
from lhmforge.pipelines.backends.transnetv2_network import FRAME_HEIGHT, FRAME_WIDTH, TransNetV2
from lhmforge.pipelines.backends.weights import embedded_or_user, embedded_or_user_digest
from lhmforge.pipelines.video import frames

_WINDOW, _STEP = 100, 50
_MARGIN = (_WINDOW - _STEP) // 2
_THRESHOLD = 0.5
_GRADUAL_FRAMES = 4  # a shorter run of transition frames is a hard cut with its codec's blur


class TransNetV2Shots:
    """`ShotDetector`; the network is loaded at the first video."""

    def __init__(self, spec: BackendSpec) -> None:
        self._spec = spec
        self._network: TransNetV2 | None = None

    def cuts(self, path: str, *, num_frames: int, fps: float) -> list[int]:
        if self._network is None:
            self._network = load_network(self._spec)
        small = (_shrink(frame) for frame in frames(path, range(num_frames)))
        return transitions_to_cuts(predict(self._network, small, self._spec.device))

    def weight_digests(self) -> Sequence[str]:
        return (embedded_or_user_digest(self._spec, "transnetv2"),)


def transnetv2_shots(spec: BackendSpec) -> TransNetV2Shots:
    """Factory; the weights are an embedded asset, `spec.weights` may name another state dict of the same network."""
    return TransNetV2Shots(spec)


def load_network(spec: BackendSpec) -> TransNetV2:
    """The network with its weights; raises `BackendError` when the file is not a state dict of TransNetV2."""
    path = embedded_or_user(spec, "transnetv2")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise BackendError(f"backend {spec.name!r}: {path} is not a torch state dict: {error}") from error
    network = TransNetV2()
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        raise BackendError(f"backend {spec.name!r}: {path} does not hold the weights of TransNetV2: {error}") from error
    return network.eval().to(spec.device)


def predict(
    network: Callable[[torch.Tensor], torch.Tensor],
    small_frames: Iterable[UInt8[np.ndarray, "27 48 3"]],
    device: str = "cpu",
) -> Float32[np.ndarray, " N"]:
    """Per frame the probability that a transition takes place there."""
    rows: list[np.ndarray] = []
    for window, num_counted in _windows(iter(small_frames)):
        with torch.inference_mode():
            logits = network(torch.from_numpy(window[None]).to(device))[0]
        rows.append(torch.sigmoid(logits)[_MARGIN : _MARGIN + num_counted].float().cpu().numpy())
    return np.concatenate([np.zeros(0, np.float32), *rows])


def transitions_to_cuts(probabilities: Float32[np.ndarray, " N"]) -> list[int]:
    """Frame indices at which a shot (or a long gradual transition) begins, ascending."""
    inside = np.concatenate([[False], probabilities > _THRESHOLD, [False]]).astype(np.int8)
    starts, ends = np.flatnonzero(np.diff(inside) == 1), np.flatnonzero(np.diff(inside) == -1)
    cuts: set[int] = set()
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        if end - start >= _GRADUAL_FRAMES:
            cuts.add(start + 1)
        cuts.add(end)
    return sorted(cut for cut in cuts if 0 < cut < len(probabilities))


def _shrink(frame: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "27 48 3"]:
    return np.asarray(cv2.resize(frame, (FRAME_WIDTH, FRAME_HEIGHT), interpolation=cv2.INTER_AREA), np.uint8)


def _windows(small: Iterator[UInt8[np.ndarray, "27 48 3"]]) -> Iterator[tuple[UInt8[np.ndarray, "100 27 48 3"], int]]:
    """Overlapping windows and how many of the middle frames are real; one window is in memory at a time."""
    ahead = list(islice(small, _STEP + _MARGIN))
    if not ahead:
        return
    kept = [ahead[0]] * _MARGIN + ahead
    while True:
        num_ahead = len(kept) - _MARGIN
        padded = kept + [kept[-1]] * (_WINDOW - len(kept))
        yield np.stack(padded), min(_STEP, num_ahead)
        if num_ahead <= _STEP:
            return
        kept = kept[_STEP:] + list(islice(small, _STEP))
