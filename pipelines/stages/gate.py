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
from lhmforge.pipelines.fitting.track_scores import matte_overlaps, score_track
from lhmforge.pipelines.stage import StageContext


@dataclass(frozen=True, slots=True, kw_only=True)
class GateCheck:
    """A limit on one of the `TrackScores`: a minimum, or a maximum."""

    reason: str
    score: str
    limit: float
    is_minimum: bool


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
    min_frame_matte_iou: float = 0.0  # of one frame, matte against the body's silhouette; 0: not looked at
    min_good_share: float = 0.0  # of a track's frames
    mask_frames: int = 8
    sharpness_frames: int = 6

    def __call__(self, record: FittedTrack, context: StageContext) -> Iterator[GatedTrack | Reject]:
        model = _body_model(self.body)
        if model.digest != record.body_digest:
            raise BodyError(f"gate: the track was fitted with body {record.body_digest[:16]}, not {model.digest[:16]}")
        scores = score_track(
            record, model, context, mask_frames=self.mask_frames, sharpness_frames=self.sharpness_frames
        )
        frame_ok = self.good_frames(record, model)
        failure = self.failure(scores, frame_ok)
        if failure is None:
            yield GatedTrack(fitted=record, scores=scores, frame_ok=frame_ok)
            return
        reason, detail = failure
        source = record.track.clip.video.source
        yield Reject(key=record.key, source=source, stage=self.name, reason=reason, detail=detail, scores=scores)

    def weight_digests(self) -> Sequence[str]:
        return (_body_model(self.body).digest,)

    @property
    def checks(self) -> tuple[GateCheck, ...]:
        """The checks on a track's scores, in their order."""
        rows = (
            ("too_few_frames", "num_frames", self.min_frames, True),
            ("too_small", "height_px", self.min_height_px, True),
            ("low_detection", "detection", self.min_detection, True),
            ("low_coverage", "coverage", self.min_coverage, True),
            ("high_reprojection", "reprojection", self.max_reprojection, False),
            ("low_matte_iou", "matte_iou", self.min_matte_iou, True),
            ("jittery", "jitter", self.max_jitter, False),
            ("blurry", "sharpness", self.min_sharpness, True),
            ("odd_shape", "shape_norm", self.max_shape_norm, False),
        )
        return tuple(
            GateCheck(reason=reason, score=score, limit=float(limit), is_minimum=is_minimum)
            for reason, score, limit, is_minimum in rows
        )

    def failure(self, scores: TrackScores, frame_ok: Bool[np.ndarray, " N"]) -> tuple[str, str] | None:
        """Why a track is turned down, as reason code and sentence; None where it is not."""
        return self.first_failure(scores) or self._frame_failure(frame_ok)

    def first_failure(self, scores: TrackScores) -> tuple[str, str] | None:
        """The first check that `scores` fail, as reason code and sentence; None where all pass."""
        for check in self.checks:
            value: float = getattr(scores, check.score)
            sign = 1 if check.is_minimum else -1
            if not math.isnan(value) and sign * value < sign * check.limit:
                bound = "at least" if check.is_minimum else "at most"
                return check.reason, f"{check.score} is {value:.4g}, the gate asks for {bound} {check.limit:.4g}"
        return None

    def good_frames(self, record: FittedTrack, model: BodyModel) -> Bool[np.ndarray, " N"]:
        """Frames with seen keypoints, a small enough reprojection error, and a matte that the body fills."""
        boxes = record.track.boxes_px
        heights = np.maximum(boxes[:, 3] - boxes[:, 1], 1.0)
        error = record.reprojection_px / heights
        close = np.isfinite(error) & (np.nan_to_num(error, nan=np.inf) <= self.max_frame_reprojection)
        result: np.ndarray = close & (heights >= self.min_height_px)
        if self.min_frame_matte_iou > 0:
            places = np.flatnonzero(result)
            overlaps = matte_overlaps(record, model, places)
            result[places[overlaps < self.min_frame_matte_iou]] = False
        return result

    def _frame_failure(self, frame_ok: Bool[np.ndarray, " N"]) -> tuple[str, str] | None:
        count, needed = int(frame_ok.sum()), max(self.min_frames, math.ceil(self.min_good_share * len(frame_ok)))
        if count >= needed:
            return None
        return "too_few_good_frames", f"{count} of {len(frame_ok)} frames are good, the gate asks for {needed}"


@lru_cache(maxsize=2)
def _body_model(body: str) -> BodyModel:
    return BodyModel.load(body_path(body or None))
