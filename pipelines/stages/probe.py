"""Probe: reads container, codec, size, rate, rotation and digest of a source, and turns unusable videos down."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from lhmforge.datasets import storage
from lhmforge.datasets.errors import ConfigError, StorageError, VideoError
from lhmforge.datasets.records import Reject, SourceVideo, Video
from lhmforge.pipelines.decode_worker import VideoInfo
from lhmforge.pipelines.stage import StageContext
from lhmforge.pipelines.video import probe_video


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeStage:
    """Limits of size and length; beside them, `probe_video` lists the reasons for which a file is turned down."""

    name: ClassVar[str] = "probe"
    version: ClassVar[int] = 1
    accepts: ClassVar[type] = SourceVideo
    produces: ClassVar[type] = Video

    min_side_px: int = 128
    max_side_px: int = 4096
    min_frames: int = 8
    min_duration_s: float = 0.3
    max_duration_s: float = 3600.0

    def __post_init__(self) -> None:
        if not 0 < self.min_side_px <= self.max_side_px:
            raise ConfigError(f"probe: min_side_px {self.min_side_px} must lie in 1..max_side_px ({self.max_side_px})")
        if not 0 <= self.min_duration_s < self.max_duration_s:
            raise ConfigError(
                f"probe: min_duration_s {self.min_duration_s} must lie in 0..max_duration_s ({self.max_duration_s})"
            )

    def __call__(self, record: SourceVideo, context: StageContext) -> Iterator[Video | Reject]:
        try:
            path = context.local_path(record.uri)
            info = probe_video(path)
            digest = storage.file_digest(path).sha256
        except VideoError as error:
            yield self._reject(record, error.reason, str(error))
            return
        except StorageError as error:
            yield self._reject(record, "unreadable", str(error))
            return
        unfit = self._unfit(info)
        if unfit is not None:
            yield self._reject(record, *unfit)
            return
        yield Video(
            source=record,
            digest=digest,
            container=info.container,
            codec=info.codec,
            width_px=info.width_px,
            height_px=info.height_px,
            rotation_deg=info.rotation_deg,
            num_frames=info.num_frames,
            fps=info.fps,
            duration_s=info.duration_s,
            bit_depth=info.bit_depth,
        )

    def weight_digests(self) -> Sequence[str]:
        """No weights decide what the probe writes."""
        return ()

    def _unfit(self, info: VideoInfo) -> tuple[str, str] | None:
        """Reason and detail, or None for a video of legal size and length."""
        size = f"{info.width_px} x {info.height_px} px"
        if min(info.width_px, info.height_px) < self.min_side_px:
            return "too_small", f"{size}; the shorter side must be at least {self.min_side_px}"
        if max(info.width_px, info.height_px) > self.max_side_px:
            return "too_large", f"{size}; the longer side may be at most {self.max_side_px}"
        if info.num_frames < self.min_frames or info.duration_s < self.min_duration_s:
            length = f"{info.num_frames} frames, {info.duration_s:.2f} s"
            return "too_short", f"{length}; at least {self.min_frames} frames and {self.min_duration_s:g} s are needed"
        if info.duration_s > self.max_duration_s:
            return "too_long", f"{info.duration_s:.0f} s; at most {self.max_duration_s:g} s"
        return None

    def _reject(self, record: SourceVideo, reason: str, detail: str) -> Reject:
        return Reject(key=record.source_id, source=record, stage=self.name, reason=reason, detail=detail)
