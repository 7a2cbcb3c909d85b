"""How well people were followed: IDF1, MOTA and identity switches of all tracks against true boxes.

CLEAR MOT (Bernardin and Stiefelhagen 2008) and identity scores (Ristani et al. 2016) come from the package `trackers`.
A true person counts in the frames that the track stage looked at and that show a quarter of them or more; a track on
someone who shows less is neither right nor wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64
from scipy.optimize import linear_sum_assignment

from lhmforge.datasets.records import TrackPath
from lhmforge.datasets.synthetic.truth import ClipTruth
from lhmforge.pipelines.boxes import iou

MIN_VISIBLE, MIN_IOU = 0.25, 0.5
_FOLLOWS_IOU = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedClip:
    """A clip's truth, all tracks of it, and the frames that were looked at."""

    source_id: str
    truth: ClipTruth
    paths: tuple[TrackPath, ...]
    frames: Int64[np.ndarray, " N"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingScores:
    """Over all clips; counts are person-frames but for `num_persons` and `num_switches`."""

    idf1: float
    mota: float
    num_switches: int
    recall: float
    precision: float
    num_persons: int
    num_required: int
    num_missed: int
    num_false: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonFrame:
    """A true person in one frame that was looked at, and the track on them ("": none)."""

    source_id: str
    person: int
    frame: int
    track_key: str
    is_required: bool


def score_tracking(clips: Sequence[TrackedClip]) -> TrackingScores:
    """The scores over all clips, identities taken within each clip."""
    from trackers.eval.clear import aggregate_clear_metrics, compute_clear_metrics
    from trackers.eval.identity import aggregate_identity_metrics, compute_identity_metrics

    clear, identity = [], []
    for clip in clips:
        rows = [_Frame.of(clip, int(frame)) for frame in clip.frames]
        arguments = ([r.persons for r in rows], [r.tracks for r in rows], [r.overlap for r in rows], MIN_IOU)
        clear.append(compute_clear_metrics(*arguments))
        identity.append(compute_identity_metrics(*arguments))
    total, same = aggregate_clear_metrics(clear), aggregate_identity_metrics(identity)
    return TrackingScores(
        idf1=float(same["IDF1"]),
        mota=float(total["MOTA"]),
        num_switches=int(total["IDSW"]),
        recall=float(total["CLR_Re"]),
        precision=float(total["CLR_Pr"]),
        num_persons=sum(len(clip.truth.persons) for clip in clips),
        num_required=int(total["CLR_TP"]) + int(total["CLR_FN"]),
        num_missed=int(total["CLR_FN"]),
        num_false=int(total["CLR_FP"]),
    )


def person_frames(clip: TrackedClip) -> tuple[PersonFrame, ...]:
    """Every true person in every frame that was looked at, with the track that lies on them best."""
    found = []
    for frame in clip.frames.tolist():
        keys, boxes = _boxes(clip.paths, frame)
        matched = dict(_matches(clip.truth, boxes, frame))
        for person, true_person in enumerate(clip.truth.persons):
            if true_person.visible_share[frame] > 0:
                found.append(
                    PersonFrame(
                        source_id=clip.source_id,
                        person=person,
                        frame=frame,
                        track_key=clip.paths[keys[matched[person]]].key if person in matched else "",
                        is_required=bool(true_person.visible_share[frame] >= MIN_VISIBLE),
                    )
                )
    return tuple(found)


def followed_person(path: TrackPath, truth: ClipTruth) -> int | None:
    """The person whose box a track covers best on average; None when it covers nobody."""
    overlaps = []
    for person in truth.persons:
        pairs = zip(path.boxes_px, person.boxes_px[path.frame_indices], strict=True)
        overlaps.append(float(np.mean([iou(a[None], b[None])[0, 0] for a, b in pairs])))
    best = int(np.argmax(overlaps))
    return best if overlaps[best] >= _FOLLOWS_IOU else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """Ids and overlaps of one frame, without persons who need not be found and tracks that lie on them."""

    persons: Int64[np.ndarray, " P"]
    tracks: Int64[np.ndarray, " T"]
    overlap: np.ndarray

    @classmethod
    def of(cls, clip: TrackedClip, frame: int) -> _Frame:
        keys, boxes = _boxes(clip.paths, frame)
        shares = np.array([person.visible_share[frame] for person in clip.truth.persons])
        persons = np.flatnonzero(shares >= MIN_VISIBLE)
        excused = {track for person, track in _matches(clip.truth, boxes, frame) if shares[person] < MIN_VISIBLE}
        kept = np.array([place for place in range(len(keys)) if place not in excused], np.int64)
        overlap = iou(_true_boxes(clip.truth, frame), boxes)[np.ix_(persons, kept)]
        return cls(persons=persons.astype(np.int64), tracks=keys[kept].astype(np.int64), overlap=overlap)


def _boxes(paths: Sequence[TrackPath], frame: int) -> tuple[Int64[np.ndarray, " T"], Float32[np.ndarray, "T 4"]]:
    """Which tracks have a box in a frame, and these boxes."""
    here = [index for index, path in enumerate(paths) if frame in path.frame_indices]
    boxes = [paths[i].boxes_px[np.searchsorted(paths[i].frame_indices, frame)] for i in here]
    return np.array(here, np.int64), np.array(boxes, np.float32).reshape(-1, 4)


def _matches(truth: ClipTruth, boxes: Float32[np.ndarray, "T 4"], frame: int) -> list[tuple[int, int]]:
    """(person, position in `boxes`) of the assignment with the largest total overlap."""
    overlap = iou(_true_boxes(truth, frame), boxes)
    overlap = np.where(overlap >= MIN_IOU, overlap, 0.0)
    rows, columns = linear_sum_assignment(-overlap)
    return [(int(r), int(c)) for r, c in zip(rows, columns, strict=True) if overlap[r, c] > 0]


def _true_boxes(truth: ClipTruth, frame: int) -> Float32[np.ndarray, "P 4"]:
    return np.stack([person.boxes_px[frame] for person in truth.persons])
