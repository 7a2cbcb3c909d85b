"""Stage: whole-body keypoints of the track's person in every frame, left-right swaps undone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, UInt8

from lhmforge.datasets.errors import ConfigError
from lhmforge.datasets.records import Keypoints, KeypointTrack, MattedTrack, Reject
from lhmforge.pipelines import wholebody as order
from lhmforge.pipelines.backends.registry import load_backend
from lhmforge.pipelines.backends.roles import BackendSpec
from lhmforge.pipelines.isolate import isolate_person
from lhmforge.pipelines.left_right import repair_swaps
from lhmforge.pipelines.stage import StageContext

_DEFAULT_BACKEND = BackendSpec(name="mediapipe")
_SEEN = 0.3
_MIN_BODY_POINTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class KeypointsStage:
    """MattedTrack -> KeypointTrack; rejected when fewer than `min_seen_share` of the frames show a body.

    A body that is seen in one frame and in neither of its neighbours is not counted: a pose model sees one now and then
    in things that the detector took for a person.
    `isolate` blurs other persons out of the frames that the model sees (see `pipelines.isolate`).
    """

    name: ClassVar[str] = "keypoints"
    version: ClassVar[int] = 3
    accepts: ClassVar[type] = MattedTrack
    produces: ClassVar[type] = KeypointTrack

    backend: BackendSpec = _DEFAULT_BACKEND
    isolate: bool = True
    min_seen_share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.min_seen_share <= 1:
            raise ConfigError(f"keypoints: min_seen_share must be in 0..1, got {self.min_seen_share}")

    def __call__(self, record: MattedTrack, context: StageContext) -> Iterator[KeypointTrack | Reject]:
        track = record.track
        frames = self._frames(record, context)
        keypoints: Keypoints = context.backend("keypoints", self.backend).estimate(frames, track)
        assert keypoints.num_frames == len(track.frame_indices), "a keypoint backend gave another number of frames"
        seen = float(np.mean(_steadily_seen(keypoints)))
        if seen < self.min_seen_share:
            detail = f"a body is steadily seen in {seen:.0%} of the frames; {self.min_seen_share:.0%} are needed"
            source = track.clip.video.source
            yield Reject(key=record.key, source=source, stage=self.name, reason="no_keypoints", detail=detail)
            return
        step = int(np.median(np.diff(track.frame_indices))) if len(track.frame_indices) > 1 else 1
        repaired = repair_swaps(keypoints, track.frame_indices, step=step)
        yield KeypointTrack(matted=record, keypoints=repaired)

    def weight_digests(self) -> Sequence[str]:
        return tuple(load_backend("keypoints", self.backend).weight_digests())

    def _frames(self, record: MattedTrack, context: StageContext) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        track = record.track
        frames = context.frames(track.clip.video, track.frame_indices)
        rows = zip(frames, record.alphas, track.boxes_px, track.other_boxes_px, strict=True)
        for frame, alpha, box, others in rows:
            yield isolate_person(frame, alpha, box, others) if self.isolate else frame


def _steadily_seen(keypoints: Keypoints) -> Bool[np.ndarray, " N"]:
    """Frames that show a body, as does the frame before or after."""
    seen = (keypoints.scores[:, order.BODY] >= _SEEN).sum(axis=1) >= _MIN_BODY_POINTS
    if len(seen) < 2:
        return np.asarray(seen)
    around = np.pad(seen, 1)
    return np.asarray(seen & (around[:-2] | around[2:]))
