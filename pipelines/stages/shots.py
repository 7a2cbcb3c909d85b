"""Stage: cuts a video at shot boundaries into clips of bounded length."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from lhmforge.datasets.errors import ConfigError
from lhmforge.datasets.records import Clip, Reject, Video
from lhmforge.pipelines.backends.registry import load_backend
from lhmforge.pipelines.backends.roles import BackendSpec
from lhmforge.pipelines.stage import StageContext

_DEFAULT_DETECTOR = BackendSpec(name="pyscenedetect")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShotsStage:
    """Video -> Clip; shots shorter than `min_duration_s` are rejected, longer than `max_duration_s` are divided evenly.

    `edge_frames` are dropped on both sides of an inner cut, where codecs and cross-fades mix two shots.
    """

    name: ClassVar[str] = "shots"
    version: ClassVar[int] = 1
    accepts: ClassVar[type] = Video
    produces: ClassVar[type] = Clip

    detector: BackendSpec = _DEFAULT_DETECTOR
    min_duration_s: float = 0.5
    max_duration_s: float = 20.0
    edge_frames: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.min_duration_s < self.max_duration_s / 2:
            raise ConfigError(
                f"shots: min_duration_s must be in 0..max_duration_s / 2, got {self.min_duration_s} "
                f"with max_duration_s {self.max_duration_s}"
            )
        if self.edge_frames < 0:
            raise ConfigError(f"shots: edge_frames must be >= 0, got {self.edge_frames}")

    def __call__(self, record: Video, context: StageContext) -> Iterator[Clip | Reject]:
        path = context.local_path(record.source.uri)
        backend = context.backend("shots", self.detector)
        cuts = backend.cuts(path, num_frames=record.num_frames, fps=record.fps)
        for first, end in self._spans(cuts, record):
            clip = Clip(video=record, first_frame=first, end_frame=end)
            duration_s = (end - first) / record.fps
            if duration_s < self.min_duration_s or end - first < 2:
                detail = f"shot of {duration_s:.2f} s at frame {first}; at least {self.min_duration_s} s are needed"
                yield Reject(
                    key=clip.key, source=record.source, stage=self.name, reason="shot_too_short", detail=detail
                )
            else:
                yield clip

    def _spans(self, cuts: Sequence[int], video: Video) -> Iterator[tuple[int, int]]:
        borders = [0, *cuts, video.num_frames]
        for start, stop in itertools.pairwise(borders):
            first = start + (self.edge_frames if start > 0 else 0)
            end = stop - (self.edge_frames if stop < video.num_frames else 0)
            if end <= first:
                first, end = start, stop
            longest = max(2, int(self.max_duration_s * video.fps))
            num_parts = -(-(end - first) // longest)
            edges = [first + (end - first) * part // num_parts for part in range(num_parts + 1)]
            yield from itertools.pairwise(edges)

    def weight_digests(self) -> Sequence[str]:
        return tuple(load_backend("shots", self.detector).weight_digests())
