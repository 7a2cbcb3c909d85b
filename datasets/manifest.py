"""The manifest: one Parquet table with a row per accepted sample and a row per record that was turned down.

Readers start here, never from `*.tar`. Shard names are relative to the manifest's folder, so a finished run can be
moved or copied as a whole. The digest covers what the data is and leaves out what a second run may change without
changing the data: seconds spent, attempts, absolute places, and wording.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lhmforge.datasets import storage
from lhmforge.datasets.errors import ShardError
from lhmforge.datasets.records import PackedSample, Reject, SourceVideo, TrackScores
from lhmforge.datasets.shards import ShardEntry

MANIFEST_VERSION = 1
ACCEPTED, REJECTED, QUARANTINED = "accepted", "rejected", "quarantined"
COST_STAGES = ("probe", "shots", "dedup", "track", "matte", "keypoints", "fit", "gate", "pack", "synthesize")
SCORE_NAMES = tuple(score.name for score in fields(TrackScores))

_TEXT = (
    "key", "status", "stage", "reason", "detail", "source_id", "channel", "licence", "identity", "uri",
    "video_digest", "shard", "sha256", "body_digest", "fingerprint",
)  # fmt: skip
_WHOLE = ("first_frame", "end_frame", "person", "num_frames", "offset", "num_bytes", "attempts")
_SCORES = tuple(f"score_{name}" for name in SCORE_NAMES)
_COSTS = tuple(f"cost_{name}_s" for name in COST_STAGES)
_OUTSIDE_DIGEST = {"uri", "detail", "attempts", *_COSTS}

MANIFEST_SCHEMA = pa.schema(
    [pa.field(name, pa.string(), nullable=False) for name in _TEXT]
    + [pa.field(name, pa.int64(), nullable=False) for name in _WHOLE]
    + [pa.field(name, pa.float64()) for name in (*_SCORES, *_COSTS)]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestRow:
    """One row; `shard`, `offset`, `num_bytes` and `sha256` say where an accepted sample lies.

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
        """Reads and checks a manifest; raises `ShardError` when it is torn, altered or of another version."""
        if not storage.exists(path):
            raise ShardError(f"manifest {path} is missing; curate writes it as manifest.parquet in its output folder")
        try:
            table = pq.read_table(io.BytesIO(storage.read_bytes(path)))
        except (pa.ArrowInvalid, OSError) as error:
            raise ShardError(f"manifest {path} is not a readable Parquet file: {error}") from error
        frame = _checked_frame(path, table)
        recorded = (table.schema.metadata or {}).get(b"lhmforge.digest", b"").decode()
        digest = _digest(frame)
        if digest != recorded:
            raise ShardError(f"manifest {path} was altered: its rows have digest {digest[:16]}, not {recorded[:16]}")
        return cls(path=str(path), digest=digest, frame=frame)

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
        return storage.join_uri(self.shard_root, shard)


def write_manifest(path: str | Path, rows: Iterable[ManifestRow]) -> Manifest:
    """Publishes a manifest atomically; the order of `rows` does not matter.

    Raises `ShardError` when two accepted rows have one key, `StorageError` when it cannot be written.
    """
    return _publish(path, pd.DataFrame([_flat(row) for row in rows], columns=MANIFEST_SCHEMA.names))


def merge_manifests(path: str | Path, parts: Sequence[Manifest]) -> Manifest:
    """Publishes one manifest over the samples of several, on this machine; shards stay where they are.

    Raises `ShardError` when two parts hold one accepted sample, `StorageError` when it cannot be written.
    """
    frames = []
    for part in parts:
        to_part = os.path.relpath(part.shard_root, Path(path).parent)
        shards = part.frame["shard"].map(lambda shard, folder=to_part: storage.join_uri(folder, shard) if shard else "")
        frames.append(part.frame.assign(shard=shards))
    return _publish(path, pd.concat(frames))


def _publish(path: str | Path, frame: pd.DataFrame) -> Manifest:
    frame = frame.sort_values(["key", "status", "stage", "reason"], kind="stable").reset_index(drop=True)
    accepted = frame["key"][frame["status"] == ACCEPTED]
    if accepted.duplicated().any():
        raise ShardError(f"manifest {path}: sample {accepted[accepted.duplicated()].iloc[0]!r} is listed twice")
    table = pa.Table.from_pandas(frame, schema=MANIFEST_SCHEMA, preserve_index=False)
    frame = table.to_pandas()
    digest = _digest(frame)
    metadata = {"lhmforge.manifest_version": str(MANIFEST_VERSION), "lhmforge.digest": digest}
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), buffer, compression="zstd")
    storage.publish(path, (buffer.getvalue(),))
    return Manifest(path=str(path), digest=digest, frame=frame)


def _flat(row: ManifestRow) -> dict[str, str | int | float | None]:
    source = {name: getattr(row.source, name) for name in ("source_id", "channel", "licence", "identity", "uri")}
    plain = {name: getattr(row, name) for name in (*_TEXT, *_WHOLE) if name not in source}
    scores = {f"score_{name}": _known(getattr(row.scores, name)) for name in SCORE_NAMES if row.scores is not None}
    costs = {f"cost_{name}_s": float(seconds) for name, seconds in row.cost_s.items()}
    return {**source, **plain, **scores, **costs}


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _checked_frame(path: str | Path, table: pa.Table) -> pd.DataFrame:
    version = (table.schema.metadata or {}).get(b"lhmforge.manifest_version", b"none").decode()
    if version != str(MANIFEST_VERSION):
        raise ShardError(f"manifest {path} has version {version}; this program reads version {MANIFEST_VERSION}")
    if not table.schema.equals(MANIFEST_SCHEMA):
        missing = sorted(set(MANIFEST_SCHEMA.names) - set(table.schema.names))
        raise ShardError(f"manifest {path} does not have the expected columns; missing: {', '.join(missing) or 'none'}")
    frame: pd.DataFrame = table.to_pandas()
    return frame


def _digest(frame: pd.DataFrame) -> str:
    """sha256 over one canonical JSON line per row; a missing number is null."""
    names = [name for name in MANIFEST_SCHEMA.names if name not in _OUTSIDE_DIGEST]
    columns = [frame[name].astype(object).where(frame[name].notna(), None).tolist() for name in names]
    encoder = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    sha256 = hashlib.sha256(encoder.encode(names).encode())
    for values in zip(*columns, strict=True):
        sha256.update(encoder.encode(values).encode() + b"\n")
    return sha256.hexdigest()
