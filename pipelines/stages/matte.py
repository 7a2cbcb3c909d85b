"""Stage: a soft alpha matte per frame for the track's person, other persons excluded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lhmforge.datasets.codecs import decode_png
from lhmforge.datasets.errors import ConfigError
from lhmforge.datasets.records import AlphaCrop, MattedTrack, Reject, Track
from lhmforge.pipelines.backends.registry import load_backend
from lhmforge.pipelines.backends.roles import BackendSpec
from lhmforge.pipelines.boxes import box_area
from lhmforge.pipelines.stage import StageContext

_DEFAULT_BACKEND = BackendSpec(name="modnet")


@dataclass(frozen=True, slots=True, kw_only=True)
class MatteStage:
    """Track -> MattedTrack; rejected when the matte is empty in more than `max_empty_share` of the frames.

    A matte counts as empty when its solid part covers less than `min_cover` of the person's box.
    """

    name: ClassVar[str] = "matte"
    version: ClassVar[int] = 2
    accepts: ClassVar[type] = Track
    produces: ClassVar[type] = MattedTrack

    backend: BackendSpec = _DEFAULT_BACKEND
    min_cover: float = 0.08
    max_empty_share: float = 0.5

    def __post_init__(self) -> None:
        if not (0 <= self.min_cover <= 1 and 0 <= self.max_empty_share <= 1):
            raise ConfigError(
                f"matte: min_cover and max_empty_share must be in 0..1, got {self.min_cover}, {self.max_empty_share}"
            )

    def __call__(self, record: Track, context: StageContext) -> Iterator[MattedTrack | Reject]:
        backend = context.backend("matting", self.backend)
        frames = context.frames(record.clip.video, record.frame_indices)
        alphas: tuple[AlphaCrop, ...] = tuple(backend.matte(frames, record))
        assert len(alphas) == len(record.frame_indices), "a matting backend gave another number of mattes than frames"
        empty = float(np.mean(self._cover(record, alphas) < self.min_cover))
        if empty > self.max_empty_share:
            detail = f"the matte is empty in {empty:.0%} of the frames; at most {self.max_empty_share:.0%} may be"
            source = record.clip.video.source
            yield Reject(key=record.key, source=source, stage=self.name, reason="matte_empty", detail=detail)
        else:
            yield MattedTrack(track=record, alphas=alphas)

    def weight_digests(self) -> Sequence[str]:
        return tuple(load_backend("matting", self.backend).weight_digests())

    def _cover(self, track: Track, alphas: Sequence[AlphaCrop]) -> np.ndarray:
        """Solid pixels of each matte over the area of the person's box."""
        solid = np.array([(decode_png(crop.png) >= 128).sum() for crop in alphas], np.float64)
        return np.asarray(solid / np.maximum(box_area(track.boxes_px), 1.0))
