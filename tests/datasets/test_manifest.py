"""The manifest keeps every row, its digest follows the data and not the circumstances, and damage is found."""

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lhmforge.datasets import manifest_table
from lhmforge.datasets.errors import ShardError, StorageError
from lhmforge.datasets.manifest import (
    MANIFEST_SCHEMA,
    QUARANTINED,
    Manifest,
    ManifestRow,
    merge_manifests,
    rejected_row,
    write_manifest,
)
from lhmforge.datasets.records import Reject, SourceVideo, TrackScores

SCORES = TrackScores(
    num_frames=3.0, duration_s=1.0, detection=0.9, reprojection=0.01, matte_iou=0.95, jitter=0.0, coverage=1.0,
    height_px=300.0, face_px=math.nan, hand_px=20.0, sharpness=5.0, motion=0.2, view_rad=0.1, shape_norm=1.0,
)  # fmt: skip


def accepted(key: str, **changes: object) -> ManifestRow:
    row = ManifestRow(
        key=key,
        status="accepted",
        stage="pack",
        source=SourceVideo(uri=f"/v/{key}.mp4", source_id=key, channel="c", licence="CC0", identity="i"),
        video_digest="d",
        num_frames=3,
        shard="shards/0.tar",
        offset=512,
        num_bytes=1024,
        sha256="s",
        body_digest="b",
        fingerprint="f",
        scores=SCORES,
        cost_s={"fit": 1.5, "track": 0.5},
    )
    return replace(row, **changes)


def rejected(key: str) -> ManifestRow:
    reject = Reject(
        key=key, source=SourceVideo(uri="/v/x", source_id="x"), stage="gate", reason="blurred", detail="", scores=SCORES
    )
    return rejected_row(reject, fingerprint="f", cost_s={"fit": 2.0})


def test_round_trip_keeps_every_row(tmp_path: Path) -> None:
    lost = Reject(
        key="v", source=SourceVideo(uri="/v/v", source_id="v"), stage="probe", reason="crashed", detail="died"
    )
    rows = [
        accepted("b"),
        rejected("r"),
        accepted("a"),
        rejected_row(lost, fingerprint="", cost_s={}, status=QUARANTINED),
    ]
    written = write_manifest(tmp_path / "manifest.parquet", rows)
    loaded = Manifest.load(tmp_path / "manifest.parquet")
    assert loaded.digest == written.digest and len(loaded.frame) == 4
    assert loaded.ids() == ("a", "b")
    turned_down = loaded.rejected().set_index("key")
    assert turned_down.loc["v", "status"] == "quarantined" and turned_down.loc["r", "reason"] == "blurred"
    assert turned_down.loc["r", "score_detection"] == 0.9 and math.isnan(turned_down.loc["v", "score_detection"])
    row = loaded.accepted().iloc[0]
    assert math.isnan(row["score_face_px"]) and row["cost_fit_s"] == 1.5 and math.isnan(row["cost_probe_s"])
    assert loaded.shard_uri(row["shard"]) == str(tmp_path / "shards/0.tar")
    assert list(loaded.select(["b", "a"])["key"]) == ["b", "a"]
    with pytest.raises(ShardError, match="'r'"):
        loaded.select(["a", "r"])


def test_no_rows_is_a_manifest_too(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.parquet", [])
    assert Manifest.load(tmp_path / "m.parquet").ids() == ()


def test_digest_follows_the_data_only(tmp_path: Path) -> None:
    def digest(*rows: ManifestRow) -> str:
        return write_manifest(tmp_path / "m.parquet", rows).digest

    base = digest(accepted("a"), rejected("r"))
    moved = SourceVideo(uri="s3://elsewhere/a.mp4", source_id="a", channel="c", licence="CC0", identity="i")
    assert digest(rejected("r"), accepted("a")) == base
    assert digest(accepted("a", cost_s={"fit": 9.0}, attempts=3, source=moved), rejected("r")) == base
    for change in ({"sha256": "t"}, {"offset": 0}, {"scores": None}, {"fingerprint": "g"}, {"num_frames": 4}):
        assert digest(accepted("a", **change), rejected("r")) != base
    assert digest(accepted("a")) != base


def test_same_rows_same_file(tmp_path: Path) -> None:
    write_manifest(tmp_path / "1.parquet", [accepted("a"), rejected("r")])
    write_manifest(tmp_path / "2.parquet", [rejected("r"), accepted("a")])
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()


def test_more_rows_than_one_run_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs on disk, ranges and row groups change neither order, content nor bytes."""
    rows = [accepted(f"k{(n * 7919) % 1000:04d}") if n % 3 else rejected(f"k{n % 50:04d}") for n in range(1000)]
    rows = list({(row.key, row.status): row for row in rows}.values())
    write_manifest(tmp_path / "whole.parquet", rows)
    monkeypatch.setattr(manifest_table, "_GROUP_ROWS", 70)
    monkeypatch.setattr(manifest_table, "_SAMPLE_EVERY", 9)
    for name, order in (("one", rows), ("two", rows[::-1])):
        write_manifest(tmp_path / f"{name}.parquet", order)
    whole, parts = (Manifest.load(tmp_path / f"{name}.parquet") for name in ("whole", "one"))
    assert parts.digest == whole.digest and parts.frame.equals(whole.frame)
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    groups = pq.ParquetFile(tmp_path / "one.parquet").metadata
    assert groups.num_row_groups == -(-len(rows) // 70) and groups.row_group(0).num_rows == 70
    with pytest.raises(ShardError, match="listed twice"):
        write_manifest(tmp_path / "bad.parquet", [*rows, accepted("k0001")])


def test_a_manifest_of_version_1_is_read(tmp_path: Path) -> None:
    old = Path(__file__).parent.parent / "golden" / "manifest_version_1.parquet"
    manifest = Manifest.load(old)
    assert manifest.ids() == ("a", "b") and set(manifest.frame["identity_cluster"]) == {""}
    assert list(manifest.frame.columns) == list(MANIFEST_SCHEMA.names)


def test_what_cannot_be_right_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    with pytest.raises(ShardError, match="listed twice"):
        write_manifest(path, [accepted("a"), accepted("a")])
    assert not path.exists()
    with pytest.raises(AssertionError, match="no cost column"):
        accepted("a", cost_s={"lunch": 1.0})
    with pytest.raises(ShardError, match="missing"):
        Manifest.load(path)
    write_manifest(path, [accepted("a")])
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(ShardError, match="not a readable Parquet"):
        Manifest.load(path)
    table = pq.read_table(pa.BufferReader(good))
    frame = table.to_pandas().assign(num_frames=99)
    pq.write_table(pa.Table.from_pandas(frame, schema=table.schema, preserve_index=False), path)
    with pytest.raises(ShardError, match="altered"):
        Manifest.load(path)
    pq.write_table(table.drop_columns(["identity"]), path)
    with pytest.raises(ShardError, match="identity"):
        Manifest.load(path)
    pq.write_table(pa.Table.from_pandas(pd.DataFrame({"a": [1]})), path)
    with pytest.raises(ShardError, match="version none"):
        Manifest.load(path)
    with pytest.raises(StorageError):
        write_manifest(path / "below-a-file" / "m.parquet", [])


def test_schema_has_what_studies_need() -> None:
    expected = {
        "key",
        "status",
        "reason",
        "identity",
        "channel",
        "licence",
        "source_id",
        "score_matte_iou",
        "cost_fit_s",
    }
    assert expected <= set(MANIFEST_SCHEMA.names)


def test_merged_manifests_find_every_shard(tmp_path: Path) -> None:
    parts = [write_manifest(tmp_path / name / "manifest.parquet", [accepted(name)]) for name in ("one", "two")]
    merged = merge_manifests(tmp_path / "both" / "manifest.parquet", parts)
    assert merged.ids() == ("one", "two")
    for part, shard in zip(parts, merged.accepted()["shard"], strict=True):
        expected = part.shard_uri(str(part.accepted()["shard"].iloc[0]))
        assert Path(merged.shard_uri(str(shard))).resolve() == Path(expected).resolve()
    assert Manifest.load(merged.path).digest == merged.digest
    with pytest.raises(ShardError, match="listed twice"):
        merge_manifests(tmp_path / "twice.parquet", [parts[0], parts[0]])
