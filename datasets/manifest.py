"""The manifest: one Parquet table with a row per accepted sample and a row per record that was turned down.

Readers start here, never from `*.tar`. Shard names are relative to the manifest's folder, so a finished run can be
moved or copied as a whole. The digest covers what the data is and leaves out what a second run may change without
changing the data: seconds spent, attempts, absolute places, and wording.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pyarrow as pa

from lhmforge.datasets import storage
from lhmforge.datasets.errors import ShardError
from lhmforge.datasets.manifest_table import (
    COST_STAGES,
    MANIFEST_SCHEMA,
    SCORE_NAMES,
    TEXT_COLUMNS,
    WHOLE_COLUMNS,
    PublishedTable,
    SortedTable,
    read_table,
)
from lhmforge.datasets.records import PackedSample, Reject, SourceVideo, TrackScores
from lhmforge.datasets.shards import ShardEntry

__all__ = ["COST_STAGES", "MANIFEST_SCHEMA", "SCORE_NAMES"]
ACCEPTED, REJECTED, QUARANTINED = "accepted", "rejected", "quarantined"


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestRow:
    """One row; `shard`, `offset`, `num_bytes` and `sha256` say where an accepted sample lies.

    `duplicate_group` names the samples that show the same footage, `identity_cluster` those of one person as far as
    faces tell; both are found over the whole corpus, and empty for a sample that is alone or was not compared.

    `key` is the sample's key, or for other rows the key of the record that ended (source, video, clip or track).
    `stage` is where the record ended ("pack" for accepted ones). `cost_s` is seconds per stage for this row's record
    alone; `num_frames` the frames it covers. A count that is not known is 0, a score or cost that is not, missing.
    """

    key: str
    status: str
    stage: str
    source: SourceVideo
    reason: str = ""
    detail: str = ""
    video_digest: str = ""
    first_frame: int = 0
    end_frame: int = 0
    person: int = 0
    num_frames: int = 0
    shard: str = ""
    offset: int = 0
    num_bytes: int = 0
    sha256: str = ""
    body_digest: str = ""
    fingerprint: str = ""
    duplicate_group: str = ""
    identity_cluster: str = ""
    attempts: int = 1
    scores: TrackScores | None = None
    cost_s: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = set(self.cost_s) - set(COST_STAGES)
        assert not unknown, f"no cost column for stage(s) {sorted(unknown)}; add them to COST_STAGES"
        assert self.status in (ACCEPTED, REJECTED, QUARANTINED), f"unknown status {self.status!r}"


def accepted_row(
    sample: PackedSample,
    *,
    shard: str,
    entry: ShardEntry,
    fingerprint: str,
    cost_s: Mapping[str, float],
    attempts: int = 1,
    stage: str = "pack",
) -> ManifestRow:
    """The row of a sample that lies in `shard` (path relative to the manifest) at `entry`."""
    assert sample.key == entry.key, f"sample {sample.key} joined with the shard entry of {entry.key}"
    return ManifestRow(
        key=sample.key,
        status=ACCEPTED,
        stage=stage,
        source=sample.source,
        video_digest=sample.video_digest,
        first_frame=sample.first_frame,
        end_frame=sample.end_frame,
        person=sample.person,
        num_frames=sample.num_frames,
        shard=shard,
        offset=entry.offset,
        num_bytes=entry.num_bytes,
        sha256=entry.sha256,
        body_digest=sample.body_digest,
        fingerprint=fingerprint,
        attempts=attempts,
        scores=sample.scores,
        cost_s=cost_s,
    )


def rejected_row(
    reject: Reject,
    *,
    fingerprint: str,
    cost_s: Mapping[str, float],
    attempts: int = 1,
    video_digest: str = "",
    status: str = REJECTED,
) -> ManifestRow:
    """The row of a record that ended early; `status` is QUARANTINED for a video given up after its attempts."""
    return ManifestRow(
        key=reject.key,
        status=status,
        stage=reject.stage,
        reason=reject.reason,
        detail=reject.detail,
        source=reject.source,
        video_digest=video_digest,
        fingerprint=fingerprint,
        attempts=attempts,
        scores=reject.scores,
        cost_s=cost_s,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A loaded manifest; `frame` has the columns of `MANIFEST_SCHEMA`, rows sorted by key, status and reason."""

    path: str
    digest: str
    frame: pd.DataFrame

    @classmethod
    def load(cls, path: str | Path) -> Manifest:
        """Reads and checks a manifest; raises `ShardError` when it is torn, altered or of an unknown version."""
        table, digest = read_table(path)
        return cls(path=str(path), digest=digest, frame=table.to_pandas())

    @property
    def shard_root(self) -> str:
        """The folder or URI that shard names are relative to."""
        return storage.parent_uri(self.path)

    def accepted(self) -> pd.DataFrame:
        """The rows of accepted samples, by key."""
        return self.frame[self.frame["status"] == ACCEPTED].reset_index(drop=True)

    def rejected(self) -> pd.DataFrame:
        """The rows of rejected records and quarantined videos."""
        return self.frame[self.frame["status"] != ACCEPTED].reset_index(drop=True)

    def ids(self) -> tuple[str, ...]:
        """Keys of the accepted samples, sorted."""
        return tuple(self.accepted()["key"])

    def select(self, ids: Sequence[str]) -> pd.DataFrame:
        """The rows of accepted samples in the order of `ids`; raises `ShardError` naming an id that is not accepted."""
        accepted = self.accepted().set_index("key", drop=False)
        missing = [key for key in ids if key not in accepted.index]
        if missing:
            raise ShardError(f"manifest {self.path} has no accepted sample {missing[0]!r} ({len(missing)} such ids)")
        return accepted.loc[list(ids)].reset_index(drop=True)

    def shard_uri(self, shard: str) -> str:
        """Where the shard of a row lies."""
        return shard if "://" in shard else storage.join_uri(self.shard_root, shard)


def write_manifest(path: str | Path, rows: Iterable[ManifestRow]) -> Manifest:
    """Publishes a manifest like `stream_manifest`, and loads it."""
    stream_manifest(path, rows)
    return Manifest.load(path)


def stream_manifest(path: str | Path, rows: Iterable[ManifestRow]) -> PublishedTable:
    """Publishes a manifest atomically and in bounded memory; the order of `rows` does not matter.

    Raises `ShardError` when two accepted rows have one key, `StorageError` when it cannot be written.
    """
    with SortedTable() as table:
        for row in rows:
            table.add(flat_row(row))
        return table.publish(path)


def merge_manifests(path: str | Path, parts: Sequence[Manifest]) -> Manifest:
    """Publishes one manifest over the samples of several, on this machine; shards stay where they are.

    Raises `ShardError` when two parts hold one accepted sample, `StorageError` when it cannot be written.
    """
    with SortedTable() as table:
        for part in parts:
            to_part = os.path.relpath(part.shard_root, Path(path).parent)
            shards = [storage.join_uri(to_part, shard) if shard else "" for shard in part.frame["shard"]]
            frame = part.frame.assign(shard=shards)
            table.add_table(pa.Table.from_pandas(frame, schema=MANIFEST_SCHEMA, preserve_index=False))
        table.publish(path)
    return Manifest.load(path)


def flat_row(row: ManifestRow) -> dict[str, str | int | float | None]:
    """The row by column names, as `SortedTable` takes it."""
    source = {name: getattr(row.source, name) for name in ("source_id", "channel", "licence", "identity", "uri")}
    plain = {name: getattr(row, name) for name in (*TEXT_COLUMNS, *WHOLE_COLUMNS) if name not in source}
    scores = {f"score_{name}": _known(getattr(row.scores, name)) for name in SCORE_NAMES if row.scores is not None}
    costs = {f"cost_{name}_s": float(seconds) for name, seconds in row.cost_s.items()}
    return {**source, **plain, **scores, **costs}


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
