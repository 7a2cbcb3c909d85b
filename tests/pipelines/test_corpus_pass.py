"""A run compares all its samples: copies and persons are named in the manifest, dropped ones add up, order is nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from curation_trial import calls, curate_trial
from curation_videos import BLUE, RED, write_video

from lhmforge.datasets.manifest import Manifest
from lhmforge.pipelines.corpus_pass import CorpusConfig
from lhmforge.pipelines.identity_clusters import IdentityClusterConfig
from lhmforge.pipelines.near_duplicates import NearDuplicateConfig
from lhmforge.pipelines.qa.run_data import read_run

KEEP = CorpusConfig(identity_clusters=None)
DROP = CorpusConfig(near_duplicates=NearDuplicateConfig(policy="drop"), identity_clusters=None)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A walk, the same walk in a file of other bytes, and another one."""
    folder = tmp_path_factory.mktemp("alike")
    write_video(folder / "a.mp4", colour=RED)
    write_video(folder / "copy.mp4", colour=RED, audio=True)
    write_video(folder / "other.mp4", colour=BLUE, num_frames=30)
    return folder


def rows(root: Path) -> list[tuple[str, str, str, bool]]:
    frame = Manifest.load(root / "manifest.parquet").frame
    frame = frame[frame["stage"].isin(["pack", "dedup"])]
    columns = frame["source_id"], frame["status"], frame["reason"], frame["duplicate_group"] != ""
    return sorted(zip(*columns, strict=True))


def test_copies_are_named_and_the_policy_decides_what_becomes_of_them(videos: Path, tmp_path: Path) -> None:
    root, log = tmp_path / "out", tmp_path / "log"
    kept = curate_trial([videos], root, corpus=KEEP, log=str(log))
    assert (kept.num_accepted, kept.num_duplicate_groups) == (6, 2)
    assert [row[3] for row in rows(root)] == [True] * 4 + [False] * 2
    called = calls(log, "track")
    dropped = curate_trial([videos], root, corpus=DROP, log=str(log))
    assert calls(log, "track") == called and dropped.num_units_resumed == dropped.num_units
    assert (dropped.num_accepted, dict(dropped.rejected)["dedup/near_duplicate"]) == (4, 2)
    gone = [row for row in rows(root) if row[1] == "rejected"]
    assert {row[2] for row in gone} == {"near_duplicate"} and len({row[0] for row in gone}) == 1
    frame = Manifest.load(root / "manifest.parquet").frame
    named = frame["detail"][frame["reason"] == "near_duplicate"]
    assert all(text.split()[3].rstrip(",") in set(frame["key"]) for text in named)
    assert read_run(root).discrepancies == ()
    assert sum(video.num_accepted for video in dropped.videos) == 4
    assert curate_trial([videos], root, corpus=KEEP).manifest_digest == kept.manifest_digest


def test_a_video_that_comes_later_gives_what_it_gives_at_once(videos: Path, tmp_path: Path) -> None:
    inputs = tmp_path / "in"
    inputs.mkdir()
    for name in ("copy.mp4", "other.mp4"):
        shutil.copy2(videos / name, inputs / name)
    assert curate_trial([inputs], tmp_path / "grown", corpus=DROP).num_duplicate_groups == 0
    shutil.copy2(videos / "a.mp4", inputs / "a.mp4")
    grown = curate_trial([inputs], tmp_path / "grown", corpus=DROP)
    at_once = curate_trial([inputs], tmp_path / "at_once", corpus=DROP, workers=1, videos_per_unit=1)
    assert rows(tmp_path / "grown") == rows(tmp_path / "at_once") and grown.num_accepted == at_once.num_accepted == 4


def test_one_face_is_one_cluster_unless_seen_at_one_time(videos: Path, tmp_path: Path) -> None:
    """The trial's stages give everybody one face; two clips of one video are two times, and so one person too."""
    root = tmp_path / "out"
    config = CorpusConfig(near_duplicates=None, identity_clusters=IdentityClusterConfig())
    assert curate_trial([videos], root, corpus=config).num_identity_clusters == 1
    accepted = Manifest.load(root / "manifest.parquet").accepted()
    assert set(accepted["identity_cluster"]) == {min(accepted["key"]).rpartition("_")[0]}
    for path in (root / "likeness").iterdir():
        path.unlink()
    again = curate_trial([videos], root, corpus=config)
    assert again.num_identity_clusters == 1 and again.num_units_resumed == 0
