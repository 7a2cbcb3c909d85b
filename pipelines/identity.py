"""Who is who: cuts tracklets where an identity may have changed, and joins the pieces of one person by appearance.

A tracker that links by motion swaps people who cross. Here every tracklet is cut where another person covers it and
where its colours change for good; the clean pieces are then joined greedily, most similar first, under the rule that
one person is in one place at a time and that no other piece is nearly as good a match. What stays unclear is left
apart or dropped: two tracks of one person are a smaller harm than one track of two people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64

from lhmforge.pipelines.backends.roles import Detections, Tracklet
from lhmforge.pipelines.boxes import covered_share, iou


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityConfig:
    """Thresholds of the identity check; similarities are cosines of `pipelines.appearance` descriptors."""

    max_covered: float = 0.55  # share of a box that another person's box may cover in a clean position
    min_piece: int = 3  # positions; shorter clean pieces prove nothing
    jump_window: int = 4  # positions before and after that are compared
    min_jump_similarity: float = 0.72  # below: the colours changed for good, cut
    min_similarity: float = 0.86  # at least this alike to be one person again
    min_margin: float = 0.03  # a rival within this of the best match leaves both unjoined
    same_tracklet_bonus: float = 0.05  # motion already linked them


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A clean part of one tracklet: positions, boxes, scores, and its mean descriptor."""

    tracklet: int
    positions: Int64[np.ndarray, " M"]
    boxes_px: Float32[np.ndarray, "M 4"]
    scores: Float32[np.ndarray, " M"]
    descriptor: Float32[np.ndarray, " D"]


def resolve_identities(
    tracklets: Sequence[Tracklet], detections: Sequence[Detections], config: IdentityConfig
) -> list[Tracklet]:
    """One tracklet per person, ordered by first appearance and then from left to right."""
    pieces: list[Piece] = []
    for index, tracklet in enumerate(tracklets):
        pieces += _clean_pieces(index, tracklet, detections, config)
    persons = [_concatenate([pieces[index] for index in group]) for group in _join(pieces, config)]
    return sorted(persons, key=lambda person: (int(person.positions[0]), float(person.boxes_px[0, 0])))


def _clean_pieces(
    index: int, tracklet: Tracklet, detections: Sequence[Detections], config: IdentityConfig
) -> list[Piece]:
    descriptors = _descriptors(tracklet, detections)
    clean = _clean_positions(tracklet, detections, config)
    runs = [run for run in _runs(clean) if len(run) >= config.min_piece]
    cut = [part for run in runs for part in _cut_at_jumps(run, descriptors, config) if len(part) >= config.min_piece]
    return [
        Piece(
            tracklet=index,
            positions=tracklet.positions[part],
            boxes_px=tracklet.boxes_px[part],
            scores=tracklet.scores[part],
            descriptor=_mean_descriptor(descriptors[part]),
        )
        for part in cut
    ]


def _descriptors(tracklet: Tracklet, detections: Sequence[Detections]) -> Float32[np.ndarray, "M D"]:
    """The appearance of the detection behind each position of the tracklet."""
    rows = []
    for position, box in zip(tracklet.positions, tracklet.boxes_px, strict=True):
        found = detections[position]
        rows.append(found.appearance[int(iou(box[None], found.boxes_px)[0].argmax())])
    return np.stack(rows).astype(np.float32)


def _clean_positions(
    tracklet: Tracklet, detections: Sequence[Detections], config: IdentityConfig
) -> Bool[np.ndarray, " M"]:
    """Positions at which no other confident detection covers much of the box."""
    clean = np.ones(len(tracklet.positions), bool)
    for row, (position, box) in enumerate(zip(tracklet.positions, tracklet.boxes_px, strict=True)):
        found = detections[position]
        own = int(iou(box[None], found.boxes_px)[0].argmax())
        others = np.delete(found.boxes_px, own, axis=0)
        clean[row] = covered_share(box, others) <= config.max_covered
    return clean


def _runs(clean: Bool[np.ndarray, " M"]) -> list[Int64[np.ndarray, " K"]]:
    rows = np.flatnonzero(clean)
    return [run for run in np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1) if len(run)]


def _cut_at_jumps(
    run: Int64[np.ndarray, " K"], descriptors: Float32[np.ndarray, "M D"], config: IdentityConfig
) -> list[Int64[np.ndarray, " L"]]:
    """Splits a run where the mean descriptor before and after differ more than one person's does."""
    window = config.jump_window
    similarity = np.ones(len(run) + 1)
    for middle in range(window, len(run) - window + 1):
        before, after = descriptors[run[middle - window : middle]], descriptors[run[middle : middle + window]]
        similarity[middle] = float(_mean_descriptor(before) @ _mean_descriptor(after))
    lowest = [float(similarity[max(at - window, 0) : at + window + 1].min()) for at in range(len(run))]
    cuts = [at for at in range(1, len(run)) if similarity[at] == lowest[at] < config.min_jump_similarity]
    return np.split(run, cuts)


def _mean_descriptor(descriptors: Float32[np.ndarray, "K D"]) -> Float32[np.ndarray, " D"]:
    mean = descriptors.mean(axis=0)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-6), np.float32)


def _join(pieces: Sequence[Piece], config: IdentityConfig) -> list[list[int]]:
    """Groups of pieces of one person; greedy, most similar pair of groups first."""
    groups = [[index] for index in range(len(pieces))]
    while True:
        affinity = _group_affinity(pieces, groups, config)
        best = _best_unrivalled(affinity, pieces, groups, config)
        if best is None:
            return [sorted(group, key=lambda index: int(pieces[index].positions[0])) for group in groups]
        first, second = best
        groups[first] = groups[first] + groups.pop(second)


def _group_affinity(pieces: Sequence[Piece], groups: Sequence[Sequence[int]], config: IdentityConfig) -> np.ndarray:
    """Similarity of each pair of groups that may be one person, -inf where they are seen at the same time."""
    affinity = np.full((len(groups), len(groups)), -np.inf)
    for first in range(len(groups)):
        for second in range(first + 1, len(groups)):
            a, b = [pieces[i] for i in groups[first]], [pieces[i] for i in groups[second]]
            if _overlap_in_time(a, b):
                continue
            similarity = float(_group_descriptor(a) @ _group_descriptor(b))
            shared = {piece.tracklet for piece in a} & {piece.tracklet for piece in b}
            affinity[first, second] = similarity + (config.same_tracklet_bonus if shared else 0.0)
    return np.asarray(np.maximum(affinity, affinity.T))


def _best_unrivalled(
    affinity: np.ndarray, pieces: Sequence[Piece], groups: Sequence[Sequence[int]], config: IdentityConfig
) -> tuple[int, int] | None:
    """The most similar pair above the threshold that has no rival: a group as alike to one that excludes the other."""
    order = np.argsort(-affinity, axis=None, kind="stable")
    for flat in order:
        first, second = (int(value) for value in np.unravel_index(flat, affinity.shape))
        value = affinity[first, second]
        if value < config.min_similarity:
            return None
        if first < second and not any(
            _is_rival(other, value, (near, far), affinity, pieces, groups, config)
            for near, far in ((first, second), (second, first))
            for other in range(len(groups))
            if other not in (first, second)
        ):
            return first, second
    return None


def _is_rival(
    other: int,
    value: float,
    pair: tuple[int, int],
    affinity: np.ndarray,
    pieces: Sequence[Piece],
    groups: Sequence[Sequence[int]],
    config: IdentityConfig,
) -> bool:
    """Whether `other` could be the person of `near` nearly as well as `far`, while it cannot be `far` too."""
    near, far = pair
    close = affinity[near, other] >= value - config.min_margin
    return bool(close and _overlap_in_time([pieces[i] for i in groups[far]], [pieces[i] for i in groups[other]]))


def _overlap_in_time(a: Sequence[Piece], b: Sequence[Piece]) -> bool:
    return any(len(np.intersect1d(x.positions, y.positions)) > 0 for x in a for y in b)


def _group_descriptor(group: Sequence[Piece]) -> Float32[np.ndarray, " D"]:
    weights = np.array([len(piece.positions) for piece in group], np.float32)
    return _mean_descriptor(np.stack([piece.descriptor for piece in group]) * weights[:, None])


def _concatenate(group: Sequence[Piece]) -> Tracklet:
    positions = np.concatenate([piece.positions for piece in group])
    order = np.argsort(positions, kind="stable")
    return Tracklet(
        positions=positions[order],
        boxes_px=np.concatenate([piece.boxes_px for piece in group])[order],
        scores=np.concatenate([piece.scores for piece in group])[order],
    )
