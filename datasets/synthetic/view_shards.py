"""Shards of multi-view samples in a folder, resumable: `shards/*.tar`, `records/*.json`, `manifest.parquet`."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path

from lhmforge.datasets import storage
from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.codecs import decode_json, encode_json
from lhmforge.datasets.config_json import from_json, to_json
from lhmforge.datasets.errors import ConfigError, ShardError, StorageError
from lhmforge.datasets.manifest import ACCEPTED, ManifestRow, write_manifest
from lhmforge.datasets.records import SourceVideo, TrackScores
from lhmforge.datasets.shards import verify_shard, write_shard
from lhmforge.datasets.synthetic.corpus import CHANNEL, LICENCE, RENDERER_VERSION
from lhmforge.datasets.synthetic.multiview import MultiviewConfig, multiview_sample

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


def synthesize_shards(
    config: MultiviewConfig,
    count: int,
    output: Path,
    body_path: Path,
    *,
    num_workers: int = 1,
    on_sample: Callable[[str], object] = lambda key: None,
) -> ShardsSummary:
    """Writes persons 0..count-1 of a seed as shards and a manifest; finished shards are kept.

    Raises `BodyError` for an unusable body file, `StorageError` when the folder cannot be written.
    """
    if count < 1:
        raise ConfigError(f"{count} persons asked for; at least one is needed")
    groups = [range(start, min(start + PERSONS_PER_SHARD, count)) for start in range(0, count, PERSONS_PER_SHARD)]
    digest = _body(body_path).digest
    kept = {group.start: record for group in groups if (record := _finished(config, group, output, digest))}
    for record in kept.values():
        for sample in record.samples:
            on_sample(sample.key)
    made = []
    for record in _write_all(config, [g for g in groups if g.start not in kept], output, body_path, num_workers):
        made.append(record)
        for sample in record.samples:
            on_sample(sample.key)
    rows = [row for record in (*kept.values(), *made) for row in _rows(record)]
    manifest = write_manifest(output / "manifest.parquet", rows)
    rendered = sum(len(record.samples) for record in made)
    return ShardsSummary(manifest=Path(manifest.path), num_samples=len(rows), num_rendered=rendered)


def _write_all(
    config: MultiviewConfig, groups: list[range], output: Path, body_path: Path, num_workers: int
) -> Iterator[ShardRecord]:
    if num_workers <= 1 or len(groups) <= 1:
        for group in groups:
            yield _write_group(config, group, output, body_path)
        return
    count = len(groups)
    with ProcessPoolExecutor(min(num_workers, count), mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_write_group, [config] * count, groups, [output] * count, [body_path] * count)


def _write_group(config: MultiviewConfig, group: range, output: Path, body_path: Path) -> ShardRecord:
    body = _body(body_path)
    samples = {sample.key: sample for sample in (multiview_sample(config, index, body) for index in group)}
    info = write_shard(output / "shards" / _name(config, group, "tar"), list(samples.values()))
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
        fingerprint=_fingerprint(config, group, body.digest),
        body_digest=body.digest,
        shard=f"shards/{info.name}",
        sha256=info.sha256,
        samples=tuple(entries),
    )
    storage.publish(output / "records" / _name(config, group, "json"), (encode_json(to_json(record)),))
    return record


def _finished(config: MultiviewConfig, group: range, output: Path, body_digest: str) -> ShardRecord | None:
    path = output / "records" / _name(config, group, "json")
    if not path.is_file():
        return None
    try:
        record = from_json(ShardRecord, decode_json(path.read_bytes(), what=str(path)), where=str(path))
        if record.fingerprint != _fingerprint(config, group, body_digest):
            return None
        verify_shard(output / record.shard, sha256=record.sha256)
    except (ShardError, StorageError, ConfigError):
        return None  # torn or altered: it is rendered again
    return record


def _rows(record: ShardRecord) -> list[ManifestRow]:
    return [
        ManifestRow(
            key=sample.key,
            status=ACCEPTED,
            stage="synthesize",
            source=SourceVideo(uri="", source_id=sample.key, channel=CHANNEL, licence=LICENCE, identity=sample.key),
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


def _name(config: MultiviewConfig, group: range, suffix: str) -> str:
    return f"synthetic_{config.seed:04d}_{group.start:05d}.{suffix}"


def _fingerprint(config: MultiviewConfig, group: range, body_digest: str) -> str:
    content = {"config": to_json(config), "group": list(group), "body": body_digest, "version": RENDERER_VERSION}
    return hashlib.sha256(encode_json(content)).hexdigest()
