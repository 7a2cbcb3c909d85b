"""What can be said about a sample only when all are known: who shows the same footage, and who the same person.

It runs after all units, over their completion records and side files, one at a time; what stays in memory is about
1 kB per sample. Nothing of it is kept but the columns of the manifest, so that added or removed videos, changed
thresholds and another policy cost one more pass and no curation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from lhmforge.datasets.manifest import ACCEPTED, REJECTED, ManifestRow
from lhmforge.datasets.records import Likeness, Signature
from lhmforge.pipelines.identity_clusters import IdentityClusterConfig, Person, cluster_identities
from lhmforge.pipelines.ledger import UnitRecord
from lhmforge.pipelines.likeness_files import likeness_place, read_likenesses
from lhmforge.pipelines.near_duplicates import (
    DuplicateFindings,
    Footage,
    NearDuplicateConfig,
    find_near_duplicates,
)

NEAR_DUPLICATE = "near_duplicate"
_STAGE = "dedup"


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusConfig:
    """What is compared over the whole corpus; None leaves a comparison out."""

    near_duplicates: NearDuplicateConfig | None = field(default_factory=NearDuplicateConfig)
    identity_clusters: IdentityClusterConfig | None = field(default_factory=IdentityClusterConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusFindings:
    """What the comparison says about each sample."""

    duplicates: DuplicateFindings
    clusters: Mapping[str, str]  # by track key

    @property
    def num_duplicate_groups(self) -> int:
        return len(set(self.duplicates.group.values()))

    @property
    def num_identity_clusters(self) -> int:
        return len(set(self.clusters.values()))

    def applied(self, row: ManifestRow) -> ManifestRow:
        """The row as the manifest shows it: with group and cluster, and rejected where another sample is kept."""
        if row.status != ACCEPTED:
            return row
        found = replace(
            row,
            duplicate_group=self.duplicates.group.get(row.key, ""),
            identity_cluster=self.clusters.get(track_key(row.key), ""),
        )
        kept = self.duplicates.kept.get(row.key)
        if kept is None:
            return found
        nowhere = replace(found, shard="", offset=0, num_bytes=0, sha256="", status=REJECTED)
        return replace(nowhere, stage=_STAGE, reason=NEAR_DUPLICATE, detail=f"same footage as {kept}, which is kept")


def compare_samples(root: str, records: Iterable[UnitRecord], config: CorpusConfig) -> CorpusFindings:
    """Groups and clusters of all accepted samples; raises `ShardError` for a damaged file of vectors."""
    footage: list[Footage] = []
    persons: list[Person] = []
    for record in records:
        rows = {row.key: row for row in record.rows if row.status == ACCEPTED}
        if config.near_duplicates is not None:
            footage += [_footage(rows[stored.key], stored.signature) for stored in record.signatures]
        if config.identity_clusters is not None and record.likeness:
            persons += _persons(rows, read_likenesses(likeness_place(root, record.unit)))
    duplicates = DuplicateFindings(group={}, kept={})
    if config.near_duplicates is not None:
        duplicates = find_near_duplicates(footage, config.near_duplicates)
    clusters: Mapping[str, str] = {}
    if config.identity_clusters is not None:
        clusters = cluster_identities(persons, config.identity_clusters)
    return CorpusFindings(duplicates=duplicates, clusters=clusters)


def track_key(sample_key: str) -> str:
    """The key of the track that a sample is a part of."""
    return sample_key.rpartition("_")[0]


def _footage(row: ManifestRow, signature: Signature) -> Footage:
    height = row.scores.height_px if row.scores is not None and np.isfinite(row.scores.height_px) else 1.0
    return Footage(
        key=row.key, video_digest=row.video_digest, signature=signature, quality=float(row.num_frames * height)
    )


def _persons(rows: Mapping[str, ManifestRow], likenesses: Mapping[str, Likeness]) -> list[Person]:
    """One per track; the vectors of its samples are averaged."""
    tracks: dict[str, list[str]] = {}
    for key in sorted(rows.keys() & likenesses.keys()):
        tracks.setdefault(track_key(key), []).append(key)
    return [
        Person(
            key=track,
            video_digest=rows[keys[0]].video_digest,
            first_frame=min(rows[key].first_frame for key in keys),
            end_frame=max(rows[key].end_frame for key in keys),
            identity=rows[keys[0]].source.identity,
            likeness=_mean([likenesses[key] for key in keys]),
        )
        for track, keys in tracks.items()
    ]


def _mean(parts: list[Likeness]) -> Likeness:
    seen = [part for part in parts if part.num_faces > 0]
    face = np.sum([part.face * part.num_faces for part in seen], axis=0) if seen else parts[0].face
    body = np.sum([part.body for part in parts], axis=0)
    return Likeness(
        face=np.asarray(face / max(float(np.linalg.norm(face)), 1e-6), np.float32),
        num_faces=sum(part.num_faces for part in parts),
        body=np.asarray(body / max(float(np.linalg.norm(body)), 1e-6), np.float32),
    )
