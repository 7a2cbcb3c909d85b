"""Cuts tracklets into pieces that show one person for sure: no doubt about who is meant from one position to the next.

A cut is made where another person covers the box, where the tracker could as well have gone on with somebody else,
where the box leaps, where the colours change for good, and where the faces before and after are two people's.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64

from lhmforge.pipelines.backends.roles import Detections, Tracklet
from lhmforge.pipelines.boxes import box_area, covered_share, intersection, iou
from lhmforge.pipelines.heads import Sighting

FaceVectors = Callable[[Sequence[Sighting]], Float32[np.ndarray, "N D"]]

_CONTAINED = 0.85  # share of a box inside a weaker, larger one that repeats it


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityConfig:
    """Thresholds of cutting and joining; similarities are cosines, of colour descriptors or of face vectors."""

    max_covered: float = 0.55  # share of a box that another person's box may cover in a clean position
    min_other_score: float = 0.35  # weaker detections cover nobody
    ghost_score: float = 0.7  # a box around a person that scores less than this share of it shows the same person
    max_rival_overlap: float = 0.6  # overlap of the rival's box with the last one, over that of the own next box
    min_rival_iou: float = 0.25
    max_leap: float = 1.0  # box sizes between neighbouring positions
    min_piece: int = 3  # positions; shorter clean pieces prove nothing
    jump_window: int = 4  # positions before and after that are compared
    min_jump_similarity: float = 0.72  # below: the colours changed for good
    face_stride: int = 4  # positions from one look at the face to the next
    max_faces: int = 16  # looks per piece
    min_face_similarity: float = 0.2  # below: the faces before and after are two people's
    same_face: float = 0.36  # at least this alike: one person, unless the colours contradict
    min_colours_of_face: float = 0.82  # below: the box shows one person's face and another's clothes
    min_similarity: float = 0.86  # colours at least this alike to be one person again
    min_margin: float = 0.03  # a rival, or anyone known to be another person, within this leaves both unjoined
    same_tracklet_bonus: float = 0.05  # motion already linked them


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A clean part of one tracklet."""

    tracklet: int
    positions: Int64[np.ndarray, " M"]
    detections: Int64[np.ndarray, " M"]  # index of the detection at each position
    boxes_px: Float32[np.ndarray, "M 4"]
    scores: Float32[np.ndarray, " M"]
    descriptors: Float32[np.ndarray, "M C"]
    face_rows: Int64[np.ndarray, " F"]  # rows of the arrays above at which a face was seen
    faces: Float32[np.ndarray, "F D"]

    def part(self, rows: Int64[np.ndarray, " K"]) -> Piece:
        """The piece of some rows, ascending."""
        seen = np.isin(self.face_rows, rows)
        return dataclasses.replace(
            self,
            positions=self.positions[rows],
            detections=self.detections[rows],
            boxes_px=self.boxes_px[rows],
            scores=self.scores[rows],
            descriptors=self.descriptors[rows],
            face_rows=np.searchsorted(rows, self.face_rows[seen]),
            faces=self.faces[seen],
        )


def clean_pieces(
    tracklets: Sequence[Tracklet],
    detections: Sequence[Detections],
    config: IdentityConfig,
    face_vectors: FaceVectors | None = None,
) -> list[Piece]:
    """The pieces of all tracklets, of at least `min_piece` positions each; faces only with `face_vectors`."""
    pieces: list[Piece] = []
    for index, tracklet in enumerate(tracklets):
        whole = _whole(index, tracklet, detections)
        runs = [run for run in _runs(whole, detections, config) if len(run) >= config.min_piece]
        parts = [whole.part(rows) for run in runs for rows in _cut_at_jumps(run, whole.descriptors, config)]
        for part in parts:
            seen = part if face_vectors is None else _look_at_faces(part, config, face_vectors)
            pieces += [seen.part(rows) for rows in _cut_at_faces(seen, config)]
    return [piece for piece in pieces if len(piece.positions) >= config.min_piece]


def mean_descriptor(descriptors: Float32[np.ndarray, "K D"]) -> Float32[np.ndarray, " D"]:
    """The unit vector along the mean."""
    mean = descriptors.mean(axis=0)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-6), np.float32)


def _whole(index: int, tracklet: Tracklet, detections: Sequence[Detections]) -> Piece:
    """A tracklet with the detection behind each of its positions."""
    own = [
        int(iou(box[None], detections[position].boxes_px)[0].argmax())
        for position, box in zip(tracklet.positions, tracklet.boxes_px, strict=True)
    ]
    rows = [detections[position].appearance[at] for position, at in zip(tracklet.positions, own, strict=True)]
    return Piece(
        tracklet=index,
        positions=tracklet.positions,
        detections=np.array(own, np.int64),
        boxes_px=tracklet.boxes_px,
        scores=tracklet.scores,
        descriptors=np.stack(rows).astype(np.float32),
        face_rows=np.zeros(0, np.int64),
        faces=np.zeros((0, 0), np.float32),
    )


def _runs(whole: Piece, detections: Sequence[Detections], config: IdentityConfig) -> list[Int64[np.ndarray, " K"]]:
    """Rows of clean positions, split where the way from one to the next is in doubt."""
    others = [
        _other_people(detections[position], own, config)
        for position, own in zip(whole.positions, whole.detections.tolist(), strict=True)
    ]
    covered = [covered_share(box, rest) for box, rest in zip(whole.boxes_px, others, strict=True)]
    rows = np.flatnonzero(np.array(covered) <= config.max_covered)
    sure = [
        after - before == 1 and _goes_on(whole.boxes_px[[before, after]], others[before], others[after], config)
        for before, after in itertools.pairwise(rows)
    ]
    return [run for run in np.split(rows, np.flatnonzero(~np.array(sure, bool)) + 1) if len(run)]


def _other_people(found: Detections, own: int, config: IdentityConfig) -> Float32[np.ndarray, "M 4"]:
    """Boxes of other people; weak boxes and weaker boxes around the own one are left out."""
    box, score = found.boxes_px[own], found.scores[own]
    inside = intersection(box[None], found.boxes_px)[0] / max(float(box_area(box[None])[0]), 1e-6)
    ghost = (inside >= _CONTAINED) & (found.scores < config.ghost_score * score)
    other: Bool[np.ndarray, " K"] = (found.scores >= config.min_other_score) & ~ghost
    other[own] = False
    return found.boxes_px[other]


def _goes_on(
    pair: Float32[np.ndarray, "2 4"],
    others_before: Float32[np.ndarray, "N 4"],
    others_after: Float32[np.ndarray, "M 4"],
    config: IdentityConfig,
) -> bool:
    """Whether the second box can only be the person of the first: no leap, and nobody else as near."""
    before, after = pair[:1], pair[1:]
    overlap = float(iou(before, after)[0, 0])
    rivals = np.concatenate([iou(before, others_after)[0], iou(after, others_before)[0]])
    rival = float(rivals.max(initial=0.0))
    if rival >= config.min_rival_iou and rival > config.max_rival_overlap * overlap:
        return False
    shift = np.abs((before[0, :2] + before[0, 2:] - after[0, :2] - after[0, 2:]) / 2)
    size = np.maximum((before[0, 2:] - before[0, :2] + after[0, 2:] - after[0, :2]) / 2, 1e-6)
    return bool((shift <= config.max_leap * size).all())


def _cut_at_jumps(
    run: Int64[np.ndarray, " K"], descriptors: Float32[np.ndarray, "M D"], config: IdentityConfig
) -> list[Int64[np.ndarray, " L"]]:
    """Splits a run where the mean descriptor before and after differ more than one person's does."""
    window = config.jump_window
    similarity = np.ones(len(run) + 1)
    for middle in range(window, len(run) - window + 1):
        before, after = descriptors[run[middle - window : middle]], descriptors[run[middle : middle + window]]
        similarity[middle] = float(mean_descriptor(before) @ mean_descriptor(after))
    lowest = [float(similarity[max(at - window, 0) : at + window + 1].min()) for at in range(len(run))]
    cuts = [at for at in range(1, len(run)) if similarity[at] == lowest[at] < config.min_jump_similarity]
    return np.split(run, cuts)


def _look_at_faces(piece: Piece, config: IdentityConfig, face_vectors: FaceVectors) -> Piece:
    """Looks at the face at the piece's ends and at every few positions between."""
    length = len(piece.positions)
    count = min(max(2, 1 + -(-(length - 1) // config.face_stride)), config.max_faces, length)
    rows = np.unique(np.round(np.linspace(0, length - 1, count)).astype(np.int64))
    vectors = face_vectors([(int(piece.positions[row]), int(piece.detections[row])) for row in rows])
    seen = np.isfinite(vectors).all(axis=1)
    return dataclasses.replace(piece, face_rows=rows[seen], faces=vectors[seen])


def _cut_at_faces(piece: Piece, config: IdentityConfig) -> list[Int64[np.ndarray, " K"]]:
    """Splits a piece between looks that show two people; the positions between those looks are left out."""
    cuts: list[tuple[int, int]] = []
    for middle in range(1, len(piece.faces)):
        before, after = piece.faces[max(0, middle - 2) : middle], piece.faces[middle : middle + 2]
        if float((before @ after.T).max()) < config.min_face_similarity:
            cuts.append((int(piece.face_rows[middle - 1]) + 1, int(piece.face_rows[middle])))
    starts, ends = [0, *(after for _, after in cuts)], [*(before for before, _ in cuts), len(piece.positions)]
    return [np.arange(start, end, dtype=np.int64) for start, end in zip(starts, ends, strict=True)]
