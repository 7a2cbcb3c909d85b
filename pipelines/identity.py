"""Who is who: joins the clean pieces of one person, by face where it was seen and by colours elsewhere.

A tracker that links by motion swaps people who cross. So tracklets are cut wherever an identity may have changed
(`pipelines.pieces`) and joined greedily, surest pair first, under the rules that one person is in one place at a time,
that two faces which differ are two people, and that no other piece is nearly as good a match. What stays unclear is
left apart: two tracks of one person are a smaller harm than one track of two people.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from lhmforge.pipelines.backends.roles import Detections, Tracklet
from lhmforge.pipelines.pieces import FaceVectors, IdentityConfig, Piece, clean_pieces, mean_descriptor

_FACE_BONUS = 1.0  # a pair that faces decide comes before every pair that colours decide
_FACE_QUANTILE = 0.75  # of the pairs of faces of two groups: a turned head must not decide, nor one lucky pair


@dataclass(frozen=True, slots=True)
class _Group:
    """Pieces taken to be one person."""

    pieces: tuple[Piece, ...]

    def joined(self, other: _Group) -> _Group:
        return _Group(self.pieces + other.pieces)

    @property
    def descriptor(self) -> Float32[np.ndarray, " C"]:
        """The mean of the colours."""
        return mean_descriptor(np.concatenate([piece.descriptors for piece in self.pieces]))

    def overlaps(self, other: _Group) -> bool:
        """Whether both are seen at some position: then they are two people."""
        return any(len(np.intersect1d(a.positions, b.positions)) > 0 for a in self.pieces for b in other.pieces)


def resolve_identities(
    tracklets: Sequence[Tracklet],
    detections: Sequence[Detections],
    config: IdentityConfig,
    face_vectors: FaceVectors | None = None,
) -> list[Tracklet]:
    """One tracklet per person, ordered by first appearance and then from left to right.

    `face_vectors` gives the identity vectors of the faces at (position, detection index) pairs, NaN rows without one.
    """
    groups = [_Group((piece,)) for piece in clean_pieces(tracklets, detections, config, face_vectors)]
    while (best := _surest_pair(groups, config)) is not None:
        first, second = best
        groups[first] = groups[first].joined(groups.pop(second))
    persons = [_tracklet(group) for group in groups]
    return sorted(persons, key=lambda person: (int(person.positions[0]), float(person.boxes_px[0, 0])))


def _surest_pair(groups: Sequence[_Group], config: IdentityConfig) -> tuple[int, int] | None:
    """The most similar pair that may be one person and has no rival."""
    affinity = _affinities(groups, config)
    for flat in np.argsort(-affinity, axis=None, kind="stable"):
        first, second = (int(value) for value in np.unravel_index(flat, affinity.shape))
        if affinity[first, second] < config.min_similarity:
            return None
        if first < second and not _has_rival((first, second), affinity, groups, config):
            return first, second
    return None


def _affinities(groups: Sequence[_Group], config: IdentityConfig) -> Float[np.ndarray, "G G"]:
    """How sure it is that two groups are one person; -inf where it cannot be, or nothing tells."""
    colours = np.stack([group.descriptor for group in groups]) if groups else np.zeros((0, 1), np.float32)
    similarity = colours @ colours.T
    apart = np.array([[a is not b and a.overlaps(b) for b in groups] for a in groups], bool).reshape(similarity.shape)
    # Colours name nobody better than they tell a person from those who are seen beside them.
    unlike = np.where(apart, similarity, -np.inf).max(axis=1, initial=-np.inf) + config.min_margin
    affinity = np.full(similarity.shape, -np.inf)
    for first, second in itertools.combinations(range(len(groups)), 2):
        if not apart[first, second]:
            told_apart = bool(similarity[first, second] >= max(unlike[first], unlike[second]))
            value = _affinity(groups[first], groups[second], float(similarity[first, second]), told_apart, config)
            affinity[first, second] = affinity[second, first] = value
    return affinity


def _affinity(a: _Group, b: _Group, colours: float, told_apart: bool, config: IdentityConfig) -> float:
    """Faces decide where both were seen and say something; else colours, if they tell these people from others."""
    face = _face_similarity(a, b)
    if face is not None and face >= config.same_face:
        return _FACE_BONUS + face if colours >= config.min_colours_of_face else -np.inf
    if (face is not None and face < config.min_face_similarity) or not told_apart:
        return -np.inf
    tracklets = {piece.tracklet for piece in a.pieces} & {piece.tracklet for piece in b.pieces}
    return colours + (config.same_tracklet_bonus if tracklets else 0.0)


def _face_similarity(a: _Group, b: _Group) -> float | None:
    """None where one of them never showed a face."""
    faces_a = [piece.faces for piece in a.pieces if len(piece.faces)]
    faces_b = [piece.faces for piece in b.pieces if len(piece.faces)]
    if not faces_a or not faces_b:
        return None
    return float(np.quantile(np.concatenate(faces_a) @ np.concatenate(faces_b).T, _FACE_QUANTILE))


def _has_rival(
    pair: tuple[int, int], affinity: Float[np.ndarray, "G G"], groups: Sequence[_Group], config: IdentityConfig
) -> bool:
    """Whether a third group could be one of the pair nearly as well while it cannot be the other one too."""
    value = affinity[pair]
    for near, far in (pair, pair[::-1]):
        for other in range(len(groups)):
            close = other not in pair and affinity[near, other] >= value - config.min_margin
            if close and not np.isfinite(affinity[far, other]):
                return True
    return False


def _tracklet(group: _Group) -> Tracklet:
    positions = np.concatenate([piece.positions for piece in group.pieces])
    order = np.argsort(positions, kind="stable")
    return Tracklet(
        positions=positions[order],
        boxes_px=np.concatenate([piece.boxes_px for piece in group.pieces])[order],
        scores=np.concatenate([piece.scores for piece in group.pieces])[order],
    )
