"""Tracks and contexts for tests of backends: coloured boxes that walk, and frames from memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from lhmforge.datasets.records import Clip, SourceVideo, Track, Video
from lhmforge.pipelines.backends.registry import load_backend
from lhmforge.pipelines.backends.roles import BackendSpec


def video(*, width: int, height: int, num_frames: int, fps: float = 10.0, uri: str = "memory.mp4") -> Video:
    return Video(
        source=SourceVideo(uri=uri, source_id="memory"), digest="ab" * 32, container="mp4", codec="h264",
        width_px=width, height_px=height, rotation_deg=0, num_frames=num_frames, fps=fps,
        duration_s=num_frames / fps, bit_depth=8,
    )  # fmt: skip


def track(frames: list[np.ndarray], boxes: np.ndarray, others: list[np.ndarray] | None = None) -> Track:
    height, width = frames[0].shape[:2]
    clip = Clip(video=video(width=width, height=height, num_frames=len(frames)), first_frame=0, end_frame=len(frames))
    return Track(
        clip=clip,
        person=0,
        frame_indices=np.arange(len(frames), dtype=np.int64),
        boxes_px=boxes.astype(np.float32),
        scores=np.ones(len(frames), np.float32),
        other_boxes_px=tuple(others or [np.zeros((0, 4), np.float32)] * len(frames)),
    )


class MemoryContext:
    """A `StageContext` over frames in memory."""

    def __init__(self, frames: list[np.ndarray], backends: dict[str, Any] | None = None) -> None:
        self._frames = frames
        self._backends = backends or {}

    def frames(self, source: Video, frame_indices: np.ndarray) -> Iterator[np.ndarray]:
        for index in frame_indices:
            yield self._frames[index]

    def local_path(self, uri: str) -> str:
        return uri

    def backend(self, role: str, spec: BackendSpec) -> Any:
        return self._backends[role] if role in self._backends else load_backend(role, spec)
