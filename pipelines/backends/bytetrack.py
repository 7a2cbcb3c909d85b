"""Tracker: ByteTrack from the package `trackers`: strong boxes are linked first, weak ones fill the gaps.

Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box" (2022). It links by motion alone;
who is who after a crossing is decided by `pipelines.identity`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lhmforge.datasets.errors import BackendError
from lhmforge.pipelines.backends.roles import BackendSpec, Detections, Tracklet

_START_SCORE = 0.5
_STRONG_SCORE = 0.45
_MIN_IOU = 0.1
_LOST_S = 1.0


class ByteTracker:
    """`Tracker` without weights; a fresh tracker per call, so calls do not influence each other."""

    def link(self, detections: Sequence[Detections], *, fps: float) -> list[Tracklet]:
        import supervision
        import trackers

        tracker = trackers.ByteTrackTracker(
            frame_rate=fps,
            lost_track_buffer=round(30 * _LOST_S),
            track_activation_threshold=_START_SCORE,
            high_conf_det_threshold=_STRONG_SCORE,
            minimum_consecutive_frames=1,
            minimum_iou_threshold=_MIN_IOU,
        )
        rows: dict[int, list[tuple[int, np.ndarray, float]]] = {}
        for position, found in enumerate(detections):
            boxes, scores = found.boxes_px.astype(np.float64), found.scores.astype(np.float64)
            linked = tracker.update(supervision.Detections(xyxy=boxes, confidence=scores))
            if len(linked) == 0:
                continue
            for box, score, person in zip(linked.xyxy, linked.confidence, linked.tracker_id, strict=True):
                if person >= 0:
                    rows.setdefault(int(person), []).append((position, box, float(score)))
        return [_tracklet(rows[person]) for person in sorted(rows)]

    def weight_digests(self) -> Sequence[str]:
        return ()


def bytetrack_tracker(spec: BackendSpec) -> ByteTracker:
    """Factory; this backend has no weights, so a spec that names some is a mistake."""
    if spec.weights:
        raise BackendError("the tracker backend 'bytetrack' takes no weights; remove them from its BackendSpec")
    return ByteTracker()


def _tracklet(rows: list[tuple[int, np.ndarray, float]]) -> Tracklet:
    return Tracklet(
        positions=np.array([position for position, _, _ in rows], np.int64),
        boxes_px=np.array([box for _, box, _ in rows], np.float32).reshape(-1, 4),
        scores=np.array([score for _, _, score in rows], np.float32),
    )
