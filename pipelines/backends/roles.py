"""Backend roles: what curation asks of each kind of third-party model, in arrays and records of ours.

All frames are displayed RGB, uint8. A backend keeps no state between calls; temporal models see a whole track in one
call. `weight_digests` lists the sha256 of the files a backend loads (it enters the stage's fingerprint).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from lhmforge.datasets.records import AlphaCrop, Clip, Keypoints, Track


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendSpec:
    """Which backend plays a role, and the knobs that every backend shares.

    `weights` is the user's own file (empty: the backend's embedded default, an error where it has none).
    `device` is a torch device string; `batch_size` frames are sent to the model at once.
    """

    name: str
    weights: str = ""
    config: str = ""  # a second file where the model needs one (mmpose config, for example)
    device: str = "cpu"
    batch_size: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Detections:
    """Persons found in one frame, highest score first."""

    boxes_px: Float32[np.ndarray, "K 4"]
    scores: Float32[np.ndarray, " K"]
    appearance: Float32[np.ndarray, "K D"]  # unit vectors; D = 0 where the detector gives none


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracklet:
    """One person over the sampled frames; `positions` index the detections sequence, ascending."""

    positions: Int64[np.ndarray, " M"]
    boxes_px: Float32[np.ndarray, "M 4"]
    scores: Float32[np.ndarray, " M"]


class ShotDetector(Protocol):
    def cuts(self, path: str, *, num_frames: int, fps: float) -> list[int]:
        """Ascending frame indices at which a new shot begins (0 is not listed)."""
        ...

    def weight_digests(self) -> Sequence[str]: ...


class Detector(Protocol):
    def detect(self, frames: Iterable[UInt8[np.ndarray, "H W 3"]]) -> Iterator[Detections]: ...

    def weight_digests(self) -> Sequence[str]: ...


class Tracker(Protocol):
    def link(self, detections: Sequence[Detections], *, fps: float) -> list[Tracklet]:
        """Links detections of consecutive sampled frames at `fps` (sampled frames per second)."""
        ...

    def weight_digests(self) -> Sequence[str]: ...


class Matting(Protocol):
    def matte(self, frames: Iterable[UInt8[np.ndarray, "H W 3"]], track: Track) -> Iterator[AlphaCrop]:
        """One soft alpha per frame of the track, for the track's person only."""
        ...

    def weight_digests(self) -> Sequence[str]: ...


class KeypointEstimator(Protocol):
    def estimate(self, frames: Iterable[UInt8[np.ndarray, "H W 3"]], track: Track) -> Keypoints:
        """Whole-body keypoints of the track's person in every frame of the track."""
        ...

    def weight_digests(self) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyStart:
    """A start for the fitter: rotations as matrices, camera frame; `valid` marks frames with a regressed body."""

    rotations: Float32[np.ndarray, "N 22 3 3"]
    transl: Float32[np.ndarray, "N 3"]
    betas: Float32[np.ndarray, " B"]
    valid: np.ndarray  # bool [N]


class BodyInitialiser(Protocol):
    def start(self, clip: Clip, track: Track, keypoints: Keypoints) -> BodyStart: ...

    def weight_digests(self) -> Sequence[str]: ...


@runtime_checkable
class FaceEmbedder(Protocol):
    def embed(
        self, frames: Iterable[UInt8[np.ndarray, "H W 3"]], boxes_px: Float32[np.ndarray, "N 4"]
    ) -> Float32[np.ndarray, "N D"]:
        """Unit identity vectors of the largest face inside each box; rows of NaN where no face was found."""
        ...

    def weight_digests(self) -> Sequence[str]: ...
