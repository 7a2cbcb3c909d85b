"""Tracker: ByteTrack from the package `trackers`: strong boxes are linked first, weak ones fill the gaps.

Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box" (2022). It links by motion alone;
who is who after a crossing is decided by `pipelines.identity`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lhmforge.datasets.errors import BackendError
from lhmforge.pipelines.backends.roles import BackendSpec, Detections, Tracklet
from lhmforge.pipelines.boxes import iou

_START_SCORE = 0.5
_STRONG_SCORE = 0.45
_MIN_IOU = 0.1
_LOST_S = 1.0
_SAME_BOX_IOU = 0.99
_FIRST_SIGHT_IOU = 0.3

_Rows = list[tuple[int, np.ndarray, float]]  # position, box, score


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
        rows: dict[int, _Rows] = {}
        for position, found in enumerate(detections):
            boxes, scores = found.boxes_px.astype(np.float64), found.scores.astype(np.float64)
            linked = tracker.update(supervision.Detections(xyxy=boxes, confidence=scores))
            if len(linked) == 0:
                continue
            for box, score, person in zip(linked.xyxy, linked.confidence, linked.tracker_id, strict=True):
                if person >= 0:
                    rows.setdefault(int(person), []).append((position, box, float(score)))
        tracks = [rows[person] for person in sorted(rows)]
        for track in tracks:
            _add_first_sight(track, tracks, detections)
        return [_tracklet(track) for track in tracks]

    def weight_digests(self) -> Sequence[str]:
        return ()


def bytetrack_tracker(spec: BackendSpec) -> ByteTracker:
    """Factory; this backend has no weights, so a spec that names some is a mistake."""
    if spec.weights:
        raise BackendError("the tracker backend 'bytetrack' takes no weights; remove them from its BackendSpec")
    return ByteTracker()


def _add_first_sight(track: _Rows, tracks: list[_Rows], detections: Sequence[Detections]) -> None:
    """The tracker names a person at the second sight only; the first one, if no other track has it, is put in front."""
    first, box, _ = track[0]
    found = detections[first - 1] if first > 0 else None
    if found is None or len(found.scores) == 0:
        return
    taken = np.array([row[1] for other in tracks for row in other if row[0] == first - 1], np.float32).reshape(-1, 4)
    free = (found.scores >= _START_SCORE) & (iou(found.boxes_px, taken).max(axis=1, initial=0.0) < _SAME_BOX_IOU)
    overlap = np.where(free, iou(found.boxes_px, box[None])[:, 0], 0.0)
    best = int(overlap.argmax())
    if overlap[best] >= _FIRST_SIGHT_IOU:
        track.insert(0, (first - 1, found.boxes_px[best].astype(np.float64), float(found.scores[best])))


def _tracklet(rows: _Rows) -> Tracklet:
    return Tracklet(
        positions=np.array([position for position, _, _ in rows], np.int64),
        boxes_px=np.array([box for _, box, _ in rows], np.float32).reshape(-1, 4),
        scores=np.array([score for _, _, score in rows], np.float32),
    )
