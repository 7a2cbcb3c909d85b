"""Identity clusters over a corpus: which tracks, of whatever videos, show one person.

Every face is compared with its nearest neighbours; pairs are joined surest first, and two clusters become one only if
their faces agree on average, the clothes do not speak against it, and nothing forbids it: who is seen at one time in
one video is two people, and so are two that the owner's manifest names differently. An average, and not a single
pair, decides, so that a chain of look-alikes does not grow. A person whose face was never seen is in no cluster:
colours alone name nobody across videos.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32, Int64

from lhmforge.datasets.errors import ConfigError
from lhmforge.datasets.records import Likeness

_EXACT_UP_TO = 20_000  # faces; more are searched through an inverted file
_PROBES = 24
_TRAINING_POINTS_PER_LIST = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityClusterConfig:
    """Least cosines, of face vectors and of clothes' colours; they were measured, see docs/corpus.md."""

    min_face: float = 0.5
    min_body: float = 0.5
    num_neighbours: int = 32

    def __post_init__(self) -> None:
        if not (-1 <= self.min_face <= 1 and -1 <= self.min_body <= 1) or self.num_neighbours < 1:
            raise ConfigError("identity_clusters: cosines lie in -1..1 and num_neighbours starts at 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """One track: its vectors, and what is known about it."""

    key: str
    video_digest: str
    first_frame: int
    end_frame: int
    identity: str  # as the owner's manifest says; empty: unknown
    likeness: Likeness


@dataclass(slots=True)
class _Cluster:
    members: list[int]
    face_sum: Float32[np.ndarray, " F"]
    body_sum: Float32[np.ndarray, " B"]
    identities: set[str]
    spans: dict[str, list[tuple[int, int]]] = field(default_factory=dict)

    def may_join(self, other: _Cluster, config: IdentityClusterConfig) -> bool:
        pairs = len(self.members) * len(other.members)
        if float(self.face_sum @ other.face_sum) / pairs < config.min_face:
            return False
        if float(self.body_sum @ other.body_sum) / pairs < config.min_body:
            return False
        if len(self.identities | other.identities) > 1:
            return False
        return not any(
            first < far and near < end
            for video in self.spans.keys() & other.spans.keys()
            for first, end in self.spans[video]
            for near, far in other.spans[video]
        )

    def join(self, other: _Cluster) -> None:
        self.members += other.members
        self.face_sum = self.face_sum + other.face_sum
        self.body_sum = self.body_sum + other.body_sum
        self.identities |= other.identities
        for video, spans in other.spans.items():
            self.spans.setdefault(video, []).extend(spans)


def cluster_identities(persons: Iterable[Person], config: IdentityClusterConfig) -> Mapping[str, str]:
    """Key of each track that is one of several of a person -> the smallest key among them, the cluster's name.

    The order of `persons` does not matter.
    """
    ordered = [p for p in sorted(persons, key=lambda person: person.key) if np.isfinite(p.likeness.face).all()]
    if len(ordered) < 2:
        return {}
    faces = np.stack([person.likeness.face for person in ordered]).astype(np.float32)
    clusters = {index: _alone(index, person) for index, person in enumerate(ordered)}
    home = list(range(len(ordered)))
    for first, second in _sure_pairs(faces, config).tolist():
        left, right = clusters[home[first]], clusters[home[second]]
        if left is right or not left.may_join(right, config):
            continue
        if len(left.members) < len(right.members):
            left, right = right, left
        gone, stays = home[right.members[0]], home[left.members[0]]
        for member in right.members:
            home[member] = stays
        left.join(right)
        del clusters[gone]
    return {
        ordered[member].key: ordered[min(cluster.members)].key
        for cluster in clusters.values()
        if len(cluster.members) > 1
        for member in cluster.members
    }


def _alone(index: int, person: Person) -> _Cluster:
    likeness = person.likeness
    return _Cluster(
        members=[index],
        face_sum=likeness.face,
        body_sum=likeness.body,
        identities={person.identity} - {""},
        spans={person.video_digest: [(person.first_frame, person.end_frame)]},
    )


def _sure_pairs(faces: Float32[np.ndarray, "N F"], config: IdentityClusterConfig) -> Int64[np.ndarray, "P 2"]:
    """Pairs (first < second) of like faces, most alike first, ties by index."""
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # tells each instruction set that it tries
    import faiss

    faiss.omp_set_num_threads(1)  # sums come out alike on every machine
    num_faces, size = faces.shape
    index = faiss.IndexFlatIP(size)
    if num_faces > _EXACT_UP_TO:
        num_lists = int(2 * num_faces**0.5)
        index = faiss.IndexIVFFlat(index, size, num_lists, faiss.METRIC_INNER_PRODUCT)
        index.nprobe = _PROBES
        index.cp.niter = 6
        step = max(1, num_faces // (num_lists * _TRAINING_POINTS_PER_LIST))
        index.train(np.ascontiguousarray(faces[::step]))
    index.add(faces)
    cosines, found = index.search(faces, min(config.num_neighbours + 1, num_faces))
    first = np.repeat(np.arange(num_faces), found.shape[1])
    second, value = found.ravel(), cosines.ravel()
    sure = (second >= 0) & (second != first) & (value >= config.min_face)
    low, high = np.minimum(first, second)[sure], np.maximum(first, second)[sure]
    codes, once = np.unique(low * num_faces + high, return_index=True)
    order = np.lexsort((codes, -value[sure][once]))
    return np.stack(np.divmod(codes[order], num_faces), axis=1).astype(np.int64)
