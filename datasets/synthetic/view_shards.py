"""Shards of multi-view samples in a folder, resumable: `shards/*.tar`, `records/*.json`, `manifest.parquet`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path

from lhmforge.datasets import storage
from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.codecs import decode_json, encode_json
from lhmforge.datasets.config_json import from_json, to_json
from lhmforge.datasets.errors import ConfigError, ShardError, StorageError
from lhmforge.datasets.manifest import ACCEPTED, ManifestRow, write_manifest
from lhmforge.datasets.records import PackedSample, TrackScores
from lhmforge.datasets.shards import verify_shard, write_shard
from lhmforge.datasets.synthetic.corpus import RENDERER_VERSION
from lhmforge.datasets.synthetic.multiview import MultiviewConfig, multiview_sample, scan_sample, view_source
from lhmforge.datasets.synthetic.scans import ScanFile
from lhmforge.datasets.synthetic.workers import Runner, in_processes

PERSONS_PER_SHARD = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardsSummary:
    """What a call did; `manifest` can be given to training."""

    manifest: Path
    num_samples: int
    num_rendered: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleEntry:
    """Where one sample lies and what its manifest row needs; scores that are not measurable are left out."""

    key: str
    num_frames: int
    offset: int
    num_bytes: int
    sha256: str
    video_digest: str
    scores: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRecord:
    """Written after its shard: the shard is finished when fingerprint and content agree with it."""

    fingerprint: str
    body_digest: str
    shard: str
    sha256: str
    samples: tuple[SampleEntry, ...]
    of_scans: bool = False


def synthesize_shards(
    config: MultiviewConfig,
    count: int,
    output: Path,
    body_path: Path,
    *,
    scans: Sequence[ScanFile] = (),
    num_workers: int = 1,
    run: Runner | None = None,
    on_sample: Callable[[str], object] = lambda key: None,
) -> ShardsSummary:
    """Writes persons 0..count-1 of a seed, or the user's `scans`, as shards and a manifest; finished shards are kept.

    `run` says where samples are rendered (default: `num_workers` processes of this machine); the bytes are the same.
    Raises `BodyError` for an unusable body file, `ScanError` for a scan, `StorageError` for a folder that cannot be
    written.
    """
    count = len(scans) or count
    if count < 1:
        raise ConfigError(f"{count} persons asked for; at least one is needed")
    starts = range(0, count, PERSONS_PER_SHARD)
    jobs = [
        _ShardJob(
            config=config, group=range(start, min(start + PERSONS_PER_SHARD, count)), output=output,
            body_path=body_path, scans=tuple(scans[start : start + PERSONS_PER_SHARD]),
        )
        for start in starts
    ]  # fmt: skip
    digest = _body(body_path).digest
    kept = {job.group.start: record for job in jobs if (record := _finished(job, digest))}
    for record in kept.values():
        for sample in record.samples:
            on_sample(sample.key)
    made = []
    for record in (run or in_processes(num_workers))(_write_group, [j for j in jobs if j.group.start not in kept]):
        made.append(record)
        for sample in record.samples:
            on_sample(sample.key)
    rows = [row for record in (*kept.values(), *made) for row in _rows(record)]
    manifest = write_manifest(output / "manifest.parquet", rows)
    rendered = sum(len(record.samples) for record in made)
    return ShardsSummary(manifest=Path(manifest.path), num_samples=len(rows), num_rendered=rendered)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ShardJob:
    """One shard to write: procedural persons of a seed, or as many scans."""

    config: MultiviewConfig
    group: range
    output: Path
    body_path: Path
    scans: tuple[ScanFile, ...]

    def name(self, suffix: str) -> str:
        kind = "scans" if self.scans else "synthetic"
        return f"{kind}_{self.config.seed:04d}_{self.group.start:05d}.{suffix}"

    def fingerprint(self, body_digest: str) -> str:
        content = {
            "config": to_json(self.config), "group": list(self.group), "body": body_digest,
            "version": RENDERER_VERSION, "scans": [scan.digest() for scan in self.scans],
        }  # fmt: skip
        return hashlib.sha256(encode_json(content)).hexdigest()

    def samples(self, body: BodyModel) -> list[PackedSample]:
        if self.scans:
            return [scan_sample(self.config, i, scan, body) for i, scan in zip(self.group, self.scans, strict=True)]
        return [multiview_sample(self.config, index, body) for index in self.group]


def _write_group(job: _ShardJob) -> ShardRecord:
    body = _body(job.body_path)
    samples = {sample.key: sample for sample in job.samples(body)}
    info = write_shard(job.output / "shards" / job.name("tar"), list(samples.values()))
    entries = []
    for entry in info.entries:
        sample = samples[entry.key]
        scores = {name: value for name, value in asdict(sample.scores).items() if value == value}
        entries.append(
            SampleEntry(
                key=entry.key,
                num_frames=sample.num_frames,
                offset=entry.offset,
                num_bytes=entry.num_bytes,
                sha256=entry.sha256,
                video_digest=sample.video_digest,
                scores=scores,
            )
        )
    record = ShardRecord(
        fingerprint=job.fingerprint(body.digest),
        body_digest=body.digest,
        shard=f"shards/{info.name}",
        sha256=info.sha256,
        samples=tuple(entries),
        of_scans=bool(job.scans),
    )
    storage.publish(job.output / "records" / job.name("json"), (encode_json(to_json(record)),))
    return record


def _finished(job: _ShardJob, body_digest: str) -> ShardRecord | None:
    path = job.output / "records" / job.name("json")
    if not path.is_file():
        return None
    try:
        record = from_json(ShardRecord, decode_json(path.read_bytes(), what=str(path)), where=str(path))
        if record.fingerprint != job.fingerprint(body_digest):
            return None
        verify_shard(job.output / record.shard, sha256=record.sha256)
    except (ShardError, StorageError, ConfigError):
        return None  # torn or altered: it is rendered again
    return record


def _rows(record: ShardRecord) -> list[ManifestRow]:
    return [
        ManifestRow(
            key=sample.key,
            status=ACCEPTED,
            stage="synthesize",
            source=view_source(sample.key, of_scan=record.of_scans),
            video_digest=sample.video_digest,
            end_frame=sample.num_frames,
            num_frames=sample.num_frames,
            shard=record.shard,
            offset=sample.offset,
            num_bytes=sample.num_bytes,
            sha256=sample.sha256,
            body_digest=record.body_digest,
            fingerprint=record.fingerprint,
            scores=_scores(sample.scores),
        )
        for sample in record.samples
    ]


def _scores(known: dict[str, float]) -> TrackScores:
    return TrackScores(**{field.name: known.get(field.name, float("nan")) for field in fields(TrackScores)})


@lru_cache(maxsize=1)
def _body(path: Path) -> BodyModel:
    return BodyModel.load(path)
