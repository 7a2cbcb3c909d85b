"""Tracks on disk: what was written comes back, in any order with equal bytes; damage is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lhmforge.datasets.errors import ShardError
from lhmforge.datasets.records import TrackPath
from lhmforge.datasets.track_paths import SourcePath, read_paths, write_paths


def path(key: str, count: int) -> TrackPath:
    rng = np.random.default_rng(count)
    return TrackPath(
        key=key,
        frame_indices=np.arange(count) * 2,
        boxes_px=rng.random((count, 4)).astype(np.float32),
        scores=rng.random(count).astype(np.float32),
    )


def test_paths_survive_the_disk_whatever_their_order(tmp_path: Path) -> None:
    items = [SourcePath(source_id=s, path=path(k, n)) for s, k, n in (("b", "k2", 3), ("a", "k1", 2), ("b", "k0", 4))]
    write_paths(str(tmp_path / "tracks" / "u.parquet"), items)
    write_paths(str(tmp_path / "tracks" / "v.parquet"), items[::-1])
    assert (tmp_path / "tracks" / "u.parquet").read_bytes() == (tmp_path / "tracks" / "v.parquet").read_bytes()
    found = read_paths(str(tmp_path), ["u"])
    assert [p.key for p in found["b"]] == ["k0", "k2"] and set(found) == {"a", "b"}
    np.testing.assert_array_equal(found["a"][0].boxes_px, items[1].path.boxes_px)
    np.testing.assert_array_equal(found["b"][1].frame_indices, [0, 2, 4])


def test_a_unit_without_tracks_is_not_a_missing_one(tmp_path: Path) -> None:
    write_paths(str(tmp_path / "tracks" / "u.parquet"), [])
    assert read_paths(str(tmp_path), ["u"]) == {}
    with pytest.raises(ShardError, match="lhmforge curate"):
        read_paths(str(tmp_path), ["another"])
    (tmp_path / "tracks" / "torn.parquet").write_bytes(b"PAR1")
    with pytest.raises(ShardError, match=r"torn\.parquet"):
        read_paths(str(tmp_path), ["torn"])
