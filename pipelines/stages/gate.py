"""Scores a fitted track and decides: keep it, with the frames that are good enough, or reject it with a reason."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
from jaxtyping import Bool

from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.body.resolve import body_path
from lhmforge.datasets.errors import BodyError
from lhmforge.datasets.records import FittedTrack, GatedTrack, Reject, TrackScores
from lhmforge.pipelines.fitting.track_scores import score_track
from lhmforge.pipelines.stage import StageContext


@dataclass(frozen=True, slots=True, kw_only=True)
class GateStage:
    """Thresholds on `TrackScores`; a score that is not measurable (NaN) never rejects.

    Reasons, in the order of the checks: `too_few_frames`, `too_small`, `low_detection`, `low_coverage`,
    `high_reprojection`, `low_matte_iou`, `jittery`, `blurry`, `odd_shape`, `too_few_good_frames`.
    """

    name: ClassVar[str] = "gate"
    version: ClassVar[int] = 1
    accepts: ClassVar[type] = FittedTrack
    produces: ClassVar[type] = GatedTrack

    body: str = ""
    min_frames: int = 5
    min_height_px: float = 64.0
    min_detection: float = 0.25
    min_coverage: float = 0.3
    max_reprojection: float = 0.05
    min_matte_iou: float = 0.45
    max_jitter: float = 0.06
    min_sharpness: float = 4.0
    max_shape_norm: float = 2.5
    max_frame_reprojection: float = 0.035  # of one frame, as a share of its box height: where a limb flew off
    mask_frames: int = 8
    sharpness_frames: int = 6

    def __call__(self, record: FittedTrack, context: StageContext) -> Iterator[GatedTrack | Reject]:
        model = _body_model(self.body)
        if model.digest != record.body_digest:
            raise BodyError(f"gate: the track was fitted with body {record.body_digest[:16]}, not {model.digest[:16]}")
        scores = score_track(
            record, model, context, mask_frames=self.mask_frames, sharpness_frames=self.sharpness_frames
        )
        frame_ok = self.good_frames(record)
        failure = self.first_failure(scores) or self._frame_failure(frame_ok)
        if failure is None:
            yield GatedTrack(fitted=record, scores=scores, frame_ok=frame_ok)
            return
        reason, detail = failure
        source = record.track.clip.video.source
        yield Reject(key=record.key, source=source, stage=self.name, reason=reason, detail=detail, scores=scores)

    def weight_digests(self) -> Sequence[str]:
        return (_body_model(self.body).digest,)

    def first_failure(self, scores: TrackScores) -> tuple[str, str] | None:
        """The first check that `scores` fail, as reason code and sentence; None where all pass."""
        checks = (  # sign +1: the score must be at least the limit; -1: at most
            ("too_few_frames", "num_frames", self.min_frames, 1),
            ("too_small", "height_px", self.min_height_px, 1),
            ("low_detection", "detection", self.min_detection, 1),
            ("low_coverage", "coverage", self.min_coverage, 1),
            ("high_reprojection", "reprojection", self.max_reprojection, -1),
            ("low_matte_iou", "matte_iou", self.min_matte_iou, 1),
            ("jittery", "jitter", self.max_jitter, -1),
            ("blurry", "sharpness", self.min_sharpness, 1),
            ("odd_shape", "shape_norm", self.max_shape_norm, -1),
        )
        for reason, name, limit, sign in checks:
            value: float = getattr(scores, name)
            if not math.isnan(value) and sign * value < sign * limit:
                bound = "at least" if sign > 0 else "at most"
                return reason, f"{name} is {value:.4g}, the gate asks for {bound} {limit:.4g}"
        return None

    def good_frames(self, record: FittedTrack) -> Bool[np.ndarray, " N"]:
        """Frames with seen keypoints, a small enough reprojection error, and the body before the camera."""
        boxes = record.track.boxes_px
        heights = np.maximum(boxes[:, 3] - boxes[:, 1], 1.0)
        error = record.reprojection_px / heights
        close = np.isfinite(error) & (np.nan_to_num(error, nan=np.inf) <= self.max_frame_reprojection)
        result: np.ndarray = close & (heights >= self.min_height_px)
        return result

    def _frame_failure(self, frame_ok: Bool[np.ndarray, " N"]) -> tuple[str, str] | None:
        count = int(frame_ok.sum())
        if count >= self.min_frames:
            return None
        return "too_few_good_frames", f"{count} of {len(frame_ok)} frames are good, the gate asks for {self.min_frames}"


@lru_cache(maxsize=2)
def _body_model(body: str) -> BodyModel:
    return BodyModel.load(body_path(body or None))
