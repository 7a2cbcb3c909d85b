"""Withdraws sources from a run: their samples, vectors, boxes, cached records and pictures go, the rest stays as it is.

The order makes every moment safe. First the list is written: from then on no later run brings a source back. Then,
unit by unit, shards without the samples are written under new names and the completion record is put in place of the
old one; the old shards still lie there, because the manifest still names them. Then the manifest is replaced, and only
then are old shards and everything else removed. Whoever is killed in between runs the same command again: what was
done is seen to be done, and a reader finds every sample that its manifest names at any time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from lhmforge.datasets import storage
from lhmforge.datasets.errors import ForgeError
from lhmforge.datasets.manifest import ManifestRow, flat_row, rejected_row
from lhmforge.datasets.manifest_table import SortedTable, read_table
from lhmforge.datasets.shards import ShardEntry, ShardInfo, copy_samples
from lhmforge.datasets.track_paths import PATHS_FOLDER, SourcePath, read_paths, write_paths
from lhmforge.pipelines.ledger import Ledger, ShardRecord, UnitRecord, VideoOutcome, modified_ns
from lhmforge.pipelines.likeness_files import likeness_place, read_likenesses, write_likenesses
from lhmforge.pipelines.takedown_list import Withdrawn, read_list, withdrawn, write_list

_MANIFEST = "manifest.parquet"
_SHARD_FORM = re.compile(r"(?P<unit>.+?)(?:\.(?P<revision>\d+))?-(?P<index>\d{3,})\.tar")
_BATCH_ROWS = 25_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TakedownPlan:
    """What a takedown would do, or did."""

    root: str
    sources: tuple[Withdrawn, ...]
    units: tuple[str, ...]  # whose records name one of the sources as not yet withdrawn
    shards: tuple[str, ...]  # to be rewritten or removed
    samples: tuple[str, ...]  # keys that go
    near_duplicates: tuple[str, ...]  # source ids of samples that show the same footage and would stay


def plan_takedown(root: str, source_ids: Sequence[str]) -> TakedownPlan:
    """What there is of the sources; raises `ForgeError` when an id is known neither to a record nor to the list."""
    ledger, listed, wanted = Ledger(root), read_list(root), set(source_ids)
    known: dict[str, Withdrawn] = {entry.source_id: entry for entry in listed.entries}
    units, shards, samples = [], [], []
    for record in _records(ledger):
        videos = {video.source_id: video for video in record.videos if video.source_id in wanted}
        for name, video in videos.items():
            if video.state != "taken_down":
                known[name] = Withdrawn(source_id=name, digest=video.digest, num_bytes=video.num_bytes)
        if any(video.state != "taken_down" for video in videos.values()):
            units.append(record.unit)
            rows = [row for row in record.rows if row.source.source_id in wanted and row.shard]
            samples += [row.key for row in rows]
            shards += sorted({row.shard for row in rows})
    unknown = sorted(wanted - known.keys())
    if unknown:
        raise ForgeError(f"{root} has no source {unknown[0]!r} ({len(unknown)} such); ids are as in the manifest")
    return TakedownPlan(
        root=root,
        sources=tuple(known[name] for name in sorted(wanted)),
        units=tuple(units),
        shards=tuple(shards),
        samples=tuple(sorted(samples)),
        near_duplicates=_near_duplicates(root, wanted),
    )


def take_down(plan: TakedownPlan) -> None:
    """Carries a plan out; the same call after an interruption goes on."""
    ledger, ids = Ledger(plan.root), {source.source_id for source in plan.sources}
    write_list(plan.root, read_list(plan.root).with_entries(plan.sources))
    for unit in plan.units:
        record = ledger.read_record(unit)
        assert record is not None, f"the record of {unit} went away"
        _rewrite_unit(ledger, record, ids)
    _rewrite_manifest(ledger, ids)
    for record in _records(ledger):
        if any(video.source_id in ids for video in record.videos):
            _remove_old_shards(ledger, record)
    for source in plan.sources:
        _remove_cached(plan.root, source.digest)
    storage.remove_folder(storage.join_uri(plan.root, "report"))  # to be written anew from what is left


def _records(ledger: Ledger) -> Iterator[UnitRecord]:
    for unit in ledger.unit_names():
        record = ledger.read_record(unit)
        if record is None:
            raise ForgeError(f"the record of {unit} cannot be read; run `lhmforge fsck --repair` and curate first")
        yield record


def _near_duplicates(root: str, wanted: set[str]) -> tuple[str, ...]:
    place = storage.join_uri(root, _MANIFEST)
    if not storage.exists(place):
        return ()
    table = read_table(place)[0].select(["source_id", "duplicate_group"])
    pairs = set(zip(table["source_id"].to_pylist(), table["duplicate_group"].to_pylist(), strict=True))
    groups = {group for source, group in pairs if source in wanted and group}
    return tuple(sorted({source for source, group in pairs if group in groups} - wanted))


def _rewrite_unit(ledger: Ledger, record: UnitRecord, ids: set[str]) -> None:
    """New shards beside the old ones and side files without the sources, then the record that names them."""
    kept = [row for row in record.rows if row.source.source_id not in ids]
    gone = {row.shard for row in record.rows if row.source.source_id in ids and row.shard}
    revision = 1 + max([_revision(shard.name) for shard in record.shards], default=0)
    shards: list[ShardRecord] = []
    moved: dict[str, ManifestRow] = {}
    for shard in record.shards:
        rows = [row for row in kept if row.shard == f"shards/{shard.name}"]
        if f"shards/{shard.name}" not in gone:
            shards.append(shard)
        elif rows:
            info = _copy_shard(ledger, shard.name, _renamed(shard.name, revision), rows)
            shards.append(_shard_record(ledger, info))
            places = {entry.key: entry for entry in info.entries}
            moved |= {row.key: replace(row, shard=f"shards/{info.name}", offset=places[row.key].offset) for row in rows}
    stay = {row.key for row in kept}
    chain = record.rows[0].fingerprint if record.rows else ""
    names = [video.source_id for video in record.videos if video.source_id in ids]
    rejects = [rejected_row(withdrawn(name), fingerprint=chain, cost_s={}, attempts=0) for name in names]
    ledger.write_record(
        replace(
            record,
            videos=tuple(_emptied(video) if video.source_id in ids else video for video in record.videos),
            shards=tuple(shards),
            rows=(*(moved.get(row.key, row) for row in kept), *rejects),
            signatures=tuple(stored for stored in record.signatures if stored.key in stay),
            likeness=_rewrite_side_files(ledger, record, ids, stay),
        )
    )


def _copy_shard(ledger: Ledger, old: str, new: str, rows: Sequence[ManifestRow]) -> ShardInfo:
    entries = [ShardEntry(key=row.key, offset=row.offset, num_bytes=row.num_bytes, sha256=row.sha256) for row in rows]
    return copy_samples(ledger.place("shards", old), ledger.place("shards", new), entries)


def _shard_record(ledger: Ledger, info: ShardInfo) -> ShardRecord:
    return ShardRecord(
        name=info.name,
        sha256=info.sha256,
        num_samples=info.num_samples,
        num_bytes=info.num_bytes,
        mtime_ns=modified_ns(ledger.place("shards", info.name)),
    )


def _rewrite_side_files(ledger: Ledger, record: UnitRecord, ids: set[str], stay: set[str]) -> str:
    """Boxes and vectors without the sources; returns what the record says about the vectors."""
    boxes = ledger.place(PATHS_FOLDER, f"{record.unit}.parquet")
    if storage.exists(boxes):
        left = read_paths(ledger.root, [record.unit])
        paths = [SourcePath(source_id=name, path=path) for name, found in left.items() for path in found]
        write_paths(boxes, [item for item in paths if item.source_id not in ids])
    place = likeness_place(ledger.root, record.unit)
    if not storage.exists(place):
        return record.likeness
    return write_likenesses(place, {key: found for key, found in read_likenesses(place).items() if key in stay})


def _emptied(video: VideoOutcome) -> VideoOutcome:
    """What the accounts need of a withdrawn video; its counts tell what it had passed on."""
    return replace(video, state="taken_down", digest="", num_frames=0, duration_s=0.0)


def _rewrite_manifest(ledger: Ledger, ids: set[str]) -> None:
    """The manifest without the sources' rows, each of which leaves one that says that it was withdrawn."""
    place = ledger.place(_MANIFEST)
    if not storage.exists(place):
        return
    table = read_table(place)[0]
    present = ids & set(table["source_id"].to_pylist())
    table = table.filter(pc.invert(pc.is_in(table["source_id"], pa.array(sorted(ids), pa.string()))))
    chains = set(table["fingerprint"].to_pylist())
    chain = chains.pop() if len(chains) == 1 else ""
    places = {row.key: row for record in _records(ledger) for row in record.rows if row.shard}
    with SortedTable() as rows:
        for start in range(0, table.num_rows, _BATCH_ROWS):
            for row in table.slice(start, _BATCH_ROWS).to_pylist():
                found = places.get(row["key"]) if row["shard"] else None
                rows.add(row if found is None else {**row, "shard": found.shard, "offset": found.offset})
        for name in sorted(present):
            rows.add(flat_row(rejected_row(withdrawn(name), fingerprint=chain, cost_s={}, attempts=0)))
        rows.publish(place)


def _remove_old_shards(ledger: Ledger, record: UnitRecord) -> None:
    """Shards of the unit that its record no longer names."""
    named = {shard.name for shard in record.shards}
    for name in storage.list_files(ledger.place("shards")):
        match = _SHARD_FORM.fullmatch(name)
        if match and match["unit"] == record.unit and name not in named:
            storage.remove(ledger.place("shards", name))


def _remove_cached(root: str, digest: str) -> None:
    """The stages' cached records of one content."""
    if digest:
        for place in storage.find_files(storage.join_uri(root, "cache", "*", "*", digest[:2], f"{digest[:32]}.npz")):
            storage.remove(place)


def _revision(name: str) -> int:
    match = _SHARD_FORM.fullmatch(name)
    return int(match["revision"] or 0) if match else 0


def _renamed(name: str, revision: int) -> str:
    match = _SHARD_FORM.fullmatch(name)
    assert match is not None, f"{name} is no shard of a unit"
    return f"{match['unit']}.{revision}-{match['index']}.tar"
